//! Spares a connection's task wake-ups that bring nothing: the scheduler has to be asked for each, and asks another core to
//! help.
//!
//! Both of these stand between a task and one future of it, with a waker of their own, by which they know who woke the task.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// How often a future is asked again at once before other tasks have their turn.
const TURNS: usize = 8;

const ASLEEP: u8 = 0;
const ASKED: u8 = 1;
const WOKEN: u8 = 2;

/// Asks a future again at once if it wakes its task while it is asked, as one does whose parts wake each other: hyper wakes
/// itself when a service wants the body of its request.
#[derive(Debug, Default)]
pub struct Eager(Option<(Arc<Eagerness>, Waker)>);

#[derive(Debug)]
struct Eagerness {
    task: Waker,
    state: AtomicU8,
}

/// Asks a future, after the first time, only if it has woken its task. For one that has nothing to say for hours, in a task
/// that is woken for each chunk of a stream.
#[derive(Debug, Default)]
pub struct Lazy(Option<(Arc<Laziness>, Waker)>);

#[derive(Debug)]
struct Laziness {
    task: Waker,
    is_woken: AtomicBool,
}

impl Eager {
    /// What the future says.
    pub fn poll<F: Future>(
        &mut self,
        mut future: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        let known = self.0.take();
        let known = known.filter(|(own, _)| own.task.will_wake(cx.waker()));
        let (own, waker) = self.0.insert(known.unwrap_or_else(|| {
            let own = Arc::new(Eagerness {
                task: cx.waker().clone(),
                state: AtomicU8::new(ASLEEP),
            });
            (Arc::clone(&own), own.into())
        }));
        let mut cx = Context::from_waker(waker);
        for _ in 0..TURNS {
            own.state.store(ASKED, Ordering::Release);
            if let Poll::Ready(said) = future.as_mut().poll(&mut cx) {
                return Poll::Ready(said);
            }
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            if (own.state)
                .compare_exchange(ASKED, ASLEEP, success, failure)
                .is_ok()
            {
                return Poll::Pending;
            }
        }
        own.state.store(ASLEEP, Ordering::Release);
        own.task.wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Eagerness {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        match (self.state).compare_exchange(ASKED, WOKEN, success, failure) {
            Ok(_) | Err(WOKEN) => {} // whoever asks sees it
            Err(_) => self.task.wake_by_ref(),
        }
    }
}

impl Lazy {
    /// What the future says, if it has a reason to say something. Always to be given the same future.
    pub fn poll<F: Future>(
        &mut self,
        future: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        let known = self.0.take();
        let known = known.filter(|(own, _)| own.task.will_wake(cx.waker()));
        let (own, waker) = self.0.insert(known.unwrap_or_else(|| {
            let own = Arc::new(Laziness {
                task: cx.waker().clone(),
                is_woken: AtomicBool::new(true),
            });
            (Arc::clone(&own), own.into())
        }));
        if !own.is_woken.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        future.poll(&mut Context::from_waker(waker))
    }
}

impl Wake for Laziness {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
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

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn an_eager_one_that_wakes_itself_is_asked_again_and_nobody_is_woken() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut cx = Context::from_waker(&waker);
        let (mut eager, mut asked) = (Eager::default(), 0);
        let mut future = pin!(poll_fn(|cx| {
            asked += 1;
            cx.waker().wake_by_ref();
            cx.waker().wake_by_ref();
            if asked == 3 {
                Poll::Ready(7)
            } else {
                Poll::Pending
            }
        }));
        assert_eq!(eager.poll(future.as_mut(), &mut cx), Poll::Ready(7));
        assert_eq!(task.0.load(Relaxed), 0);
    }

    #[test]
    fn an_eager_one_that_never_rests_leaves_room_for_others() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut cx = Context::from_waker(&waker);
        let (mut eager, asked) = (Eager::default(), AtomicUsize::new(0));
        let mut future = pin!(poll_fn(|cx| {
            asked.fetch_add(1, Relaxed);
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        for polls in 1..4 {
            assert!(eager.poll(future.as_mut(), &mut cx).is_pending());
            assert_eq!(asked.load(Relaxed), polls * TURNS);
            assert_eq!(task.0.load(Relaxed), polls);
        }
    }

    #[test]
    fn an_eager_one_that_sleeps_wakes_whichever_task_it_is_in() {
        let notify = Notify::new();
        let mut notified = pin!(notify.notified());
        let mut eager = Eager::default();
        for _ in 0..2 {
            let task = Arc::new(Task::default());
            let waker = Waker::from(Arc::clone(&task));
            let polled = eager.poll(notified.as_mut(), &mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            assert_eq!(task.0.load(Relaxed), 0);
            notify.notify_waiters();
            assert_eq!(task.0.load(Relaxed), 1);
            notified.set(notify.notified());
        }
    }

    #[tokio::test]
    async fn a_lazy_one_is_asked_only_when_it_has_woken() {
        let (notify, asked) = (Notify::new(), AtomicUsize::new(0));
        let mut notified = pin!(notify.notified());
        let mut counted = pin!(poll_fn(|cx| {
            asked.fetch_add(1, Relaxed);
            notified.as_mut().poll(cx)
        }));
        let mut lazy = Lazy::default();
        for _ in 0..3 {
            let polled = poll_fn(|cx| Poll::Ready(lazy.poll(counted.as_mut(), cx)));
            assert!(polled.await.is_pending());
        }
        assert_eq!(asked.load(Relaxed), 1);
        notify.notify_waiters();
        poll_fn(|cx| lazy.poll(counted.as_mut(), cx)).await;
        assert_eq!(asked.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn a_lazy_one_wakes_whichever_task_it_is_in() {
        let notify = Arc::new(Notify::new());
        let heard = Arc::clone(&notify);
        let mut notified = Box::pin(async move { heard.notified().await });
        let mut lazy = Lazy::default();
        let polled = poll_fn(|cx| Poll::Ready(lazy.poll(notified.as_mut(), cx)));
        assert!(polled.await.is_pending());
        let other = tokio::spawn(async move {
            poll_fn(|cx| lazy.poll(notified.as_mut(), cx)).await;
        });
        tokio::task::yield_now().await;
        notify.notify_waiters();
        other.await.unwrap();
    }
}
