//! One line per request, written when it is over, however it ends. Never a prompt.

use crate::address::Address;
use crate::log::{self, Fields, key};
use http::{Method, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The backend's whole answer was passed on.
    Complete,
    /// The backend ended its stream cleanly, but never said that it was done.
    Truncated,
    /// The backend broke off in the middle of its answer.
    BackendBroke,
    /// The client left before it had all.
    ClientGone,
    /// The proxy answered with an error of its own.
    Refused,
}

impl Ended {
    /// The word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Truncated => "truncated",
            Self::BackendBroke => "backend_broke",
            Self::ClientGone => "client_gone",
            Self::Refused => "refused",
        }
    }
}

/// What is known of a request so far. Dropping it writes the line.
#[derive(Debug)]
pub struct Access {
    started: Instant,
    /// What the request is called.
    pub id: http::HeaderValue,
    /// Where it came from.
    pub client: Address,
    /// Its method.
    pub method: Method,
    /// Its row of the route table.
    pub route: &'static str,
    /// The model as the client spelled it, cut to a sane length.
    pub model: Option<Box<str>>,
    /// The backend that answered, or was tried last.
    pub backend: Option<http::HeaderValue>,
    /// Backends tried.
    pub attempts: u32,
    /// The status that the client got, if it got one.
    pub status: Option<StatusCode>,
    /// Bytes of the request's body, where it was read whole.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the request's head to the answer's.
    pub first_byte: Option<Duration>,
    /// How long it waited for a backend with room, if it had to.
    pub queued: Option<Duration>,
    /// Why the proxy refused, if it did.
    pub error: Option<String>,
    /// Until something else is known, the client left.
    pub ended: Ended,
    active: Arc<AtomicUsize>,
}

/// The longest model name that a line shows, in characters.
const MODEL_CHARS: usize = 120;

impl Access {
    /// Begins the record of a request and counts it in `active` until it is over.
    pub fn begin(
        id: http::HeaderValue,
        client: Address,
        method: Method,
        active: &Arc<AtomicUsize>,
    ) -> Self {
        active.fetch_add(1, Relaxed);
        Self {
            started: Instant::now(),
            id,
            client,
            method,
            route: "other",
            model: None,
            backend: None,
            attempts: 0,
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            first_byte: None,
            queued: None,
            error: None,
            ended: Ended::ClientGone,
            active: Arc::clone(active),
        }
    }

    /// When its head had come.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Requests that are not over, this one among them.
    pub fn active(&self) -> usize {
        self.active.load(Relaxed)
    }

    /// Notes the model that was asked for.
    pub fn set_model(&mut self, mut name: String) {
        if let Some((end, _)) = name.char_indices().nth(MODEL_CHARS) {
            name.truncate(end);
        }
        self.model = Some(name.into());
    }

    /// Notes that the answer's head is there.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.first_byte = Some(self.started.elapsed());
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Relaxed);
        log::access(|line| self.tell(line));
    }
}

impl Access {
    fn tell(&self, line: &mut dyn Fields) {
        line.text(key!("id"), self.id.to_str().unwrap_or_default());
        line.text(key!("client"), self.client.as_str());
        line.text(key!("method"), self.method.as_str());
        line.word(key!("route"), self.route);
        if let Some(model) = &self.model {
            line.text(key!("model"), model);
        }
        if let Some(backend) = self.backend.as_ref().and_then(|name| name.to_str().ok()) {
            line.text(key!("backend"), backend);
        }
        line.number(key!("attempts"), self.attempts.into());
        if let Some(status) = self.status {
            line.number(key!("status"), status.as_u16().into());
        }
        line.word(key!("ended"), self.ended.as_str());
        if let Some(error) = &self.error {
            line.text(key!("error"), error);
        }
        line.number(key!("bytes_in"), self.bytes_in);
        line.number(key!("bytes_out"), self.bytes_out);
        if let Some(queued) = self.queued {
            line.milliseconds(key!("queued_ms"), queued);
        }
        if let Some(first_byte) = self.first_byte {
            line.milliseconds(key!("first_byte_ms"), first_byte);
        }
        line.milliseconds(key!("total_ms"), self.started.elapsed());
    }
}
