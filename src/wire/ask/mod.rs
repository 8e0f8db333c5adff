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
mod reader;
#[cfg(test)]
mod tests;
mod text;

pub use chain::{PREFIXES, Prefix};
pub use facts::Facts;
pub use kind::Kind;
pub use options::RunnerOptions;

use facts::Notes;
use reader::Reader;
use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny};
use std::borrow::Cow;
use std::collections::HashMap;
use text::Text;
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
        match simdutf8::basic::from_utf8(body) {
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
    let (mut model, mut name) = (None, None);
    let mut notes = Notes::new(kind);
    let mut failure = None;
    let whole = Reader::new(text).object(|reader, key| {
        if key.eq_ignore_ascii_case("model") {
            match string(reader.value()?) {
                Ok(text) => model = text.or(model.take()),
                Err(error) => failure = failure.take().or(Some(error)),
            }
        } else if key.eq_ignore_ascii_case("name") {
            name = string(reader.value()?).unwrap_or_default().or(name.take());
        } else if !notes.take(key, reader)? {
            reader.value()?;
        }
        Some(())
    });
    if whole.is_none() {
        return Err(what_is_wrong(text).into());
    }
    if let Some(error) = failure {
        return Err(error.into());
    }
    let facts = notes.finish(model.as_deref());
    Ok(Ask { model, name, facts })
}

fn string(raw: &str) -> Result<Option<Cow<'_, str>>, serde_json::Error> {
    if let Some(text) = text::plain(raw) {
        return Ok(Some(Cow::Borrowed(text)));
    }
    Text.deserialize(&mut serde_json::Deserializer::from_str(raw))
}

/// Why a text is no JSON object, in a parser's words.
fn what_is_wrong(text: &str) -> serde_json::Error {
    let mut parser = serde_json::Deserializer::from_str(text);
    let parsed = HashMap::<Cow<'_, str>, Option<IgnoredAny>>::deserialize(&mut parser);
    parsed.map_or_else(
        |error| error,
        |_| serde_json::Error::custom("no JSON object"),
    )
}
