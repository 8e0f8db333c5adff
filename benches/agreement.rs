//! Whether the real proxy ranks strategies as the simulation does: the same requests, once in virtual time and once sent
//! to the program itself in front of simulated nodes on loopback, where time runs ten times faster.
//!
//! `cargo bench --bench agreement` takes some minutes and ends with 1 if the two disagree; with `-- NAME` it runs that
//! scenario alone.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use anyhow::{Context, Result};
use llamero::balance::Entry;
use llamero::bench::live::{Api, Options, Planned, Progress, Target, drive};
use llamero::bench::{Measure, Run, Slo, Summary};
use llamero::mock::{Model, Node, Profile};
use llamero::sim::{Chooser, Params, Scenario, Setup, Spec, Start, simulate};
use std::fmt::Write as _;
use std::fs;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How much faster than in the simulation everything goes.
const SCALE: f64 = 10.0;
/// Offered load, as a share of what is full: so little that no line builds up whose length is all chance.
const LOAD: f64 = 0.6;
const SEED: u64 = 2;
/// The chance of proxies decides who gets the few requests that a slow node answers. The simulation says what is to be
/// expected: the mean over so many of them.
const PROXIES: u64 = 20;
/// While the first requests find everything cold, nothing counts.
const WARM_UP: Duration = Duration::from_secs(20);
/// By how much a ratio may differ, as a share of the simulated one.
const TOLERANCE: f64 = 0.15;
/// Strategies that are nearer than this to each other in the simulation have no rank.
const TIE: f64 = 0.05;
/// Where one in a hundred requests is sent later than this, the machine is busy with something else, and what was measured
/// is that. It is measured again, so many times in all.
const LATE: Duration = Duration::from_millis(20);
const TRIES: usize = 4;
/// Connections from here to the proxy.
const CONNECTIONS: usize = 1024;
/// How long the proxy may take to start.
const STARTING: Duration = Duration::from_secs(10);

/// What all are measured by.
const BASELINE: &str = "least_connections";
/// What is measured beside it.
const OTHERS: [&str; 2] = ["adaptive", "round_robin"];
/// Scenarios, and how many requests are sent: so many that chance is worth some per cent of a ratio, which takes more where
/// a few requests meet a node without a card. No node fails in them: for how long one that failed is left alone is real
/// time, in which ten times as much happens here.
const CASES: [(&str, usize); 4] = [
    ("homog", 300),
    ("hetero", 750),
    ("np1_homog", 250),
    ("np1_hetero", 450),
];

