//! The models in a node's memory: loaded one at a time, each with its slots, put out when others need the room.

use super::duration::Keep;
use super::library::Entry;
use super::pace::Pace;
use super::profile::Profile;
use super::refusal::{BUSY, Refusal};
use http::StatusCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};

/// Requests that may wait for a load, Ollama's default.
const PENDING_LOADS: usize = 512;
/// How long a model stays after its last use unless a request says otherwise, Ollama's default.
const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// The memory of one node.
#[derive(Debug)]
pub(super) struct Runners {
    profile: Profile,
    loaded: Mutex<Vec<Loaded>>,
    /// Held by the request whose model is being loaded. First come, first served.
    loading: tokio::sync::Mutex<()>,
    pending: Semaphore,
    /// Told when a model falls idle.
    idle: Notify,
}

/// A model in memory.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) entry: Entry,
    slots: Arc<Semaphore>,
    pace: Arc<Pace>,
    users: usize,
    used: Instant,
    keep: Keep,
}

impl Loaded {
    /// How long the model stays if nobody uses it; `None` for ever.
    pub(super) fn remaining(&self) -> Option<Duration> {
        match self.keep {
            Keep::Until(keep) => Some(keep.saturating_sub(self.used.elapsed())),
            Keep::Forever => None,
        }
    }

    fn expired(&self) -> bool {
        self.users == 0 && self.remaining() == Some(Duration::ZERO)
    }
}

impl Runners {
    pub(super) fn new(profile: Profile) -> Self {
        Self {
            profile,
            loaded: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            pending: Semaphore::new(PENDING_LOADS),
            idle: Notify::new(),
        }
    }

    /// The models in memory, those past their time put out first.
    fn current(&self) -> MutexGuard<'_, Vec<Loaded>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|loaded| !loaded.expired());
        loaded
    }

    pub(super) fn loaded(&self) -> Vec<Loaded> {
        self.current().clone()
    }

    /// Takes part in the use of a model, which is loaded first if need be. The load stops when this future is dropped.
    ///
    /// # Errors
    /// When too many requests wait for loads.
    pub(super) async fn join(
        self: &Arc<Self>,
        entry: &Entry,
        keep: Option<Keep>,
    ) -> Result<Lease, Refusal> {
        if let Some(lease) = self.join_loaded(entry, keep) {
            return Ok(lease);
        }
        let busy = |_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, BUSY);
        let _pending = self.pending.try_acquire().map_err(busy)?;
        let _turn = self.loading.lock().await;
        if let Some(lease) = self.join_loaded(entry, keep) {
            return Ok(lease);
        }
        self.make_room().await;
        let time = self
            .profile
            .time_for(entry.size as f64, self.profile.load_bytes_per_second);
        sleep(time).await;
        let slots = if entry.embedding {
            1
        } else {
            self.profile.slots
        };
        let loaded = Loaded {
            entry: entry.clone(),
            slots: Arc::new(Semaphore::new(slots)),
            pace: Arc::new(Pace::new(&self.profile)),
            users: 1,
            used: Instant::now(),
            keep: keep.unwrap_or(Keep::Until(KEEP_ALIVE)),
        };
        let lease = self.lease(&loaded);
        self.current().push(loaded);
        Ok(lease)
    }

    fn join_loaded(self: &Arc<Self>, entry: &Entry, keep: Option<Keep>) -> Option<Lease> {
        let mut loaded = self.current();
        let loaded = loaded
            .iter_mut()
            .find(|loaded| loaded.entry.digest == entry.digest)?;
        loaded.users += 1;
        loaded.used = Instant::now();
        loaded.keep = keep.unwrap_or(loaded.keep);
        Some(self.lease(loaded))
    }

    fn lease(self: &Arc<Self>, loaded: &Loaded) -> Lease {
        Lease {
            runners: Arc::clone(self),
            digest: Arc::clone(&loaded.entry.digest),
            slots: Arc::clone(&loaded.slots),
            pace: Arc::clone(&loaded.pace),
        }
    }

    /// Puts out the idle model used longest ago until another one fits; waits while all are in use.
    async fn make_room(&self) {
        loop {
            let idle = self.idle.notified();
            {
                let mut loaded = self.current();
                if loaded.len() < self.profile.loaded_limit {
                    return;
                }
                let victim = loaded
                    .iter()
                    .filter(|loaded| loaded.users == 0)
                    .min_by_key(|loaded| loaded.used)
                    .map(|loaded| Arc::clone(&loaded.entry.digest));
                if let Some(victim) = victim {
                    loaded.retain(|loaded| loaded.entry.digest != victim);
                    continue;
                }
            }
            idle.await;
        }
    }

    /// Marks a model to be put out as soon as nobody uses it.
    pub(super) fn unload(&self, entry: &Entry) {
        for loaded in &mut *self.current() {
            if loaded.entry.digest == entry.digest {
                loaded.keep = Keep::Until(Duration::ZERO);
            }
        }
        drop(self.current());
        self.idle.notify_one();
    }
}

/// One request's part in a loaded model.
#[derive(Debug)]
pub(super) struct Lease {
    runners: Arc<Runners>,
    digest: Arc<str>,
    /// Fair: first come, first served.
    pub(super) slots: Arc<Semaphore>,
    pub(super) pace: Arc<Pace>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut loaded = self.runners.current();
        if let Some(loaded) = loaded
            .iter_mut()
            .find(|loaded| loaded.entry.digest == self.digest)
        {
            loaded.users -= 1;
            loaded.used = Instant::now();
        }
        drop(loaded);
        drop(self.runners.current());
        self.runners.idle.notify_one();
    }
}
