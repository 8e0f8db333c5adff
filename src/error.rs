//! Everything that the proxy itself can say no with: status, text and what the client may do, in one place.

use crate::config::duration_text;
use crate::header::{RETRY_AFTER_MS, SHOULD_RETRY};
use crate::server::{FIELDS, Refusal};
use crate::wire::{AskError, Family, ZstdError};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use std::error::Error as _;
use std::io;
use std::time::Duration;
use thiserror::Error;

/// When a client may ask again if no backend can be had: about the time that checks need to notice that one is back.
/// Whole seconds, at most 120, which is the longest that clients heed.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why a request got no backend's answer.
#[derive(Debug, Error)]
pub enum Error {
    /// The path is written in a way that proxy and backend might read differently.
    #[error("404 page not found")]
    OddPath,
    /// A web page asks that may not.
    #[error("this web page's origin is not allowed")]
    ForeignOrigin,
    /// The path is known, the method is wrong for it.
    #[error("405 method not allowed: use {allow}")]
    Method {
        /// The methods that the path takes.
        allow: &'static str,
    },
    /// No route has such a method.
    #[error("405 method not allowed: use {allow}")]
    ForeignMethod {
        /// The methods that some route takes.
        allow: &'static str,
    },
    /// The head could be read in more than one way.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// The client expects what is no part of HTTP.
    #[error("the only expectation that can be met is 100-continue")]
    Expectation,
    /// The request came by here before.
    #[error("this request has passed this proxy already: a backend leads back to it")]
    Loop,
    /// No `Host`, several, or one that cannot be.
    #[error("missing or invalid Host header")]
    Host,
    /// The request's target is longer than the limit.
    #[error("the request target is longer than {limit} bytes")]
    TargetTooLong {
        /// In bytes.
        limit: usize,
    },
    /// The head is larger than the limit, or has too many fields.
    #[error("the request's header fields are larger than {limit} bytes or more than {fields}")]
    HeadTooLarge {
        /// In bytes.
        limit: usize,
        /// In fields.
        fields: usize,
    },
    /// The head did not come to its end in time.
    #[error("the request's header fields did not come in time")]
    HeadLate,
    /// The body is not what the route needs.
    #[error("{0}")]
    Body(#[from] AskError),
    /// The body is encoded, and cannot be decoded.
    #[error("{0}")]
    Zstd(#[from] ZstdError),
    /// The body is encoded in a way that Ollama does not read on this route.
    #[error(
        "this content encoding is not supported here: send the body as it is, or as zstd to one of /v1"
    )]
    Encoding,
    /// The body is longer than the limit.
    #[error("the request body is longer than {limit} bytes, this proxy's limits.body")]
    BodyTooLarge {
        /// In bytes.
        limit: usize,
    },
    /// The client's body broke off or was no HTTP.
    #[error("the request body broke off")]
    BodyBroken,
    /// The client left before its body was whole.
    #[error("the client left in the middle of its request body")]
    BodyGone,
    /// The client's body stopped coming, or came too slowly.
    #[error("the request body did not come in time")]
    BodyLate,
    /// So many bodies are held that there is no room for another.
    #[error("the bodies of running requests have reached this proxy's limits.bodies; ask again")]
    BodiesFull,
    /// The proxy has hardly any descriptors or memory left.
    #[error("server overloaded, please try again: the proxy is short of descriptors or memory")]
    Overloaded,
    /// The client's address has as many connections as one may.
    #[error(
        "too many connections from this address, more than this proxy's limits.connections_per_address"
    )]
    Crowded,
    /// A backend said nothing to a question that takes no thought.
    #[error("no answer within {}, this proxy's timeouts.control", duration_text(*.0))]
    ControlLate(Duration),
    /// Nobody can take the request; the text names each backend and what is wrong with it.
    #[error("{0}")]
    NoBackend(String),
    /// All who could take the request are full, and it may not wait, or not any longer.
    #[error("{text}")]
    Busy {
        /// Why.
        text: String,
        /// When there will probably be room.
        retry_after: Duration,
    },
    /// Some of the backends that had to do it did not; the text names each and says why.
    #[error("{0}")]
    Partial(String),
    /// A backend took the request and broke off before it answered.
    #[error("backend {name} broke off before it answered: {reason}")]
    Lost {
        /// The backend's name.
        name: String,
        /// What happened.
        reason: String,
    },
}

impl Error {
    /// Why a request is not handled at all; heads may have so many bytes.
    pub fn of_refusal(refusal: Refusal, head_bytes: usize) -> Self {
        match refusal {
            Refusal::Malformed(why) => Self::Malformed(why),
            Refusal::TargetTooLong => Self::TargetTooLong { limit: head_bytes },
            Refusal::HeadTooLarge => Self::HeadTooLarge {
                limit: head_bytes,
                fields: FIELDS,
            },
            Refusal::HeadLate => Self::HeadLate,
            Refusal::Overloaded => Self::Overloaded,
            Refusal::Crowded => Self::Crowded,
        }
    }

