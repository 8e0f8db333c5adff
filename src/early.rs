//! An answer that begins before its backend's does, for clients that give up on silence.
//!
//! Ollama sends nothing while a model loads or a request waits its turn. With `early_response`, a stream that has been
//! waited for that long gets its head, and then now and again a record that says nothing and that every client takes.
//! The price: its status is 200 whatever comes, so a refusal then arrives as the record of an error, and a cut.

use crate::access::{Access, Ended};
use crate::call::Call;
use crate::error::Error;
use crate::reply::Source;
use crate::route::Action;
use crate::state::State;
use crate::wire::Family;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Between two records that say nothing.
const BEAT: Duration = Duration::from_secs(10);
/// The most of a refusal that is put into a stream, in bytes.
const REFUSAL_BYTES: usize = 64 << 10;

/// The end of the wait: how the stream goes on, and the record of its request.
pub type Settled = (Source, Box<Access>);

/// A stream whose backend's answer is still awaited. Dropping it drops the request.
pub struct Early {
    waiting: Pin<Box<dyn Future<Output = Settled> + Send>>,
    next_beat: Pin<Box<Sleep>>,
    beat: Bytes,
}

/// What an early stream has next.
#[derive(Debug)]
pub enum Step {
    /// A record that says nothing.
    Beat(Bytes),
    /// What to go on with.
    Settled(Source, Box<Access>),
}

/// How long a call may be without a head, if it is one that may have its head early.
pub fn patience(state: &State, call: &Call) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Asked {
        stream: Option<bool>,
    }
    let patience = state.settings.early_response;
    let may_stream = call.route.action == Action::Pick && call.route.loads_models();
    if patience.is_zero() || !may_stream {
        return None;
    }
    let by_default = matches!(call.route.label, "/api/chat" | "/api/generate");
    let asked = serde_json::from_slice::<Asked>(call.body()).ok()?.stream;
    asked.unwrap_or(by_default).then_some(patience)
}

impl Early {
    /// A stream that goes on with what is awaited.
    pub fn new(beat: Bytes, waiting: Pin<Box<dyn Future<Output = Settled> + Send>>) -> Self {
        Self {
            waiting,
            next_beat: Box::pin(sleep(Duration::ZERO)),
            beat,
        }
    }

    /// What comes next; the first record comes at once.
    pub fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if let Poll::Ready((source, access)) = self.waiting.as_mut().poll(cx) {
            return Poll::Ready(Step::Settled(source, access));
        }
        std::task::ready!(self.next_beat.as_mut().poll(cx));
        self.next_beat.as_mut().reset(Instant::now() + BEAT);
        Poll::Ready(Step::Beat(self.beat.clone()))
    }
}

/// The head of an early answer.
pub fn head(family: Family, early: Early) -> Response<Source> {
    let kind = match family {
        Family::Native => "application/x-ndjson",
        Family::OpenAi | Family::Responses | Family::Anthropic => "text/event-stream",
    };
    let mut response = Response::new(Source::Early(Box::new(early)));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The record that says nothing: for Ollama's own API a whole one, since its clients take no comments and no empty lines.
pub fn beat(call: &Call, model: &str) -> Bytes {
    let created_at = jiff::Timestamp::now().to_string();
    let record = match (call.route.family, call.route.label) {
        (Family::Native, "/api/chat") => {
            let message = json!({ "role": "assistant", "content": "" });
            json!({ "model": model, "created_at": created_at, "message": message, "done": false })
        }
        (Family::Native, _) => {
            json!({ "model": model, "created_at": created_at, "response": "", "done": false })
        }
        (Family::OpenAi | Family::Responses, _) => return Bytes::from_static(b": keep-alive\n\n"),
        (Family::Anthropic, _) => {
            return Bytes::from_static(b"event: ping\ndata: {\"type\": \"ping\"}\n\n");
        }
    };
    format!("{record}\n").into()
}

/// What an answer, or the lack of one, comes to in a stream that has begun.
pub async fn go_on(
    family: Family,
    outcome: Result<Response<Source>, Error>,
    access: Access,
) -> Settled {
    let mut access = Box::new(access);
    let answer = match outcome {
        Ok(answer) => answer,
        Err(error) => {
            access.ended = Ended::Refused;
            access.error = Some(error.to_string());
            access.answered(error.status());
            return (
                Source::cut_after(family.stream_error(&error.to_string())),
                access,
            );
        }
    };
    access.answered(answer.status());
    access.ended = Ended::Complete;
    let (parts, source) = answer.into_parts();
    if parts.status.is_success() && is_stream(&parts) {
        return (source, access);
    }
    let body = source.read_whole(REFUSAL_BYTES).await;
    access.bytes_out = body.len() as u64;
    let source = match (parts.status, one_line(&body)) {
        (StatusCode::OK, Some(line)) => Source::Own(record(family, "", line)),
        (_, Some(line)) => Source::cut_after(record(family, "event: error\n", line)),
        (status, None) => {
            Source::cut_after(family.stream_error(&format!("the backend answered {status}")))
        }
    };
    (source, access)
}

fn is_stream(parts: &http::response::Parts) -> bool {
    let kind = parts
        .headers
        .get(header::CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    kind.starts_with(b"application/x-ndjson") || kind.starts_with(b"text/event-stream")
}

/// A JSON text that fits in a line.
fn one_line(body: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(body).ok()?.trim();
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok();
    (is_json && !line.contains(['\n', '\r'])).then_some(line)
}

fn record(family: Family, event: &str, line: &str) -> Bytes {
    match family {
        Family::Native => format!("{line}\n").into(),
        Family::OpenAi => format!("data: {line}\n\n").into(),
        Family::Responses | Family::Anthropic => format!("{event}data: {line}\n\n").into(),
    }
}

impl fmt::Debug for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Early")
            .field("beat", &self.beat)
            .finish_non_exhaustive()
    }
}
