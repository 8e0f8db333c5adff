//! Listens for what hardly ever happens, beside what happens all the time.
//!
//! A task that is woken for each chunk of a stream would ask all its futures each time, though the most of them have
//! nothing to say for hours. Here they are asked only if it was one of them that woke the task.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Asks a future again only if that has asked for it. Made for one future, and for as long as that lives.
#[derive(Debug, Default)]
pub struct Aside(Option<(Arc<Bell>, Waker)>);

/// Wakes a task, and remembers it.
#[derive(Debug)]
struct Bell {
    task: Waker,
    is_rung: AtomicBool,
}

impl Aside {
    /// What the future says, if it has a reason to say something.
    pub fn poll<F: Future>(
        &mut self,
        future: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        self.0 = self
            .0
            .take()
            .filter(|(bell, _)| bell.task.will_wake(cx.waker()));
        let (bell, waker) = self.0.get_or_insert_with(|| {
            let bell = Arc::new(Bell {
                task: cx.waker().clone(),
                is_rung: AtomicBool::new(true),
            });
            (Arc::clone(&bell), bell.into())
        });
        // What comes after this is for the next time.
        if !bell.is_rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        future.poll(&mut Context::from_waker(waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn only_what_has_rung_is_asked() {
        let (notify, asked) = (Notify::new(), AtomicUsize::new(0));
        let mut notified = pin!(notify.notified());
        let mut counted = pin!(poll_fn(|cx| {
            asked.fetch_add(1, Relaxed);
            notified.as_mut().poll(cx)
        }));
        let mut aside = Aside::default();
        for _ in 0..3 {
            let polled = poll_fn(|cx| Poll::Ready(aside.poll(counted.as_mut(), cx)));
            assert!(polled.await.is_pending());
        }
        assert_eq!(asked.load(Relaxed), 1);
        notify.notify_waiters();
        poll_fn(|cx| aside.poll(counted.as_mut(), cx)).await;
        assert_eq!(asked.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn another_task_is_woken_as_well() {
        let notify = Arc::new(Notify::new());
        let (mut aside, mut notified) = (Aside::default(), {
            let notify = Arc::clone(&notify);
            Box::pin(async move { notify.notified().await })
        });
        let polled = poll_fn(|cx| Poll::Ready(aside.poll(notified.as_mut(), cx)));
        assert!(polled.await.is_pending());
        let other = tokio::spawn(async move {
            poll_fn(|cx| aside.poll(notified.as_mut(), cx)).await;
        });
        tokio::task::yield_now().await;
        notify.notify_waiters();
        other.await.unwrap();
    }
}
