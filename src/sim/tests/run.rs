//! Whole runs: nothing is lost, and a seed repeats them.

use crate::balance;
use crate::bench::{Failure, Run};
use crate::config;
use crate::sim::gpu::CPU;
use crate::sim::{
    Case, Chooser, Kind, Params, SCENARIOS, Scenario, Setup, Situation, Start, Trouble, bound,
    fuzz, simulate, sweep,
};
use std::time::Duration;

fn params(seed: u64, requests: usize) -> Params {
    Params {
        load: 0.7,
        seed,
        requests,
        proxies: 1,
        trace: None,
    }
}

fn strategy(name: &str) -> Chooser {
    Chooser::Strategy(balance::Entry::find(name).expect("it is in the table"))
}

fn setup(name: &str, requests: usize) -> Setup {
    Setup {
        warm_up: Duration::ZERO,
        ..Scenario::find(name)
            .expect("it is in the table")
            .setup(&params(1, requests))
    }
}

fn mean(run: &Run) -> f64 {
    let total: Duration = run.outcomes.iter().map(|outcome| outcome.total).sum();
    total.as_secs_f64() / run.outcomes.len() as f64
}

#[test]
fn no_request_is_lost_in_any_scenario_nor_faster_than_possible() {
    for scenario in SCENARIOS {
        let setup = setup(scenario.name, 150);
        for chooser in [Chooser::Clairvoyant, strategy("least_connections")] {
            let run = simulate(&setup, chooser).unwrap();
            assert_eq!(
                run.outcomes.len(),
                setup.requests.len(),
                "{}",
                scenario.name
            );
            let lost = run
                .outcomes
                .iter()
                .filter(|outcome| outcome.failure.is_some());
            if scenario.name == "crash" {
                // Answers that had begun.
                assert!(lost.clone().all(|it| it.failure == Some(Failure::Broken)));
                continue;
            }
            assert_eq!(lost.count(), 0, "{}", scenario.name);
            let tokens = |run: &Run| {
                run.outcomes
                    .iter()
                    .map(|it| u64::from(it.tokens))
                    .sum::<u64>()
            };
            assert_eq!(tokens(&run), tokens(&bound(&setup)));
            assert!(mean(&run) > mean(&bound(&setup)), "{}", scenario.name);
        }
    }
}

#[test]
fn a_seed_repeats_a_run_whatever_else_goes_on() {
    let mut cases = Vec::new();
    for entry in balance::ALL {
        for name in ["hetero", "multimodel"] {
            cases.push(Case {
                situation: Situation::Scenario(Scenario::find(name).unwrap()),
                params: Params {
                    proxies: 2,
                    ..params(7, 300)
                },
                chooser: Some(Chooser::Strategy(entry)),
            });
        }
    }
    let alone: Vec<_> = cases.iter().map(|case| case.run().unwrap()).collect();
    let together = sweep(&[cases.clone(), cases].concat(), |run| run, |_, _| {}).unwrap();
    let (once, again) = together.split_at(alone.len());
    for ((alone, once), again) in alone.iter().zip(once).zip(again) {
        assert_eq!(alone, once);
        assert_eq!(alone, again);
    }
}

#[test]
fn another_order_of_nodes_changes_little() {
    let setup = setup("hetero", 1500);
    let mut turned = setup.clone();
    turned.nodes.reverse();
    let both = [&setup, &turned].map(|setup| simulate(setup, Chooser::Clairvoyant).unwrap());
    let [a, b] = both.each_ref().map(mean);
    assert!((a / b - 1.0).abs() < 0.05, "{a} and {b}");
    assert_ne!(both[0].nodes, both[1].nodes);
}

#[test]
fn a_refused_request_goes_to_another_node_and_a_broken_answer_does_not() {
    let mut setup = setup("homog", 400);
    let second = Duration::from_secs;
    for node in setup.nodes.iter_mut().skip(1) {
        node.troubles.push(Trouble {
            from: second(20),
            until: second(60),
            kind: Kind::Gone,
        });
    }
    let run = simulate(&setup, strategy("round_robin")).unwrap();
    let failures: Vec<_> = run
        .outcomes
        .iter()
        .filter_map(|outcome| outcome.failure)
        .collect();
    assert!(failures.contains(&Failure::Broken));
    assert!(!failures.contains(&Failure::Answered));
    assert!(failures.len() < 40, "{failures:?}");
    let retried = run
        .outcomes
        .iter()
        .filter(|it| it.attempts == 2 && it.failure.is_none());
    assert!(retried.count() > 0);
    // Later ones may have waited in the line until the others were back.
    let between = run
        .outcomes
        .iter()
        .filter(|it| it.intended >= second(22) && it.intended + it.total < second(60));
    assert!(between.clone().count() > 20);
    assert!(between.clone().all(|it| it.node == Some(0)));
}

