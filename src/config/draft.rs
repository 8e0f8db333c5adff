//! A configuration in the making: layer upon layer, then the rules that span several keys.

use super::Settings;
use super::fault::{Fault, Faults, Place, Text};
use super::file::{BACKEND, BACKEND_KEYS, BACKEND_TITLE, KEYS, Places, TOP_TITLE, Walk};
use super::flag::{self, Flag};
use super::rules;
use super::value::{Node, Problem};
use crate::pool::{Origin, Spec};
use std::ops::Range;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// What has been read so far.
pub(super) struct Draft {
    settings: Settings,
    places: Places,
    backends: Vec<BackendDraft>,
    /// Something could not be read at all, so what seems to be missing may be there.
    unreadable: bool,
    faults: Vec<Fault>,
}

/// One backend as far as it is known.
pub(super) struct BackendDraft {
    pub name: Option<String>,
    pub origin: Option<Origin>,
    pub weight: f64,
    pub drain: bool,
    pub slots: Option<usize>,
    pub places: Places,
    header: Place,
}

impl Draft {
    /// The defaults.
    pub(super) fn new() -> Self {
        Self {
            settings: Settings::without_backends(),
            places: Places::default(),
            backends: Vec::new(),
            unreadable: false,
            faults: Vec::new(),
        }
    }

    /// Lays a file over what is there.
    pub(super) fn file(&mut self, content: &str, name: &str) {
        let content = content.strip_prefix('\u{feff}').unwrap_or(content);
        let text = Arc::new(Text {
            name: name.to_owned(),
            content: content.to_owned(),
        });
        let (root, errors) = DeTable::parse_recoverable(content);
        if !errors.is_empty() {
            self.faults
                .extend(errors.iter().map(|error| syntax(error, &text)));
            self.unreadable = true;
            return; // what could be read of it may be something else than was meant
        }
        let mut root = root.into_inner();
        if let Some(backends) = root.remove(BACKEND) {
            self.backends(&backends, &text);
        }
        let mut walk = Walk {
            text: &text,
            title: TOP_TITLE,
            places: &mut self.places,
            faults: &mut self.faults,
        };
        walk.table("", &root, KEYS, &mut self.settings);
    }

    fn backends(&mut self, node: &Node<'_>, text: &Arc<Text>) {
        let list = node.get_ref().as_array();
        let entries = list.map_or(std::slice::from_ref(node), |list| &list[..]);
        for entry in entries {
            let header = Place::new(text, entry.span());
            let DeValue::Table(table) = entry.get_ref() else {
                let problem = Problem::kind("a table", entry.get_ref());
                let fault = Fault::new(format!("`{BACKEND}` {}", problem.text))
                    .at(header)
                    .help(format!(
                        "write {BACKEND_TITLE}, and below it: url = \"HOST\""
                    ));
                self.faults.push(fault);
                self.unreadable = true;
                continue;
            };
            if list.is_none() {
                let fault = Fault::new(format!("`{BACKEND}` is a list of tables"))
                    .at(header.clone())
                    .label(format!("write {BACKEND_TITLE}"));
                self.faults.push(fault);
            }
            let mut backend = BackendDraft::new(header.clone());
            let mut places = Places::default();
            let mut walk = Walk {
                text,
                title: BACKEND_TITLE,
                places: &mut places,
                faults: &mut self.faults,
            };
            walk.table("", table, BACKEND_KEYS, &mut backend);
            if places.get("url").is_none() {
                let fault = Fault::new("`backend.url` is missing")
                    .at(header)
                    .help("add a line: url = \"HOST\" or url = \"HOST:PORT\"");
                self.faults.push(fault);
            }
            backend.places = places;
            self.backends.push(backend);
        }
    }

    /// Lays a flag's values over a key; nothing given changes nothing.
    pub(super) fn flag(&mut self, key: &str, flag: &Flag<'_>) {
        let (text, items) = flag.items();
        let node = match &items[..] {
            [] => return,
            [item] => flag::node(&text, item.clone()),
            _ => flag::list(&text, &items),
        };
        let mut walk = Walk {
            text: &text,
            title: TOP_TITLE,
            places: &mut self.places,
            faults: &mut self.faults,
        };
        for key in KEYS.iter().filter(|known| known.name == key) {
            walk.set(key, &format!("--{}", flag.name), &node, &mut self.settings);
        }
    }

