//! The configuration: what may be set, what it is when nothing is set, and what is wrong with a file.

mod draft;
mod fault;
mod file;
mod flag;
mod quantity;
mod rules;
mod source;
mod value;

pub use fault::{Fault, Faults};
pub(crate) use quantity::{duration_text, size_text};
pub use source::{ConfigError, Content, ContentHash, Environment, Overrides, Source};

use crate::balance::{self, Entry};
use crate::cors::Pattern;
use crate::mount::Mount;
use crate::{health, pool};
use draft::Draft;
use ipnet::IpNet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Where clients expect Ollama.
const CLIENT_PORT: u16 = 11434;
const ADMIN_PORT: u16 = 11436;
const DEFAULT_STRATEGY: &str = "adaptive";
const FIRST_STRATEGY: &Entry = match balance::ALL {
    [first, ..] => first,
    [] => panic!("there is no strategy"),
};

/// Everything that can be configured, valid as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where clients are answered. Needs a restart to change.
    pub listen: Vec<SocketAddr>,
    /// Where operators are answered. Needs a restart to change.
    pub admin_listen: SocketAddr,
    /// How a backend is chosen.
    pub strategy: &'static Entry,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins of pages that may call besides those that Ollama allows by itself.
    pub origins: Vec<Pattern>,
    /// The path that the proxy is found under besides `/`.
    pub path_prefix: Mount,
    /// The nodes, at least one, names unique.
    pub backends: Vec<pool::Spec>,
    /// How nodes are judged.
    pub health: health::Policy,
    /// Tries on different backends, the first included; at least 1.
    pub attempts: u32,
    /// How requests wait.
    pub queue: Queue,
    /// How often each node is asked which models it has.
    pub models_refresh: Duration,
    /// How long a stream may be without a head before it gets one of the proxy's own; zero for any time.
    pub early_response: Duration,
    /// How long a model load may go on after its client has left; zero for not at all.
    pub load_guard: Duration,
    /// Where models go.
    pub models: Models,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How large things may be.
    pub limits: Limits,
    /// What is logged, and how.
    pub log: Log,
}

impl Settings {
    /// Reads a whole configuration; `file_name` is what messages call it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, Faults> {
        let mut draft = Draft::new();
        draft.file(text, file_name);
        draft.finish()
    }

    /// The names of all keys, those of a table with it, as in `health.interval`.
    pub fn keys() -> impl Iterator<Item = String> {
        file::names()
    }

    /// The keys that differ and are only read at start.
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let differs = |key: &&file::Key<Self>| {
            key.differs_at_start
                .is_some_and(|differs| differs(self, new))
        };
        file::KEYS
            .iter()
            .filter(differs)
            .map(|key| key.name)
            .collect()
    }

    /// The defaults; valid once there is a backend.
    fn without_backends() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, CLIENT_PORT))],
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)),
            strategy: Entry::find(DEFAULT_STRATEGY).unwrap_or(FIRST_STRATEGY),
            trusted_proxies: Vec::new(),
            origins: Vec::new(),
            path_prefix: Mount::default(),
            backends: Vec::new(),
            health: health::Policy::default(),
            attempts: 2,
            queue: Queue::default(),
            models_refresh: Duration::from_secs(10),
            early_response: Duration::ZERO,
            load_guard: Duration::from_secs(300),
            models: Models::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            log: Log::default(),
        }
    }
}

/// How requests wait while every backend that could take them is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Requests that may wait, all models together; 0 for none.
    pub limit: usize,
    /// The longest that one may wait.
    pub timeout: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            limit: 512,
            timeout: Duration::from_secs(120),
        }
    }
}

/// Where models go, and what is asked of one node only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Models {
    /// How many nodes a pulled model goes to; 0 for all.
    pub replicas: usize,
    /// The name of the backend whose identity is used where only one can be: the first, unless set.
    pub pin: String,
    /// Whether all nodes have one model directory, so that a change on one is a change on all.
    pub shared_storage: bool,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a backend takes a connection.
    pub connect: Duration,
    /// Until an idle client connection is closed. Needs a restart to change.
    pub keep_alive: Duration,
    /// From the first byte of a request's head to its last. Needs a restart to change.
    pub request_head: Duration,
    /// How long a request's body may pause. Needs a restart to change.
    pub request_body: Duration,
    /// How long a client may take no byte of its answer. Needs a restart to change.
    pub client_write: Duration,
    /// How long a backend may be silent in the middle of an answer.
    pub stream_idle: Duration,
    /// How long a call may take that a backend needs no thought for.
    pub control: Duration,
    /// How long shutdown waits for streams.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            keep_alive: Duration::from_secs(75),
            request_head: Duration::from_secs(10),
            request_body: Duration::from_secs(30),
            client_write: Duration::from_secs(60),
            stream_idle: Duration::from_secs(300),
            control: Duration::from_secs(30),
            drain: Duration::from_secs(600),
        }
    }
}

/// How large things may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a JSON body.
    pub body: usize,
    /// Bytes of all JSON bodies that are held at one time.
    pub bodies: usize,
    /// Bytes of a request's head; 8192 at least. Needs a restart to change.
    pub head: usize,
    /// Client connections at one time. Needs a restart to change.
    pub connections: usize,
    /// Of these, how many may come from one address, if not any number. Needs a restart to change.
    pub connections_per_address: Option<usize>,
    /// Bytes of memory that the proxy may have, if fewer than the system allows.
    pub memory: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 64 << 20,
            bodies: 256 << 20,
            head: 64 << 10,
            connections: 16384,
            connections_per_address: None,
            memory: None,
        }
    }
}

/// What is logged, and how. Needs a restart to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// The least severe level that is shown.
    pub level: tracing::level_filters::LevelFilter,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One object per line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            level: tracing::level_filters::LevelFilter::INFO,
        }
    }
}
