//! OpenAI's newer form: `/v1/responses`.

use super::exchange::{Answer, EVENTS, Exchange, event, tool_to_call, unix_now};
use super::generation::{Ask, Generation, Part, Totals};
use super::openai::with_instructions;
use super::refusal::Refusal;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

/// `/v1/responses`. Thinking is left out of the answer, a called tool is not.
pub(super) async fn responses(exchange: Exchange) -> Answer {
    let entry = exchange.text_model("chat")?;
    let input = match &exchange.json["input"] {
        Value::String(text) => vec![json!({"role": "user", "content": text})],
        Value::Array(items) => items.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    };
    if input.is_empty() {
        return Err(Refusal::bad("input is required"));
    }
    let prompt = with_instructions(&exchange.json["instructions"], &input);
    let hash = xxh3_64(prompt.as_bytes());
    let ask = Ask {
        entry,
        prompt,
        length: exchange.at_most(&["max_output_tokens"]),
        think: false,
        tool: tool_to_call(&exchange.json["tools"], &input),
        keep: None,
    };
    let mut generation = Generation::begin(&exchange.shared, ask).await?;
    let response = json!({
        "id": format!("resp_{hash:016x}"),
        "object": "response",
        "created_at": unix_now(),
        "model": exchange.model_name(),
        "status": "in_progress",
        "output": [],
    });
    let item = format!("msg_{hash:016x}");
    if !exchange.wants_stream(false) {
        let whole = generation.whole().await;
        let output = match whole.tool {
            Some(name) => call(&name),
            None => message(&item, &whole.text),
        };
        return exchange.compatible(&completed(response, &[output], generation.totals()));
    }
    exchange.stream(EVENTS, |mut sink| async move {
        let mut number = 0_u64;
        let mut numbered = |mut value: Value| {
            value["sequence_number"] = json!(number);
            number += 1;
            event(&value)
        };
        sink.send(numbered(json!({"type": "response.created", "response": response}))).await?;
        sink.send(numbered(json!({"type": "response.in_progress", "response": response}))).await?;
        let mut text = String::new();
        let mut output = Vec::new();
        while let Some(part) = generation.next().await {
            match part {
                Part::Text(token) => {
                    if text.is_empty() {
                        let item = json!({"id": item, "type": "message", "status": "in_progress", "role": "assistant", "content": []});
                        let added = json!({"type": "response.output_item.added", "output_index": 0, "item": item});
                        sink.send(numbered(added)).await?;
                    }
                    text.push_str(&token);
                    let delta = json!({
                        "type": "response.output_text.delta",
                        "item_id": item,
                        "output_index": 0,
                        "content_index": 0,
                        "delta": token,
                    });
                    sink.send(numbered(delta)).await?;
                }
                Part::Tool(name) => {
                    output.push(call(&name));
                    let added = json!({"type": "response.output_item.added", "output_index": 0, "item": call(&name)});
                    sink.send(numbered(added)).await?;
                }
                Part::Thinking(_) => {}
            }
        }
        if !text.is_empty() {
            let done = json!({
                "type": "response.output_text.done",
                "item_id": item,
                "output_index": 0,
                "content_index": 0,
                "text": text,
            });
            sink.send(numbered(done)).await?;
            output.push(message(&item, &text));
        }
        if let Some(item) = output.last() {
            let done = json!({"type": "response.output_item.done", "output_index": 0, "item": item});
            sink.send(numbered(done)).await?;
        }
        let response = completed(response, &output, generation.totals());
        sink.finish(numbered(json!({"type": "response.completed", "response": response}))).await
    })
}

fn message(id: &str, text: &str) -> Value {
    let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
    json!({"id": id, "type": "message", "status": "completed", "role": "assistant", "content": content})
}

fn call(name: &str) -> Value {
    json!({
        "id": "fc_00000001",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_00000001",
        "name": name,
        "arguments": "{}",
    })
}

fn completed(mut response: Value, output: &[Value], totals: Totals) -> Value {
    response["status"] = json!("completed");
    response["output"] = json!(output);
    response["usage"] = json!({
        "input_tokens": totals.prompt_tokens,
        "output_tokens": totals.answer_tokens,
        "total_tokens": totals.prompt_tokens + totals.answer_tokens,
    });
    response
}