    /// Replaces the backends by those of a flag, each `[NAME=]HOST`; nothing given changes nothing.
    pub(super) fn backend_flag(&mut self, flag: &Flag<'_>) {
        let (text, items) = flag.items();
        if items.is_empty() {
            return;
        }
        self.backends.clear();
        for item in items {
            self.backend_item(&text, item);
        }
    }

    fn backend_item(&mut self, text: &Arc<Text>, item: Range<usize>) {
        let content = text.content.get(item.clone()).unwrap_or_default();
        let mut backend = BackendDraft::new(Place::new(text, item.clone()));
        let mut places = Places::default();
        let mut walk = Walk {
            text,
            title: BACKEND_TITLE,
            places: &mut places,
            faults: &mut self.faults,
        };
        let mut set = |name: &str, span: Range<usize>| {
            for key in BACKEND_KEYS.iter().filter(|key| key.name == name) {
                let node = flag::node(text, span.clone());
                walk.set(key, "--backend", &node, &mut backend);
            }
        };
        // An equals sign after a slash is part of a path.
        match content.split_once('=') {
            Some((name, _)) if !name.contains('/') => {
                let end = item.start + name.len();
                set("name", item.start..end);
                set("url", end + 1..item.end);
            }
            _ => set("url", item),
        }
        backend.places = places;
        self.backends.push(backend);
    }

    /// Settings that are valid as a whole.
    pub(super) fn finish(mut self) -> Result<Settings, Faults> {
        if self.backends.is_empty() && !self.unreadable {
            self.faults.push(no_backend());
        }
        rules::check(
            &self.settings,
            &self.places,
            &self.backends,
            &mut self.faults,
        );
        self.settings.backends = self
            .backends
            .into_iter()
            .filter_map(BackendDraft::spec)
            .collect();
        if self.settings.models.pin.is_empty()
            && let Some(first) = self.settings.backends.first()
        {
            self.settings.models.pin = first.name.to_string();
        }
        match Faults::collect(self.faults) {
            Some(faults) => Err(faults),
            None => Ok(self.settings),
        }
    }
}

impl BackendDraft {
    fn new(header: Place) -> Self {
        Self {
            name: None,
            origin: None,
            weight: 1.0,
            drain: false,
            slots: None,
            places: Places::default(),
            header,
        }
    }

    /// Where a key was set, or the whole backend.
    pub(super) fn place(&self, key: &str) -> Place {
        self.places.get(key).unwrap_or(&self.header).clone()
    }

    /// The name given, or else the host and port.
    pub(super) fn shown_name(&self) -> Option<String> {
        let default = || {
            let origin = self.origin.as_ref()?;
            Some(origin.authority().to_str().ok()?.to_owned())
        };
        self.name.clone().or_else(default)
    }

    fn spec(self) -> Option<Spec> {
        Some(Spec {
            name: self.shown_name()?.into(),
            origin: self.origin?,
            weight: self.weight,
            drain: self.drain,
            slots: self.slots,
        })
    }
}

fn no_backend() -> Fault {
    Fault::new("no backend is configured")
        .help("name your Ollama nodes: llamero --backend gpu1 --backend gpu2:11434")
        .help("or in a file: [[backend]], and below it: url = \"gpu1\"")
        .help("to look around without any: llamero demo")
}

fn syntax(error: &toml::de::Error, text: &Arc<Text>) -> Fault {
    let part = |span: Range<usize>| Some((span.clone(), text.content.get(span)?));
    let (span, found) = error.span().and_then(part).unwrap_or((0..0, ""));
    let message = match error.message() {
        "duplicate key" => format!("`{}` is set twice", found.escape_debug()),
        other => format!("this is not TOML: {other}"),
    };
    Fault::new(message).at(Place::new(text, span))
}
