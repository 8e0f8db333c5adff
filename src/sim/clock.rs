//! Virtual time: every run begins when the process began to count, so that no run depends on when it is made.

use crate::clock::epoch;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use tokio::time::Instant;

/// A moment of a run, for code that knows real time only.
pub fn instant(since_start: Duration) -> Instant {
    epoch() + since_start
}

/// The date of a moment: runs begin with 1970, whatever the day.
pub fn date(since_start: Duration) -> Timestamp {
    let since_start = SignedDuration::try_from(since_start).unwrap_or_default();
    Timestamp::from_duration(since_start).unwrap_or_default()
}
