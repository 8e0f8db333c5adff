//! Configuration: what is accepted, what is said about the rest, and which layer wins.

use clap::{CommandFactory, Parser};
use llamero::config::{ConfigError, Environment, Overrides, Settings, Source};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::time::Duration;

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// The example with every key live.
fn uncommented() -> String {
    let live = |line: &str| {
        let key = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        key.unwrap_or(line).to_owned() + "\n"
    };
    EXAMPLE.lines().map(live).collect()
}

#[test]
fn the_example_shows_every_key_with_its_default() {
    let example = Settings::parse(EXAMPLE, "config.example.toml").unwrap();
    let mut full = Settings::parse(&uncommented(), "config.example.toml").unwrap();
    // What is learnt by default has no value to show.
    assert_eq!(full.backends[0].slots.take(), Some(4));
    // Nor has what is unlimited.
    assert_eq!(full.limits.connections_per_address.take(), Some(256));
    assert_eq!(full.limits.memory.take(), Some(1 << 30));
    assert_eq!(full, example);

    let mut table = String::new();
    let mut shown = Vec::new();
    for line in uncommented().lines().filter(|line| !line.starts_with('#')) {
        if let Some((key, _)) = line.split_once(" = ") {
            shown.push(format!("{table}{key}"));
        } else if line.starts_with('[') {
            table = line.trim_matches(['[', ']']).to_owned() + ".";
        }
    }
    let mut keys: Vec<String> = Settings::keys().collect();
    keys.sort();
    shown.sort();
    shown.dedup();
    assert_eq!(shown, keys);
}

#[test]
fn defaults_are_those_of_the_interface() {
    let settings = Settings::parse("[[backend]]\nurl = 'gpu1'", "f").unwrap();
    assert_eq!(settings.listen, ["127.0.0.1:11434".parse().unwrap()]);
    assert_eq!(settings.admin_listen, "127.0.0.1:11436".parse().unwrap());
    assert_eq!(settings.strategy.name, "adaptive");
    assert_eq!(settings.attempts, 2);
    assert_eq!(settings.queue.limit, 512);
    assert_eq!(settings.queue.timeout, Duration::from_secs(120));
    assert_eq!(settings.timeouts.drain, Duration::from_secs(600));
    assert_eq!(settings.limits.body, 64 << 20);
    assert_eq!(&*settings.backends[0].name, "gpu1:11434");
    assert_eq!(settings.backends[0].slots, None);
}

#[test]
fn every_value_is_taken() {
    let text = "
        listen = [':80', '[::1]:81', 'localhost:0']
        trusted_proxies = ['10.1.2.3/8', '::1']
        origins = ['https://*.example', '*']
        path_prefix = '/box/ollama'
        health = { interval = '1m30s', timeout = '250ms', fall = 3, rise = 1 }
        timeouts.drain = '0s'
        limits.head = '8KiB'
        log.level = 'off'
        log.format = 'json'
        admin.listen = ':0'
        retry.attempts = 5
        queue.limit = 0
        queue.timeout = '1s'
        models.refresh = '1h'
        [[backend]]
        url = 'http://[fe80::1]:99/ollama'
        weight = 0.5
        slots = 16
        drain = true
        [[backend]]
        name = 'big-one_2.x'
        url = 'gpu1'
        weight = 1000000";
    let settings = Settings::parse(&text.replace('\n', "\r\n"), "f").unwrap();
    assert_eq!(
        format!("{:?}", settings.listen),
        "[[::]:80, [::1]:81, 127.0.0.1:0]"
    );
    assert_eq!(
        format!("{:?}", settings.trusted_proxies),
        "[10.0.0.0/8, ::1/128]"
    );
    let origins: Vec<_> = settings.origins.iter().map(ToString::to_string).collect();
    assert_eq!(origins, ["https://*.example", "*"]);
    assert_eq!(settings.path_prefix.to_string(), "/box/ollama");
    assert_eq!(settings.health.interval, Duration::from_secs(90));
    assert_eq!(settings.health.timeout, Duration::from_millis(250));
    assert_eq!((settings.health.fall, settings.health.rise), (3, 1));
    assert_eq!(settings.timeouts.drain, Duration::ZERO);
    assert_eq!(settings.limits.head, 8192);
    assert_eq!(settings.attempts, 5);
    assert_eq!(settings.queue.limit, 0);
    assert_eq!(settings.queue.timeout, Duration::from_secs(1));
    assert_eq!(settings.backends[0].slots, Some(16));
    assert_eq!(settings.models_refresh, Duration::from_secs(3600));
    let names: Vec<_> = settings
        .backends
        .iter()
        .map(|backend| &*backend.name)
        .collect();
    assert_eq!(names, ["[fe80::1]:99", "big-one_2.x"]);
    assert!(settings.backends[0].drain);
    assert!((settings.backends[0].weight - 0.5).abs() < f64::EPSILON);
    assert_eq!(
        Settings::parse(&format!("\u{feff}{text}"), "f").unwrap(),
        settings
    );
}

