//! The values of the configuration: each reader takes what the file says and gives something valid, or says what is wrong.

use super::LogFormat;
use crate::balance::{self, Entry};
use crate::cors::{Pattern, PatternError};
use crate::mount::{Mount, MountError};
use crate::pool::Origin;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use toml::Spanned;
use toml::de::DeValue;
use tracing::level_filters::LevelFilter;

/// A value and where it stands.
pub(super) type Node<'a> = Spanned<DeValue<'a>>;

const CONNECTIONS: RangeInclusive<i64> = 1..=1_000_000;
/// Slots per node.
const SLOTS: RangeInclusive<i64> = 1..=1024;
const REPLICAS: RangeInclusive<i64> = 0..=1000;
const PLACES: RangeInclusive<i64> = 0..=65_536;
const TRIES: RangeInclusive<i64> = 1..=100;
const WEIGHT_MOST: f64 = 1e6;
const NAME_LENGTH: usize = 64;

/// What is wrong with a value. The text follows the name of the key.
#[derive(Debug)]
pub(super) struct Problem {
    pub text: String,
    pub help: Option<String>,
    /// Where, if it is not the whole value.
    pub span: Option<Range<usize>>,
}

impl Problem {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            help: None,
            span: None,
        }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }

    pub(super) fn kind(expected: &str, found: &DeValue<'_>) -> Self {
        Self::new(format!("must be {expected}, not {}", kind(found)))
    }
}

/// Reads one value.
pub(super) fn one<T>(
    node: &Node<'_>,
    read: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
) -> Result<T, Vec<Problem>> {
    read(node.get_ref()).map_err(|problem| vec![problem])
}

/// Reads a list, or one value that stands for a list of one.
pub(super) fn many<T>(
    node: &Node<'_>,
    read: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
) -> Result<Vec<T>, Vec<Problem>> {
    let items = match node.get_ref().as_array() {
        Some(items) => &items[..],
        None => std::slice::from_ref(node),
    };
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for item in items {
        match read(item.get_ref()) {
            Ok(value) => good.push(value),
            Err(problem) => bad.push(Problem {
                span: Some(item.span()),
                ..problem
            }),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

/// A number of tries or of checks in a row, at least 1.
pub(super) fn tries(value: &DeValue<'_>) -> Result<u32, Problem> {
    count(value, TRIES)
}

/// A number of copies of a model; 0 for one on every node.
pub(super) fn replicas(value: &DeValue<'_>) -> Result<usize, Problem> {
    count(value, REPLICAS)
}

/// Answers that a node writes at a time, at least 1.
pub(super) fn slots(value: &DeValue<'_>) -> Result<usize, Problem> {
    count(value, SLOTS)
}

/// A number of connections, at least 1.
pub(super) fn connections(value: &DeValue<'_>) -> Result<usize, Problem> {
    count(value, CONNECTIONS)
}

/// How many requests may wait.
pub(super) fn places(value: &DeValue<'_>) -> Result<usize, Problem> {
    count(value, PLACES)
}

fn count<T: TryFrom<i64>>(value: &DeValue<'_>, range: RangeInclusive<i64>) -> Result<T, Problem> {
    let DeValue::Integer(number) = value else {
        return Err(Problem::kind("a whole number", value));
    };
    i64::from_str_radix(number.as_str(), number.radix())
        .ok()
        .filter(|number| range.contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            Problem::new(format!("must be from {least} to {most}, not {number}"))
        })
}

/// Relative capacity, above zero.
pub(super) fn weight(value: &DeValue<'_>) -> Result<f64, Problem> {
    let number: Option<f64> = match value {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(|number| number as f64),
        DeValue::Float(number) => number.as_str().parse().ok(),
        other @ (DeValue::String(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_)) => return Err(Problem::kind("a number", other)),
    };
    number
        .filter(|weight| *weight > 0.0 && *weight <= WEIGHT_MOST)
        .ok_or_else(|| {
            Problem::new(format!("must be above 0 and at most {WEIGHT_MOST}"))
                .help("`drain = true` takes a backend out of service")
        })
}

/// `true` or `false`.
pub(super) fn flag(value: &DeValue<'_>) -> Result<bool, Problem> {
    value
        .as_bool()
        .ok_or_else(|| Problem::kind("true or false", value))
}

/// The name of a strategy.
pub(super) fn strategy(value: &DeValue<'_>) -> Result<&'static Entry, Problem> {
    choice(
        value,
        "a strategy",
        balance::ALL.iter().map(|entry| (entry.name, entry)),
    )
}

/// How log lines look.
pub(super) fn log_format(value: &DeValue<'_>) -> Result<LogFormat, Problem> {
    let known = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
    ];
    choice(value, "a log format", known)
}

/// Which log lines are shown.
pub(super) fn log_level(value: &DeValue<'_>) -> Result<LevelFilter, Problem> {
    let known = [
        ("off", LevelFilter::OFF),
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
    ];
    choice(value, "a log level", known)
}

fn choice<T>(
    value: &DeValue<'_>,
    expected: &str,
    known: impl IntoIterator<Item = (&'static str, T)>,
) -> Result<T, Problem> {
    let text = string(value, expected)?;
    let mut names = Vec::new();
    for (name, meaning) in known {
        if name == text {
            return Ok(meaning);
        }
        names.push(name);
    }
    let problem = Problem::new(format!("is not {expected}: {text:?}"));
    let one_of = format!("one of: {}", names.join(", "));
    Err(match closest(text, names) {
        Some(name) => problem.help(format!("did you mean \"{name}\"? {one_of}")),
        None => problem.help(one_of),
    })
}

/// The name that was probably meant.
pub(super) fn closest<'n>(text: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    const ALIKE: f64 = 0.75;
    let text = text.to_ascii_lowercase().replace('-', "_");
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&text, name), name))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// An address to listen on: `127.0.0.1:11434`, `[::1]:11434`, `localhost:11434`, or `:11434` for every interface.
pub(super) fn listen(value: &DeValue<'_>) -> Result<SocketAddr, Problem> {
    let text = string(value, "an address")?;
    let example = "write IP:PORT, or :PORT for every interface, as in \"127.0.0.1:11434\"";
    let wrong = || Problem::new(format!("is no address to listen on: {text:?}")).help(example);
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let no_port = |shown: String| {
        Problem::new(format!("needs a port: {text:?}")).help(format!("write \"{shown}:11434\""))
    };
    match text.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V6(v6)) => return Err(no_port(format!("[{v6}]"))),
        Ok(IpAddr::V4(v4)) => return Err(no_port(v4.to_string())),
        Err(_) if text.eq_ignore_ascii_case("localhost") => return Err(no_port(text.to_owned())),
        Err(_) => {}
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let ip = match host {
        "" | "*" => Ipv6Addr::UNSPECIFIED.into(),
        _ if host.eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST.into(),
        _ => return Err(wrong()),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit()); // u16 would take a plus sign
    let port = port.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
    Ok(SocketAddr::new(ip, port))
}

