//! The keys of the file, and the walk that sets them and collects everything that is wrong on the way.
//!
//! To add a key: a field in [`Settings`] with its default, a line in [`KEYS`] or [`BACKEND_KEYS`], and a commented line
//! in `config.example.toml`, which a test compares with these tables.

use super::fault::{Fault, Place, Text};
use super::quantity;
use super::value::{self, Node, Problem, many, one};
use super::{Settings, draft::BackendDraft};
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// The name of the table that is given once per backend.
pub(super) const BACKEND: &str = "backend";

/// A key that may be set, and how.
pub(super) struct Key<T> {
    /// With its table: `health.interval`.
    pub name: &'static str,
    pub set: fn(&mut T, &Node<'_>) -> Result<(), Vec<Problem>>,
    /// For a key that is only read at start: whether two configurations differ in it.
    pub differs_at_start: Option<fn(&T, &T) -> bool>,
}

/// `key!("table.name" sets field.of.target: one(reader))`, or `many(reader)` for lists, or `one(reader), at start`.
macro_rules! key {
    ($name:literal sets $($field:ident).+ : $how:ident($read:path)) => {
        key!(@ $name, $($field).+, $how, $read, None)
    };
    ($name:literal sets $($field:ident).+ : $how:ident($read:path), at start) => {
        key!(@ $name, $($field).+, $how, $read, Some(|a, b| a.$($field).+ != b.$($field).+))
    };
    (@ $name:literal, $($field:ident).+, $how:ident, $read:path, $differs:expr) => {
        Key {
            name: $name,
            set: |to, node| {
                to.$($field).+ = $how(node, $read)?.into();
                Ok(())
            },
            differs_at_start: $differs,
        }
    };
}

/// Every key outside of `[[backend]]`.
pub(super) const KEYS: &[Key<Settings>] = &[
    key!("listen" sets listen: many(value::listen), at start),
    key!("strategy" sets strategy: one(value::strategy)),
    key!("trusted_proxies" sets trusted_proxies: many(value::network)),
    key!("origins" sets origins: many(value::origins)),
    key!("path_prefix" sets path_prefix: one(value::path_prefix)),
    key!("admin.listen" sets admin_listen: one(value::listen), at start),
    key!("health.interval" sets health.interval: one(quantity::duration)),
    key!("health.timeout" sets health.timeout: one(quantity::duration)),
    key!("health.fall" sets health.fall: one(value::tries)),
    key!("health.rise" sets health.rise: one(value::tries)),
    key!("retry.attempts" sets attempts: one(value::tries)),
    key!("queue.limit" sets queue.limit: one(value::places)),
    key!("queue.timeout" sets queue.timeout: one(quantity::duration)),
    key!("early_response" sets early_response: one(quantity::duration_or_zero)),
    key!("load_guard" sets load_guard: one(quantity::duration_or_zero)),
    key!("models.replicas" sets models.replicas: one(value::replicas)),
    key!("models.pin" sets models.pin: one(value::reference)),
    key!("models.shared_storage" sets models.shared_storage: one(value::flag)),
    key!("models.refresh" sets models_refresh: one(quantity::duration)),
    key!("timeouts.connect" sets timeouts.connect: one(quantity::duration)),
    key!("timeouts.keep_alive" sets timeouts.keep_alive: one(quantity::duration), at start),
    key!("timeouts.request_head" sets timeouts.request_head: one(quantity::duration), at start),
    key!("timeouts.request_body" sets timeouts.request_body: one(quantity::duration), at start),
    key!("timeouts.client_write" sets timeouts.client_write: one(quantity::duration), at start),
    key!("timeouts.stream_idle" sets timeouts.stream_idle: one(quantity::duration)),
    key!("timeouts.control" sets timeouts.control: one(quantity::duration)),
    key!("timeouts.drain" sets timeouts.drain: one(quantity::duration_or_zero)),
    key!("limits.body" sets limits.body: one(quantity::body_size)),
    key!("limits.bodies" sets limits.bodies: one(quantity::body_size)),
    key!("limits.head" sets limits.head: one(quantity::head_size), at start),
    key!("limits.connections" sets limits.connections: one(value::connections), at start),
    key!("limits.connections_per_address" sets limits.connections_per_address: one(value::connections), at start),
    key!("limits.memory" sets limits.memory: one(quantity::memory_size)),
    key!("log.format" sets log.format: one(value::log_format), at start),
    key!("log.level" sets log.level: one(value::log_level), at start),
];

/// The keys of one `[[backend]]`.
pub(super) const BACKEND_KEYS: &[Key<BackendDraft>] = &[
    key!("name" sets name: one(value::name)),
    key!("url" sets origin: one(value::origin)),
    key!("weight" sets weight: one(value::weight)),
    key!("slots" sets slots: one(value::slots)),
    key!("drain" sets drain: one(value::flag)),
];

/// Every key, with its table.
pub(super) fn names() -> impl Iterator<Item = String> {
    let backend = BACKEND_KEYS
        .iter()
        .map(|key| format!("{BACKEND}.{}", key.name));
    KEYS.iter().map(|key| key.name.to_owned()).chain(backend)
}

/// Where keys were set, whether to something valid or not.
#[derive(Default)]
pub(super) struct Places {
    of: BTreeMap<&'static str, Place>,
    invalid: Vec<&'static str>,
}

impl Places {
    pub(super) fn get(&self, key: &str) -> Option<&Place> {
        self.of.get(key)
    }

