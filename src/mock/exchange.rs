//! One request in work: what its endpoint needs to read it and to answer it.

use super::door::Cut;
use super::duration::{self, Keep};
use super::fault::{Fault, Faults, Kind};
use super::generation::Length;
use super::library::{Entry, Library};
use super::profile::Profile;
use super::refusal::Refusal;
use super::runner::Runners;
use super::seen::Log;
use super::sink::{Ended, Midway, Outgoing, Sink};
use crate::wire::Family;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::Value;
use std::sync::Arc;

pub(super) const JSON: &str = "application/json";
pub(super) const JSON_UTF8: &str = "application/json; charset=utf-8";
pub(super) const NDJSON: &str = "application/x-ndjson";
pub(super) const EVENTS: &str = "text/event-stream";

/// The text of an answer that breaks off, unless a fault brings its own.
const BROKEN: &str = "an error was encountered while running the model: unexpected EOF";

/// What all connections of a node share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) profile: Profile,
    pub(super) library: Library,
    pub(super) runners: Arc<Runners>,
    pub(super) faults: Faults,
    pub(super) log: Arc<Log>,
}

/// What an endpoint answers.
pub(super) type Answer = Result<Response<Outgoing>, Refusal>;

/// A request that was read whole.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) shared: Arc<Shared>,
    pub(super) cut: Arc<Cut>,
    pub(super) family: Family,
    pub(super) path: String,
    /// The body; null for requests that need none.
    pub(super) json: Value,
    /// What goes wrong in the middle of the answer.
    pub(super) fault: Option<Fault>,
}

impl Exchange {
    /// The model as the client wrote it: `model`, or `name` where that is empty.
    pub(super) fn model_name(&self) -> &str {
        model_name(&self.json)
    }

    /// The model asked for, if the node has it.
    pub(super) fn model(&self) -> Result<Entry, Refusal> {
        let name = self.model_name();
        let found = self.shared.library.find(name);
        found.ok_or_else(|| Refusal::no_model(name))
    }

    /// The model asked for, if it can write text. `what` is what Ollama calls that.
    pub(super) fn text_model(&self, what: &str) -> Result<Entry, Refusal> {
        let entry = self.model()?;
        if entry.embedding {
            let name = self.model_name();
            return Err(Refusal::bad(format!("{name:?} does not support {what}")));
        }
        Ok(entry)
    }

    /// Whether the client asked for a stream.
    pub(super) fn wants_stream(&self, default: bool) -> bool {
        self.json["stream"].as_bool().unwrap_or(default)
    }

    pub(super) fn keep_alive(&self) -> Option<Keep> {
        duration::keep_alive(&self.json["keep_alive"])
    }

    /// The limit in the first of these fields that has one.
    pub(super) fn at_most(&self, fields: &[&str]) -> Length {
        fields
            .iter()
            .find_map(|field| self.json[field].as_u64())
            .map_or(Length::Free, |tokens| {
                Length::AtMost(usize::try_from(tokens).unwrap_or(usize::MAX))
            })
    }

    /// An answer written while it is made.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "endpoints end with any of the ways to answer"
    )]
    pub(super) fn stream<F>(
        self,
        content_type: &'static str,
        write: impl FnOnce(Sink) -> F,
    ) -> Answer
    where
        F: Future<Output = Result<(), Ended>> + Send + 'static,
    {
        let error_record = self.error_record();
        let midway = Midway {
            fault: self.fault,
            cut: self.cut,
            error_record,
        };
        let mut response = Response::new(Outgoing::flow(midway, write));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if content_type == EVENTS {
            response
                .headers_mut()
                .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        Ok(response)
    }

    /// An answer in one piece. Faults in the middle of a stream split it, so that there is a middle.
    pub(super) fn whole(self, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
        let body = body.into();
        match &self.fault {
            None => {
                let mut response = Response::new(Outgoing::whole(body));
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
                Ok(response)
            }
            Some(fault) if fault.kind == Kind::ErrorInStream => {
                let text = fault.text.as_deref().unwrap_or(BROKEN);
                Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text))
            }
            Some(_) => self.stream(content_type, |mut sink| async move {
                let mut body = body;
                let tail = body.split_off(body.len() / 2);
                sink.send(body).await?;
                sink.finish(tail).await
            }),
        }
    }

    /// A JSON answer of Ollama's own API.
    pub(super) fn native(self, body: &Value) -> Answer {
        self.whole(JSON_UTF8, body.to_string())
    }

    /// A JSON answer of the other families, which end theirs with a newline.
    pub(super) fn compatible(self, body: &Value) -> Answer {
        self.whole(JSON, format!("{body}\n"))
    }

    /// What the family writes when an answer fails after it began: some write nothing.
    fn error_record(&self) -> Option<Bytes> {
        let text = self.fault.as_ref().and_then(|fault| fault.text.as_deref());
        let text = text.unwrap_or(BROKEN);
        match (self.family, self.path.as_str()) {
            (Family::Native, _) => Some(line(&serde_json::json!({"error": text}))),
            (Family::OpenAi, "/v1/chat/completions") => {
                Some(super::openai_chunk::empty_chat_chunk())
            }
            (Family::OpenAi, "/v1/completions") => Some(super::openai_chunk::empty_text_chunk()),
            (Family::OpenAi | Family::Responses | Family::Anthropic, _) => None,
        }
    }
}

/// `model`, or `name` where that is empty.
pub(super) fn model_name(json: &Value) -> &str {
    let text = |key: &str| json[key].as_str().filter(|text| !text.is_empty());
    text("model").or_else(|| text("name")).unwrap_or_default()
}

/// One object and its newline.
pub(super) fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

/// A server-sent event without a name.
pub(super) fn data(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

/// A server-sent event whose name is also its `type`.
pub(super) fn event(value: &Value) -> Bytes {
    let name = value["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {value}\n\n").into()
}

/// The text of a message: a string, or the `text` of its parts.
pub(super) fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(content_text).collect(),
        Value::Object(part) => match part.get("text").or_else(|| part.get("content")) {
            Some(inner) => content_text(inner),
            None => String::new(),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => String::new(),
    }
}

/// All messages as one prompt: roles and texts.
pub(super) fn conversation(messages: &[Value]) -> String {
    let mut prompt = String::new();
    for message in messages {
        prompt.push_str(message["role"].as_str().unwrap_or_default());
        prompt.push('\n');
        prompt.push_str(&content_text(&message["content"]));
        prompt.push('\n');
    }
    prompt
}

/// The tool that the model calls: the first one offered, if it is the user's turn that is answered.
pub(super) fn tool_to_call(tools: &Value, messages: &[Value]) -> Option<String> {
    let tool = tools.as_array()?.first()?;
    let name = tool["function"]["name"]
        .as_str()
        .or_else(|| tool["name"].as_str())?;
    let last = messages.last()?;
    let answers_tool = content_text_is_tool_result(&last["content"]);
    (last["role"] == "user" && !answers_tool).then(|| name.to_owned())
}

/// Anthropic clients hand over results of tools in messages of the user.
fn content_text_is_tool_result(content: &Value) -> bool {
    let parts = content.as_array();
    parts.is_some_and(|parts| parts.iter().any(|part| part["type"] == "tool_result"))
}

/// Seconds since 1970, as the OpenAI family stamps its answers.
pub(super) fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