/// One fault where the bar is, whose line has these words. A text without a backend gets one.
#[track_caller]
fn check(text: &str, words: &[&str]) {
    let (before, after) = text.split_once('¦').unwrap();
    let line = before.matches('\n').count() + 1;
    let column = before.lines().last().filter(|_| !before.ends_with('\n'));
    let column = column.map_or(0, |line| line.chars().count()) + 1;
    let mut text = format!("{before}{after}\n");
    if !text.contains("backend") {
        text += "[[backend]]\nurl = 'gpu1'\n";
    }
    let faults = Settings::parse(&text, "my.toml").unwrap_err();
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    let [shown] = &lines[..] else {
        panic!("{lines:#?}");
    };
    let start = format!("my.toml:{line}:{column}: ");
    assert!(shown.starts_with(&start), "{shown} is not at {start}");
    let rendered = faults.to_string();
    let arrow = format!("--> my.toml:{line}:{column}\n");
    assert!(rendered.contains(&arrow), "{rendered} is not at {start}");
    for word in words {
        assert!(shown.contains(word), "{shown} lacks {word:?}");
        assert!(rendered.contains(word), "{rendered} lacks {word:?}");
    }
}

#[test]
fn each_mistake_is_shown_where_it_is() {
    // keys
    check(
        "¦stratgy = 'random'",
        &["`stratgy`", "did you mean `strategy`?", "trusted_proxies"],
    );
    check("¦interval = '5s'", &["`interval`", "belongs to [health]"]);
    check(
        "[[backend]]\nurl = 'gpu1'\n¦strategy = 'random'",
        &["`strategy`", "[[backend]]", "top of the file"],
    );
    check(
        "[[backend]]\nurl = 'gpu1'\n¦wieght = 2",
        &["`wieght`", "did you mean `weight`?"],
    );
    check("[¦helth]\nfall = 2", &["`helth`", "did you mean `health`?"]);
    check(
        "[limits]\n¦zzz = 2",
        &["`zzz` in [limits]", "body, bodies, head, connections"],
    );
    check("¦'health.fall' = 2", &["`health.fall`"]);
    check("¦'' = 2", &["unknown key ``"]);
    check(
        "[[backend]]\nurl = 'gpu1'\nweight = 1\n¦weight = 2",
        &["`weight` is set twice"],
    );
    check("[log]\n[¦log]", &["`log` is set twice"]);
    // tables
    check(
        "health = ¦3",
        &["`health` must be a table, not a whole number", "[health]"],
    );
    check(
        "admin = ¦':1'",
        &["`admin` must be a table, not a string", "[admin]"],
    );
    check(
        "[[backend]]\nurl = 'gpu1'\n¦[[health]]\nfall = 2",
        &["`health` must be a table, not a list"],
    );
    check("¦[backend]\nurl = 'a'", &["`backend`", "write [[backend]]"]);
    check(
        "backend = ¦'gpu1'",
        &["`backend` must be a table", "[[backend]]"],
    );
    check(
        "backend = [{url = 'a'}, ¦'gpu1']",
        &["`backend` must be a table"],
    );
    check(
        "¦[[backend]]\nname = 'a'",
        &["`backend.url` is missing", "url = "],
    );
    // durations
    check(
        "[health]\ninterval = ¦5",
        &["`health.interval` needs a unit: 5", "\"5s\""],
    );
    check(
        "[health]\ninterval = ¦1.5",
        &["`health.interval` needs a unit"],
    );
    check(
        "[health]\ninterval = ¦'5'",
        &["`health.interval` needs a unit"],
    );
    check(
        "[health]\ninterval = ¦''",
        &["`health.interval` is no duration"],
    );
    check(
        "[health]\ninterval = ¦'0s'",
        &["`health.interval` must be longer than zero"],
    );
    check(
        "[health]\ninterval = ¦'25h'",
        &["`health.interval` must be at most 24h"],
    );
    check(
        "[health]\ninterval = ¦'1s1m'",
        &["`health.interval` is no duration"],
    );
    check(
        "[health]\ninterval = ¦'99999999999999999999h'",
        &["`health.interval` is no duration"],
    );
    check(
        "[models]\nrefresh = ¦'5 s'",
        &["`models.refresh` is no duration"],
    );
    check(
        "[timeouts]\nconnect = ¦true",
        &["`timeouts.connect` must be a duration"],
    );
    check(
        "[timeouts]\nkeep_alive = ¦'1d'",
        &["`timeouts.keep_alive` is no duration"],
    );
    check(
        "[health]\ntimeout = ¦'6s'",
        &["`health.timeout` (6s)", "`health.interval` (5s)"],
    );
    check(
        "[health]\ninterval = ¦'10ms'",
        &["`health.timeout` (1s)", "`health.interval` (10ms)"],
    );
    // sizes and counts
    check(
        "[limits]\nbody = ¦64",
        &["`limits.body` needs a unit: 64", "\"64B\""],
    );
    check("[limits]\nbody = ¦'64 MiB'", &["`limits.body` is no size"]);
    check(
        "[limits]\nbody = ¦'2GiB'",
        &["`limits.body` must be from 1B to 1GiB"],
    );
    check(
        "[limits]\nhead = ¦'4KiB'",
        &["`limits.head` must be from 8KiB to 1MiB"],
    );
    check(
        "[limits]\nhead = ¦'2MiB'",
        &["`limits.head` must be from 8KiB to 1MiB"],
    );
    check(
        "[limits]\nconnections = ¦0",
        &["`limits.connections` must be from 1 to"],
    );
    check(
        "[health]\nfall = ¦0",
        &["`health.fall` must be from 1 to 100, not 0"],
    );
    check("[health]\nrise = ¦-1", &["`health.rise` must be from 1"]);
    check(
        "[retry]\nattempts = ¦'2'",
        &["`retry.attempts` must be a whole number, not a string"],
    );
    check(
        "[retry]\nattempts = ¦99999999999999999999",
        &["`retry.attempts` must be from 1"],
    );
    // backends
    check(
        "[[backend]]\nurl = 'gpu1'\nweight = ¦0",
        &["`backend.weight` must be above 0", "drain"],
    );
    check(
        "[[backend]]\nurl = 'gpu1'\nweight = ¦nan",
        &["`backend.weight` must be above 0"],
    );
    check(
        "[[backend]]\nurl = 'gpu1'\nweight = ¦1e7",
        &["`backend.weight` must be above 0 and at most 1000000"],
    );
    check(
        "[[backend]]\nurl = 'gpu1'\nweight = ¦'2'",
        &["`backend.weight` must be a number, not a string"],
    );
    check(
        "[[backend]]\nurl = 'gpu1'\ndrain = ¦1",
        &["`backend.drain` must be true or false"],
    );
    check(
        "[[backend]]\nurl = 'gpu1'\nname = ¦'a b'",
        &["`backend.name` is no name", "letters"],
    );
    check(
        "[[backend]]\nurl = 'gpu1'\nname = ¦'..'",
        &["`backend.name` is no name"],
    );
    check(
        "[[backend]]\nurl = ¦'https://a'",
        &["`backend.url`", "https backends are not supported"],
    );
    check("[[backend]]\nurl = ¦''", &["`backend.url` is empty"]);
    check(
        "[[backend]]\nurl = 'gpu1'\nname = 'a'\n[[backend]]\nname = ¦'a'\nurl = 'b'",
        &["same `name`: a"],
    );
    check(
        "[[backend]]\nurl = 'gpu1'\n[[backend]]\nname = 'b'\nurl = ¦'http://GPU1:11434/'",
        &["same `url`"],
    );
    check(
        "[[backend]]\nurl = ¦'localhost'",
        &["llamero itself", "--listen", "OLLAMA_HOST"],
    );
    // addresses, networks, names
    check("listen = ¦11434", &["`listen` must be an address"]);
    check(
        "listen = ¦'127.0.0.1'",
        &["`listen` needs a port", "127.0.0.1:11434"],
    );
    check("listen = ¦'::1'", &["`listen` needs a port", "[::1]:11434"]);
    check(
        "listen = [':1', ¦'gpu1:2']",
        &["`listen` is no address to listen on: \"gpu1:2\""],
    );
    check("listen = ¦':99999'", &["`listen` is no address"]);
    check("listen = ¦[]", &["`listen` is an empty list"]);
    check(
        "listen = ¦[':1', '127.0.0.1:1']",
        &["`listen` has 127.0.0.1:1 twice"],
    );
    check(
        "[admin]\nlisten = ¦':11434'",
        &["`admin.listen` must have a port of its own"],
    );
    check(
        "trusted_proxies = [¦'10.0.0.0/33']",
        &["`trusted_proxies` is no network", "CIDR"],
    );
    check("origins = [¦'']", &["`origins` is no origin", "empty"]);
    check(
        "origins = ['app://x', ¦'a.example']",
        &["`origins` is no origin", "has no scheme"],
    );
    check("origins = [¦'http://*.*']", &["`origins`", "more than one"]);
    check("origins = ¦'http://a/'", &["`origins`", "has a path"]);
    check("origins = [¦7]", &["`origins` must be an origin"]);
    check("path_prefix = ¦'ollama'", &["`path_prefix`", "begin with"]);
    check("path_prefix = ¦'/ollama/'", &["`path_prefix`", "ends with"]);
    check("path_prefix = ¦'/'", &["`path_prefix`", "ends with"]);
    check("path_prefix = ¦'/a/../b'", &["`path_prefix`", "not plain"]);
    check(
        "path_prefix = ¦'/api'",
        &["`path_prefix`", "paths of its own"],
    );
    check(
        "strategy = ¦'randum'",
        &["`strategy` is not a strategy", "did you mean \"random\"?"],
    );
    check(
        "[log]\nlevel = ¦'warning'",
        &["`log.level` is not a log level", "did you mean \"warn\"?"],
    );
    check(
        "[log]\nformat = ¦1979-05-27",
        &["`log.format` must be a log format", "not a date"],
    );
    // no TOML at all
    check("listen = ¦", &["this is not TOML"]);
    check("listen = ':1¦", &["this is not TOML"]);
    check("a¦\0 = 1", &["this is not TOML"]);
    check("¦é = 1", &["this is not TOML"]);
    check("# ü\n'ü' = '¦\u{7f}'", &["this is not TOML"]);
}

