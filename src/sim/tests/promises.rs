//! The adaptive strategy keeps its promises, as far as short runs can tell.
//!
//! The limits are looser than those of the gate, which has hundreds of long runs to judge by.

use crate::balance;
use crate::bench::{Kind, Measure, Quantity, Ratios, Report, Slo, Summary};
use crate::sim::gate::{BASELINE, FleetLimit, GATED, HELD_OUT, LOAD, Need, ScenarioLimit};
use crate::sim::{CLAIRVOYANT, Case, Chooser, PATIENCE, Params, Scenario, Situation, gate, sweep};

const FLEETS: u64 = 12;
/// On a dozen fleets a mean says something, a percentile next to nothing.
const MEANS: [FleetLimit; 3] = [
    mean(Quantity::E2eMean, 0.90),
    mean(Quantity::E2eP95, 0.95),
    mean(Quantity::TtftMean, 0.85),
];

const fn mean(quantity: Quantity, geo_mean: f64) -> FleetLimit {
    FleetLimit {
        quantity,
        geo_mean,
        p95: None,
        worst: None,
    }
}

fn case(situation: Situation, strategy: &str, seed: u64, requests: usize) -> Case {
    let strategy = balance::Entry::find(strategy).map(Chooser::Strategy);
    Case {
        situation,
        params: Params {
            load: LOAD,
            seed,
            requests,
            proxies: 1,
            trace: None,
        },
        chooser: Some(strategy.unwrap_or(Chooser::Clairvoyant)),
    }
}

fn report(cases: &[Case]) -> Report {
    let by = Measure {
        timeout: PATIENCE,
        slo: Slo::default(),
    };
    let runs = sweep(cases, |run| Summary::of(&run, &by), |_, _| {}).unwrap();
    let mut report = Report::new(Kind::Sim, "promises", "", &by, runs, Some(BASELINE));
    report.ratios = Ratios::of(&report.runs, BASELINE);
    report
}

#[test]
fn on_random_fleets() {
    let cases: Vec<_> = (HELD_OUT..HELD_OUT + FLEETS)
        .flat_map(|seed| {
            [BASELINE, GATED].map(|strategy| case(Situation::Fuzz, strategy, seed, 600))
        })
        .collect();
    let report = report(&cases);
    let broken = gate::on_fleets(&report.ratios, &MEANS);
    assert_eq!(broken, [""; 0]);
    assert!(
        report
            .ratios
            .iter()
            .all(|ratios| ratios.fleets == cases.len() / 2)
    );
}

#[track_caller]
fn check(scenario: &'static str, limits: &[(Need, &'static str, f64)]) {
    let found = Scenario::find(scenario).expect("it is in the table");
    let cases = [CLAIRVOYANT, BASELINE, GATED]
        .map(|strategy| case(Situation::Scenario(found), strategy, HELD_OUT, 1000));
    let limit = |&(need, than, times): &(Need, _, _)| ScenarioLimit {
        scenario,
        need,
        than,
        times,
    };
    let limits: Vec<_> = limits.iter().map(limit).collect();
    let broken = gate::in_scenarios(&report(&cases).cells, &limits);
    assert_eq!(broken, [""; 0]);
}

#[test]
fn where_models_do_not_fit_together() {
    check(
        "multimodel",
        &[
            (Need::Mean, CLAIRVOYANT, 1.3),
            (Need::Mean, BASELINE, 0.5),
            (Need::Loads, BASELINE, 0.5),
        ],
    );
}

#[test]
fn where_prompts_are_hard_work() {
    check(
        "multiturn_p40",
        &[
            (Need::Mean, CLAIRVOYANT, 1.2),
            (Need::FirstToken, BASELINE, 0.9),
        ],
    );
}

#[test]
fn a_gate_can_be_broken_and_what_was_not_measured_breaks_it() {
    let report = report(&[]);
    let all = gate::on_fleets(&report.ratios, &gate::FLEETS).len()
        + gate::in_scenarios(&report.cells, &gate::IN_SCENARIOS).len();
    assert_eq!(all, gate::FLEETS.len() + gate::IN_SCENARIOS.len());
    let ratios = |worst| Ratios {
        quantity: Quantity::E2eMean,
        strategy: GATED.to_owned(),
        fleets: 1,
        geo_mean: 0.8,
        p95: 1.05,
        worst,
        worst_seed: 7,
        worse: 0.0,
        by_seed: vec![(7, worst)],
    };
    let [limit, ..] = gate::FLEETS;
    let broken = |worst| gate::on_fleets(&[ratios(worst)], &[limit]);
    assert_eq!(broken(1.25), [""; 0]);
    assert_eq!(
        broken(1.26),
        ["mean, worst fleet (7): 1.260 x least_connections, over 1.25"]
    );
    assert_eq!(broken(f64::NAN).len(), 1);
}

#[test]
fn equal_seeds_make_equal_reports() {
    let cases: Vec<_> = [BASELINE, GATED, CLAIRVOYANT]
        .into_iter()
        .flat_map(|strategy| {
            // Half of the random fleets are so full that a line forms before them.
            (1..=3).map(move |seed| case(Situation::Fuzz, strategy, seed, 200))
        })
        .collect();
    let json = || report(&cases).json().unwrap();
    assert_eq!(json(), json());
}
