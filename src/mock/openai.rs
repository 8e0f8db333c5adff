//! The OpenAI family: chat and text completions, models.

use super::exchange::{
    Answer, EVENTS, Exchange, content_text, conversation, tool_to_call, unix_now,
};
use super::generation::{Ask, Generation, Part, Totals};
use super::library::Entry;
use super::openai_chunk::{Frame, usage};
use super::refusal::Refusal;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

const DONE: &str = "data: [DONE]\n\n";

/// Ollama numbers its answers by chance below 999, so ids repeat.
fn id(kind: &str, prompt: &str) -> String {
    format!("{kind}-{}", xxh3_64(prompt.as_bytes()) % 999)
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
