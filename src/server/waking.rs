//! Spares a connection's task wake-ups that bring nothing: the scheduler has to be asked for each, and asks another core to
//! help.
//!
//! Both of these stand between a task and one future of it, with a waker of their own, by which they know who woke the task.

use crate::sync::{AtomicBool, AtomicU8, Ordering};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// How often a future is asked again at once before other tasks have their turn.
pub(super) const TURNS: usize = 8;

const ASLEEP: u8 = 0;
const ASKED: u8 = 1;
const WOKEN: u8 = 2;

/// Asks a future again at once if it wakes its task while it is asked, as one does whose parts wake each other: hyper wakes
/// itself when a service wants the body of its request.
#[derive(Debug, Default)]
pub struct Eager(Own<AtomicU8>);

/// Asks a future, after the first time, only if it has woken its task. For one that has nothing to say for hours, in a task
/// that is woken for each chunk of a stream.
#[derive(Debug, Default)]
pub struct Lazy(Own<AtomicBool>);

/// The waker that a future is given; none before it is asked.
type Own<S> = Option<(Arc<Bell<S>>, Waker)>;

/// Wakes a task, and knows something of it.
#[derive(Debug)]
struct Bell<S> {
    task: Waker,
    state: S,
}

/// A future's own waker, made anew if it is in another task than before.
fn own<'a, S>(own: &'a mut Own<S>, task: &Waker, state: fn() -> S) -> &'a (Arc<Bell<S>>, Waker)
where
    Bell<S>: Wake + Send + Sync + 'static,
{
    let known = own.take().filter(|(bell, _)| bell.task.will_wake(task));
    own.insert(known.unwrap_or_else(|| {
        let bell = Arc::new(Bell {
            task: task.clone(),
            state: state(),
        });
        (Arc::clone(&bell), bell.into())
    }))
}

impl Eager {
    /// What the future says.
    pub fn poll<F: Future>(
        &mut self,
        mut future: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        let (bell, waker) = own(&mut self.0, cx.waker(), || AtomicU8::new(ASLEEP));
        let mut cx = Context::from_waker(waker);
        for _ in 0..TURNS {
            bell.state.store(ASKED, Ordering::Release);
            if let Poll::Ready(said) = future.as_mut().poll(&mut cx) {
                return Poll::Ready(said);
            }
            if bell.moves(ASKED, ASLEEP).is_ok() {
                return Poll::Pending;
            }
        }
        bell.state.store(ASLEEP, Ordering::Release);
        bell.task.wake_by_ref();
        Poll::Pending
    }
}

impl Bell<AtomicU8> {
    /// From one state to another; else says which it is in.
    fn moves(&self, from: u8, to: u8) -> Result<u8, u8> {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.state.compare_exchange(from, to, success, failure)
    }
}

impl Wake for Bell<AtomicU8> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match self.moves(ASKED, WOKEN) {
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
        let (bell, waker) = own(&mut self.0, cx.waker(), || AtomicBool::new(true));
        if !bell.state.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        future.poll(&mut Context::from_waker(waker))
    }
}

impl Wake for Bell<AtomicBool> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.state.swap(true, Ordering::AcqRel);
        self.task.wake_by_ref();
    }
}