    /// Why the rest of a body did not come.
    pub fn of_body(error: &hyper::Error) -> Self {
        let mut cause = error.source();
        while let Some(inner) = cause {
            match inner.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::TimedOut) => return Self::BodyLate,
                Some(
                    io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe,
                ) => return Self::BodyGone,
                _ => {}
            }
            cause = inner.source();
        }
        Self::BodyBroken
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::OddPath => StatusCode::NOT_FOUND,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::Method { .. } | Self::ForeignMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host
            | Self::Malformed(_)
            | Self::Body(_)
            | Self::Zstd(_)
            | Self::BodyBroken
            | Self::BodyGone => StatusCode::BAD_REQUEST,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadLate | Self::BodyLate => StatusCode::REQUEST_TIMEOUT,
            Self::ControlLate(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Encoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TargetTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Crowded => StatusCode::TOO_MANY_REQUESTS,
            Self::NoBackend(_) | Self::Busy { .. } | Self::BodiesFull | Self::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Partial(_) | Self::Lost { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// The answer in the shape that a family's clients read. What Ollama's router itself would say, before any family is
    /// known, it says in the router's words.
    pub fn into_response(self, family: Family, request_id: &HeaderValue) -> Response<Bytes> {
        let status = self.status();
        let text = self.to_string();
        let (kind, body) = if matches!(self, Self::ForeignOrigin) {
            (None, Bytes::new())
        } else if matches!(self, Self::OddPath) {
            (Some("text/plain"), text.into())
        } else {
            let body = family.error_body(status, &text, request_id);
            (Some("application/json; charset=utf-8"), body)
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if let Some(kind) = kind {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        self.advise(family, headers);
        if let Self::Method { allow } | Self::ForeignMethod { allow } = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.ends_connection() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Whether the connection's framing cannot be trusted any more, or a body is on it that nobody will read to its end.
    fn ends_connection(&self) -> bool {
        match self {
            Self::Host
            | Self::ForeignMethod { .. }
            | Self::Malformed(_)
            | Self::Expectation
            | Self::HeadTooLarge { .. }
            | Self::HeadLate
            | Self::BodyBroken
            | Self::BodyGone
            | Self::BodyLate
            | Self::BodiesFull
            | Self::Overloaded
            | Self::Crowded
            | Self::TargetTooLong { .. }
            | Self::BodyTooLarge { .. }
            | Self::Encoding => true,
            Self::OddPath
            | Self::ForeignOrigin
            | Self::Method { .. }
            | Self::Loop
            | Self::Body(_)
            | Self::Zstd(_)
            | Self::ControlLate(_)
            | Self::NoBackend(_)
            | Self::Busy { .. }
            | Self::Partial(_)
            | Self::Lost { .. } => false,
        }
    }

    /// Tells the client whether to ask again, and when.
    fn advise(&self, family: Family, headers: &mut HeaderMap) {
        let Some(retry) = self.may_pass() else {
            return;
        };
        let retry_after = if let Self::Busy { retry_after, .. } = self {
            *retry_after
        } else {
            RETRY_AFTER
        };
        let millis = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        let seconds = millis.div_ceil(1000);
        if retry {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        // The rest is read by OpenAI's and Anthropic's clients alone.
        if family == Family::Native {
            return;
        }
        let word = if retry { "true" } else { "false" };
        headers.insert(SHOULD_RETRY, HeaderValue::from_static(word));
        if retry {
            headers.insert(RETRY_AFTER_MS, millis.into());
        }
    }

    /// Whether the same request may have another answer later, where that can be said.
    fn may_pass(&self) -> Option<bool> {
        match self {
            Self::NoBackend(_)
            | Self::Busy { .. }
            | Self::Lost { .. }
            | Self::BodiesFull
            | Self::Overloaded
            | Self::Crowded => Some(true),
            Self::OddPath
            | Self::ForeignOrigin
            | Self::Method { .. }
            | Self::ForeignMethod { .. }
            | Self::Malformed(_)
            | Self::Expectation
            | Self::Loop
            | Self::HeadTooLarge { .. }
            | Self::Host
            | Self::TargetTooLong { .. }
            | Self::Body(_)
            | Self::Zstd(_)
            | Self::Encoding
            | Self::BodyTooLarge { .. } => Some(false),
            // Those who did their part would do it again; who broke off is not there to be told.
            Self::Partial(_)
            | Self::BodyBroken
            | Self::BodyGone
            | Self::BodyLate
            | Self::HeadLate
            | Self::ControlLate(_) => None,
        }
    }
}