    /// Whether the key has its default, or was set to something valid.
    pub(super) fn sound(&self, key: &str) -> bool {
        !self.invalid.contains(&key)
    }
}

/// How messages call a backend's table, and the top of the file.
pub(super) const BACKEND_TITLE: &str = "[[backend]]";
pub(super) const TOP_TITLE: &str = "the top of the file";

/// Reads one table of a text, and the tables in it.
pub(super) struct Walk<'w> {
    pub text: &'w Arc<Text>,
    /// How messages call the outermost table.
    pub title: &'static str,
    /// Gathers where keys were set.
    pub places: &'w mut Places,
    /// Gathers what is wrong.
    pub faults: &'w mut Vec<Fault>,
}

impl Walk<'_> {
    /// Sets what the table says. `prefix` is empty, or the table's name and a dot.
    pub(super) fn table<T>(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        keys: &[Key<T>],
        to: &mut T,
    ) {
        for (name, node) in table {
            let full = format!("{prefix}{}", name.get_ref());
            let below = format!("{full}.");
            // A quoted key may have a dot in it, but is no path then.
            let plain = !name.get_ref().contains('.');
            if let Some(key) = keys.iter().find(|key| plain && key.name == full) {
                let shown = match self.title {
                    BACKEND_TITLE => format!("{BACKEND}.{full}"),
                    _ => full,
                };
                self.set(key, &shown, node, to);
            } else if plain && keys.iter().any(|key| key.name.starts_with(&below)) {
                if let DeValue::Table(inner) = node.get_ref() {
                    self.table(&below, inner, keys, to);
                } else {
                    let problem = Problem::kind("a table", node.get_ref());
                    let fault = Fault::new(format!("`{full}` {}", problem.text))
                        .at(Place::new(self.text, node.span()))
                        .help(format!(
                            "write [{full}] on a line of its own, its keys below"
                        ));
                    self.faults.push(fault);
                }
            } else {
                let place = Place::new(self.text, name.span());
                let fault = unknown(name.get_ref(), node, (prefix, self.title), keys);
                self.faults.push(fault.at(place));
            }
        }
    }

    /// Sets one key; `shown` is how messages call it.
    pub(super) fn set<T>(&mut self, key: &Key<T>, shown: &str, node: &Node<'_>, to: &mut T) {
        let place = Place::new(self.text, node.span());
        self.places.of.insert(key.name, place);
        let Err(problems) = (key.set)(to, node) else {
            return;
        };
        self.places.invalid.push(key.name);
        for problem in problems {
            let span = problem.span.unwrap_or(node.span());
            let fault =
                Fault::new(format!("`{shown}` {}", problem.text)).at(Place::new(self.text, span));
            self.faults.push(match problem.help {
                Some(help) => fault.help(help),
                None => fault,
            });
        }
    }
}

fn unknown<T>(
    name: &str,
    node: &Node<'_>,
    (prefix, title): (&str, &str),
    keys: &[Key<T>],
) -> Fault {
    let title = match prefix.strip_suffix('.') {
        Some(table) => format!("[{table}]"),
        None => title.to_owned(),
    };
    let top = title == TOP_TITLE;
    let mut accepted: Vec<&str> = Vec::new();
    for rest in keys.iter().filter_map(|key| key.name.strip_prefix(prefix)) {
        let here = rest.split('.').next().unwrap_or(rest);
        if !accepted.contains(&here) {
            accepted.push(here);
        }
    }
    if top {
        accepted.push(BACKEND);
    }
    let what = if node.get_ref().is_table() {
        "table"
    } else {
        "key"
    };
    let place = if top {
        String::new()
    } else {
        format!(" in {title}")
    };
    let fault = Fault::new(format!("unknown {what} `{}`{place}", name.escape_debug()));
    let near = value::closest(name, accepted.iter().copied());
    let fault = match (home(name), near) {
        (Some(home), _) => fault.label(format!("belongs to {home}")),
        (None, Some(near)) => fault.label(format!("did you mean `{near}`?")),
        (None, None) => fault,
    };
    fault.help(format!("accepted here: {}", accepted.join(", ")))
}

/// The table that has this key.
fn home(name: &str) -> Option<String> {
    if BACKEND_KEYS.iter().any(|key| key.name == name) {
        return Some(BACKEND_TITLE.to_owned());
    }
    KEYS.iter().find_map(|key| match key.name.rsplit_once('.') {
        Some((table, own)) => (own == name).then(|| format!("[{table}]")),
        None => (key.name == name).then(|| format!("{TOP_TITLE}, before any [table]")),
    })
}
