//! Seconds since the process began to count, for what calculates with times.

use std::sync::LazyLock;
use tokio::time::Instant;

/// The moment from which [`seconds`] and [`Tick`](crate::ewma::Tick) count: the first time that anybody asked.
pub fn epoch() -> Instant {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    *EPOCH
}

/// Seconds from the epoch; 0 for what was before it.
pub fn seconds(now: Instant) -> f64 {
    now.saturating_duration_since(epoch()).as_secs_f64()
}
