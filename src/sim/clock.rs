//! Virtual time: every run begins when the process began to count, so that no run depends on when it is made.

use crate::clock::epoch;
use std::time::Duration;
use tokio::time::Instant;

/// A moment of a run, for code that knows real time only.
pub fn instant(since_start: Duration) -> Instant {
    epoch() + since_start
}
