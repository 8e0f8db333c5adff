//! The Anthropic family: `/v1/messages`.

use super::exchange::{Answer, EVENTS, Exchange, event, tool_to_call};
use super::generation::{Ask, Generation, Length, Part, Totals};
use super::openai::with_instructions;
use super::refusal::Refusal;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

/// The kinds of content block. A stream opens a new block when the kind changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    Tool,
}

/// `/v1/messages`.
pub(super) async fn messages(exchange: Exchange) -> Answer {
    let entry = exchange.text_model("chat")?;
    let messages = exchange.json["messages"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    if messages.is_empty() {
        return Err(Refusal::bad("messages is required"));
    }
    let length = exchange.at_most(&["max_tokens"]);
    if !matches!(length, Length::AtMost(1..)) {
        return Err(Refusal::bad("max_tokens is required and must be positive"));
    }
    let prompt = with_instructions(&exchange.json["system"], messages);
    let id = format!("msg_{:016x}", xxh3_64(prompt.as_bytes()));
    let tool = tool_to_call(&exchange.json["tools"], messages);
    let calls = tool.is_some();
    let ask = Ask {
        entry,
        prompt,
        length,
        think: exchange.json["thinking"]["type"] == "enabled",
        tool,
        keep: None,
    };
    let mut generation = Generation::begin(&exchange.shared, ask).await?;
    let reason = move |totals: Totals| match (calls, totals.cut_off) {
        (true, _) => "tool_use",
        (false, true) => "max_tokens",
        (false, false) => "end_turn",
    };
    let mut message = json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": exchange.model_name(),
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "usage": {"input_tokens": generation.totals().prompt_tokens, "output_tokens": 0},
    });
    if exchange.wants_stream(false) {
        return exchange.stream(EVENTS, |mut sink| async move {
            sink.send(event(&json!({"type": "message_start", "message": message}))).await?;
            let mut open: Option<Block> = None;
            let mut index = 0;
            while let Some(part) = generation.next().await {
                let (block, start, delta) = block_of(part);
                if open != Some(block) {
                    if open.is_some() {
                        sink.send(event(&json!({"type": "content_block_stop", "index": index}))).await?;
                        index += 1;
                    }
                    open = Some(block);
                    let start = json!({"type": "content_block_start", "index": index, "content_block": start});
                    sink.send(event(&start)).await?;
                }
                let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
                sink.send(event(&delta)).await?;
            }
            if open.is_some() {
                sink.send(event(&json!({"type": "content_block_stop", "index": index}))).await?;
            }
            let totals = generation.totals();
            let delta = json!({
                "type": "message_delta",
                "delta": {"stop_reason": reason(totals), "stop_sequence": null},
                "usage": {"input_tokens": totals.prompt_tokens, "output_tokens": totals.answer_tokens},
            });
            sink.finish(event(&delta)).await?;
            sink.send(event(&json!({"type": "message_stop"}))).await
        });
    }
    let whole = generation.whole().await;
    let totals = generation.totals();
    let mut content = Vec::new();
    if !whole.thinking.is_empty() {
        content.push(json!({"type": "thinking", "thinking": whole.thinking, "signature": ""}));
    }
    if !whole.text.is_empty() {
        content.push(json!({"type": "text", "text": whole.text}));
    }
    if let Some(name) = whole.tool {
        content
            .push(json!({"type": "tool_use", "id": "toolu_00000001", "name": name, "input": {}}));
    }
    message["content"] = json!(content);
    message["stop_reason"] = json!(reason(totals));
    message["usage"]["output_tokens"] = json!(totals.answer_tokens);
    exchange.compatible(&message)
}

/// A part's kind of block, how such a block starts, and the part as a delta.
fn block_of(part: Part) -> (Block, Value, Value) {
    match part {
        Part::Thinking(text) => (
            Block::Thinking,
            json!({"type": "thinking", "thinking": ""}),
            json!({"type": "thinking_delta", "thinking": text}),
        ),
        Part::Text(text) => (
            Block::Text,
            json!({"type": "text", "text": ""}),
            json!({"type": "text_delta", "text": text}),
        ),
        Part::Tool(name) => (
            Block::Tool,
            json!({"type": "tool_use", "id": "toolu_00000001", "name": name, "input": {}}),
            json!({"type": "input_json_delta", "partial_json": "{}"}),
        ),
    }
}
