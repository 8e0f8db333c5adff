//! How fast a part of the line is served.

use std::time::Duration;
use tokio::time::Instant;

/// What each request still counts when the next is served: the mean is over the last few dozen.
const KEEP: f64 = 1.0 - 1.0 / 32.0;
/// What [`Drain::served`] must be for the mean to be believed: it is there after four requests.
const BELIEVED: f64 = 3.5;
/// How long what was learnt means something.
const MEMORY: Duration = Duration::from_secs(600);

/// The mean time from one served request to the next, while somebody waited.
#[derive(Debug, Clone)]
pub(super) struct Drain {
    /// Requests served, each worth [`KEEP`] of the one after it.
    served: f64,
    /// The seconds that it took, weighted alike.
    seconds: f64,
    /// When the last was served, or when somebody began to wait.
    since: Instant,
}

impl Drain {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            served: 0.0,
            seconds: 0.0,
            since: now,
        }
    }

    /// Somebody waits from now on, and nobody did before.
    pub(super) fn begin(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) > MEMORY {
            *self = Self::new(now);
        }
        self.since = now;
    }

    /// One who waited was served.
    pub(super) fn serve(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.since).as_secs_f64();
        self.served = self.served * KEEP + 1.0;
        self.seconds = self.seconds * KEEP + gap;
        self.since = now;
    }

    /// How long until `ahead` requests and one more are served, in seconds; `None` while too little is known.
    pub(super) fn wait_behind(&self, ahead: usize, is_waiting: bool, now: Instant) -> Option<f64> {
        if self.served < BELIEVED {
            return None;
        }
        let mean = self.seconds / self.served;
        let idle = now.saturating_duration_since(self.since);
        if !is_waiting {
            return (idle <= MEMORY).then_some(mean * (ahead + 1) as f64);
        }
        // The next is due a mean time after the last.
        Some(mean * ahead as f64 + (mean - idle.as_secs_f64()).max(0.0))
    }

    /// When anything was last learnt.
    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn only_time_in_which_somebody_waited_counts() {
        let second = Duration::from_secs(1);
        let mut now = clock::epoch();
        let mut drain = Drain::new(now);
        for served in 0..8 {
            assert_eq!(drain.wait_behind(0, true, now).is_some(), served >= 4);
            now += 60 * second; // nobody waits
            drain.begin(now);
            now += second;
            drain.serve(now);
        }
        let wait = drain.wait_behind(2, true, now + second / 2).unwrap();
        assert!((wait - 2.5).abs() < 1e-9, "{wait}");
        let wait = drain.wait_behind(2, false, now).unwrap();
        assert!((wait - 3.0).abs() < 1e-9, "{wait}");
        now += MEMORY + second;
        assert_eq!(drain.wait_behind(2, false, now), None, "long ago");
        drain.begin(now);
        assert_eq!(drain.wait_behind(2, true, now), None, "it begins anew");
    }
}
