//! `llamero bench sim`: every strategy on every simulated fleet, and how they compare.

use super::output::Output;
use super::{bar, read_trace};
use crate::balance;
use crate::bench::{Kind, Measure, Ratios, Report, Summary};
use crate::sim::{
    CLAIRVOYANT, Case, Chooser, LOWER_BOUND, PATIENCE, Params, SCENARIOS, Scenario, Situation,
    gate, sweep,
};
use anyhow::{Context, bail, ensure};
use clap::Args;
use std::path::PathBuf;

/// Strategies compared on simulated fleets, in virtual time.
///
/// The adaptive strategy was tuned on seeds 1 to 1000; those from 20001 on are held out to judge it by.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
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
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
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
    /// Compare with least_connections on so many random fleets, in place of scenarios
    #[arg(long, value_name = "FLEETS", conflicts_with_all = ["scenario", "load", "trace", "seeds"], value_parser = clap::value_parser!(u64).range(1..=100_000))]
    fuzz: Option<u64>,
    /// Fail if the adaptive strategy breaks one of its promises; simulates only what these are about
    #[arg(long, conflicts_with_all = ["scenario", "strategy", "load", "trace"])]
    gate: bool,
    #[command(flatten)]
    output: Output,
}

const EXAMPLES: &str = "\
Examples:
  llamero bench sim --seeds 3 --html report.html
  llamero bench sim --scenario multimodel --load 0.5,0.7,0.9 --strategy adaptive,least_connections
  llamero bench sim --fuzz 300 --seed 20001 --gate     promises on random fleets
  llamero bench sim --seeds 3 --seed 20001 --gate      promises in scenarios";

/// Who chooses, under a name; `None` for the bound.
type Contender = (&'static str, Option<Chooser>);

/// Simulates, and shows how strategies compare.
///
/// # Errors
/// When a name is unknown, a number senseless, the trace cannot be read, the report not be written, or a promise is
/// broken.
pub fn run(args: &SimArgs) -> anyhow::Result<()> {
    for load in &args.load {
        ensure!(
            (0.01..=3.0).contains(load),
            "--load {load}: a share from 0.01 to 3"
        );
    }
    ensure!(
        (1..=100).contains(&args.replicas),
        "--replicas {}: a number from 1 to 100",
        args.replicas
    );
    ensure!(
        (100..=1_000_000).contains(&args.requests),
        "--requests {}: a number from 100 to 1000000",
        args.requests
    );
    let names = match (args.gate, args.fuzz) {
        (true, None) => vec![CLAIRVOYANT, gate::BASELINE, gate::GATED],
        (true, Some(_)) => vec![gate::GATED],
        (false, _) => args.strategy.iter().map(String::as_str).collect(),
    };
    let contenders = contenders(&names)?;
    let (cases, baseline) = match args.fuzz {
        Some(fleets) => (fleet_cases(args, fleets, contenders)?, gate::BASELINE),
        None => (scenario_cases(args, &contenders)?, CLAIRVOYANT),
    };
    args.output.check()?;
    let by = Measure {
        timeout: PATIENCE,
        slo: args.output.slo,
    };
    let bar = bar::new(cases.len());
    let runs = sweep(&cases, |run| Summary::of(&run, &by), |_, _| bar.inc(1));
    bar.finish_and_clear();
    let runs = runs?;
    let has_baseline = runs.iter().any(|run| run.strategy == baseline);
    let report = |subtitle, runs| {
        let baseline = has_baseline.then_some(baseline);
        Report::new(
            Kind::Sim,
            "llamero bench sim",
            subtitle,
            &by,
            runs,
            baseline,
        )
    };
    let (report, broken) = if let Some(fleets) = args.fuzz {
        let subtitle = format!(
            "{fleets} random fleets from seed {}, {} requests each{}",
            args.seed,
            args.requests,
            args.several()
        );
        let mut report = report(subtitle, Vec::new());
        report.ratios = Ratios::of(&runs, baseline);
        let broken = gate::on_fleets(&report.ratios, &gate::FLEETS);
        (report, broken)
    } else {
        let subtitle = format!(
            "seeds {} to {}, {} requests each{}",
            args.seed,
            args.seed.saturating_add(args.seeds - 1),
            args.requests,
            args.several()
        );
        let report = report(subtitle, runs);
        let broken = gate::in_scenarios(&report.cells, &gate::IN_SCENARIOS);
        (report, broken)
    };
    args.output.write(&report)?;
    if args.gate && !broken.is_empty() {
        bail!(
            "{} breaks its promises:\n  {}",
            gate::GATED,
            broken.join("\n  ")
        );
    }
    Ok(())
}

fn contenders(names: &[&str]) -> anyhow::Result<Vec<Contender>> {
    if !names.is_empty() {
        return names.iter().map(|name| contender(name)).collect();
    }
    let strategies = balance::ALL
        .iter()
        .map(|entry| (entry.name, Some(Chooser::Strategy(entry))));
    let ideals = [
        (LOWER_BOUND, None),
        (CLAIRVOYANT, Some(Chooser::Clairvoyant)),
    ];
    Ok(ideals.into_iter().chain(strategies).collect())
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

/// Every scenario at every load with every strategy and every seed.
fn scenario_cases(args: &SimArgs, contenders: &[Contender]) -> anyhow::Result<Vec<Case>> {
    let promised = |scenario: &&Scenario| {
        !args.gate
            || gate::IN_SCENARIOS
                .iter()
                .any(|limit| limit.scenario == scenario.name)
    };
    let find = |name: &String| {
        Scenario::find(name).with_context(|| {
            let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            format!("no scenario {name:?}: {}", names.join(", "))
        })
    };
    let scenarios: Vec<_> = if args.scenario.is_empty() {
        SCENARIOS.iter().filter(promised).collect()
    } else {
        args.scenario.iter().map(find).collect::<Result<_, _>>()?
    };
    let trace = args.trace.as_deref().map(read_trace).transpose()?;
    let trace = trace.map(Into::into);
    let mut cases = Vec::new();
    for scenario in scenarios {
        for load in if args.gate {
            &[gate::LOAD][..]
        } else {
            &args.load
        } {
            for (_, chooser) in contenders {
                for seed in args.seed..args.seed.saturating_add(args.seeds) {
                    cases.push(Case {
                        situation: Situation::Scenario(scenario),
                        params: Params {
                            load: *load,
                            trace: Option::clone(&trace),
                            ..args.params(seed)
                        },
                        chooser: *chooser,
                    });
                }
            }
        }
    }
    Ok(cases)
}

/// Every fleet with every strategy and with the baseline.
fn fleet_cases(
    args: &SimArgs,
    fleets: u64,
    mut contenders: Vec<Contender>,
) -> anyhow::Result<Vec<Case>> {
    contenders.retain(|(name, _)| *name != gate::BASELINE);
    contenders.insert(0, contender(gate::BASELINE)?);
    let seeds = args.seed..args.seed.saturating_add(fleets);
    let cases = seeds.flat_map(|seed| {
        contenders.iter().map(move |(_, chooser)| Case {
            situation: Situation::Fuzz,
            params: args.params(seed),
            chooser: *chooser,
        })
    });
    Ok(cases.collect())
}

impl SimArgs {
    /// A run of a seed; random fleets have loads of their own.
    fn params(&self, seed: u64) -> Params {
        Params {
            load: 0.0,
            seed,
            requests: self.requests,
            proxies: self.replicas,
            trace: None,
        }
    }

    fn several(&self) -> String {
        match self.replicas {
            1 => String::new(),
            several => format!(", {several} proxies"),
        }
    }
}
