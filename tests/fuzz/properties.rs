//! What has to hold whatever bytes come: checked by libFuzzer, and by `cargo test` on the seeds and what is made of them.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use llamero::config::Settings;
use llamero::fuzzing::{Fault, Framing};
use llamero::wire::{Ask, Family, Kind, Meter, RunnerOptions};
use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;

/// No text is too much for the reader of configurations; what it takes is valid as a whole, what it does not is explained.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let settings = match Settings::parse(text, "fuzz.toml") {
        Ok(settings) => settings,
        Err(faults) => {
            assert!(!faults.to_string().is_empty());
            return;
        }
    };
    assert_eq!(
        Settings::parse(text, "fuzz.toml").ok(),
        Some(settings.clone())
    );
    let names: HashSet<_> = settings
        .backends
        .iter()
        .map(|backend| &backend.name)
        .collect();
    assert!(!names.is_empty() && names.len() == settings.backends.len());
    assert!(
        names
            .iter()
            .any(|name| name.as_ref() == settings.models.pin)
    );
    assert!(settings.backends.iter().all(|backend| backend.weight > 0.0));
    assert!(
        settings
            .backends
            .iter()
            .all(|backend| backend.slots != Some(0))
    );
    assert!(!settings.listen.is_empty() && settings.attempts > 0);
    assert!(settings.health.timeout <= settings.health.interval);
    let timeouts = settings.timeouts;
    let waits = [
        timeouts.connect,
        timeouts.keep_alive,
        timeouts.request_head,
        timeouts.request_body,
    ];
    assert!(waits.iter().all(|wait| !wait.is_zero()));
    assert!(settings.limits.head >= 8 << 10 && settings.limits.connections > 0);
}

const KINDS: [Kind; 6] = [
    Kind::Other,
    Kind::Generate,
    Kind::Chat,
    Kind::Responses,
    Kind::Embed,
    Kind::Embeddings,
];

/// What is found in a body without reading it whole is what reading it whole finds.
pub fn classification(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let object = object(&text);
    // Control characters in keys and names are left for a backend to refuse.
    let mended = text.replace(|char: char| char.is_ascii_control(), " ");
    let is_object = object.is_some() || self::object(&mended).is_some();
    let members = object.and_then(members);
    for kind in KINDS {
        let read = Ask::read_as(kind, data);
        // Keys that are no text when read strictly are still keys to Ollama.
        let Some(members) = &members else {
            assert!(read.is_err() || is_object, "{kind:?} {text}");
            continue;
        };
        let all = |name: &'static str| {
            let named = move |(key, _): &&(String, &str)| key.eq_ignore_ascii_case(name);
            let named = members.iter().filter(named);
            named.map(|(_, raw)| *raw).collect::<Vec<_>>()
        };
        let models = all("model");
        let is_text = |raw: &&str| raw.starts_with('"');
        let sound = models.iter().all(|raw| is_text(raw) || *raw == "null");
        assert_eq!(read.is_ok(), sound, "{kind:?} {text}");
        let Ok(ask) = read else {
            continue;
        };
        check_text(
            ask.model.as_deref(),
            models.iter().rev().find(|raw| is_text(raw)),
        );
        check_text(
            ask.name.as_deref(),
            all("name").iter().rev().find(|raw| is_text(raw)),
        );
        if kind == Kind::Other {
            continue;
        }
        let stream = all("stream")
            .last()
            .and_then(|raw| serde_json::from_str(raw).ok());
        assert_eq!(ask.facts.stream, stream, "{kind:?} {text}");
        if let Some(options) = runner_options(&all("options")) {
            assert_eq!(ask.facts.runner, options, "{kind:?} {text}");
        }
    }
}

/// The first value, if it is an object.
fn object(text: &str) -> Option<&str> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let first = values.next()?.ok()?.get();
    first.starts_with('{').then_some(first)
}

/// The same text, unless it has half a surrogate pair, which is no text when read strictly.
fn check_text(found: Option<&str>, raw: Option<&&str>) {
    assert_eq!(found.is_some(), raw.is_some());
    if let Some(text) = raw.and_then(|raw| serde_json::from_str::<String>(raw).ok()) {
        assert_eq!(found, Some(&*text));
    }
}

