//! The few keys of a JSON request body that routing needs, read as Ollama reads them.
//!
//! Go's decoder matches keys without regard to case, lets the last of several equal keys win, ignores what follows the
//! first value, and takes `null` for "not given". The body itself is never changed or written again.

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use thiserror::Error;

/// What a body asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ask<'a> {
    /// `model`, as the client wrote it.
    pub model: Option<Cow<'a, str>>,
    /// `name`, the older key for the same on some routes.
    pub name: Option<Cow<'a, str>>,
}

/// Why a body cannot be read.
#[derive(Debug, Error)]
pub enum AskError {
    /// There is none.
    #[error("missing request body")]
    Missing,
    /// It is not a JSON object, or a key that is read has a value of the wrong type.
    #[error("invalid request body: {0}")]
    Invalid(#[from] serde_json::Error),
}

impl<'a> Ask<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is empty, is no JSON object, or its `model` or `name` is no string.
    pub fn read(body: &'a [u8]) -> Result<Self, AskError> {
        if body.trim_ascii().is_empty() {
            return Err(AskError::Missing);
        }
        Ok(serde_json::Deserializer::from_slice(body).deserialize_map(AskVisitor)?)
    }

    /// `model` if it says something, else `name`.
    pub fn model_or_name(self) -> Option<Cow<'a, str>> {
        self.model.filter(|model| !model.is_empty()).or(self.name)
    }
}

struct AskVisitor;

impl<'de> Visitor<'de> for AskVisitor {
    type Value = Ask<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ask<'de>, A::Error> {
        let mut ask = Ask::default();
        while let Some(key) = map.next_key_seed(Text)? {
            let slot = match key {
                Some(key) if key.eq_ignore_ascii_case("model") => &mut ask.model,
                Some(key) if key.eq_ignore_ascii_case("name") => &mut ask.name,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if let Some(text) = map.next_value_seed(Text)? {
                *slot = Some(text);
            }
        }
        Ok(ask)
    }
}

/// A string or null, borrowed from the body where it has no escapes.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(A::Error::custom("model must be a string, not an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, model: Option<&str>) {
        assert_eq!(
            Ask::read(body.as_bytes())
                .unwrap()
                .model_or_name()
                .as_deref(),
            model,
            "{body}"
        );
    }

    #[test]
    fn finds_the_model_as_ollama_would() {
        check(r#"{"model":"a"}"#, Some("a"));
        check(
            r#" {"messages":[{"model":"inner"}],"Model":"a"} trailing {"#,
            Some("a"),
        );
        check(r#"{"model":"a","MODEL":"b"}"#, Some("b"));
        check(r#"{"model":"a","model":null}"#, Some("a"));
        check(r#"{"model":"","name":"n"}"#, Some("n"));
        check(r#"{"model":"m","name":"n"}"#, Some("m"));
        check(r#"{"mod\u0065l":"\u0061"}"#, Some("a"));
        check(r"{}", None);
        check(
            &format!(
                r#"{{"x":{}{},"model":"a"}}"#,
                "[".repeat(10_000),
                "]".repeat(10_000)
            ),
            Some("a"),
        );
    }

    #[test]
    fn refuses_what_ollama_refuses() {
        for body in [
            "",
            "  ",
            "[]",
            "7",
            "\"model\"",
            "{",
            r#"{"model":7}"#,
            r#"{"model":["a"]}"#,
            r#"{"model":{}}"#,
            "\u{feff}{}",
            "{\"a\":tru}",
        ] {
            assert!(Ask::read(body.as_bytes()).is_err(), "{body}");
        }
    }
}
