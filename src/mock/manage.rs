//! The models on a node: listed, shown, pulled, made, copied, deleted.

use super::exchange::{Answer, Exchange, JSON, NDJSON, line};
use super::library::{Entry, digest_of};
use super::profile::Model;
use super::refusal::Refusal;
use super::sink::Outgoing;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Progress lines of a pull per file.
const STEPS: u64 = 8;
/// Time between progress lines, before the time scale.
const STEP: Duration = Duration::from_millis(40);
/// What is said when a registry does not have a model.
const NOT_THERE: &str = "pull model manifest: file does not exist";
/// Context that every simulated model is loaded with, in tokens.
const CONTEXT: u32 = 4096;
/// How far away the end of a model is that is kept for ever, in hours.
const FOR_EVER: i64 = 24 * 365 * 100;

/// `/api/tags`.
pub(super) fn tags(exchange: Exchange) -> Answer {
    let models: Vec<Value> = exchange
        .shared
        .library
        .list()
        .iter()
        .map(Entry::tag)
        .collect();
    exchange.native(&json!({"models": models}))
}

/// `/api/ps`, longest remaining life first.
pub(super) fn ps(exchange: Exchange) -> Answer {
    let now = Timestamp::now();
    let mut loaded: Vec<(Timestamp, Value)> = Vec::new();
    for model in exchange.shared.runners.loaded() {
        let left = model
            .remaining()
            .and_then(|left| SignedDuration::try_from(left).ok());
        let left = left.unwrap_or(SignedDuration::from_hours(FOR_EVER));
        let expires = now.checked_add(left).unwrap_or(Timestamp::MAX);
        let entry = &model.entry;
        let value = json!({
            "name": *entry.name,
            "model": *entry.name,
            "size": entry.size,
            "size_vram": entry.size,
            "digest": *entry.digest,
            "details": entry.details(),
            "expires_at": expires.to_string(),
            "context_length": CONTEXT,
        });
        loaded.push((expires, value));
    }
    loaded.sort_by_key(|(expires, _)| std::cmp::Reverse(*expires));
    let models: Vec<Value> = loaded.into_iter().map(|(_, value)| value).collect();
    exchange.native(&json!({"models": models}))
}

/// `/api/show`.
pub(super) fn show(exchange: Exchange) -> Answer {
    required(exchange.model_name())?;
    let entry = exchange.model()?;
    exchange.native(&entry.show())
}

fn required(name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::bad("model is required"));
    }
    if crate::wire::ModelKey::parse(name).is_none() {
        return Err(Refusal::bad("invalid model name"));
    }
    Ok(())
}

pub(super) fn nothing() -> Response<Outgoing> {
    Response::new(Outgoing::whole(""))
}

/// `DELETE /api/delete`.
pub(super) fn delete(exchange: &Exchange) -> Answer {
    required(exchange.model_name())?;
    let entry = exchange.model()?;
    exchange.shared.library.delete(&entry);
    Ok(nothing())
}

/// `/api/copy`.
pub(super) fn copy(exchange: &Exchange) -> Answer {
    let text = |key: &str| exchange.json[key].as_str().unwrap_or_default();
    let (source, destination) = (text("source"), text("destination"));
    required(destination)?;
    let entry = exchange.shared.library.find(source).ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, format!("model {source:?} not found"))
    })?;
    if exchange.shared.library.copy(&entry, destination) {
        Ok(nothing())
    } else {
        Err(full())
    }
}

pub(super) fn full() -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no space left on device")
}

/// What is written while a model is pulled or made: progress, then how it ended.
#[derive(Debug, Default)]
struct Progress {
    lines: Vec<Value>,
    failure: Option<String>,
}

impl Progress {
    fn say(&mut self, status: &str) {
        self.lines.push(json!({"status": status}));
    }
}

/// `/api/pull`.
pub(super) async fn pull(exchange: Exchange) -> Answer {
    let name = exchange.model_name().to_owned();
    required(&name)?;
    let mut progress = Progress::default();
    progress.say("pulling manifest");
    let model = Model::named(&name);
    if name.contains("missing") {
        progress.failure = Some(NOT_THERE.to_owned());
    } else {
        let digest = format!("sha256:{}", digest_of(&name));
        let status = format!("pulling {}", digest.get(7..19).unwrap_or_default());
        let total = model.size_bytes;
        // What is there already is not fetched again.
        let first = if exchange.shared.library.find(&name).is_some() {
            STEPS
        } else {
            0
        };
        for step in first..=STEPS {
            let completed = total / STEPS * step + if step == STEPS { total % STEPS } else { 0 };
            progress.lines.push(
                json!({"status": status, "digest": digest, "total": total, "completed": completed}),
            );
        }
        progress.say("verifying sha256 digest");
        progress.say("writing manifest");
    }
    report(exchange, progress, model).await
}

/// `/api/create`.
pub(super) async fn create(exchange: Exchange) -> Answer {
    let name = exchange.model_name().to_owned();
    required(&name)?;
    let library = &exchange.shared.library;
    let mut progress = Progress::default();
    let mut size = 0;
    if let Some(files) = exchange.json["files"].as_object() {
        for digest in files.values() {
            let digest = digest.as_str().unwrap_or_default();
            let Some(bytes) = library.blob(digest) else {
                return Err(Refusal::bad(format!(
                    "invalid digest {digest:?}: no such blob"
                )));
            };
            size += bytes;
            progress.say("parsing GGUF");
            progress.say(&format!("using existing layer {digest}"));
        }
    } else {
        let from = exchange.json["from"].as_str().unwrap_or_default();
        if from.is_empty() {
            return Err(Refusal::bad("neither 'from' or 'files' was specified"));
        }
        if from.contains("missing") {
            progress.say("pulling manifest");
            progress.failure = Some(NOT_THERE.to_owned());
            return report(exchange, progress, Model::named(&name)).await;
        }
        let source = library.find(from);
        size = source.map_or_else(|| Model::named(from).size_bytes, |source| source.size);
        progress.say(&format!("using existing layer sha256:{}", digest_of(from)));
    }
    progress.say("writing manifest");
    let model = Model {
        name,
        size_bytes: size,
    };
    report(exchange, progress, model).await
}

/// Writes the progress; puts the model on the disk; says how it ended.
async fn report(exchange: Exchange, progress: Progress, model: Model) -> Answer {
    let pause = exchange.shared.profile.scaled(STEP);
    let shared = Arc::clone(&exchange.shared);
    let Progress { lines, failure } = progress;
    let end = move || match failure {
        Some(failure) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, failure)),
        None if !shared
            .library
            .add(&model.name, model.size_bytes, Timestamp::now()) =>
        {
            Err(full())
        }
        None => Ok(json!({"status": "success"})),
    };
    if !exchange.wants_stream(true) {
        sleep(pause * u32::try_from(lines.len()).unwrap_or(u32::MAX)).await;
        let success = end()?;
        return exchange.whole(JSON, success.to_string());
    }
    exchange.stream(NDJSON, move |mut sink| async move {
        for progress in &lines {
            sink.send(line(progress)).await?;
            sleep(pause).await;
        }
        let last = end().unwrap_or_else(|refusal| json!({"error": refusal.text}));
        sink.finish(line(&last)).await
    })
}
