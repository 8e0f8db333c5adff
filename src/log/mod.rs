//! Where log lines go, and in which form.

mod json;
mod lines;

pub use lines::Lines;

use crate::config::{Log, LogFormat};
use json::Json;
use std::io::{self, IsTerminal};

/// Sends all events of this process to stderr from now on. The lines that wait are written when the guard is dropped.
/// Does nothing if events are sent somewhere already.
pub fn init(log: Log) -> Lines {
    init_to(log, io::stderr())
}

/// The same to somewhere else.
pub fn init_to(log: Log, to: impl io::Write + Send + 'static) -> Lines {
    let (writer, guard) = lines::start(to);
    let terminal = io::stderr().is_terminal();
    let as_json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt()
        .with_max_level(log.level)
        .with_writer(writer);
    // An error means that somebody else set a subscriber before, as tests do.
    let _ = if as_json {
        tracing::subscriber::set_global_default(lines.event_format(Json).finish())
    } else {
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        tracing::subscriber::set_global_default(lines.with_ansi(color).finish())
    };
    guard
}