#[test]
fn all_mistakes_are_shown_at_once_as_rustc_would() {
    let text = "strategy = \"randum\"

[[backend]]
name = \"a\"
url = \"gpu1\"
wieght = 2

[[backend]]
name = \"a\"
url = \"gpu2\"
";
    let faults = Settings::parse(text, "llamero.toml").unwrap_err();
    assert_eq!(faults.len(), 3);
    let strategies: Vec<_> = llamero::balance::ALL
        .iter()
        .map(|entry| entry.name)
        .collect();
    let expected = format!(
        r#"error: `strategy` is not a strategy: "randum"
 --> llamero.toml:1:12
  |
1 | strategy = "randum"
  |            ^^^^^^^^
  |
  = help: did you mean "random"? one of: {}

error: unknown key `wieght` in [[backend]]
 --> llamero.toml:6:1
  |
6 | wieght = 2
  | ^^^^^^ did you mean `weight`?
  |
  = help: accepted here: name, url, weight, slots, drain

error: two backends have the same `name`: a
 --> llamero.toml:9:8
  |
4 | name = "a"
  |        --- here already
...
9 | name = "a"
  |        ^^^"#,
        strategies.join(", ")
    );
    assert_eq!(faults.to_string(), expected);
    assert!(!faults.render(false).contains('\u{1b}'));
    assert!(faults.render(true).contains('\u{1b}'));
}

