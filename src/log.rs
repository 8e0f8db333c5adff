//! Where log lines go, and in which form.

use crate::config::{Log, LogFormat};
use std::io::{self, IsTerminal};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

/// Lines that may wait for a slow terminal or disk; further ones are lost rather than delay a request.
const WAITING_LINES: usize = 65536;

/// Sends all events of this process to stderr from now on. The lines that wait are written when the guard is dropped.
/// Does nothing if events are sent somewhere already.
pub fn init(log: Log) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(io::stderr());
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
        tracing::subscriber::set_global_default(lines.json().flatten_event(true).finish())
    } else {
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        tracing::subscriber::set_global_default(lines.with_ansi(color).finish())
    };
    guard
}
