//! Ollama's own API: `/api/generate` and `/api/chat`.

use super::duration::Keep;
use super::exchange::{Answer, Exchange, JSON_UTF8, NDJSON, conversation, tool_to_call};
use super::generation::{Ask, Generation, Length, Part, Totals};
use super::library::Entry;
use super::refusal::Refusal;
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// A record of a stream, its fields in Ollama's order.
#[derive(Debug, Serialize)]
struct Line<'a> {
    model: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<[u32; 3]>,
    #[serde(flatten)]
    metrics: Option<Metrics>,
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Value>,
}

/// Durations in nanoseconds. Ollama leaves out what is zero.
#[derive(Debug, Serialize)]
struct Metrics {
    #[serde(skip_serializing_if = "is_zero")]
    total_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    load_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_duration: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl From<Totals> for Metrics {
    fn from(totals: Totals) -> Self {
        Self {
            total_duration: nanos(totals.total),
            load_duration: nanos(totals.load),
            prompt_eval_count: totals.prompt_tokens as u64,
            prompt_eval_duration: nanos(totals.prompt),
            eval_count: totals.answer_tokens as u64,
            eval_duration: nanos(totals.answer),
        }
    }
}

/// Which of the two text routes is answered; they name things differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Generate,
    Chat,
}

impl Route {
    /// A record that is not the last.
    fn record<'a>(self, model: &'a str, part: &'a Part) -> Line<'a> {
        let (text, thinking, tool) = match part {
            Part::Text(text) => (text.as_str(), None, None),
            Part::Thinking(text) => ("", Some(text.as_str()), None),
            Part::Tool(name) => ("", None, Some(name.as_str())),
        };
        self.line(model, text, thinking, tool)
    }

    fn line<'a>(
        self,
        model: &'a str,
        text: &'a str,
        thinking: Option<&'a str>,
        tool: Option<&str>,
    ) -> Line<'a> {
        let chat = self == Self::Chat;
        Line {
            model,
            created_at: Timestamp::now().to_string(),
            response: (!chat).then_some(text),
            thinking: thinking.filter(|_| !chat),
            message: chat.then(|| Message {
                role: "assistant",
                content: text,
                thinking,
                tool_calls: tool.map(tool_calls),
            }),
            done: false,
            done_reason: None,
            context: None,
            metrics: None,
        }
    }
}

fn tool_calls(name: &str) -> Value {
    json!([{"id": "call_00000001", "function": {"index": 0, "name": name, "arguments": {}}}])
}

impl Line<'_> {
    fn done(mut self, totals: Totals) -> Self {
        self.done = true;
        self.done_reason = Some(if totals.cut_off { "length" } else { "stop" });
        self.context = self.response.is_some().then_some([1, 2, 3]);
        self.metrics = Some(totals.into());
        self
    }

    fn text(&self) -> Result<String, Refusal> {
        serde_json::to_string(self)
            .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }

    fn bytes(&self) -> Bytes {
        self.text()
            .map_or_else(|_| Bytes::new(), |text| (text + "\n").into())
    }
}

/// `/api/generate`.
pub(super) async fn generate(exchange: Exchange) -> Answer {
    let entry = exchange.text_model("generate")?;
    let text = |key: &str| exchange.json[key].as_str().unwrap_or_default();
    let prompt = text("prompt");
    if prompt.is_empty() {
        return load_or_unload(exchange, entry, Route::Generate).await;
    }
    let prompt = [text("system"), prompt, text("suffix")].concat();
    answer(exchange, entry, prompt, None, Route::Generate).await
}

/// `/api/chat`.
pub(super) async fn chat(exchange: Exchange) -> Answer {
    let entry = exchange.text_model("chat")?;
    let messages = exchange.json["messages"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    if messages.is_empty() {
        return load_or_unload(exchange, entry, Route::Chat).await;
    }
    let prompt = conversation(messages);
    let tool = tool_to_call(&exchange.json["tools"], messages);
    answer(exchange, entry, prompt, tool, Route::Chat).await
}

async fn answer(
    exchange: Exchange,
    entry: Entry,
    prompt: String,
    tool: Option<String>,
    route: Route,
) -> Answer {
    let predict = exchange.json["options"]["num_predict"].as_u64();
    let length = predict.map_or(Length::Free, |tokens| {
        Length::Exactly(usize::try_from(tokens).unwrap_or(usize::MAX))
    });
    let think = &exchange.json["think"];
    let ask = Ask {
        entry,
        prompt,
        length,
        think: think == &json!(true) || think.as_str().is_some_and(|level| !level.is_empty()),
        tool,
        keep: exchange.keep_alive(),
    };
    let mut generation = Generation::begin(&exchange.shared, ask).await?;
    let model = exchange.model_name().to_owned();
    if exchange.wants_stream(true) {
        return exchange.stream(NDJSON, |mut sink| async move {
            while let Some(part) = generation.next().await {
                sink.send(route.record(&model, &part).bytes()).await?;
            }
            let last = route.line(&model, "", None, None).done(generation.totals());
            sink.finish(last.bytes()).await
        });
    }
    let whole = generation.whole().await;
    let thinking = (!whole.thinking.is_empty()).then_some(whole.thinking.as_str());
    let line = route
        .line(&model, &whole.text, thinking, whole.tool.as_deref())
        .done(generation.totals());
    let body = line.text()?;
    exchange.whole(JSON_UTF8, body)
}

/// The answer to a request that asks nothing: the model is loaded, or put out with `keep_alive` 0.
async fn load_or_unload(exchange: Exchange, entry: Entry, route: Route) -> Answer {
    let keep = exchange.keep_alive();
    let reason = if keep == Some(Keep::Until(Duration::ZERO)) {
        exchange.shared.runners.unload(&entry);
        "unload"
    } else {
        drop(exchange.shared.runners.join(&entry, keep).await?);
        "load"
    };
    let model = exchange.model_name().to_owned();
    let mut line = route.line(&model, "", None, None);
    line.done = true;
    line.done_reason = Some(reason);
    let body = line.text()?;
    exchange.whole(JSON_UTF8, body)
}