#[test]
fn mistakes_of_every_kind_are_found_together() {
    let text =
        "a = 1\nlisten = 5\nhealth = 1\n[limits]\nbody = 5\nhead = '1B'\n[log]\nlevel = 'x'\n";
    let faults = Settings::parse(text, "f").unwrap_err();
    assert_eq!(faults.len(), 7, "{faults}"); // the last is that there is no backend
    let faults = Settings::parse("", "f").unwrap_err().to_string();
    assert!(faults.contains("llamero --backend gpu1"), "{faults}");
    assert!(faults.contains("llamero demo"), "{faults}");
    assert!(!faults.contains("-->"), "{faults}");
}

#[test]
fn very_many_mistakes_are_counted() {
    let keys: Vec<_> = (0..2000).map(|n| format!("k{n} = 1")).collect();
    let shown = Settings::parse(&keys.join("\n"), "f")
        .unwrap_err()
        .to_string();
    assert!(shown.ends_with("and 1951 more"), "{shown}");
}

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    overrides: Overrides,
}

fn overrides(flags: &[&str]) -> Overrides {
    let args = std::iter::once("llamero").chain(flags.iter().copied());
    Flags::try_parse_from(args).unwrap().overrides
}

/// An environment whose folders are all in this one.
fn environment(root: &Path) -> Environment {
    Environment {
        here: root.join("here"),
        user: Some(root.join("user")),
        system: root.join("etc"),
    }
}

