//! `llamero bench sim`: every strategy on every simulated fleet, and how they compare.

use crate::balance;
use crate::bench::Run;
use crate::sim::{
    CLAIRVOYANT, Case, Chooser, LOWER_BOUND, Params, SCENARIOS, Scenario, Situation, read_trace,
    sweep,
};
use anyhow::Context;
use clap::Args;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

/// What is simulated.
#[derive(Debug, Args)]
pub struct SimArgs {
    /// Scenarios; all of them unless given
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    scenario: Vec<String>,
    /// Strategies, `clairvoyant` or `lower_bound`; all of them unless given
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    strategy: Vec<String>,
    /// Offered load, as shares of what is full
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "0.7",
        value_name = "SHARE"
    )]
    load: Vec<f64>,
    /// How many seeds, from the first one on
    #[arg(long, default_value_t = 1, value_name = "N")]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Requests of each run
    #[arg(long, default_value_t = 7000, value_name = "N")]
    requests: usize,
    /// Take lengths and times from an Azure CSV or a Mooncake JSONL file
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Proxies that stand side by side and know nothing of each other
    #[arg(long, default_value_t = 1, value_name = "N")]
    replicas: usize,
    /// Compare on so many random fleets in place of scenarios
    #[arg(long, value_name = "FLEETS", conflicts_with_all = ["scenario", "load", "trace", "seeds"])]
    fuzz: Option<u64>,
}