fn runner_options(all: &[&str]) -> Option<RunnerOptions> {
    let mut options = RunnerOptions::default();
    for raw in all {
        if *raw == "null" {
            options = RunnerOptions::default();
        }
        if !raw.starts_with('{') {
            continue;
        }
        for (key, raw) in members(raw)? {
            let number = serde_json::from_str::<f64>(raw)
                .ok()
                .map(|number| number as i64);
            match &*key {
                "num_ctx" => options.num_ctx = number,
                "num_batch" => options.num_batch = number,
                "num_gpu" => options.num_gpu = number,
                "main_gpu" => options.main_gpu = number,
                "use_mmap" => options.use_mmap = serde_json::from_str(raw).ok(),
                "num_thread" => options.num_thread = number,
                _ => {}
            }
        }
    }
    Some(options)
}

/// The members of an object in their order, equal keys included; `None` if a key is no text.
fn members(object: &str) -> Option<Vec<(String, &str)>> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, &'de str)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((key, raw)) = map.next_entry::<String, &RawValue>()? {
                members.push((key, raw.get()));
            }
            Ok(members)
        }
    }
    serde_json::Deserializer::from_str(object)
        .deserialize_map(Members)
        .ok()
}

/// However an answer is cut into chunks, the same is known of it.
pub fn meter(data: &[u8]) {
    let Some(([choice, step], text)) = data.split_first_chunk::<2>() else {
        return;
    };
    let kind = [
        "application/x-ndjson",
        "text/event-stream",
        "application/json",
    ];
    let families = [
        Family::Native,
        Family::OpenAi,
        Family::Responses,
        Family::Anthropic,
    ];
    let (family, kind) = (
        families[usize::from(*choice) % 4],
        kind[usize::from(*choice) / 4 % 3],
    );
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
    let known = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut meter = Meter::new(family, &headers);
        pieces.for_each(|piece| meter.watch(piece));
        let ends = (
            meter.is_whole(),
            meter.is_cut_off(),
            meter.error_record("lost"),
        );
        (meter.bytes(), ends, meter.counters())
    };
    let whole = known(&mut std::iter::once(text));
    assert_eq!(whole.0, text.len() as u64);
    assert_eq!(known(&mut pieces(text, *step)), whole);
    assert_eq!(known(&mut text.chunks(1)), whole);
}

/// However an answer is cut into reads, the same is made of it; where a head is too long for one, the other may stop early.
pub fn answer(data: &[u8]) {
    let Some(([step], text)) = data.split_first_chunk::<1>() else {
        return;
    };
    let whole = llamero::fuzzing::answer(std::iter::once(text));
    assert!(whole.body.len() <= text.len());
    if whole.end == Ok(true) {
        assert!(whole.status.is_some());
    }
    for split in [
        llamero::fuzzing::answer(pieces(text, *step)),
        llamero::fuzzing::answer(text.chunks(1)),
    ] {
        assert_eq!(split, whole);
    }
}

/// However a client's bytes are cut into reads, messages end at the same places and the same is refused.
pub fn framing(data: &[u8]) {
    const LIMIT: usize = 300;
    let Some(([step], text)) = data.split_first_chunk::<1>() else {
        return;
    };
    let follow = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut framing = Framing::new(LIMIT);
        let mut fed = 0;
        for piece in pieces {
            match framing.feed(piece) {
                Ok(()) => fed += piece.len(),
                // Where a head began is told for the piece that ends it.
                Err(Fault::Head(at, refusal)) => {
                    assert!(at <= piece.len());
                    return (Err(Some(refusal)), fed + at);
                }
                Err(Fault::Body(at)) => return (Err(None), fed + at),
            }
        }
        (Ok((framing.is_in_head(), framing.is_in_body())), fed)
    };
    let whole = follow(&mut std::iter::once(text));
    for split in [
        follow(&mut pieces(text, *step)),
        follow(&mut text.chunks(1)),
    ] {
        assert_eq!(split.0, whole.0);
        assert!(split.1 >= whole.1);
        if matches!(whole.0, Ok(_) | Err(None)) {
            assert_eq!(split.1, whole.1);
        }
    }
}

/// Pieces whose sizes differ, none of them empty.
fn pieces(text: &[u8], step: u8) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut size) = (text, usize::from(step));
    std::iter::from_fn(move || {
        size = size * 7 % 61;
        let (piece, more) = rest.split_at((size + 1).min(rest.len()));
        rest = more;
        (!piece.is_empty()).then_some(piece)
    })
}
