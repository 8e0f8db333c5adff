//! The few keys of a body that decide which backends it goes to, read as Ollama reads them: without regard to case, the
//! last of several wins.

use memchr::memmem;
use serde_json::Value;

/// Bodies longer than this do more than unload a model, in bytes.
const UNLOAD_BYTES: usize = 16 << 10;

/// A key's value, or `null`.
fn key(body: &[u8], name: &str) -> Value {
    let Some(Ok(Value::Object(object))) = serde_json::Deserializer::from_slice(body)
        .into_iter::<Value>()
        .next()
    else {
        return Value::Null;
    };
    let mut values = object
        .into_iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(name));
    values.next_back().map_or(Value::Null, |(_, value)| value)
}

/// The model that is to be copied.
pub(super) fn source(body: &[u8]) -> Option<String> {
    match key(body, "source") {
        Value::String(name) => Some(name),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}

/// Whether progress is wanted line by line.
pub(super) fn wants_stream(body: &[u8]) -> bool {
    key(body, "stream") != Value::Bool(false)
}

/// Whether a model is to be made of files that were uploaded.
pub(super) fn needs_blobs(body: &[u8]) -> bool {
    ["files", "adapters", "draft_files"]
        .iter()
        .any(|name| matches!(key(body, name), Value::Object(files) if !files.is_empty()))
}

/// Whether it asks a model for nothing and to leave at once. `input` is the key that the route reads its prompt from.
pub(super) fn unloads(body: &[u8], input: &str) -> bool {
    // Nearly every request is ruled out by its length or by this one look.
    body.len() <= UNLOAD_BYTES
        && memmem::find(body, b"keep_alive").is_some()
        && is_zero(&key(body, "keep_alive"))
        && is_nothing(&key(body, input))
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

/// Whether it is a duration of nothing: `0`, `"0"`, `"0s"`, `"0h0m0.0s"`.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.contains('0') && text.chars().all(|c| "+-0.hmsuµn".contains(c)),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, unloading: bool) {
        assert_eq!(unloads(body.as_bytes(), "prompt"), unloading, "{body}");
    }

    #[test]
    fn tells_an_unload_from_a_load_and_from_work() {
        check(r#"{"model":"m","keep_alive":0}"#, true);
        check(r#"{"model":"m","prompt":"","keep_alive":"0s"}"#, true);
        check(
            r#"{"model":"m","prompt":null,"keep_alive":"0h0m0.0s"}"#,
            true,
        );
        check(r#"{"model":"m","prompt":"hi","keep_alive":0}"#, false);
        check(r#"{"model":"m","keep_alive":"5m"}"#, false);
        check(r#"{"model":"m","keep_alive":-1}"#, false);
        check(r#"{"model":"m","keep_alive":"s"}"#, false);
        check(r#"{"model":"m"}"#, false);
        check("[]", false);
        assert!(unloads(br#"{"messages":[],"keep_alive":0.0}"#, "messages"));
        assert!(!unloads(br#"{"messages":[{}],"keep_alive":0}"#, "messages"));
    }

    #[test]
    fn reads_the_other_keys() {
        assert_eq!(
            source(br#"{"Source":"a","destination":"b"}"#).as_deref(),
            Some("a")
        );
        assert_eq!(source(b"{}"), None);
        assert!(wants_stream(b"{}") && wants_stream(br#"{"stream":null}"#));
        assert!(!wants_stream(br#"{"stream":false}"#));
        assert!(needs_blobs(br#"{"files":{"a":"sha256:00"}}"#));
        assert!(!needs_blobs(br#"{"from":"m","files":{}}"#));
    }
}
