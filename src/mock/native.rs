//! Ollama's own API: text and vectors.

use super::duration::Keep;
use super::embedding;
use super::exchange::{Answer, Exchange, JSON_UTF8, NDJSON, conversation, tool_to_call};
use super::generation::{self, Ask, Generation, Length, Part, Totals};
use super::library::Entry;
use super::refusal::Refusal;
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

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

fn nanos(duration: Duration) -> u64 {
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

/// Vectors made, and what they took.
#[derive(Debug)]
pub(super) struct Vectors {
    pub(super) list: Vec<Vec<f32>>,
    pub(super) tokens: usize,
    total: Duration,
    load: Duration,
}

/// Makes one vector after the other, each in a slot of the model.
pub(super) async fn vectors(exchange: &Exchange, inputs: &[&str]) -> Result<Vectors, Refusal> {
    let name = exchange.model_name();
    let entry = exchange.shared.library.find(name).ok_or_else(|| {
        let text = format!("model {name:?} not found, try pulling it first");
        Refusal::new(StatusCode::NOT_FOUND, text)
    })?;
    let dimensions = exchange.json["dimensions"].as_u64();
    let dimensions = dimensions
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| *n > 0);
    let dimensions = dimensions.unwrap_or(embedding::DIMENSIONS);
    let profile = &exchange.shared.profile;
    let began = Instant::now();
    let lease = exchange
        .shared
        .runners
        .join(&entry, exchange.keep_alive())
        .await?;
    let load = began.elapsed();
    let mut made = Vectors {
        list: Vec::with_capacity(inputs.len()),
        tokens: 0,
        total: Duration::ZERO,
        load,
    };
    for input in inputs {
        let _slot = lease.slot().await?;
        let tokens = generation::tokens(input);
        sleep(profile.time_for(tokens as f64, profile.prefill_tokens_per_second)).await;
        made.tokens += tokens;
        made.list
            .push(embedding::vector(&entry.digest, input, dimensions));
    }
    made.total = began.elapsed();
    Ok(made)
}

/// The texts of an `input`: one string, or a list of them.
pub(super) fn inputs(input: &Value) -> Result<Vec<&str>, Refusal> {
    match input {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text]),
        Value::Array(list) => {
            let texts = list.iter().map(Value::as_str).collect::<Option<_>>();
            texts.ok_or_else(|| Refusal::bad("invalid input type"))
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Err(Refusal::bad("invalid input type"))
        }
    }
}

/// `/api/embed`.
pub(super) async fn embed(exchange: Exchange) -> Answer {
    let inputs = inputs(&exchange.json["input"])?;
    let made = vectors(&exchange, &inputs).await?;
    let mut body = json!({"model": exchange.model_name(), "embeddings": made.list});
    if !inputs.is_empty() {
        body["total_duration"] = json!(nanos(made.total));
        body["load_duration"] = json!(nanos(made.load));
        body["prompt_eval_count"] = json!(made.tokens);
    }
    exchange.native(&body)
}

/// `/api/embeddings`, the older form for one text.
pub(super) async fn embeddings(exchange: Exchange) -> Answer {
    let inputs = inputs(&exchange.json["prompt"])?;
    let mut made = vectors(&exchange, &inputs).await?;
    exchange.native(&json!({"embedding": made.list.pop().unwrap_or_default()}))
}
