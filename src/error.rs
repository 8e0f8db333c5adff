//! Everything that the proxy itself can say no with: status, text and what the client may do, in one place.

use crate::header::{RETRY_AFTER_MS, SHOULD_RETRY};
use crate::wire::{AskError, Family, ZstdError};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
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
    /// No `Host`, several, or one that cannot be.
    #[error("missing or invalid Host header")]
    Host,
    /// The request's target is longer than the limit.
    #[error("the request target is longer than {limit} bytes")]
    TargetTooLong {
        /// In bytes.
        limit: usize,
    },
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
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::OddPath => StatusCode::NOT_FOUND,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host | Self::Body(_) | Self::Zstd(_) | Self::BodyBroken => {
                StatusCode::BAD_REQUEST
            }
            Self::Encoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TargetTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoBackend(_) | Self::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
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
        match self {
            Self::Method { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            // The connection's framing cannot be trusted any more, or a body is on it that nobody will read to its end.
            Self::Host
            | Self::BodyBroken
            | Self::TargetTooLong { .. }
            | Self::BodyTooLarge { .. }
            | Self::Encoding => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Self::OddPath
            | Self::ForeignOrigin
            | Self::Body(_)
            | Self::Zstd(_)
            | Self::NoBackend(_)
            | Self::Busy { .. }
            | Self::Partial(_)
            | Self::Lost { .. } => {}
        }
        response
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
            Self::NoBackend(_) | Self::Busy { .. } | Self::Lost { .. } => Some(true),
            Self::OddPath
            | Self::ForeignOrigin
            | Self::Method { .. }
            | Self::Host
            | Self::TargetTooLong { .. }
            | Self::Body(_)
            | Self::Zstd(_)
            | Self::Encoding
            | Self::BodyTooLarge { .. } => Some(false),
            // Those who did their part would do it again; who broke off is not there to be told.
            Self::Partial(_) | Self::BodyBroken => None,
        }
    }
}