/// Who chooses, under a name; `None` for the bound.
type Contender = (&'static str, Option<Chooser>);

/// What is shown of one run.
#[derive(Debug, Clone, Default)]
struct Row {
    mean: f64,
    p95: f64,
    first_token: f64,
    failed: f64,
    loads: f64,
    cached: f64,
}

/// Simulates, and shows how strategies compare.
///
/// # Errors
/// When a name is unknown, a number senseless, or the trace cannot be read.
pub fn run(args: &SimArgs) -> anyhow::Result<()> {
    let mut contenders = args
        .strategy
        .iter()
        .map(|name| contender(name))
        .collect::<anyhow::Result<Vec<_>>>()?;
    if contenders.is_empty() {
        contenders.extend([
            (LOWER_BOUND, None),
            (CLAIRVOYANT, Some(Chooser::Clairvoyant)),
        ]);
        contenders.extend(
            balance::ALL
                .iter()
                .map(|entry| (entry.name, Some(Chooser::Strategy(entry)))),
        );
    }
    for load in &args.load {
        anyhow::ensure!(
            (0.01..=3.0).contains(load),
            "--load {load}: a share from 0.01 to 3"
        );
    }
    anyhow::ensure!(
        (1..=100).contains(&args.replicas),
        "--replicas {}: a number from 1 to 100",
        args.replicas
    );
    anyhow::ensure!(
        (100..=1_000_000).contains(&args.requests),
        "--requests {}: a number from 100 to 1000000",
        args.requests
    );
    if args.fuzz.is_some() {
        fuzz(args, &contenders)
    } else {
        scenarios(args, &contenders)
    }
}

fn contender(name: &str) -> anyhow::Result<Contender> {
    match name {
        CLAIRVOYANT => Ok((CLAIRVOYANT, Some(Chooser::Clairvoyant))),
        LOWER_BOUND => Ok((LOWER_BOUND, None)),
        _ => {
            let entry = balance::Entry::find(name).with_context(|| {
                let names: Vec<_> = balance::ALL.iter().map(|entry| entry.name).collect();
                format!(
                    "no strategy {name:?}: {CLAIRVOYANT}, {LOWER_BOUND}, {}",
                    names.join(", ")
                )
            })?;
            Ok((entry.name, Some(Chooser::Strategy(entry))))
        }
    }
}

fn scenarios(args: &SimArgs, contenders: &[Contender]) -> anyhow::Result<()> {
    let find = |name: &String| {
        let names = || {
            SCENARIOS
                .iter()
                .map(|scenario| scenario.name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        Scenario::find(name).with_context(|| format!("no scenario {name:?}: {}", names()))
    };
    let scenarios = if args.scenario.is_empty() {
        SCENARIOS.iter().collect()
    } else {
        args.scenario
            .iter()
            .map(find)
            .collect::<anyhow::Result<Vec<_>>>()?
    };
    let trace = args.trace.as_ref().map(|path| {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        read_trace(BufReader::new(file)).with_context(|| path.display().to_string())
    });
    let trace = trace.transpose()?.map(Into::into);
    let mut cases = Vec::new();
    for scenario in scenarios {
        for load in &args.load {
            for (_, chooser) in contenders {
                for seed in args.seed..args.seed.saturating_add(args.seeds) {
                    cases.push(Case {
                        situation: Situation::Scenario(scenario),
                        params: Params {
                            load: *load,
                            seed,
                            requests: args.requests,
                            proxies: args.replicas,
                            trace: Option::clone(&trace),
                        },
                        chooser: *chooser,
                    });
                }
            }
        }
    }
    let rows = sweep(&cases, |run| (key(&run), Row::of(&run)), progress)?;
    let mut out = io::stdout().lock();
    let seeds = usize::try_from(args.seeds.max(1)).unwrap_or(usize::MAX);
    let mut place = String::new();
    let mut base = None;
    for group in rows.chunks(seeds) {
        let Some(((here, strategy), _)) = group.first() else {
            continue;
        };
        let row = Row::mean_of(group.iter().map(|(_, row)| row));
        if place != *here {
            place.clone_from(here);
            base = None;
            writeln!(
                out,
                "\n{here:<28}{:>9}{:>7}{:>9}{:>9}{:>8}{:>8}{:>7}",
                "mean s", "ratio", "p95 s", "ttft s", "failed", "loads", "hits"
            )?;
        }
        // Ratios are to the clairvoyant choice, or to whoever comes first.
        if strategy == CLAIRVOYANT || (base.is_none() && strategy != LOWER_BOUND) {
            base = Some(row.mean);
        }
        let ratio = base.map_or_else(String::new, |base| format!("{:.2}", row.mean / base));
        writeln!(
            out,
            "  {strategy:<26}{:>9.2}{ratio:>7}{:>9.2}{:>9.2}{:>7.1}%{:>8.0}{:>6.0}%",
            row.mean,
            row.p95,
            row.first_token,
            row.failed * 100.0,
            row.loads,
            row.cached * 100.0
        )?;
    }
    Ok(())
}

fn fuzz(args: &SimArgs, contenders: &[Contender]) -> anyhow::Result<()> {
    const BASE: &str = "least_connections";
    let mut contenders = contenders.to_vec();
    contenders.retain(|(name, _)| *name != BASE);
    contenders.insert(0, contender(BASE)?);
    let fleets = args.fuzz.unwrap_or_default().max(1);
    let mut cases = Vec::new();
    for seed in args.seed..args.seed.saturating_add(fleets) {
        for (_, chooser) in &contenders {
            cases.push(Case {
                situation: Situation::Fuzz,
                params: Params {
                    load: 0.0,
                    seed,
                    requests: args.requests,
                    proxies: args.replicas,
                    trace: None,
                },
                chooser: *chooser,
            });
        }
    }
    let rows = sweep(&cases, |run| Row::of(&run), progress)?;
    let mut ratios: BTreeMap<(usize, usize), Vec<(f64, u64)>> = BTreeMap::new();
    for (seed, fleet) in (args.seed..).zip(rows.chunks(contenders.len())) {
        let Some(base) = fleet.first() else { continue };
        for (at, row) in fleet.iter().enumerate().skip(1) {
            let measures = [
                (row.mean, base.mean),
                (row.p95, base.p95),
                (row.first_token, base.first_token),
            ];
            for (measure, (value, base)) in measures.into_iter().enumerate() {
                ratios
                    .entry((measure, at))
                    .or_default()
                    .push((value / base, seed));
            }
        }
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "ratio to {BASE}, {fleets} fleets    geo-mean    95 %    worst (fleet)    > 1.05"
    )?;
    for ((measure, at), mut list) in ratios {
        list.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let geo = (list.iter().map(|(ratio, _)| ratio.ln()).sum::<f64>() / list.len() as f64).exp();
        let at_95 = list
            .get(list.len() * 95 / 100)
            .or(list.last())
            .map_or(0.0, |(ratio, _)| *ratio);
        let (worst, seed) = list.last().copied().unwrap_or_default();
        let above =
            list.iter().filter(|(ratio, _)| *ratio > 1.05).count() as f64 / list.len() as f64;
        let name = contenders.get(at).map_or("", |(name, _)| name);
        let measure = ["mean", "p95", "ttft"]
            .get(measure)
            .copied()
            .unwrap_or_default();
        writeln!(
            out,
            "{measure:<6}{name:<26}{geo:>10.3}{at_95:>9.2}{worst:>9.2} ({seed:>4}){:>12.1} %",
            above * 100.0
        )?;
    }
    Ok(())
}

fn key(run: &Run) -> (String, String) {
    let load = run.load.map_or_else(String::new, |load| format!(" {load}"));
    (format!("{}{load}", run.scenario), run.strategy.clone())
}

impl Row {
    fn of(run: &Run) -> Self {
        let mut totals: Vec<_> = run.outcomes.iter().map(|outcome| outcome.total).collect();
        totals.sort_unstable();
        let count = totals.len().max(1) as f64;
        let first: Vec<_> = run
            .outcomes
            .iter()
            .filter_map(|outcome| outcome.first_token)
            .collect();
        let cached: u64 = run
            .outcomes
            .iter()
            .map(|outcome| u64::from(outcome.cached_tokens))
            .sum();
        let prompt: u64 = run
            .outcomes
            .iter()
            .map(|outcome| u64::from(outcome.prompt_tokens))
            .sum();
        Self {
            mean: totals.iter().sum::<Duration>().as_secs_f64() / count,
            p95: totals
                .get(totals.len() * 95 / 100)
                .map_or(0.0, Duration::as_secs_f64),
            first_token: first.iter().sum::<Duration>().as_secs_f64() / first.len().max(1) as f64,
            failed: run
                .outcomes
                .iter()
                .filter(|outcome| outcome.failure.is_some())
                .count() as f64
                / count,
            loads: run.loads.unwrap_or_default() as f64,
            cached: cached as f64 / prompt.max(1) as f64,
        }
    }

    fn mean_of<'a>(rows: impl ExactSizeIterator<Item = &'a Self>) -> Self {
        let count = rows.len() as f64;
        rows.fold(Self::default(), |sum, row| Self {
            mean: sum.mean + row.mean / count,
            p95: sum.p95 + row.p95 / count,
            first_token: sum.first_token + row.first_token / count,
            failed: sum.failed + row.failed / count,
            loads: sum.loads + row.loads / count,
            cached: sum.cached + row.cached / count,
        })
    }
}

/// Shows a person how far it is.
fn progress(done: usize, all: usize) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        let end = if done == all { '\n' } else { '\r' };
        // Nobody is lost if it cannot be shown.
        let _ = write!(stderr, "{done} of {all} runs{end}");
    }
}
