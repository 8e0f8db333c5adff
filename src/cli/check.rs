//! `llamero check`: what the configuration means, or everything that is wrong with it.

use crate::config::{Environment, Overrides, Settings, Source, duration_text, size_text};
use std::fmt::{self, Write};
use std::io;
use std::process::ExitCode;

/// The exit code for a bad configuration, as in `sysexits.h`.
const BAD_CONFIG: u8 = 78;

/// Says what the configuration means, or everything that is wrong with it
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The configuration.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Prints what the configuration means, or on stderr what is wrong with it.
#[expect(clippy::print_stderr, reason = "a command that people read")]
pub fn run(args: CheckArgs) -> ExitCode {
    let source = Source::new(args.overrides, &Environment::of_process());
    match source.read() {
        Ok((settings, _)) => {
            // Whoever reads may have read enough.
            let _ = io::Write::write_all(
                &mut io::stdout(),
                Meaning(&source, &settings).to_string().as_bytes(),
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", error.render(super::wants_color()));
            ExitCode::from(BAD_CONFIG)
        }
    }
}

/// A configuration in words.
struct Meaning<'a>(&'a Source, &'a Settings);

impl fmt::Display for Meaning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(source, settings) = self;
        let file = match source.path() {
            Some(path) => path.display().to_string(),
            None => "no file".to_owned(),
        };
        let mut row = |title: &str, text: &str| writeln!(f, "{title:<16}{text}");
        row("configuration", &file)?;
        row("listen", &list(&settings.listen))?;
        row("admin", &settings.admin_listen.to_string())?;
        let strategy = settings.strategy;
        row(
            "strategy",
            &format!("{}: {}", strategy.name, strategy.summary),
        )?;
        if !settings.trusted_proxies.is_empty() {
            row("trusted proxies", &list(&settings.trusted_proxies))?;
        }
        if !settings.origins.is_empty() {
            row("origins", &list(&settings.origins))?;
        }
        if !settings.path_prefix.as_str().is_empty() {
            row("path prefix", settings.path_prefix.as_str())?;
        }
        let width = settings
            .backends
            .iter()
            .map(|backend| backend.name.len())
            .max();
        for (at, backend) in settings.backends.iter().enumerate() {
            let title = if at == 0 { "backends" } else { "" };
            let mut text = format!("{:<1$}  ", backend.name, width.unwrap_or(0));
            write!(text, "{}  weight {}", backend.origin, backend.weight)?;
            if let Some(slots) = backend.slots {
                let _ = write!(text, ", {slots} slots");
            }
            if backend.drain {
                text += ", drained: gets no new requests";
            }
            row(title, &text)?;
        }
        let time = duration_text;
        let health = settings.health;
        let text = format!(
            "checked every {}, given {}; out after {}, back after {}",
            time(health.interval),
            time(health.timeout),
            count(health.fall, "failure"),
            count(health.rise, "success"),
        );
        row("health", &text)?;
        let models = &settings.models;
        let replicas = match models.replicas {
            0 => "all nodes".to_owned(),
            some => count(u32::try_from(some).unwrap_or(u32::MAX), "node"),
        };
        let text = format!(
            "asked for every {}, pulled to {replicas}, shared storage: {}, pinned: {}",
            time(settings.models_refresh),
            models.shared_storage,
            models.pin,
        );
        row("models", &text)?;
        let text = format!(
            "load_guard {}, early_response {}",
            time(settings.load_guard),
            time(settings.early_response),
        );
        row("patience", &text)?;
        let retry = format!(
            "{} per request, each on another backend",
            count(settings.attempts, "try")
        );
        row("retry", &retry)?;
        let queue = settings.queue;
        let text = format!(
            "{} may wait, for at most {}",
            queue.limit,
            time(queue.timeout)
        );
        row("queue", &text)?;
        let timeouts = settings.timeouts;
        let text = format!(
            "connect {}, keep_alive {}, drain {}",
            time(timeouts.connect),
            time(timeouts.keep_alive),
            time(timeouts.drain),
        );
        row("timeouts", &text)?;
        let limits = settings.limits;
        let per_address = limits.connections_per_address;
        let per_address = per_address.map_or(String::new(), |most| format!(", {most} per address"));
        let memory = limits.memory.map(|bytes| size_text(bytes as u64));
        let memory = memory.map_or(String::new(), |size| format!(", {size} of memory"));
        let text = format!(
            "body {}, head {}, {} connections",
            size_text(limits.body as u64),
            size_text(limits.head as u64),
            limits.connections,
        );
        row("limits", &(text + &per_address + &memory))?;
        let format = format!("{:?}", settings.log.format).to_lowercase();
        row("log", &format!("{format}, {}", settings.log.level))
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    items.join(", ")
}

/// `1 try`, `2 tries`.
fn count(number: u32, noun: &str) -> String {
    match (number, noun) {
        (1, _) => format!("1 {noun}"),
        (_, "try") => format!("{number} tries"),
        (_, "success") => format!("{number} successes"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_the_configuration_means() {
        let overrides = Overrides {
            backends: vec!["a=gpu1;gpu2".to_owned()],
            listen: vec![":80,[::1]:81".to_owned()],
            strategy: Some("random".to_owned()),
            ..Overrides::default()
        };
        let nowhere = Environment {
            here: "/nowhere".into(),
            user: None,
            system: "/nowhere".into(),
        };
        let source = Source::new(overrides, &nowhere);
        let (settings, _) = source.read().unwrap();
        let summary = settings.strategy.summary;
        assert_eq!(
            Meaning(&source, &settings).to_string(),
            format!(
                "\
configuration   no file
listen          [::]:80, [::1]:81
admin           127.0.0.1:11436
strategy        random: {summary}
backends        a           http://gpu1:11434  weight 1
                gpu2:11434  http://gpu2:11434  weight 1
health          checked every 5s, given 1s; out after 2 failures, back after 2 successes
models          asked for every 10s, pulled to all nodes, shared storage: false, pinned: a
patience        load_guard 5m, early_response 0s
retry           2 tries per request, each on another backend
queue           512 may wait, for at most 2m
timeouts        connect 2s, keep_alive 1m15s, drain 10m
limits          body 64MiB, head 64KiB, 16384 connections
log             auto, info
"
            )
        );
    }
}
