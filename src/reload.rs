//! Puts a changed configuration into force, whole or not at all.

use crate::config::{Content, ContentHash, Source};
use crate::gateway::Gateway;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval};

/// How often the file is read. By content: notifications miss what network folders and swapped links do.
const POLL: Duration = Duration::from_secs(1);

/// Watches the source and reloads when its content changes or the signal comes, for ever. `current` is what runs now.
pub async fn run(
    gateway: &Gateway,
    source: Arc<Source>,
    mut current: ContentHash,
    mut hang_up: Signal,
) {
    let mut tick = interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        let asked = tokio::select! {
            _ = tick.tick() => false,
            _ = hang_up.recv() => true,
        };
        let source = Arc::clone(&source);
        let Ok(outcome) = tokio::task::spawn_blocking(move || load(&source, current, asked)).await
        else {
            continue;
        };
        match outcome {
            Ok(None) => told.clear(),
            Ok(Some((settings, hash))) => {
                current = hash;
                told.clear();
                let restart = gateway.settings().restart_needed(&settings);
                tracing::info!(%hash, backends = settings.backends.len(), "configuration reloaded");
                if !restart.is_empty() {
                    tracing::warn!(keys = restart.join(", "), "these changes need a restart");
                }
                gateway.reload(settings, hash, fastrand::u64(..));
            }
            Err(Refused { hash, reason }) => {
                // Said once for each content, or reason why there is none, and not once a second.
                let news = match hash {
                    Some(hash) => hash != current,
                    None => reason != told,
                };
                if asked || news {
                    tracing::error!(
                        "configuration not reloaded, the old one stays in force\n{reason}"
                    );
                }
                current = hash.unwrap_or(current);
                told = reason;
            }
        }
    }
}

/// A content that cannot be put into force; without a hash if it could not even be read.
struct Refused {
    hash: Option<ContentHash>,
    reason: String,
}

type Loaded = (crate::config::Settings, ContentHash);

fn load(source: &Source, current: ContentHash, asked: bool) -> Result<Option<Loaded>, Refused> {
    let content: Content = source.content().map_err(|error| Refused {
        hash: None,
        reason: error.render(false),
    })?;
    if content.hash == current && !asked {
        return Ok(None);
    }
    match source.parse(&content) {
        Ok(settings) => Ok(Some((settings, content.hash))),
        Err(faults) => Err(Refused {
            hash: Some(content.hash),
            reason: faults.render(false),
        }),
    }
}
