//! How strategies compare: all of them in every scenario, and on random fleets, in virtual time.
//!
//! `--quick` makes runs so short that their numbers mean little.

use llamero::balance;
use llamero::bench::{Kind, Measure, Ratios, Report, Slo, Style, Summary};
use llamero::sim::{CLAIRVOYANT, Case, Chooser, Params, SCENARIOS, Situation, gate, sweep};
use tokio::time::Instant;

const FLEETS: usize = 100;
/// Nothing is left out: output mostly goes to a file.
const STYLE: Style = Style {
    width: usize::MAX,
    color: false,
};

/// Runs with every strategy, and with the ideal one where it is wanted.
fn cases(situation: Situation, seed: u64, requests: usize, has_ideal: bool) -> Vec<Case> {
    let ideal = has_ideal.then_some(Chooser::Clairvoyant);
    let choosers = balance::ALL.iter().map(Chooser::Strategy).chain(ideal);
    let case = |chooser| Case {
        situation,
        params: Params {
            load: gate::LOAD,
            seed,
            requests,
            proxies: 1,
            trace: None,
        },
        chooser: Some(chooser),
    };
    choosers.map(case).collect()
}

#[expect(clippy::print_stdout, reason = "its result")]
fn show(cases: &[Case], baseline: &str, subtitle: String) {
    let start = Instant::now();
    let by = Measure {
        timeout: llamero::sim::PATIENCE,
        slo: Slo::default(),
    };
    let runs = sweep(cases, |run| Summary::of(&run, &by), |_, _| {});
    let runs = runs.expect("nodes have names of hosts");
    let is_fuzz = baseline != CLAIRVOYANT;
    let (ratios, runs) = if is_fuzz {
        (Ratios::of(&runs, baseline), Vec::new())
    } else {
        (Vec::new(), runs)
    };
    let mut report = Report::new(Kind::Sim, "strategies", subtitle, &by, runs, Some(baseline));
    report.ratios = ratios;
    println!("{}", report.table(STYLE));
    println!(
        "{} runs took {:.1} s\n",
        cases.len(),
        start.elapsed().as_secs_f64()
    );
}

fn main() {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let requests = if is_quick { 400 } else { 7000 };
    let scenarios = SCENARIOS.iter().map(Situation::Scenario);
    let in_scenarios: Vec<_> = scenarios
        .flat_map(|situation| cases(situation, 1, requests, true))
        .collect();
    let subtitle = format!("seed 1, {requests} requests each");
    show(&in_scenarios, CLAIRVOYANT, subtitle);
    let on_fleets: Vec<_> = (gate::HELD_OUT..)
        .take(FLEETS)
        .flat_map(|seed| cases(Situation::Fuzz, seed, requests, false))
        .collect();
    let subtitle = format!(
        "{FLEETS} random fleets from seed {}, {requests} requests each",
        gate::HELD_OUT
    );
    show(&on_fleets, gate::BASELINE, subtitle);
}
