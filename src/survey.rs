//! The questions that the proxy itself asks a backend: does it live, what does it hold, what has it in memory.
//!
//! Each goes out on a connection of its own: an exhausted pool says nothing of a node's health.

use crate::pool::{Backend, Inventory, Loaded};
use crate::state::State;
use crate::upstream::{self, Failure};
use arc_swap::ArcSwap;
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

/// A list may take long: a busy Ollama answers when its scheduler lets it.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answers that are read, in bytes.
const VERSION_BYTES: usize = 64 << 10;
const LIST_BYTES: usize = 16 << 20;

/// Asks whether the backend lives, and notes its version.
///
/// # Errors
/// With the reason for people, when it does not answer in its check's time or answers with a server error.
pub async fn check(backend: &Backend) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Version {
        version: String,
    }
    let origin = &backend.spec().origin;
    let (status, body) = upstream::get(
        origin,
        "/api/version",
        backend.check_timeout(),
        VERSION_BYTES,
    )
    .await?;
    if status.is_server_error() {
        return Err(Failure::Lost(format!(
            "answered {} to a check",
            status.as_u16()
        )));
    }
    if let Ok(Version { version }) = serde_json::from_slice(&body) {
        backend.set_version(version);
    }
    Ok(())
}

/// Asks which models the backend holds, and notes them.
///
/// # Errors
/// With the reason for people; what was known before stays.
pub async fn tags(state: &ArcSwap<State>, backend: &Backend) -> Result<(), Failure> {
    backend.settle_doubt();
    let inventory = Inventory::from_tags(&list(backend, "/api/tags").await?);
    let inventory = inventory.map_err(|error| unreadable("models", &error))?;
    state.load().pool.learn(backend, inventory);
    Ok(())
}

/// Asks which models the backend has in memory, and notes them.
///
/// # Errors
/// With the reason for people; what was known before stays.
pub async fn loaded(backend: &Backend) -> Result<(), Failure> {
    let asked = Instant::now();
    let loaded = Loaded::from_ps(&list(backend, "/api/ps").await?);
    let loaded = loaded.map_err(|error| unreadable("loaded models", &error))?;
    backend.see(loaded, asked, Instant::now(), jiff::Timestamp::now());
    Ok(())
}

async fn list(backend: &Backend, path: &str) -> Result<bytes::Bytes, Failure> {
    let (status, body) =
        upstream::get(&backend.spec().origin, path, LIST_TIMEOUT, LIST_BYTES).await?;
    if status.is_success() {
        Ok(body)
    } else {
        Err(Failure::Lost(format!(
            "answered {} to {path}",
            status.as_u16()
        )))
    }
}

fn unreadable(what: &str, error: &serde_json::Error) -> Failure {
    Failure::Lost(format!("its list of {what} cannot be read: {error}"))
}