#[track_caller]
fn read(file: &str, flags: &[&str]) -> Settings {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    fs::write(&path, file).unwrap();
    let mut overrides = overrides(flags);
    overrides.config = Some(path);
    let source = Source::new(overrides, &environment(folder.path()));
    source.read().unwrap().0
}

#[test]
fn each_flag_has_its_variable() {
    let command = Flags::command();
    let variables = command.get_arguments().filter_map(|arg| {
        let variable = arg.get_env()?.to_str()?;
        Some((arg.get_long()?, variable))
    });
    assert_eq!(
        variables.collect::<Vec<_>>(),
        [
            ("config", "LLAMERO_CONFIG"),
            ("listen", "LLAMERO_LISTEN"),
            ("admin", "LLAMERO_ADMIN"),
            ("backend", "LLAMERO_BACKEND"),
            ("strategy", "LLAMERO_STRATEGY"),
            ("log-format", "LLAMERO_LOG_FORMAT"),
            ("log-level", "LLAMERO_LOG_LEVEL"),
        ]
    );
}

#[test]
fn flags_beat_the_file() {
    let file =
        "listen = ':1'\nlog.level = 'warn'\n[admin]\nlisten = ':2'\n[[backend]]\nurl = 'a'\n";
    let settings = read(file, &[]);
    assert_eq!(settings.listen, ["[::]:1".parse().unwrap()]);
    assert_eq!(settings.log.level.to_string(), "warn");
    let flags = [
        "--listen",
        ":3;localhost:4",
        "--listen=[::1]:5",
        "--admin",
        ":6",
    ];
    let settings = read(file, &flags);
    assert_eq!(
        format!("{:?}", settings.listen),
        "[[::]:3, 127.0.0.1:4, [::1]:5]"
    );
    assert_eq!(settings.admin_listen, "[::]:6".parse().unwrap());
    let flags = [
        "--strategy",
        "random",
        "--log-level",
        "trace",
        "--log-format",
        "json",
    ];
    let settings = read(file, &flags);
    assert_eq!(settings.strategy.name, "random");
    assert_eq!(settings.log.level.to_string(), "trace");
    assert_eq!(format!("{:?}", settings.log.format), "Json");
    // variables that are set to nothing
    assert_eq!(
        read(file, &["--listen", "", "--admin", "", "--backend", " "]),
        read(file, &[])
    );
}

