//! The OpenAI family: chat and text completions, embeddings, models.

use super::base64;
use super::exchange::{
    Answer, EVENTS, Exchange, content_text, conversation, data, tool_to_call, unix_now,
};
use super::generation::{Ask, Generation, Part, Totals};
use super::library::Entry;
use super::native::{inputs, vectors};
use super::refusal::Refusal;
use bytes::Bytes;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

const FINGERPRINT: &str = "fp_ollama";
const DONE: &str = "data: [DONE]\n\n";

fn usage(totals: Totals) -> Value {
    json!({
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.answer_tokens,
        "total_tokens": totals.prompt_tokens + totals.answer_tokens,
    })
}

/// Ollama numbers its answers by chance below 999, so ids repeat.
fn id(kind: &str, prompt: &str) -> String {
    format!("{kind}-{}", xxh3_64(prompt.as_bytes()) % 999)
}

/// The common part of everything that is streamed.
#[derive(Debug)]
struct Frame {
    id: String,
    object: &'static str,
    created: i64,
    model: String,
}

impl Frame {
    fn chunk(&self, choices: &Value) -> Value {
        json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }

    fn delta(&self, delta: &Value, finish_reason: Option<&str>) -> Bytes {
        data(&self.chunk(&json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}])))
    }

    fn text(&self, text: &str, finish_reason: Option<&str>) -> Bytes {
        data(&self.chunk(&json!([{"text": text, "index": 0, "finish_reason": finish_reason}])))
    }

    fn usage(&self, totals: Totals) -> Bytes {
        let mut chunk = self.chunk(&json!([]));
        chunk["usage"] = usage(totals);
        data(&chunk)
    }
}

fn empty(object: &'static str) -> Frame {
    Frame {
        id: "chatcmpl-0".to_owned(),
        object,
        created: unix_now(),
        model: String::new(),
    }
}

/// What Ollama makes of an error after the first chunk of a chat.
pub(super) fn empty_chat_chunk() -> Bytes {
    empty("chat.completion.chunk").delta(&json!({"role": "assistant", "content": ""}), None)
}

/// The same for a text completion.
pub(super) fn empty_text_chunk() -> Bytes {
    empty("text_completion").text("", None)
}

fn tool_calls(name: &str) -> Value {
    json!([{
        "id": "call_00000001",
        "index": 0,
        "type": "function",
        "function": {"name": name, "arguments": "{}"},
    }])
}

fn wants_usage(exchange: &Exchange) -> bool {
    exchange.json["stream_options"]["include_usage"] == json!(true)
}