#[test]
fn where_all_nodes_fail_only_a_share_of_requests_is_tried_again() {
    const REQUESTS: usize = 16;
    let mut setup = rush("homog", REQUESTS);
    for node in &mut setup.nodes {
        node.troubles.push(Trouble {
            from: Duration::ZERO,
            until: Duration::from_secs(60),
            kind: Kind::Failing,
        });
    }
    let run = simulate(&setup, strategy("round_robin")).unwrap();
    assert_eq!(run.outcomes.len(), REQUESTS);
    let again = run.outcomes.iter().filter(|it| it.attempts == 2).count();
    assert!((3..=3 + REQUESTS / 5).contains(&again), "{again}");
}

/// Many requests at once for nodes that do one at a time.
fn rush(name: &str, requests: usize) -> Setup {
    let mut setup = setup(name, requests);
    for request in &mut setup.requests {
        request.start = Start::At(Duration::from_secs(10));
    }
    setup
}

#[test]
fn whoever_finds_all_full_waits_for_the_first_node_that_has_room() {
    let run = simulate(&rush("np1_hetero", 60), strategy("round_robin")).unwrap();
    assert!(run.outcomes.iter().all(|it| it.failure.is_none()));
    let on = |node| {
        let own = run.outcomes.iter().filter(|it| it.node == Some(node));
        own.count()
    };
    // Taking turns would give each of the six ten.
    let (fast, slow) = (on(0), on(5));
    assert!(fast > 15 && slow < 5, "{fast} and {slow}");
}

#[test]
fn whoever_waits_too_long_is_refused_and_nobody_is_lost() {
    let mut setup = rush("np1_homog", 700);
    for node in &mut setup.nodes {
        node.gpu = CPU;
    }
    let run = simulate(&setup, strategy("least_connections")).unwrap();
    assert_eq!(run.outcomes.len(), 700);
    let refused = run
        .outcomes
        .iter()
        .filter(|it| it.failure == Some(Failure::Refused));
    let at_once = refused.clone().filter(|it| it.total.is_zero()).count();
    let deadline = config::Queue::default().timeout;
    let late = refused
        .clone()
        .filter(|it| it.total >= deadline && it.attempts == 0);
    assert!(at_once >= 700 - 512 - 8, "{at_once} found the line full");
    assert!(late.count() > 100, "those whose time was over");
    let served = run.outcomes.iter().filter(|it| it.failure.is_none());
    assert_eq!(served.count() + refused.count(), 700);
    assert!(
        run.outcomes
            .iter()
            .all(|it| it.failure.is_none() || it.total < deadline + Duration::from_secs(1))
    );
}

#[test]
fn clients_that_wait_too_long_leave() {
    let mut setup = setup("homog", 50);
    setup.patience = Duration::from_secs(5);
    for node in &mut setup.nodes {
        node.gpu = CPU;
    }
    let run = simulate(&setup, strategy("round_robin")).unwrap();
    assert_eq!(run.outcomes.len(), 50);
    for outcome in &run.outcomes {
        let is_late = outcome.failure == Some(Failure::TimedOut);
        assert_eq!(is_late, outcome.total == setup.patience);
    }
    assert!(run.outcomes.iter().any(|outcome| outcome.failure.is_some()));
}

#[test]
fn random_fleets_can_serve_what_they_are_asked_for() {
    for seed in 0..30 {
        let setup = fuzz(seed, 60, 1);
        assert!((2..=8).contains(&setup.nodes.len()) && (1..=5).contains(&setup.models.len()));
        let run = simulate(&setup, strategy("least_connections")).unwrap();
        let failed = run
            .outcomes
            .iter()
            .filter(|outcome| outcome.failure.is_some());
        assert!(failed.count() * 10 <= run.outcomes.len(), "{seed}");
    }
}

#[test]
fn more_load_takes_longer() {
    let at = |load| {
        let params = Params {
            load,
            ..params(3, 1000)
        };
        let setup = Scenario::find("homog").unwrap().setup(&params);
        mean(&simulate(&setup, strategy("least_connections")).unwrap())
    };
    let means = [0.3, 0.7, 0.95].map(at);
    assert!(means.is_sorted(), "{means:?}");
    assert!(means[2] > 1.3 * means[0], "{means:?}");
}
