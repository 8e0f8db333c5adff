use super::waking::{Eager, Lazy, TURNS};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
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