/// `/v1/chat/completions`.
pub(super) async fn chat(exchange: Exchange) -> Answer {
    let entry = exchange.text_model("chat")?;
    let messages = exchange.json["messages"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    if messages.is_empty() {
        return Err(Refusal::bad("[] is too short - 'messages'"));
    }
    let prompt = conversation(messages);
    let tool = tool_to_call(&exchange.json["tools"], messages);
    let effort = exchange.json["reasoning_effort"].as_str();
    let frame = Frame {
        id: id("chatcmpl", &prompt),
        object: "chat.completion.chunk",
        created: unix_now(),
        model: exchange.model_name().to_owned(),
    };
    let finish = if tool.is_some() { "tool_calls" } else { "stop" };
    let ask = Ask {
        entry,
        prompt,
        length: exchange.at_most(&["max_completion_tokens", "max_tokens"]),
        think: effort.is_some_and(|effort| effort != "none"),
        tool,
        keep: None,
    };
    let mut generation = Generation::begin(&exchange.shared, ask).await?;
    let reason = move |totals: Totals| if totals.cut_off { "length" } else { finish };
    if exchange.wants_stream(false) {
        let with_usage = wants_usage(&exchange);
        return exchange.stream(EVENTS, |mut sink| async move {
            while let Some(part) = generation.next().await {
                let delta = match part {
                    Part::Text(text) => json!({"role": "assistant", "content": text}),
                    Part::Thinking(text) => {
                        json!({"role": "assistant", "content": "", "reasoning": text})
                    }
                    Part::Tool(name) => {
                        json!({"role": "assistant", "content": "", "tool_calls": tool_calls(&name)})
                    }
                };
                sink.send(frame.delta(&delta, None)).await?;
            }
            let totals = generation.totals();
            let last = frame.delta(
                &json!({"role": "assistant", "content": ""}),
                Some(reason(totals)),
            );
            sink.finish(last).await?;
            if with_usage {
                sink.send(frame.usage(totals)).await?;
            }
            sink.send(DONE).await
        });
    }
    let whole = generation.whole().await;
    let totals = generation.totals();
    let mut message = json!({"role": "assistant", "content": whole.text});
    if !whole.thinking.is_empty() {
        message["reasoning"] = json!(whole.thinking);
    }
    if let Some(name) = whole.tool {
        message["tool_calls"] = tool_calls(&name);
    }
    let choices = json!([{"index": 0, "message": message, "finish_reason": reason(totals)}]);
    let mut body = frame.chunk(&choices);
    body["object"] = json!("chat.completion");
    body["usage"] = usage(totals);
    exchange.compatible(&body)
}

/// `/v1/completions`.
pub(super) async fn completions(exchange: Exchange) -> Answer {
    let entry = exchange.text_model("generate")?;
    let Some(prompt) = exchange.json["prompt"].as_str() else {
        return Err(Refusal::bad("prompt must be a string"));
    };
    let frame = Frame {
        id: id("cmpl", prompt),
        object: "text_completion",
        created: unix_now(),
        model: exchange.model_name().to_owned(),
    };
    let ask = Ask {
        entry,
        prompt: prompt.to_owned(),
        length: exchange.at_most(&["max_tokens"]),
        think: false,
        tool: None,
        keep: None,
    };
    let mut generation = Generation::begin(&exchange.shared, ask).await?;
    let reason = |totals: Totals| if totals.cut_off { "length" } else { "stop" };
    if exchange.wants_stream(false) {
        let with_usage = wants_usage(&exchange);
        return exchange.stream(EVENTS, |mut sink| async move {
            while let Some(part) = generation.next().await {
                if let Part::Text(text) = part {
                    sink.send(frame.text(&text, None)).await?;
                }
            }
            let totals = generation.totals();
            sink.finish(frame.text("", Some(reason(totals)))).await?;
            if with_usage {
                sink.send(frame.usage(totals)).await?;
            }
            sink.send(DONE).await
        });
    }
    let whole = generation.whole().await;
    let totals = generation.totals();
    let mut body =
        frame.chunk(&json!([{"text": whole.text, "index": 0, "finish_reason": reason(totals)}]));
    body["usage"] = usage(totals);
    exchange.compatible(&body)
}

/// `/v1/embeddings`.
pub(super) async fn embeddings(exchange: Exchange) -> Answer {
    let inputs = inputs(&exchange.json["input"])?;
    if inputs.is_empty() {
        return Err(Refusal::bad("invalid input"));
    }
    let in_base64 = match exchange.json["encoding_format"].as_str() {
        None | Some("" | "float") => false,
        Some("base64") => true,
        Some(other) => {
            let text = format!(
                "Invalid value for 'encoding_format' = {other}. Supported values: ['float', 'base64']."
            );
            return Err(Refusal::bad(text));
        }
    };
    let made = vectors(&exchange, &inputs).await?;
    let encode = |vector: Vec<f32>| {
        if in_base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            json!(base64::encode(&bytes))
        } else {
            json!(vector)
        }
    };
    let list: Vec<Value> = (0..)
        .zip(made.list)
        .map(|(index, vector): (u64, _)| json!({"object": "embedding", "embedding": encode(vector), "index": index}))
        .collect();
    let body = json!({
        "object": "list",
        "data": list,
        "model": exchange.model_name(),
        "usage": {"prompt_tokens": made.tokens, "total_tokens": made.tokens},
    });
    exchange.compatible(&body)
}

fn model_of(entry: &Entry) -> Value {
    let owner = entry
        .name
        .split_once('/')
        .map_or("library", |(owner, _)| owner);
    json!({"id": *entry.name, "object": "model", "created": entry.modified.as_second(), "owned_by": owner})
}

/// `/v1/models`.
pub(super) fn models(exchange: Exchange) -> Answer {
    let list: Vec<Value> = exchange
        .shared
        .library
        .list()
        .iter()
        .map(model_of)
        .collect();
    // An empty list is null in Ollama's answer.
    let list = if list.is_empty() {
        Value::Null
    } else {
        json!(list)
    };
    exchange.compatible(&json!({"object": "list", "data": list}))
}

/// `/v1/models/{model}`.
pub(super) fn model(exchange: Exchange, name: &str) -> Answer {
    let entry = exchange.shared.library.find(name);
    let entry = entry.ok_or_else(|| Refusal::no_model(name))?;
    exchange.compatible(&model_of(&entry))
}

/// The text of a `system` or `instructions` field and of the messages after it.
pub(super) fn with_instructions(instructions: &Value, messages: &[Value]) -> String {
    content_text(instructions) + "\n" + &conversation(messages)
}
