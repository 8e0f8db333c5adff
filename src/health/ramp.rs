//! How many requests at a time a node gets that has just come back: one, then twice as many for each whole answer.
//!
//! It counts answers and not seconds, since few nodes see few requests. But answers may take minutes, and while others are
//! full somebody may wait for this node: after a while without a failure it gets twice as many all the same.

use std::time::Duration;
use tokio::time::Instant;

/// From so many at a time on there is nothing to hold back: no node writes more answers at once.
const WHOLE: u32 = 16;
/// For how long a node with answers under way, and no failure, has to wait for more.
const PATIENCE: Duration = Duration::from_secs(10);

/// The way back into rotation.
#[derive(Debug)]
pub(super) struct Ramp {
    limit: u32,
    inside: u32,
    grown: Instant,
}

impl Ramp {
    /// One request at a time.
    pub(super) fn start(now: Instant) -> Self {
        Self {
            limit: 1,
            inside: 0,
            grown: now,
        }
    }

    /// No limit.
    pub(super) fn over(now: Instant) -> Self {
        Self {
            limit: WHOLE,
            ..Self::start(now)
        }
    }

    /// Starts over with those who are in.
    pub(super) fn restart(&mut self, now: Instant) {
        self.limit = 1;
        self.grown = now;
    }

    /// How many requests it takes at a time; `None` for as many as come.
    pub(super) fn limit(&self, now: Instant) -> Option<u32> {
        let waited = now.saturating_duration_since(self.grown);
        let doublings = u32::try_from(waited.as_secs() / PATIENCE.as_secs()).unwrap_or(u32::MAX);
        let factor = 1u32.checked_shl(doublings).unwrap_or(WHOLE);
        let limit = self.limit.saturating_mul(factor);
        (limit < WHOLE).then_some(limit)
    }

    /// Whether it takes one more.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        self.limit(now).is_none_or(|limit| self.inside < limit)
    }

    /// Whether nobody is in.
    pub(super) fn is_empty(&self) -> bool {
        self.inside == 0
    }

    /// One goes in.
    pub(super) fn enter(&mut self) {
        self.inside = self.inside.saturating_add(1);
    }

    /// One of those who went in is gone.
    pub(super) fn leave(&mut self) {
        self.inside = self.inside.saturating_sub(1);
    }

    /// An answer was whole.
    pub(super) fn grow(&mut self, now: Instant) {
        self.limit = self
            .limit(now)
            .map_or(WHOLE, |limit| limit.saturating_mul(2));
        self.grown = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn doubles_with_each_whole_answer() {
        let now = clock::epoch();
        let mut ramp = Ramp::start(now);
        for limit in [1, 2, 4, 8] {
            assert_eq!(ramp.limit(now), Some(limit));
            for _ in 0..limit {
                assert!(ramp.has_room(now));
                ramp.enter();
            }
            assert!(!ramp.has_room(now), "{limit} are in");
            for _ in 0..limit {
                ramp.leave();
            }
            ramp.grow(now);
        }
        assert_eq!(ramp.limit(now), None);
        assert_eq!(Ramp::over(now).limit(now), None);
    }

    #[test]
    fn long_answers_keep_nobody_waiting() {
        let now = clock::epoch();
        let ramp = Ramp::start(now);
        for (seconds, limit) in [
            (9, Some(1)),
            (10, Some(2)),
            (39, Some(8)),
            (40, None),
            (1 << 40, None),
        ] {
            assert_eq!(ramp.limit(now + Duration::from_secs(seconds)), limit);
        }
    }
}
