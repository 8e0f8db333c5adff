//! The few keys of a body that decide which backends it goes to, read as Ollama reads them: without regard to case, the
//! last of several wins.

use memchr::memmem;
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Bodies longer than this do more than unload a model, in bytes.
const UNLOAD_BYTES: usize = 16 << 10;

/// A key's value as the client wrote it. Nothing else of the body is kept, however large it is.
fn key<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    struct Find<'n>(&'n str);

    impl<'de> Visitor<'de> for Find<'_> {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                if key.eq_ignore_ascii_case(self.0) {
                    found = Some(map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }

    let found = serde_json::Deserializer::from_slice(body).deserialize_map(Find(name));
    found.ok().flatten().map(RawValue::get)
}

/// The model that is to be copied.
pub(super) fn source(body: &[u8]) -> Option<String> {
    serde_json::from_str(key(body, "source")?).ok()
}

/// Whether progress is wanted line by line.
pub(super) fn wants_stream(body: &[u8]) -> bool {
    key(body, "stream") != Some("false")
}

/// Whether a model is to be made of files that were uploaded.
pub(super) fn needs_blobs(body: &[u8]) -> bool {
    let has = |name: &&str| {
        let inside = key(body, name).and_then(|value| value.strip_prefix('{'));
        inside.is_some_and(|inside| inside.trim_start() != "}")
    };
    ["files", "adapters", "draft_files"].iter().any(has)
}

/// Whether it asks a model for nothing and to leave at once. `input` is the key that the route reads its prompt from.
pub(super) fn unloads(body: &[u8], input: &str) -> bool {
    // Nearly every request is ruled out by its length or by this one look.
    body.len() <= UNLOAD_BYTES
        && memmem::find(body, b"keep_alive").is_some()
        && key(body, "keep_alive").is_some_and(is_zero)
        && key(body, input).is_none_or(is_nothing)
}

fn is_nothing(value: &str) -> bool {
    let list = value.strip_prefix('[');
    matches!(value, "null" | "\"\"") || list.is_some_and(|inside| inside.trim_start() == "]")
}

/// Whether it is a duration of nothing: `0`, `"0"`, `"0s"`, `"0h0m0.0s"`.
fn is_zero(value: &str) -> bool {
    match serde_json::from_str(value) {
        Ok(Value::Number(number)) => number.as_f64() == Some(0.0),
        Ok(Value::String(text)) => {
            text.contains('0') && text.chars().all(|c| "+-0.hmsuµn".contains(c))
        }
        _ => false,
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
        assert!(needs_blobs(br#"{"adapters":{ "a":"sha256:00"}} {"#));
        assert!(!needs_blobs(br#"{"from":"m","files":{ }}"#));
        assert!(!needs_blobs(br#"{"from":"m","files":null}"#));
        let deep = format!(
            "{{\"x\":{0}{1},\"stream\":false}}",
            "[".repeat(9999),
            "]".repeat(9999)
        );
        assert!(!wants_stream(deep.as_bytes()));
    }
}
