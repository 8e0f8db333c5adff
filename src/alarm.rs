//! A timer that costs next to nothing to look at again and again.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::time::{Instant, Sleep, sleep_until};

/// Wakes its task once at a time. A task that is woken for each chunk of a stream looks at its timers as often; this one
/// then compares two pointers, where tokio's own would register its waker anew.
#[derive(Debug)]
pub struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// Who will be woken; `None` if nobody yet.
    registered: Option<Waker>,
}

impl Alarm {
    /// One that goes off at a time.
    pub fn at(time: Instant) -> Self {
        Self {
            sleep: Box::pin(sleep_until(time)),
            registered: None,
        }
    }

    /// Sets it to a time, if that is another one.
    pub fn set(&mut self, time: Instant) {
        if time != self.sleep.deadline() {
            self.sleep.as_mut().reset(time);
            self.registered = None;
        }
    }

    /// Ready from its time on.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(waker) = &self.registered
            && waker.will_wake(cx.waker())
            && !self.sleep.is_elapsed()
        {
            return Poll::Pending;
        }
        let polled = self.sleep.as_mut().poll(cx);
        self.registered = polled.is_pending().then(|| cx.waker().clone());
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn goes_off_at_its_time_and_again_when_set_again() {
        let start = Instant::now();
        let mut alarm = Alarm::at(start + Duration::from_secs(5));
        let mut looks = 0;
        poll_fn(|cx| {
            looks += 1;
            // A look in between changes nothing.
            assert_eq!(alarm.poll(cx), alarm.poll(cx));
            alarm.poll(cx)
        })
        .await;
        assert_eq!((start.elapsed(), looks), (Duration::from_secs(5), 2));
        alarm.set(start + Duration::from_secs(7));
        poll_fn(|cx| alarm.poll(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(7));
    }
}
