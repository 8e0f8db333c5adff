//! How many backends of a fleet may be ejected: at most half of it, and never the last that works.
//!
//! When most nodes fail, the cause is more likely a request that no node can do than all those nodes; and whoever is left
//! would be given the load of all. A node that may not be ejected stays among those that are chosen from.

use super::State;
use std::collections::BTreeMap;

/// How the members of a fleet stand.
#[derive(Debug, Default)]
pub struct Quorum(BTreeMap<u64, State>);

impl Quorum {
    /// Sets who is in the fleet, by numbers; who was in it before keeps its state. Who gets no new requests is not to be
    /// in it, since it could not stand in for anybody.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = (u64, State)>) {
        let known = std::mem::take(&mut self.0);
        let members = members.into_iter();
        self.0 = members
            .map(|(id, state)| (id, known.get(&id).copied().unwrap_or(state)))
            .collect();
    }

    /// Ejects a member, if that may be: else nothing happens.
    pub fn eject(&mut self, id: u64) -> bool {
        let count = |state: State| self.0.values().filter(|is| **is == state).count();
        let others_up = self
            .0
            .iter()
            .any(|(other, state)| *other != id && *state == State::Up);
        let may = others_up && self.0.contains_key(&id) && count(State::Ejected) < self.0.len() / 2;
        if may {
            self.0.insert(id, State::Ejected);
        }
        may
    }

    /// Notes how a member stands, if it is one.
    pub fn note(&mut self, id: u64, state: State) {
        if let Some(known) = self.0.get_mut(&id) {
            *known = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the members 0.. are ejected, if all of them ask for it in turn, those in `down` being down.
    #[track_caller]
    fn check(members: u64, down: &[u64], ejected: &[u64]) {
        let mut quorum = Quorum::default();
        quorum.set_members((0..members).map(|id| (id, State::Up)));
        for id in down {
            quorum.note(*id, State::Down);
        }
        let up = (0..members).filter(|id| !down.contains(id));
        let out: Vec<_> = up.filter(|id| quorum.eject(*id)).collect();
        assert_eq!(out, ejected, "of {members}, {down:?} down");
    }

    #[test]
    fn half_of_the_fleet_at_most_and_never_the_last() {
        check(0, &[], &[]);
        check(1, &[], &[]);
        check(2, &[], &[0]);
        check(3, &[], &[0]);
        check(4, &[], &[0, 1]);
        check(5, &[], &[0, 1]);
        check(4, &[0, 1], &[2]);
        check(4, &[0, 1, 2], &[]);
        check(2, &[0], &[]);
    }

    #[test]
    fn who_comes_back_makes_room_and_strangers_have_none() {
        let mut quorum = Quorum::default();
        quorum.set_members([(1, State::Up), (2, State::Up)]);
        assert!(!quorum.eject(3));
        assert!(quorum.eject(1) && !quorum.eject(2));
        quorum.set_members([(1, State::Up), (2, State::Up), (3, State::Up)]);
        assert!(!quorum.eject(2), "1 is still out");
        quorum.note(1, State::Up);
        assert!(quorum.eject(2));
    }
}
