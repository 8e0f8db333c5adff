//! What `src/sync.rs` has, as loom tries it.

pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};

use loom::sync::Mutex;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes one who waits, or the next who does; as tokio's, for one who waits at a time.
#[derive(Debug)]
pub struct Notify(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_due: bool,
    waker: Option<Waker>,
}

impl Default for Notify {
    fn default() -> Self {
        Self(Mutex::new(State::default()))
    }
}

impl Notify {
    /// Wakes one.
    pub fn notify_one(&self) {
        let mut state = self.0.lock().expect("nobody panics");
        state.is_due = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits to be woken.
    pub async fn notified(&self) {
        poll_fn(|cx| {
            let mut state = self.0.lock().expect("nobody panics");
            if std::mem::take(&mut state.is_due) {
                return Poll::Ready(());
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
