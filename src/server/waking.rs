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
        self.is_woken.swap(true, Ordering::AcqRel);
        self.task.wake_by_ref();
    }
}
