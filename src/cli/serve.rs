//! `llamero serve`: runs the proxy until a signal ends it.

use super::{BAD_CONFIG, CUT_STREAMS, wants_color};
use crate::config::{Environment, Overrides, Source};
use crate::gateway::{Gateway, ListenError};
use crate::{descriptors, log, reload, upstream};
use anyhow::Context as _;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What `serve` takes.
#[derive(Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// The configuration.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Runs the proxy. The exit code says how it ended.
///
/// # Errors
/// When an address cannot be listened on, or the process may not take signals.
#[expect(
    clippy::print_stderr,
    reason = "a bad configuration is told before there is a log"
)]
pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let source = Arc::new(Source::new(args.overrides, &Environment::of_process()));
    let (settings, hash) = match source.read() {
        Ok(read) => read,
        Err(error) => {
            eprintln!("{}", error.render(wants_color()));
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    let _lines = log::init(settings.log);
    descriptors::raise();
    let hang_up = signal(SignalKind::hangup()).context("cannot take signals")?;
    let mut stop = Stop::new().context("cannot take signals")?;

    let file = source.path().map(ToOwned::to_owned);
    let gateway = match Gateway::start(settings, file, hash, fastrand::u64(..)) {
        Ok(gateway) => gateway,
        Err(error) => return Err(anyhow::anyhow!(explain(&error).await)),
    };
    announce(&gateway, &source);
    tokio::select! {
        () = reload::run(&gateway, source, hash, hang_up) => {}
        () = stop.asked() => {}
    }
    tracing::info!("shutting down: running requests may end, a second signal cuts them");
    let cut = gateway.shut_down(stop.asked()).await;
    if cut > 0 {
        tracing::warn!(streams = cut, "shut down, streams were cut");
        return Ok(ExitCode::from(CUT_STREAMS));
    }
    tracing::info!("shut down");
    Ok(ExitCode::SUCCESS)
}

/// The signals that end the process.
#[derive(Debug)]
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of them.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn announce(gateway: &Gateway, source: &Source) {
    let settings = gateway.settings();
    let file = source.path().map(|path| path.display().to_string());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = file.as_deref().unwrap_or("none"),
        strategy = settings.strategy.name,
        backends = settings.backends.len(),
        "llamero starts"
    );
    for address in gateway.addresses() {
        tracing::info!(%address, "listening for clients");
    }
    tracing::info!(address = %gateway.admin_address(), "listening for operators");
}

/// Says who has an address and what to type instead.
pub(super) async fn explain(error: &ListenError) -> String {
    /// How long whoever has the port may take to say who it is.
    const ASK: Duration = Duration::from_secs(1);
    const ANSWER_BYTES: usize = 4096;
    if error.error.kind() != io::ErrorKind::AddrInUse {
        return error.to_string();
    }
    let address = error.address;
    let who = match crate::pool::Origin::parse(&address.to_string()) {
        Ok(origin) => upstream::get(&origin, "/api/version", ASK, ANSWER_BYTES)
            .await
            .ok(),
        Err(_) => None,
    };
    let version = who.and_then(|(_, body)| {
        let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(body.get("version")?.as_str()?.to_owned())
    });
    let who = version.map_or_else(
        || "another program".to_owned(),
        |version| format!("Ollama {version}"),
    );
    let port = address.port();
    let other = if port == 11434 {
        11435
    } else {
        port.saturating_add(10).max(1024)
    };
    let mut text = format!(
        "{address} is already in use, by {who}. Run llamero on another port: --listen 127.0.0.1:{other}"
    );
    if who.starts_with("Ollama") {
        text.push_str(&format!(
            "; or move Ollama: OLLAMA_HOST=127.0.0.1:{} ollama serve",
            port.saturating_add(100)
        ));
    }
    text.push_str(" (for the admin port: --admin :PORT)");
    text
}
