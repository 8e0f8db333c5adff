//! Embeddings in the forms of both families.

use super::exchange::{Answer, Exchange};
use super::native::nanos;
use super::refusal::Refusal;
use super::{base64, embedding, generation};
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Vectors made, and what they took.
#[derive(Debug)]
struct Vectors {
    list: Vec<Vec<f32>>,
    tokens: usize,
    total: Duration,
    load: Duration,
}

/// Makes one vector after the other, each in a slot of the model.
async fn vectors(exchange: &Exchange, inputs: &[&str]) -> Result<Vectors, Refusal> {
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
fn inputs(input: &Value) -> Result<Vec<&str>, Refusal> {
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

/// `/v1/embeddings`.
pub(super) async fn openai_embeddings(exchange: Exchange) -> Answer {
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
