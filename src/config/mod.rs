//! The configuration: what may be set, what it is when nothing is set, and what is wrong with a file.

use crate::balance::Entry;
use crate::{health, pool};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::time::Duration;

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
    /// The nodes, at least one, names unique.
    pub backends: Vec<pool::Spec>,
    /// How nodes are judged.
    pub health: health::Policy,
    /// Tries on different backends, the first included; at least 1.
    pub attempts: u32,
    /// How often each node is asked which models it has.
    pub models_refresh: Duration,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How large things may be.
    pub limits: Limits,
    /// What is logged, and how.
    pub log: Log,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a backend takes a connection.
    pub connect: Duration,
    /// Until an idle client connection is closed. Needs a restart to change.
    pub keep_alive: Duration,
    /// How long shutdown waits for streams.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            keep_alive: Duration::from_secs(75),
            drain: Duration::from_secs(600),
        }
    }
}

/// How large things may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a JSON body.
    pub body: usize,
    /// Bytes of a request's head; 8192 at least. Needs a restart to change.
    pub head: usize,
    /// Client connections at one time. Needs a restart to change.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 64 << 20,
            head: 64 << 10,
            connections: 16384,
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
