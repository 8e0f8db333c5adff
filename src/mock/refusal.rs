//! A request that is not served, and how each API family says so.

use crate::wire::Family;
use http::StatusCode;
use serde_json::{Value, json};

/// Ollama's answer when too many loads wait. The two spaces are its own.
pub(super) const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";

/// Why a request is not served.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn no_model(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("model '{name}' not found"))
    }

    /// The answer's content type and body.
    pub(super) fn body(&self, family: Family) -> (&'static str, Value) {
        match family {
            Family::Native => (
                "application/json; charset=utf-8",
                json!({"error": self.text}),
            ),
            Family::OpenAi | Family::Responses => {
                let kind = match self.status {
                    StatusCode::BAD_REQUEST => "invalid_request_error",
                    StatusCode::NOT_FOUND => "not_found_error",
                    _ => "api_error",
                };
                let error =
                    json!({"message": self.text, "type": kind, "param": null, "code": null});
                ("application/json", json!({"error": error}))
            }
            Family::Anthropic => {
                let kind = match self.status.as_u16() {
                    400 => "invalid_request_error",
                    401 => "authentication_error",
                    403 => "permission_error",
                    404 => "not_found_error",
                    429 => "rate_limit_error",
                    503 | 529 => "overloaded_error",
                    _ => "api_error",
                };
                let body = json!({
                    "type": "error",
                    "error": {"type": kind, "message": self.text},
                    "request_id": "req_0123456789",
                });
                ("application/json", body)
            }
        }
    }
}
