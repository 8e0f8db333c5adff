//! How many requests may be sent again at one time, so that a fleet that fails is not given several times its load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// So many may always be out: where there is little to do there is no storm.
const ALWAYS: usize = 3;
/// Beyond these, one for so many requests that are not over.
const ACTIVE_PER_RETRY: usize = 5;

/// Second and later attempts that are under way, of all requests of a process.
#[derive(Debug, Default)]
pub struct Retries(Arc<AtomicUsize>);

/// One such attempt, until it is dropped.
#[derive(Debug)]
pub struct Retry(Arc<AtomicUsize>);

impl Retries {
    /// Counts in one more attempt, unless there are too many for the number of requests that are not over.
    pub fn begin(&self, active: usize) -> Option<Retry> {
        let most = ALWAYS + active / ACTIVE_PER_RETRY;
        let more = |out: usize| (out < most).then_some(out + 1);
        self.0.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Retry(Arc::clone(&self.0)))
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(active: usize, most: usize) {
        let retries = Retries::default();
        let mut out: Vec<_> = (0..most).map(|_| retries.begin(active)).collect();
        assert!(out.iter().all(Option::is_some), "{active} are active");
        assert!(retries.begin(active).is_none(), "{active} are active");
        out.pop();
        assert!(
            retries.begin(active).is_some(),
            "what is over counts no more"
        );
    }

    #[test]
    fn a_fifth_of_what_is_active_and_three() {
        check(0, 3);
        check(1, 3);
        check(5, 4);
        check(100, 23);
    }
}
