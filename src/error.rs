//! Everything that the proxy itself can say no with: status, text and what the client may do, in one place.

use crate::reply::Source;
use crate::wire::{AskError, Family};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use thiserror::Error;

/// Seconds after which a client may ask again when no backend can be had: about the time that checks need to notice that
/// one is back.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// Why a request got no backend's answer.
#[derive(Debug, Error)]
pub enum Error {
    /// The path is written in a way that proxy and backend might read differently.
    #[error("404 page not found")]
    OddPath,
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
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host | Self::Body(_) | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::TargetTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoBackend(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Partial(_) | Self::Lost { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// The answer in the shape that a family's clients read.
    pub fn into_response(self, family: Family) -> Response<Source> {
        let status = self.status();
        let body = family.error_body(status, &self.to_string());
        let mut response = Response::new(Source::Own(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json; charset=utf-8"),
        );
        match self {
            Self::NoBackend(_) => drop(headers.insert(header::RETRY_AFTER, RETRY_AFTER)),
            Self::Method { allow } => {
                drop(headers.insert(header::ALLOW, HeaderValue::from_static(allow)));
            }
            // The connection's framing cannot be trusted any more.
            Self::Host | Self::BodyBroken | Self::TargetTooLong { .. } => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Self::OddPath
            | Self::Body(_)
            | Self::BodyTooLarge { .. }
            | Self::Partial(_)
            | Self::Lost { .. } => {}
        }
        response
    }
}

/// An answer of the proxy's own that is no error.
impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Self {
        Self::Own(bytes)
    }
}