#[test]
fn backends_of_flags_replace_those_of_the_file() {
    let file = "[[backend]]\nurl = 'a'\n";
    let names = |flags: &[&str]| -> Vec<String> {
        let settings = read(file, flags);
        let shown = settings
            .backends
            .iter()
            .map(|b| format!("{} {}", b.name, b.origin));
        shown.collect()
    };
    assert_eq!(names(&[]), ["a:11434 http://a:11434"]);
    assert_eq!(
        names(&[
            "--backend",
            "b=gpu1;gpu2:1, c=http://d",
            "--backend",
            "http://e/x=y,"
        ]),
        [
            "b http://gpu1:11434",
            "gpu2:1 http://gpu2:1",
            "c http://d:80",
            "e:80 http://e:80/x=y"
        ]
    );
}

#[test]
fn bad_flags_are_faults_too() {
    let folder = tempfile::tempdir().unwrap();
    let flags = [
        "--strategy",
        "rond_robin",
        "--backend",
        "a b=c;https://d",
        "--listen",
        "1,2",
    ];
    let source = Source::new(overrides(&flags), &environment(folder.path()));
    let shown = source.read().unwrap_err().render(false);
    for part in [
        "`--strategy` is not a strategy: \"rond_robin\"",
        "--> command line or LLAMERO_STRATEGY:1:12",
        "1 | --strategy rond_robin\n  |            ^^^^^^^^^^",
        "`--backend` is no name of a backend: \"a b\"",
        "1 | --backend a b=c;https://d\n  |                 ^^^^^^^^^",
        "`--listen` is no address to listen on: \"2\"",
    ] {
        assert!(shown.contains(part), "{shown}\nlacks {part}");
    }
}

#[test]
fn the_first_file_that_there_is_counts() {
    let folder = tempfile::tempdir().unwrap();
    let environment = environment(folder.path());
    let found = |flags: &[&str]| {
        let source = Source::new(overrides(flags), &environment);
        source.path().map(Path::to_owned)
    };
    assert_eq!(found(&[]), None);
    for path in [
        "etc/llamero/config.toml",
        "user/llamero/config.toml",
        "here/llamero.toml",
    ] {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(found(&[]), Some(path));
    }
    assert_eq!(found(&["--config", "x.toml"]), Some("x.toml".into()));
    assert_eq!(found(&["--config", ""]), found(&[]));
}

#[test]
fn no_file_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::new(
        overrides(&["--backend", "gpu1"]),
        &environment(folder.path()),
    );
    assert_eq!(source.path(), None);
    assert_eq!(source.read().unwrap().0.backends.len(), 1);
    let source = Source::new(overrides(&[]), &environment(folder.path()));
    let error = source.read().unwrap_err();
    assert!(matches!(error, ConfigError::Faults(_)), "{error}");
}

