//! One attempt on one backend: the only way to raise its in-flight count, and all of the bookkeeping when it ends.

use super::Backend;
use crate::clock;
use crate::health::{Pass, Signal};
use crate::knowledge::Progress;
use crate::wire::Counters;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// Counts a request on its backend from the moment of choice to the last byte: whatever ends the request drops this.
///
/// Nothing is held against the backend unless [`Lease::failed`] or [`Lease::unreachable`] says so; a client that leaves
/// just drops it.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<Backend>,
    pass: Pass,
    /// Whether the answer began as it should.
    is_answered: AtomicBool,
    started: Instant,
    /// Its number on the node and how far it is; `None` for what the node's work is not known by, or once it is over.
    pub(super) flight: Option<(u64, Arc<Progress>)>,
}

impl Lease {
    pub(super) fn new(backend: Arc<Backend>, pass: Pass, now: Instant) -> Self {
        Self {
            backend,
            pass,
            is_answered: AtomicBool::new(false),
            started: now,
            flight: None,
        }
    }

    /// The backend that was chosen.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// When the backend was chosen.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether it is one of few that show how a backend does that failed before.
    pub fn is_on_probation(&self) -> bool {
        self.pass.is_counted()
    }

    /// The backend answered with this status; a success also says how fast it is.
    pub fn answered(&self, status: http::StatusCode, now: Instant) {
        let is_busy = status == http::StatusCode::SERVICE_UNAVAILABLE;
        if is_busy {
            self.backend.turned_away();
        }
        let signal = if is_busy || status.is_client_error() {
            // The client is wrong, or there is enough to do: neither is a sickness, nor a sign of health.
            Signal::Turned
        } else if status.is_server_error() {
            Signal::Failed(format!("answered {}", status.as_u16()))
        } else {
            self.is_answered.store(true, Relaxed);
            if status.is_success() {
                self.backend.measured(self.age(now), now);
            }
            Signal::Answered
        };
        self.backend.hear(signal, Some(self.pass), now);
    }

    /// The backend broke off or answered nonsense.
    pub fn failed(&self, reason: String, now: Instant) {
        let signal = if self.is_answered.swap(false, Relaxed) {
            Signal::Broke(reason)
        } else {
            Signal::Failed(reason)
        };
        self.backend.hear(signal, Some(self.pass), now);
    }

    /// The backend could not be reached, which was tried since then.
    pub fn unreachable(&self, reason: String, since: Instant, now: Instant) {
        let signal = Signal::ConnectFailed { reason, since };
        self.backend.hear(signal, Some(self.pass), now);
    }

    /// The first byte of the answer's body has come.
    pub fn first_byte(&self, now: Instant) {
        if let Some((id, _)) = &self.flight {
            self.backend.node().first_byte(*id, clock::seconds(now));
        }
    }

    /// So many more tokens have come.
    pub fn progressed(&self, tokens: u32, now: Instant) {
        if let Some((_, progress)) = &self.flight {
            progress.add(tokens, now);
        }
    }

    /// The answer is over and whole.
    pub fn finished(&mut self, counters: &Counters, now: Instant) {
        if self.is_answered.load(Relaxed) {
            self.backend.finished(self.pass, now);
        }
        if let Some((id, _)) = self.flight.take() {
            let medians = &self.backend.lore().medians;
            self.backend
                .node()
                .finished(id, counters, medians, clock::seconds(now));
        }
    }

    /// The request is over without a whole answer, at this time; else its drop says so, then.
    pub fn left(&mut self, now: Instant) {
        if let Some((id, _)) = self.flight.take() {
            self.backend.node().left(id, clock::seconds(now));
        }
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.flight.is_some() {
            self.left(Instant::now());
        }
        self.backend.release(self.pass);
    }
}
