//! How many of the answers of late were failures: a few buckets that are used again and again, however much comes in.

use std::time::Duration;
use tokio::time::Instant;

/// How long an answer counts, up to a bucket less.
pub(super) const SPAN: Duration = Duration::from_secs(30);
const BUCKETS: usize = 10;
const BUCKET: Duration = Duration::from_secs(3);
/// Fewer answers than this say nothing about a share.
pub(super) const LEAST_ANSWERS: u32 = 20;

/// Answers of the last 30 seconds, as counts.
#[derive(Debug)]
pub(super) struct Window {
    epoch: Instant,
    buckets: [Bucket; BUCKETS],
}

#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    /// Which three seconds since the epoch it is for.
    number: u64,
    answers: u32,
    failures: u32,
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            buckets: [Bucket::default(); BUCKETS],
        }
    }

    /// Counts a good answer.
    pub(super) fn succeeded(&mut self, now: Instant) {
        let bucket = self.bucket(now);
        bucket.answers = bucket.answers.saturating_add(1);
    }

    /// Counts a failure.
    pub(super) fn failed(&mut self, now: Instant) {
        let bucket = self.bucket(now);
        bucket.answers = bucket.answers.saturating_add(1);
        bucket.failures = bucket.failures.saturating_add(1);
    }

    /// Counts a failure of an answer that was counted as good when it began.
    pub(super) fn broke(&mut self, now: Instant) {
        let bucket = self.bucket(now);
        // It may have begun in another bucket, or so long ago that it counts no more.
        bucket.failures = bucket.failures.saturating_add(1);
        bucket.answers = bucket.answers.max(bucket.failures);
    }

    /// Whether so many failed that the node must be sick: half of all, where there were enough.
    pub(super) fn is_bad(&self, now: Instant) -> bool {
        let current = self.number(now);
        let recent = |bucket: &&Bucket| current.saturating_sub(bucket.number) < BUCKETS as u64;
        let (answers, failures) =
            self.buckets
                .iter()
                .filter(recent)
                .fold((0u32, 0u32), |(answers, failures), bucket| {
                    (
                        answers.saturating_add(bucket.answers),
                        failures.saturating_add(bucket.failures),
                    )
                });
        answers >= LEAST_ANSWERS && failures >= answers.div_ceil(2)
    }

    /// Forgets all: what was before an outage says nothing of the node that came back.
    pub(super) fn clear(&mut self) {
        self.buckets = [Bucket::default(); BUCKETS];
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs() / BUCKET.as_secs()
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is below the count")]
    fn bucket(&mut self, now: Instant) -> &mut Bucket {
        let number = self.number(now);
        let at = usize::try_from(number % BUCKETS as u64).unwrap_or_default();
        let bucket = &mut self.buckets[at];
        if bucket.number != number {
            *bucket = Bucket {
                number,
                ..Bucket::default()
            };
        }
        bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Whether a window is bad after so many good answers and failures, one of each kind at a time.
    #[track_caller]
    fn check(good: u32, failures: u32, bad: bool) {
        let now = clock::epoch();
        let mut window = Window::new(now);
        for at in 0..good.max(failures) {
            if at < good {
                window.succeeded(now);
            }
            if at < failures {
                window.failed(now);
            }
        }
        assert_eq!(window.is_bad(now), bad, "{good} good, {failures} failures");
    }

    #[test]
    fn half_of_twenty_is_bad_and_less_of_either_is_not() {
        check(10, 10, true);
        check(11, 10, false);
        check(9, 10, false);
        check(0, 19, false);
        check(0, 20, true);
        check(1000, 999, false);
        check(1000, 1000, true);
    }

    #[test]
    fn thirty_seconds_later_nothing_counts_any_more() {
        let start = clock::epoch();
        let mut window = Window::new(start);
        for second in 0..20 {
            window.failed(start + Duration::from_secs(second));
        }
        assert!(window.is_bad(start + Duration::from_secs(19)));
        assert!(window.is_bad(start + Duration::from_secs(29)));
        assert!(
            !window.is_bad(start + SPAN),
            "the first three are forgotten"
        );
        window.failed(start + SPAN);
        assert!(!window.is_bad(start + SPAN), "its bucket began anew");
        assert!(!window.is_bad(start + Duration::from_secs(3600)));
    }

    #[test]
    fn an_answer_that_breaks_counts_once() {
        let now = clock::epoch();
        let mut window = Window::new(now);
        for _ in 0..19 {
            window.succeeded(now);
            window.broke(now);
        }
        assert!(!window.is_bad(now), "nineteen answers");
        window.succeeded(now);
        window.broke(now);
        assert!(window.is_bad(now));
    }
}