#[test]
fn a_file_is_read_again_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("here/llamero.toml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "[[backend]]\nurl = 'a'").unwrap();
    let source = Source::new(overrides(&["--listen", ":5"]), &environment(folder.path()));
    let (first, hash) = source.read().unwrap();
    assert_eq!(source.read().unwrap(), (first, hash));
    fs::write(&path, "[[backend]]\nurl = 'b'").unwrap();
    let (second, changed) = source.read().unwrap();
    assert_ne!(hash, changed);
    assert_eq!(&*second.backends[0].name, "b:11434");
    assert_eq!(second.listen, ["[::]:5".parse().unwrap()]);
    fs::remove_file(&path).unwrap();
    assert!(
        source.read().is_err(),
        "the backends must not vanish with the file"
    );
}

#[test]
fn files_that_are_no_configuration_are_named() {
    #[track_caller]
    fn check(path: &Path, words: &str) {
        let mut overrides = overrides(&[]);
        overrides.config = Some(path.to_owned());
        let source = Source::new(overrides, &environment(path));
        let shown = source.read().unwrap_err().render(false);
        assert!(shown.starts_with("error: "), "{shown}");
        assert!(shown.contains(words), "{shown} lacks {words:?}");
        assert!(shown.contains(&*path.to_string_lossy()), "{shown}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    check(&path, "No such file");
    check(folder.path(), "must be a file");
    fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    check(&path, "larger than 1MiB");
    fs::write(&path, b"# \xff\xfe").unwrap();
    check(&path, "not UTF-8 text: byte 2");
    fs::write(&path, "a\0").unwrap();
    check(&path, "a.toml:1:2");
    fs::write(&path, "x = 1\n".repeat(150_000)).unwrap();
    check(&path, "more");
}

#[test]
fn keys_that_are_read_once_are_named() {
    let old = Settings::parse("[[backend]]\nurl = 'a'", "f").unwrap();
    assert_eq!(old.restart_needed(&old), Vec::<&str>::new());
    let text = "listen = ':1'\nadmin.listen = ':2'\nretry.attempts = 9\nhealth.fall = 9
        timeouts = { connect = '9s', keep_alive = '9s', drain = '9s' }
        limits = { body = '9KiB', head = '9KiB', connections = 9 }
        log = { format = 'json', level = 'off' }\n[[backend]]\nurl = 'b'";
    let new = Settings::parse(text, "f").unwrap();
    assert_eq!(
        old.restart_needed(&new),
        [
            "listen",
            "admin.listen",
            "timeouts.keep_alive",
            "limits.head",
            "limits.connections",
            "log.format",
            "log.level"
        ]
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        if let Err(faults) = Settings::parse(&text, "f") {
            prop_assert!(!faults.render(true).is_empty());
            prop_assert!(faults.iter().all(|fault| !fault.to_string().is_empty()));
        }
    }

    #[test]
    fn no_file_like_text_makes_the_reader_panic(
        lines in prop::collection::vec(
            (
                r"(listen|strategy|\[{1,2}backend\]{1,2}|\[health\]|url|name|weight|fall|interval|[a-z.]{1,5})",
                "( = |=|)",
                r#"([0-9.e-]{0,6}|"[a-z0-9.:/@=ü]{0,8}"|\[.{0,5}\]|\{.{0,5}\}|.{0,6})"#,
            ),
            0..12,
        ),
        end in "(\n|\r\n|\r)",
    ) {
        let lines: Vec<_> = lines.iter().map(|(a, b, c)| format!("{a}{b}{c}")).collect();
        let text = lines.join(&end);
        if let Err(faults) = Settings::parse(&text, "f") {
            prop_assert!(!faults.render(false).is_empty());
            prop_assert!(faults.iter().all(|fault| !fault.to_string().is_empty()));
        }
    }
}
