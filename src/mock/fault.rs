//! Faults that a node is told to have.

use super::door::{Cut, Door};
use super::duration;
use serde::{Deserialize, Deserializer};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Chunks that go through before a fault in the middle of a stream.
const CHUNKS_BEFORE: usize = 2;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nobody listens on the port, and every open connection is reset.
    Refuse,
    /// The request is read, and then nothing.
    HangBeforeHeaders,
    /// Status 500 at once, with a text that says nothing about loading.
    #[serde(rename = "error_500")]
    Error500,
    /// Status 503 with the text of a full queue.
    #[serde(rename = "busy_503")]
    Busy503,
    /// Status 500 with the text of a model that cannot be loaded.
    LoadFailure,
    /// Status 404 as if the model were not there.
    #[serde(rename = "not_found_404")]
    NotFound404,
    /// The connection is reset after some chunks.
    ResetMidStream,
    /// The connection ends after some chunks, without the chunk that ends the body.
    FinMidStream,
    /// The request is read, then the connection is reset.
    ResetBeforeHeaders,
    /// The request is read, then the connection ends.
    FinBeforeHeaders,
    /// The request is answered with something that is not HTTP.
    Garbage,
    /// Silence after some chunks, until the client leaves.
    StallMidStream,
    /// Every byte of the body is a chunk of its own, a millisecond apart.
    SlowDrip,
    /// The body ends cleanly after some chunks, without the record that ends the answer.
    CleanEndWithoutDone,
    /// The error record of the API family after some chunks, then a clean end.
    ErrorInStream,
}

/// A fault, for whom, and for how long.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// How many requests it meets; `None` until it is cleared.
    #[serde(default)]
    pub count: Option<u32>,
    /// The only path it is for; `None` for all inference routes.
    #[serde(default)]
    pub path: Option<String>,
    /// The error text, for the kinds that have one.
    #[serde(default)]
    pub text: Option<String>,
    /// Chunks that go through first, for the kinds in the middle of a stream.
    #[serde(default = "chunks_before")]
    pub after: usize,
    /// When it clears by itself.
    #[serde(default, rename = "for", deserialize_with = "duration_text")]
    pub lasting: Option<Duration>,
}

fn chunks_before() -> usize {
    CHUNKS_BEFORE
}

fn duration_text<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(source)?;
    let wrong = || serde::de::Error::custom(format!("{text:?} is not a duration like \"2s\""));
    duration::parse(&text).map(Some).ok_or_else(wrong)
}

impl Fault {
    /// A fault for every inference request until it is cleared.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            count: None,
            path: None,
            text: None,
            after: CHUNKS_BEFORE,
            lasting: None,
        }
    }

    /// Only the next `count` requests.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.count = Some(count);
        self
    }

    /// Only this path, whatever kind of route it is.
    #[must_use]
    pub fn on(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// Another error text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.text = Some(text.to_owned());
        self
    }

    /// So many chunks before it happens.
    #[must_use]
    pub fn after(mut self, chunks: usize) -> Self {
        self.after = chunks;
        self
    }

    /// Only for so long.
    #[must_use]
    pub fn lasting(mut self, duration: Duration) -> Self {
        self.lasting = Some(duration);
        self
    }
}

/// The faults a node has. The first one that fits a request meets it.
#[derive(Debug)]
pub struct Faults {
    door: Arc<Door>,
    set: Mutex<Vec<Active>>,
}

#[derive(Debug)]
struct Active {
    fault: Fault,
    until: Option<Instant>,
}

impl Faults {
    pub(super) fn new(door: Arc<Door>) -> Self {
        Self {
            door,
            set: Mutex::default(),
        }
    }

    fn active(&self) -> MutexGuard<'_, Vec<Active>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a fault. It holds for every request from now on; [`Kind::Refuse`] is in force when this returns.
    pub fn set(&self, fault: Fault) {
        self.set_from(fault, None);
    }

    /// As [`set`](Self::set), asked for over a connection that is not to be cut.
    pub(super) fn set_from(&self, fault: Fault, asker: Option<&Arc<Cut>>) {
        if fault.kind == Kind::Refuse {
            self.door.shut(asker, fault.lasting);
            return;
        }
        let until = fault
            .lasting
            .and_then(|lasting| Instant::now().checked_add(lasting));
        self.active().push(Active { fault, until });
    }

    /// Removes all faults; a node that refused connections listens again when this returns.
    pub fn clear(&self) {
        self.active().clear();
        self.door.reopen();
    }

    /// The fault that meets a request, if any does.
    pub(super) fn take(&self, path: &str, inference: bool) -> Option<Fault> {
        let now = Instant::now();
        let mut active = self.active();
        active.retain(|active| {
            active.until.is_none_or(|until| now < until) && active.fault.count != Some(0)
        });
        let met = active.iter_mut().find(|active| match &active.fault.path {
            Some(only) => only == path,
            None => inference,
        })?;
        if let Some(count) = &mut met.fault.count {
            *count -= 1;
        }
        Some(met.fault.clone())
    }
}
