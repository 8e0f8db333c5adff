//! What a body says besides the model: sizes, hashes and switches, never text.

use super::chain::{Chain, Prefix};
use super::keep_alive;
use super::kind::Kind;
use super::options::{Options, RunnerOptions};
use super::reader::Reader;
use crate::session;
use crate::wire::ModelKey;
use smallvec::SmallVec;

/// Facts of a body that routing may use. All are at rest in a body that says nothing about them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// What `model` names.
    pub model: Option<ModelKey>,
    /// What the model's runner is to be started with.
    pub runner: RunnerOptions,
    /// Tokens that the answer may have at most, if it says.
    pub output_limit: Option<u32>,
    /// Whether the answer is to come token by token, if it says.
    pub stream: Option<bool>,
    /// Whether the body lacks the text of its kind, so that there is nothing to compute.
    pub is_empty: bool,
    /// Whether `keep_alive` is zero.
    pub keeps_nothing: bool,
    /// What the body's requests have in common that belong together, hashed.
    pub session: Option<u64>,
    /// Size of all that is to be read by the model, as JSON, images included.
    pub prompt_bytes: u64,
    /// The beginnings of the text, shortest first, at most [`PREFIXES`](super::PREFIXES).
    pub prefixes: SmallVec<[Prefix; 8]>,
}

/// What is noted of a body while it is read.
#[derive(Debug)]
pub(super) struct Notes<'a> {
    kind: Kind,
    messages: Option<Chain>,
    text: Option<&'a str>,
    system: Option<&'a str>,
    tools: Option<&'a str>,
    keep_alive: Option<&'a str>,
    cache_key: Option<&'a str>,
    user: Option<&'a str>,
    metadata_user: Option<&'a str>,
    stream: Option<&'a str>,
    max_tokens: Option<&'a str>,
    options: Options,
}

impl<'a> Notes<'a> {
    /// Notes on a body of a kind.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            messages: None,
            text: None,
            system: None,
            tools: None,
            keep_alive: None,
            cache_key: None,
            user: None,
            metadata_user: None,
            stream: None,
            max_tokens: None,
            options: Options::default(),
        }
    }

    /// Takes the value of a key, if the key is worth it. `None` where the value is no JSON.
    pub(super) fn take(&mut self, key: &str, reader: &mut Reader<'a>) -> Option<bool> {
        let Some(text_key) = self.kind.text_key() else {
            return Some(false);
        };
        let is = |name: &str| key.eq_ignore_ascii_case(name);
        if is(text_key) && matches!(self.kind, Kind::Chat | Kind::Responses) {
            (self.messages, self.text) = (None, None);
            match reader.peek()? {
                b'[' => {
                    let messages = self.messages.insert(Chain::default());
                    reader.array(|message| messages.push(message.as_bytes()))?;
                }
                _ => self.text = Some(reader.value()?).filter(|raw| *raw != "null"),
            }
            return Some(true);
        }
        let slot = if is(text_key) {
            &mut self.text
        } else if is("system") || is("instructions") {
            &mut self.system
        } else if is("tools") {
            &mut self.tools
        } else if is("keep_alive") {
            &mut self.keep_alive
        } else if is("prompt_cache_key") {
            &mut self.cache_key
        } else if is("user") {
            &mut self.user
        } else if is("stream") {
            &mut self.stream
        } else if is("max_tokens") || is("max_completion_tokens") || is("max_output_tokens") {
            &mut self.max_tokens
        } else if is("metadata") {
            self.metadata_user = user_of(reader.value()?);
            return Some(true);
        } else if is("options") {
            self.options.take(reader.value()?);
            return Some(true);
        } else {
            return Some(false);
        };
        let raw = reader.value()?;
        // To a Go string, null changes nothing; everything else it empties.
        let is_go_string = is("prompt") || is("system");
        if raw != "null" || !is_go_string {
            *slot = (raw != "null").then_some(raw);
        }
        Some(true)
    }

    /// What was noted, for a body that names this model.
    pub(super) fn finish(self, model: Option<&str>) -> Facts {
        if self.kind == Kind::Other {
            return Facts::default();
        }
        let text = self.text.unwrap_or_default();
        let output_limit = self.output_limit();
        let (mut chain, is_empty, text_bytes) = match self.messages {
            Some(chain) => {
                let (is_empty, bytes) = (chain.is_empty(), chain.bytes());
                (chain, is_empty, bytes)
            }
            None => (Chain::default(), is_empty(text), text.len() as u64),
        };
        if !self.kind.is_embedding() {
            chain.push_blocks(unquoted(text).unwrap_or(text).as_bytes());
        }
        let system = self.system.unwrap_or_default().as_bytes();
        let tools = self.tools.unwrap_or_default().as_bytes();
        let model = model.and_then(ModelKey::parse);
        let model_hash = model.as_ref().map_or(0, ModelKey::hash64);
        Facts {
            model,
            runner: self.options.runner,
            output_limit,
            stream: self.stream.and_then(|raw| serde_json::from_str(raw).ok()),
            is_empty,
            keeps_nothing: self.keep_alive.is_some_and(keep_alive::is_zero),
            session: [self.cache_key, self.metadata_user, self.user]
                .into_iter()
                .find_map(|raw| session::hash(unquoted(raw?)?.as_bytes())),
            prompt_bytes: text_bytes + (system.len() + tools.len()) as u64,
            prefixes: chain.finish(&[&model_hash.to_le_bytes(), system, tools]),
        }
    }
}

impl Notes<'_> {
    /// Ollama's own option, or the limit of the other APIs; what is negative or none at all limits nothing.
    fn output_limit(&self) -> Option<u32> {
        let limit = self
            .max_tokens
            .and_then(|raw| serde_json::from_str(raw).ok());
        u32::try_from(self.options.num_predict.or(limit)?).ok()
    }
}

/// What is between the quotes of a JSON string, escapes as they are.
fn unquoted(raw: &str) -> Option<&str> {
    raw.strip_prefix('"')?.strip_suffix('"')
}

/// Whether a text, or a list of texts, is empty.
fn is_empty(raw: &str) -> bool {
    let inner = raw.strip_prefix('[').and_then(|raw| raw.strip_suffix(']'));
    raw.is_empty() || raw == r#""""# || inner.is_some_and(|inner| inner.trim_ascii().is_empty())
}

/// `user_id` of a `metadata` object.
fn user_of(raw: &str) -> Option<&str> {
    let mut user = None;
    Reader::new(raw).object(|reader, key| {
        let value = reader.value()?;
        if key.eq_ignore_ascii_case("user_id") {
            user = Some(value);
        }
        Some(())
    })?;
    user
}
