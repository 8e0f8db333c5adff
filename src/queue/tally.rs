//! What became of those who had to wait, for operators.

use crate::admission::Reason;
use serde_json::{Value, json};

/// What became of the requests of one class that had to wait.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) waiting: u64,
    pub(super) admitted: u64,
    pub(super) full: u64,
    pub(super) displaced: u64,
    pub(super) hopeless: u64,
    pub(super) expired: u64,
}

impl Tally {
    pub(super) fn refuse(&mut self, reason: Reason) {
        let count = match reason {
            Reason::Full => &mut self.full,
            Reason::Displaced => &mut self.displaced,
            Reason::Hopeless => &mut self.hopeless,
            Reason::Expired => &mut self.expired,
        };
        *count += 1;
    }

    pub(super) fn refused(&self) -> u64 {
        self.full + self.displaced + self.hopeless + self.expired
    }

    pub(super) fn status(&self) -> Value {
        json!({
            "waiting": self.waiting,
            "admitted": self.admitted,
            "full": self.full,
            "displaced": self.displaced,
            "hopeless": self.hopeless,
            "expired": self.expired,
        })
    }
}
