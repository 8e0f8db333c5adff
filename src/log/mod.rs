//! Where log lines go, and in which form.

mod json;
mod lines;

pub use lines::Lines;

use crate::config::{Log, LogFormat};
use json::Json;
use lines::Waiting;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// Where JSON lines go that need no tracing; not set while lines have another form, or are not shown.
static DIRECT: OnceLock<Arc<Waiting>> = OnceLock::new();
/// What the lines of requests are called.
const ACCESS: &str = "llamero::access";

/// What a field is called; made by [`key!`](key).
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The name itself.
    pub name: &'static str,
    /// What stands before its value in JSON, behind other members.
    pub member: &'static str,
}

/// A [`Key`] of a name without signs that mean something.
macro_rules! key {
    ($name:literal) => {
        $crate::log::Key {
            name: $name,
            member: concat!(",\"", $name, "\":"),
        }
    };
}
pub(crate) use key;

/// Takes the fields of a line, one after the other.
pub trait Fields {
    /// Text that somebody else may have chosen.
    fn text(&mut self, key: Key, value: &str);
    /// Text of our own, without quotes or other signs that mean something.
    fn word(&mut self, key: Key, value: &'static str);
    /// A count.
    fn number(&mut self, key: Key, value: u64);
    /// A time, as milliseconds with three decimals.
    fn milliseconds(&mut self, key: Key, value: Duration);
}

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
        .with_writer(Arc::clone(&writer));
    let is_set = if as_json {
        tracing::subscriber::set_global_default(lines.event_format(Json).finish())
    } else {
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        tracing::subscriber::set_global_default(lines.with_ansi(color).finish())
    };
    // An error means that somebody else set a subscriber before, as tests do.
    if is_set.is_ok() && as_json && log.level >= LevelFilter::INFO {
        // Nobody was here before.
        let _ = DIRECT.set(writer);
    }
    guard
}

/// Writes the line of a request.
pub(crate) fn access(tell: impl Fn(&mut dyn Fields)) {
    match DIRECT.get() {
        // Taking a line does not fail.
        Some(to) => drop(json::line(ACCESS, tell, |line| (&**to).write_all(line))),
        None if tracing::enabled!(target: ACCESS, tracing::Level::INFO) => {
            let mut words = Words(String::new());
            tell(&mut words);
            tracing::info!(target: ACCESS, "{}", words.0.trim_end());
        }
        None => {}
    }
}

/// Fields for people.
struct Words(String);

impl Words {
    fn put(&mut self, key: Key, value: impl std::fmt::Display) {
        // Writing to memory does not fail.
        let _ = write!(self.0, "{}={value} ", key.name);
    }
}

impl Fields for Words {
    fn text(&mut self, key: Key, value: &str) {
        self.put(key, format_args!("{value:?}"));
    }

    fn word(&mut self, key: Key, value: &'static str) {
        self.put(key, value);
    }

    fn number(&mut self, key: Key, value: u64) {
        self.put(key, value);
    }

    fn milliseconds(&mut self, key: Key, value: Duration) {
        self.put(key, format_args!("{:.3}", value.as_secs_f64() * 1e3));
    }
}