/// Mean times to the end of an answer, in seconds of the scenario.
struct Reading {
    strategy: &'static str,
    simulated: f64,
    measured: f64,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    // Cargo adds flags of its own.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    println!(
        "{:10} {:18} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "scenario", "strategy", "simulated", "measured", "ratio", "ratio", "differ"
    );
    let mut faults = Vec::new();
    for (name, requests) in CASES {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        let scenario = Scenario::find(name).context("no such scenario")?;
        // The real requests name it as their limit, which is what makes the answers of nodes equally long.
        let setup = Setup {
            says_length: true,
            warm_up: WARM_UP,
            ..scenario.setup(&Params {
                load: LOAD,
                seed: SEED,
                requests,
                proxies: 1,
                trace: None,
            })
        };
        let mut readings: Vec<Reading> = Vec::new();
        for strategy in [BASELINE].into_iter().chain(OTHERS) {
            let entry = Entry::find(strategy).context("no such strategy")?;
            let reading = Reading {
                strategy: entry.name,
                simulated: expected(&setup, entry)?,
                measured: mean(&setup, &measure(&setup, entry.name).await?)?,
            };
            let baseline = readings.first().unwrap_or(&reading);
            let (expected, found) = reading.ratios(baseline);
            println!(
                "{name:10} {strategy:18} {:8.2}s {:8.2}s {expected:9.3} {found:9.3} {:+6.1}%",
                reading.simulated,
                reading.measured,
                (found / expected - 1.0) * 100.0,
            );
            readings.push(reading);
        }
        faults.extend(disagreements(&readings).map(|fault| format!("{name}: {fault}")));
    }
    for fault in &faults {
        println!("{fault}");
    }
    Ok(if faults.is_empty() {
        println!("the simulation and the proxy agree");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Reading {
    /// Simulated and measured, as shares of another's.
    fn ratios(&self, other: &Self) -> (f64, f64) {
        let simulated = self.simulated / other.simulated;
        (simulated, self.measured / other.measured)
    }
}

/// Ratios to the first that differ too much, and pairs that the simulation ranks and the proxy ranks the other way round.
fn disagreements(readings: &[Reading]) -> impl Iterator<Item = String> {
    let far = readings.iter().filter_map(|reading| {
        let (expected, found) = reading.ratios(readings.first()?);
        let is_far = (found / expected - 1.0).abs() > TOLERANCE;
        is_far.then(|| format!("{} is not where it should be", reading.strategy))
    });
    let pairs = readings.iter().enumerate();
    let pairs = pairs.flat_map(|(at, one)| readings.iter().skip(at + 1).map(move |b| (one, b)));
    let turned = pairs.filter_map(|(one, other)| {
        let (expected, found) = one.ratios(other);
        let has_rank = expected.ln().abs() > TIE.ln_1p();
        (has_rank && (expected < 1.0) != (found < 1.0))
            .then(|| format!("{} and {} change places", one.strategy, other.strategy))
    });
    far.chain(turned)
}

/// The mean time to the end of an answer; a failed request counts as one that took all the time there is.
fn mean(setup: &Setup, run: &Run) -> Result<f64> {
    let by = Measure {
        timeout: setup.patience,
        slo: Slo::default(),
    };
    let e2e = Summary::of(run, &by).e2e;
    Ok(e2e.context("nothing was measured")?.mean)
}

/// The mean that the simulation gives, whatever chance a proxy has.
fn expected(setup: &Setup, entry: &'static Entry) -> Result<f64> {
    let mut sum = 0.0;
    for seed in 0..PROXIES {
        let setup = Setup {
            seed,
            ..setup.clone()
        };
        sum += mean(&setup, &simulate(&setup, Chooser::Strategy(entry))?)?;
    }
    Ok(sum / PROXIES as f64)
}

/// What a proxy makes of a setup, measured while the machine had time for it.
async fn measure(setup: &Setup, strategy: &str) -> Result<Run> {
    for _ in 0..TRIES {
        let run = send(setup, strategy).await?;
        let late = run.lags.get(run.lags.len().saturating_sub(1) * 99 / 100);
        let late = late.map_or(Duration::ZERO, |late| late.div_f64(SCALE));
        if late <= LATE {
            return Ok(run);
        }
        println!("  requests were sent {late:.0?} late: the machine is busy, once more");
    }
    anyhow::bail!("the machine is too busy to measure anything")
}

/// Sends the requests of a setup to a proxy in front of such nodes.
async fn send(setup: &Setup, strategy: &str) -> Result<Run> {
    let mut nodes = Vec::new();
    for spec in &setup.nodes {
        let node = Node::start((Ipv4Addr::LOCALHOST, 0).into(), profile(setup, spec)).await?;
        nodes.push(node);
    }
    let dir = tempfile::tempdir()?;
    let (proxy, address) = start_proxy(strategy, &nodes, dir.path()).await?;
    let target = Target::new(&format!("http://{address}"), Api::Native, CONNECTIONS)?;
    let options = Options {
        scenario: setup.scenario.clone(),
        seed: setup.seed,
        timeout: setup.patience,
        warmup: setup.warm_up,
        time_scale: SCALE,
    };
    let progress = Arc::new(Progress::default());
    let driven = drive(
        &Arc::new(target),
        plan(setup)?,
        &options,
        &progress,
        pending(),
    )
    .await;
    for (error, count) in &driven.errors {
        println!("  {count} x {error}");
    }
    drop(proxy);
    Ok(driven.run)
}

/// The requests of a setup, each at its time.
fn plan(setup: &Setup) -> Result<Vec<Planned>> {
    let requests = setup.requests.iter().map(|request| {
        let Start::At(at) = request.start else {
            anyhow::bail!("{} has conversations", setup.scenario);
        };
        let model = setup.models.get(request.model).context("no such model")?;
        Ok(Planned {
            at,
            model: model.name.as_str().into(),
            prompt_tokens: request.prompt.tokens(),
            blocks: Vec::new(),
            output_tokens: request.output,
            session: None,
            embedding: model.is_embedding,
            client: Some(address(request.client)),
        })
    });
    requests.collect()
}

/// Where a client of the simulation sits.
fn address(client: u32) -> IpAddr {
    let first = Ipv4Addr::new(10, 0, 0, 0).to_bits();
    Ipv4Addr::from_bits(first + client % (1 << 24)).into()
}

/// A node as fast as one of the simulation, for its first model.
fn profile(setup: &Setup, spec: &Spec) -> Profile {
    let models = setup.models.iter().filter(|model| !model.is_embedding);
    let loads: f64 = models
        .clone()
        .map(|model| model.load_time(&spec.gpu).as_secs_f64())
        .sum();
    let bytes: f64 = models.clone().map(|model| model.size_gb * 1e9).sum();
    let listed = models.map(|model| Model {
        name: model.name.clone(),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and some gigabytes"
        )]
        size_bytes: (model.size_gb * 1e9) as u64,
    });
    Profile {
        models: listed.collect(),
        prefill_tokens_per_second: spec.gpu.prefill,
        decode_tokens_per_second: spec.gpu.decode,
        crowding: spec.gpu.slope,
        slots: spec.slots,
        load_bytes_per_second: bytes / loads,
        time_scale: SCALE,
        ..Profile::default()
    }
}

/// Starts the program in front of these nodes; returns where it listens. It is killed when dropped.
async fn start_proxy(strategy: &str, nodes: &[Node], dir: &Path) -> Result<(Child, SocketAddr)> {
    let mut config = format!(
        "listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\nlog.format = \"json\"\nstrategy = \"{strategy}\"\n\
        trusted_proxies = [\"127.0.0.1\"]\n"
    );
    for (at, node) in nodes.iter().enumerate() {
        write!(
            config,
            "[[backend]]\nname = \"n{at}\"\nurl = \"{}\"\n",
            node.url()
        )?;
    }
    let file = dir.join("llamero.toml");
    fs::write(&file, config)?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_llamero"))
        .env_clear()
        .arg("serve")
        .arg("--config")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stderr = child.stderr.take().context("no stderr")?;
    let mut lines = BufReader::new(stderr).lines();
    let listening = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains("listening for clients") {
                let line: serde_json::Value = serde_json::from_str(&line)?;
                let address = line.get("address").and_then(serde_json::Value::as_str);
                return Ok(address.context("no address")?.parse()?);
            }
        }
        anyhow::bail!("the proxy ended at once")
    };
    let address = timeout(STARTING, listening)
        .await
        .context("the proxy does not start")??;
    // A full pipe would hold it up.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, address))
}
