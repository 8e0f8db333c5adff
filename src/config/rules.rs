//! What has to hold between keys.

use super::Settings;
use super::draft::BackendDraft;
use super::fault::{Fault, Place};
use super::file::Places;
use super::quantity::duration_text;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Adds what is wrong.
pub(super) fn check(
    settings: &Settings,
    places: &Places,
    backends: &[BackendDraft],
    faults: &mut Vec<Fault>,
) {
    health(settings, places, faults);
    listeners(settings, places, faults);
    unique(backends, faults);
    pin(settings, places, backends, faults);
    let sound = places.sound("listen") && places.sound("admin.listen");
    for backend in backends.iter().filter(|_| sound) {
        loops(backend, settings, faults);
    }
}

fn health(settings: &Settings, places: &Places, faults: &mut Vec<Fault>) {
    let (interval, timeout) = (settings.health.interval, settings.health.timeout);
    let sound = places.sound("health.timeout") && places.sound("health.interval");
    if timeout <= interval || !sound {
        return;
    }
    let message = format!(
        "`health.timeout` ({}) must not be longer than `health.interval` ({})",
        duration_text(timeout),
        duration_text(interval)
    );
    let fault = Fault::new(message);
    faults.push(
        match (places.get("health.timeout"), places.get("health.interval")) {
            (Some(timeout), Some(interval)) => fault
                .at(timeout.clone())
                .related(interval.clone(), "the interval"),
            (Some(place), None) | (None, Some(place)) => fault.at(place.clone()),
            (None, None) => fault,
        },
    );
}

fn listeners(settings: &Settings, places: &Places, faults: &mut Vec<Fault>) {
    let mut fault = |message: String, key: &str, other: &str| {
        let fault = Fault::new(message);
        faults.push(match (places.get(key), places.get(other)) {
            (Some(place), Some(related)) if place != related => fault
                .at(place.clone())
                .related(related.clone(), "here already"),
            (Some(place), _) | (None, Some(place)) => fault.at(place.clone()),
            (None, None) => fault,
        });
    };
    if !places.sound("listen") || !places.sound("admin.listen") {
        return;
    }
    let admin = settings.admin_listen;
    if settings.listen.is_empty() {
        fault("`listen` is an empty list".to_owned(), "listen", "listen");
    }
    for (at, address) in settings.listen.iter().enumerate() {
        if settings
            .listen
            .iter()
            .take(at)
            .any(|other| overlap(*address, *other))
        {
            fault(format!("`listen` has {address} twice"), "listen", "listen");
        }
        if overlap(*address, admin) {
            let message =
                format!("`admin.listen` must have a port of its own: `listen` has {address}");
            fault(message, "admin.listen", "listen");
        }
    }
}

/// Whether two listeners cannot exist side by side.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (everywhere || a.ip() == b.ip())
}

/// Each backend must have a URL and a name of its own.
fn unique(backends: &[BackendDraft], faults: &mut Vec<Fault>) {
    let mut urls: HashMap<String, Place> = HashMap::new();
    let mut names: HashMap<String, Place> = HashMap::new();
    for backend in backends {
        if let Some(origin) = &backend.origin {
            let place = backend.place("url");
            let host = origin.host().to_ascii_lowercase();
            let url = format!("{host} {} {}", origin.port(), origin.prefix());
            if let Some(first) = urls.get(&url) {
                let fault = Fault::new(format!("two backends have the same `url`: {origin}"));
                faults.push(fault.at(place).related(first.clone(), "here already"));
                if backend.name.is_none() {
                    continue; // nor has it a name of its own then
                }
            } else {
                urls.insert(url, place);
            }
        }
        let Some(name) = backend
            .shown_name()
            .filter(|_| backend.places.sound("name"))
        else {
            continue;
        };
        let given = backend.places.get("name").cloned();
        let place = given.unwrap_or_else(|| backend.place("url"));
        if let Some(first) = names.get(&name) {
            let fault = Fault::new(format!("two backends have the same `name`: {name}"))
                .at(place)
                .related(first.clone(), "here already");
            faults.push(fault);
        } else {
            names.insert(name, place);
        }
    }
}

/// The pinned backend must be one of the backends.
fn pin(settings: &Settings, places: &Places, backends: &[BackendDraft], faults: &mut Vec<Fault>) {
    let pin = &settings.models.pin;
    let names: Vec<_> = backends
        .iter()
        .filter_map(BackendDraft::shown_name)
        .collect();
    let Some(place) = places.get("models.pin").filter(|_| !pin.is_empty()) else {
        return;
    };
    if !names.is_empty() && !names.contains(pin) {
        let fault = Fault::new(format!("`models.pin` names no backend: {pin:?}"))
            .at(place.clone())
            .help(format!("the backends are: {}", names.join(", ")));
        faults.push(fault);
    }
}

/// A backend must not be this proxy.
fn loops(backend: &BackendDraft, settings: &Settings, faults: &mut Vec<Fault>) {
    let Some(origin) = &backend.origin else {
        return;
    };
    let ip = match origin.host().parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) if origin.host().eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST.into(),
        Err(_) => return,
    };
    let own = |listen: &&SocketAddr| {
        let here = listen.ip() == ip || listen.ip().is_unspecified() && ip.is_loopback();
        here && listen.port() == origin.port()
    };
    let listeners = settings.listen.iter().chain([&settings.admin_listen]);
    if let Some(listen) = listeners.into_iter().find(|listen| own(listen)) {
        let fault = Fault::new(format!(
            "this backend is llamero itself, which listens on {listen}"
        ))
        .at(backend.place("url"))
        .help("let llamero listen elsewhere: --listen 127.0.0.1:11435")
        .help("or move Ollama: OLLAMA_HOST=127.0.0.1:11435 ollama serve");
        faults.push(fault);
    }
}