/// A network as `10.0.0.0/8`; an address alone is a network of one.
pub(super) fn network(value: &DeValue<'_>) -> Result<IpNet, Problem> {
    let text = string(value, "a network")?;
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(|network| network.trunc())
        .map_err(|_| {
            Problem::new(format!("is no network: {text:?}"))
                .help("write an address or a CIDR, as in \"10.0.0.0/8\" or \"::1\"")
        })
}

/// Origins of pages: one, or several by a `*`.
pub(super) fn origins(value: &DeValue<'_>) -> Result<Pattern, Problem> {
    let text = string(value, "an origin")?;
    Pattern::parse(text).map_err(|error| {
        let help = match error {
            PatternError::Scheme => format!("write \"https://{text}\", or \"*\" for every origin"),
            PatternError::Path => "write scheme, host and port alone".to_owned(),
            PatternError::Stars => "write several entries".to_owned(),
            PatternError::Empty | PatternError::Character(_) => {
                "as in \"https://chat.example\", \"https://*.example\" or \"*\"".to_owned()
            }
        };
        Problem::new(format!("is no origin: {text:?} {error}")).help(help)
    })
}

/// A path to be found under, or nothing.
pub(super) fn path_prefix(value: &DeValue<'_>) -> Result<Mount, Problem> {
    let text = string(value, "a path")?;
    Mount::parse(text).map_err(|error| {
        let problem = Problem::new(format!("is no path to be found under: {text:?} {error}"));
        match error {
            MountError::Start => problem.help(format!("write \"/{}\"", text.trim_end_matches('/'))),
            MountError::End if text == "/" => problem.help("write \"\" for none"),
            MountError::End => problem.help(format!("write {:?}", text.trim_end_matches('/'))),
            MountError::Odd | MountError::Taken(_) => problem.help("as in \"/ollama\""),
        }
    })
}

/// The name of a backend that is described elsewhere, also one that was made of its host and port.
pub(super) fn reference(value: &DeValue<'_>) -> Result<String, Problem> {
    match string(value, "the name of a backend")? {
        "" => Err(Problem::new("is empty").help("leave the key out for the first backend")),
        name => Ok(name.to_owned()),
    }
}

/// The name of a backend: it goes into headers, metrics and paths.
pub(super) fn name(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = string(value, "a name")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    // A name of dots alone would be a step in a path.
    let named = text.contains(|c: char| c.is_ascii_alphanumeric());
    if named && text.len() <= NAME_LENGTH && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(
        Problem::new(format!("is no name of a backend: {text:?}")).help(format!(
            "1 to {NAME_LENGTH} letters, digits, `.`, `_` and `-`"
        )),
    )
}

/// Where a backend is, as Ollama reads `OLLAMA_HOST`.
pub(super) fn origin(value: &DeValue<'_>) -> Result<Origin, Problem> {
    let text = string(value, "an address")?;
    if text.trim().is_empty() {
        // Ollama takes this for itself on this machine; in a file it is a mistake.
        return Err(Problem::new("is empty").help("as in \"gpu1\" or \"http://10.0.0.7:11434\""));
    }
    Origin::parse(text).map_err(|error| Problem::new(format!("is no backend: {error}")))
}

fn string<'v>(value: &'v DeValue<'_>, expected: &str) -> Result<&'v str, Problem> {
    value
        .as_str()
        .ok_or_else(|| Problem::kind(&format!("{expected}, in quotes"), value))
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn closest_names_are_close() {
        let names = ["weight", "name", "drain"];
        for (text, expected) in [
            ("wieght", Some("weight")),
            ("Weight", Some("weight")),
            ("names", Some("name")),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(closest(text, names), expected, "{text}");
        }
        assert_eq!(closest("keep-alive", ["keep_alive"]), Some("keep_alive"));
    }

    proptest! {
        #[test]
        fn names_are_fit_for_a_header_and_a_path(text in ".{0,70}") {
            if let Ok(name) = name(&DeValue::String(text.into())) {
                prop_assert!(http::HeaderValue::try_from(&*name).is_ok());
                prop_assert!(name != "." && name != ".." && !name.contains('/'));
            }
        }
    }
}
