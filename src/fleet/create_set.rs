//! Which backends a client makes a model on.
//!
//! A blob carries no model's name and cannot be read back, so a backend that missed one can never catch up. A backend
//! that comes up between a client's first blob and its create must therefore be left out of both, and the only thing
//! that the requests of one client share is its address. The set is forgotten when the model was made, when anything
//! went wrong, so that a second try begins with the backends that are up then, and when nothing came for a while.

use super::members::Members;
use crate::error::Error;
use crate::pool::Pool;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a set is kept after its last blob.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// Clients whose sets are kept at one time.
const CLIENTS: usize = 4096;

/// The sets of all clients that upload.
#[derive(Debug, Default)]
pub struct CreateSets(Mutex<HashMap<IpAddr, Set>>);

#[derive(Debug)]
struct Set {
    ids: Vec<u64>,
    used: Instant,
}

impl CreateSets {
    /// The set of a client, if it has one that is still in the pool.
    pub(super) fn get(&self, client: IpAddr, pool: &Pool, now: Instant) -> Option<Members> {
        find(&mut self.lock(), client, pool, now)
    }

    /// The set of a client; the one that `make` returns is fixed if it has none.
    pub(super) fn get_or_fix(
        &self,
        client: IpAddr,
        pool: &Pool,
        now: Instant,
        make: impl FnOnce() -> Result<Members, Error>,
    ) -> Result<Members, Error> {
        // Clients upload several blobs at once: between the look and the fixing nobody else may fix another set.
        let mut sets = self.lock();
        if let Some(members) = find(&mut sets, client, pool, now) {
            return Ok(members);
        }
        let members = make()?;
        put(&mut sets, client, &members, now);
        Ok(members)
    }

    /// Fixes the set of a client.
    pub(super) fn fix(&self, client: IpAddr, members: &Members, now: Instant) {
        put(&mut self.lock(), client, members, now);
    }

    /// Forgets the set of a client.
    pub(super) fn forget(&self, client: IpAddr) {
        self.lock().remove(&client);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Set>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(
    sets: &mut HashMap<IpAddr, Set>,
    client: IpAddr,
    pool: &Pool,
    now: Instant,
) -> Option<Members> {
    let set = sets.get_mut(&client).filter(|set| set.is_fresh(now))?;
    set.used = now;
    let members: Members = pool
        .backends()
        .iter()
        .filter(|backend| set.ids.contains(&backend.id()))
        .cloned()
        .collect();
    (!members.is_empty()).then_some(members)
}

fn put(sets: &mut HashMap<IpAddr, Set>, client: IpAddr, members: &Members, now: Instant) {
    sets.retain(|_, set| set.is_fresh(now));
    // With no room left, clients are still served, only without being remembered.
    if sets.len() < CLIENTS || sets.contains_key(&client) {
        let ids = members.iter().map(|backend| backend.id()).collect();
        sets.insert(client, Set { ids, used: now });
    }
}

impl Set {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < KEPT_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health;
    use crate::pool::{Origin, Spec};
    use std::sync::Arc;

    fn pool(names: &[&str]) -> Pool {
        let spec = |name: &&str| Spec {
            name: (*name).into(),
            origin: Origin::parse(name).unwrap(),
            weight: 1.0,
            drain: false,
            slots: None,
        };
        let specs: Vec<_> = names.iter().map(spec).collect();
        Pool::build(&specs, health::Policy::default(), None, Instant::now())
    }

    fn client(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn a_set_lasts_while_it_is_used_and_the_backends_are_there() {
        let (sets, now) = (CreateSets::default(), Instant::now());
        let (pool, other) = (pool(&["a", "b"]), pool(&["a", "b"]));
        let first = vec![Arc::clone(&pool.backends()[0])];
        let fixed = sets.get_or_fix(client(1), &pool, now, || Ok(first.clone()));
        assert_eq!(fixed.unwrap().len(), 1);
        let all = || Ok(pool.backends().to_vec());
        let later = now + KEPT_FOR / 2;
        let kept = sets.get_or_fix(client(1), &pool, later, all).unwrap();
        assert_eq!(kept.len(), 1);
        assert!(sets.get(client(2), &pool, later).is_none());
        assert!(sets.get(client(1), &other, later).is_none());
        assert!(sets.get(client(1), &pool, now + KEPT_FOR).is_some());
        assert!(sets.get(client(1), &pool, now + KEPT_FOR * 3).is_none());
        sets.forget(client(1));
        assert!(sets.get(client(1), &pool, now).is_none());
    }

    #[test]
    fn only_so_many_clients_are_remembered() {
        let (sets, now, pool) = (CreateSets::default(), Instant::now(), pool(&["a"]));
        for number in 0..10_000 {
            sets.fix(client(number), &pool.backends().to_vec(), now);
        }
        assert_eq!(sets.lock().len(), CLIENTS);
    }
}
