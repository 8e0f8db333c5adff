//! What a JSON request body asks for, read as Ollama reads it.
//!
//! Go's decoder matches keys without regard to case, lets the last of several equal keys win, ignores what follows the
//! first value, takes `null` for "not given" and any byte that is no UTF-8 for U+FFFD. The body itself is never changed
//! or written again; of what users wrote, only sizes and hashes are kept.

mod chain;
mod facts;
mod keep_alive;
mod kind;
mod options;
#[cfg(test)]
mod tests;
mod text;

pub use chain::{PREFIXES, Prefix};
pub use facts::Facts;
pub use kind::Kind;
pub use options::RunnerOptions;

use facts::Notes;
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use text::{Key, Text};
use thiserror::Error;

/// What a body asks for.
#[derive(Debug, Default, PartialEq)]
pub struct Ask<'a> {
    /// `model`, as the client wrote it.
    pub model: Option<Cow<'a, str>>,
    /// `name`, the older key for the same on some routes; `None` too if it is no string.
    pub name: Option<Cow<'a, str>>,
    /// What else routing may use.
    pub facts: Facts,
}

/// Why a body cannot be read.
#[derive(Debug, Error)]
pub enum AskError {
    /// There is none.
    #[error("missing request body")]
    Missing,
    /// It is not a JSON object, or its `model` is not a string.
    #[error("invalid request body: {0}")]
    Invalid(#[from] serde_json::Error),
}

impl<'a> Ask<'a> {
    /// Reads only what the body names: `model` and `name`.
    ///
    /// # Errors
    /// When it is empty, is no JSON object, or its `model` is no string.
    pub fn read(body: &'a [u8]) -> Result<Self, AskError> {
        Self::read_as(Kind::Other, body)
    }

    /// Reads a body of some kind in one pass.
    ///
    /// # Errors
    /// As [`read`](Self::read). Facts that cannot be had are no error: what is wrong with them is for a backend to say.
    pub fn read_as(kind: Kind, body: &'a [u8]) -> Result<Self, AskError> {
        if body.trim_ascii().is_empty() {
            return Err(AskError::Missing);
        }
        // Checked first by itself, since this is many times faster than mending what needs none.
        match std::str::from_utf8(body) {
            Ok(text) => parse(kind, text),
            Err(_) => parse(kind, &String::from_utf8_lossy(body)).map(Ask::into_owned),
        }
    }

    /// `model` if it says something, else `name`.
    pub fn model_or_name(self) -> Option<Cow<'a, str>> {
        self.model.filter(|model| !model.is_empty()).or(self.name)
    }

    fn into_owned(self) -> Ask<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Ask {
            model: self.model.map(owned),
            name: self.name.map(owned),
            facts: self.facts,
        }
    }
}

fn parse(kind: Kind, text: &str) -> Result<Ask<'_>, AskError> {
    let read = |lists| {
        let visitor = AskVisitor { kind, lists };
        serde_json::Deserializer::from_str(text).deserialize_map(visitor)
    };
    // A list of messages is the rule, and is taken apart in passing, which fails if it is something else.
    Ok(read(true).or_else(|_| read(false))?)
}

struct AskVisitor {
    kind: Kind,
    /// Whether messages are taken for a list.
    lists: bool,
}

impl<'de> Visitor<'de> for AskVisitor {
    type Value = Ask<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ask<'de>, A::Error> {
        let (mut model, mut name) = (None, None);
        let mut notes = Notes::new(self.kind, self.lists);
        while let Some(key) = map.next_key_seed(Key)? {
            if key.eq_ignore_ascii_case("model") {
                model = map.next_value_seed(Text)?.or(model);
            } else if key.eq_ignore_ascii_case("name") {
                let raw: &serde_json::value::RawValue = map.next_value()?;
                let text = Text.deserialize(&mut serde_json::Deserializer::from_str(raw.get()));
                name = text.unwrap_or_default().or(name);
            } else if !notes.take(&key, &mut map)? {
                map.next_value::<IgnoredAny>()?;
            }
        }
        let facts = notes.finish(model.as_deref());
        Ok(Ask { model, name, facts })
    }
}
