//! Tells whoever waits for room that some came free.

use crate::sync::{AtomicUsize, Notify, Ordering::Relaxed, Ordering::SeqCst, fence};

/// A bell that costs next to nothing while nobody listens. It outlives the pools that ring it.
#[derive(Debug, Default)]
pub struct Bell {
    waiting: AtomicUsize,
    rung: Notify,
}

impl Bell {
    /// Says how many wait. To be said before they look for room once more: then they see any room that came free before,
    /// and hear of any that comes free later.
    pub fn set_waiting(&self, waiting: usize) {
        self.waiting.store(waiting, Relaxed);
        fence(SeqCst);
    }

    /// Rings, if somebody waits. Takes no lock, so it may be called under any.
    pub fn ring(&self) {
        fence(SeqCst);
        if self.waiting.load(Relaxed) > 0 {
            self.rung.notify_one();
        }
    }

    /// Waits until it rings, or did since the last time somebody listened.
    pub async fn rung(&self) {
        self.rung.notified().await;
    }
}
