//! Notices a backend that has stopped in the middle of its answer.

use crate::alarm::Alarm;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// A silence is measured in this many steps, and may so last longer than its limit by one of them.
const STEPS: u32 = 4;

/// How long an answer may be silent, or how long it may take in all. A chunk costs it one flag, since the timer is never
/// moved: when it goes off, it looks whether there was a chunk, and goes on if so.
#[derive(Debug)]
pub struct Silence {
    limit: Limit,
    /// Set at the first wait: most answers are there whole.
    alarm: Option<Alarm>,
    heard: bool,
    silent_steps: u32,
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    Between(Duration),
    Until(Instant),
}

impl Silence {
    /// Of at most this time between two chunks.
    pub fn between(limit: Duration) -> Self {
        Self::new(Limit::Between(limit))
    }

    /// Of any time before this one.
    pub fn until(deadline: Instant) -> Self {
        Self::new(Limit::Until(deadline))
    }

    fn new(limit: Limit) -> Self {
        Self {
            limit,
            alarm: None,
            heard: false,
            silent_steps: 0,
        }
    }

    /// There was a chunk.
    pub fn hear(&mut self) {
        self.heard = true;
    }

    /// Ready when it has lasted too long; to be asked when there is no chunk.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let next = || match limit {
            Limit::Between(limit) => Instant::now() + limit / STEPS,
            Limit::Until(deadline) => deadline,
        };
        let alarm = self.alarm.get_or_insert_with(|| Alarm::at(next()));
        loop {
            ready!(alarm.poll(cx));
            let Limit::Between(_) = limit else {
                return Poll::Ready(());
            };
            self.silent_steps = if std::mem::take(&mut self.heard) {
                0
            } else {
                self.silent_steps + 1
            };
            if self.silent_steps == STEPS {
                return Poll::Ready(());
            }
            alarm.set(next());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::{sleep, timeout};

    const LIMIT: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn ends_when_nothing_was_heard_for_its_time() {
        let mut silence = Silence::between(LIMIT);
        let start = Instant::now();
        poll_fn(|cx| silence.poll(cx)).await;
        assert_eq!(start.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn goes_on_as_long_as_something_is_heard() {
        let mut silence = Silence::between(LIMIT);
        for _ in 0..20 {
            silence.hear();
            let waited = timeout(LIMIT * 9 / 10, poll_fn(|cx| silence.poll(cx)));
            assert!(waited.await.is_err());
        }
        silence.hear();
        let start = Instant::now();
        poll_fn(|cx| silence.poll(cx)).await;
        assert!((LIMIT..=LIMIT + LIMIT / STEPS).contains(&start.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_stands_whatever_is_heard() {
        let start = Instant::now();
        let mut silence = Silence::until(start + LIMIT);
        sleep(LIMIT / 2).await;
        silence.hear();
        poll_fn(|cx| silence.poll(cx)).await;
        assert_eq!(start.elapsed(), LIMIT);
    }
}
