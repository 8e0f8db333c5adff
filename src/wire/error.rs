//! An error in the shape that each API family's clients read: one line, never an empty body.

use super::Family;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::json;

impl Family {
    /// The body of an error answer; always JSON. Anthropic's clients also read from it what the request was called.
    pub fn error_body(self, status: StatusCode, message: &str, request_id: &HeaderValue) -> Bytes {
        let body = match self {
            Self::Native => json!({ "error": message }),
            Self::OpenAi | Self::Responses => json!({ "error": openai(status, message) }),
            Self::Anthropic => {
                let id = request_id.to_str().unwrap_or_default();
                json!({ "type": "error", "error": anthropic(status, message), "request_id": id })
            }
        };
        body.to_string().into()
    }

    /// The record that ends a stream which broke off, to be followed by cutting the connection.
    ///
    /// The status of such an answer was sent long ago, so the record counts as a server error.
    pub fn stream_error(self, message: &str) -> Bytes {
        let status = StatusCode::BAD_GATEWAY;
        let record = match self {
            Self::Native => format!("{}\n", json!({ "error": message })),
            Self::OpenAi => format!("data: {}\n\n", json!({ "error": openai(status, message) })),
            Self::Responses => {
                let event = json!({ "type": "error", "code": "server_error", "message": message, "param": null });
                format!("event: error\ndata: {event}\n\n")
            }
            Self::Anthropic => {
                let event = json!({ "type": "error", "error": anthropic(status, message) });
                format!("event: error\ndata: {event}\n\n")
            }
        };
        record.into()
    }
}

fn openai(status: StatusCode, message: &str) -> serde_json::Value {
    let kind = match status {
        StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE => "invalid_request_error",
        StatusCode::NOT_FOUND => "not_found_error",
        _ => "api_error",
    };
    json!({ "message": message, "type": kind, "param": null, "code": null })
}

fn anthropic(status: StatusCode, message: &str) -> serde_json::Value {
    let kind = match status.as_u16() {
        400 | 413 | 415 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    };
    json!({ "type": kind, "message": message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_reads_its_own_shape() {
        let id = HeaderValue::from_static("id-1");
        let body = |family: Family| family.error_body(StatusCode::NOT_FOUND, "no \"x\"", &id);
        assert_eq!(body(Family::Native), r#"{"error":"no \"x\""}"#);
        assert_eq!(
            body(Family::OpenAi),
            r#"{"error":{"code":null,"message":"no \"x\"","param":null,"type":"not_found_error"}}"#
        );
        assert_eq!(
            body(Family::Anthropic),
            r#"{"error":{"message":"no \"x\"","type":"not_found_error"},"request_id":"id-1","type":"error"}"#
        );
    }

    #[test]
    fn stream_records_are_whole_records() {
        assert_eq!(
            Family::Native.stream_error("lost"),
            "{\"error\":\"lost\"}\n"
        );
        for family in [Family::OpenAi, Family::Responses, Family::Anthropic] {
            let record = family.stream_error("a\nb");
            let text = std::str::from_utf8(&record).unwrap();
            assert!(
                text.ends_with("\n\n") && text.matches("\n\n").count() == 1,
                "{text}"
            );
        }
    }
}
