//! The promises of the turn, for any weights and any order of events.

use super::*;
use crate::balance::tests::{Fleet, node};
use crate::health::Policy;
use crate::pool::{Pool, Spec};
use proptest::prelude::*;

fn strategy(seed: u64) -> RoundRobin {
    RoundRobin {
        dice: Dice::seeded(seed),
        turns: Mutex::default(),
    }
}

fn model(name: &str) -> ModelKey {
    ModelKey::parse(name).unwrap()
}

#[track_caller]
fn check_no_repeats(picks: &[usize]) {
    let repeat = picks.windows(2).position(|pair| pair[0] == pair[1]);
    assert_eq!(repeat, None, "{picks:?}");
}

#[test]
fn nine_hundred_requests_over_three_equal_nodes() {
    let (fleet, strategy) = (Fleet::of(&[1.0; 3]), strategy(1));
    let picks: Vec<_> = (0..900).map(|_| fleet.pick(&strategy)).collect();
    check_no_repeats(&picks);
    for (at, next) in picks.iter().zip(&picks[1..]) {
        assert_eq!((at + 1) % 3, *next, "in the configuration's order");
    }
}

#[test]
fn each_model_has_its_own_turn() {
    let (mut fleet, strategy) = (Fleet::of(&[1.0; 3]), strategy(1));
    let models = [Some(model("llama3.2")), Some(model("qwen3")), None];
    let mut picks = [vec![], vec![], vec![]];
    for step in 0..2_700 {
        // In pairs, so that a common turn would give one model two of three nodes alone.
        let asked = step / 2 % 3;
        fleet.demand.model.clone_from(&models[asked]);
        picks[asked].push(fleet.pick(&strategy));
    }
    for picks in &picks {
        check_no_repeats(picks);
        for node in 0..3 {
            assert_eq!(picks.iter().filter(|at| **at == node).count(), 300);
        }
    }
}

#[test]
fn heavier_nodes_are_interleaved() {
    let fleet = Fleet::of(&[5.0, 1.0, 1.0]);
    for seed in 0..50 {
        let strategy = strategy(seed);
        let picks: Vec<_> = (0..70).map(|_| fleet.pick(&strategy)).collect();
        let longest = picks
            .chunk_by(|a, b| a == b)
            .filter(|run| run[0] == 0)
            .map(<[_]>::len)
            .max();
        assert!(longest <= Some(5), "{picks:?}");
        let fleet = Fleet::of(&[3.0, 2.0, 1.0]);
        let picks: Vec<_> = (0..60).map(|_| fleet.pick(&strategy)).collect();
        assert!(
            picks.windows(3).all(|w| w != [0, 0, 0] && w[1..] != [1, 1]),
            "{picks:?}"
        );
    }
}

#[test]
fn the_seed_decides_where_a_turn_begins() {
    for weights in [[1.0, 1.0, 1.0], [3.0, 2.0, 1.0]] {
        let fleet = Fleet::of(&weights);
        let mut first = [0; 3];
        for seed in 0..600 {
            first[fleet.pick(&strategy(seed))] += 1;
        }
        assert!(
            first.iter().all(|count| *count > 60),
            "{weights:?}: {first:?}"
        );
    }
}

#[test]
fn nobody_inherits_the_turns_of_a_node_that_is_out() {
    let (fleet, turn) = (Fleet::of(&[1.0; 4]), strategy(2));
    let mut counts = [0usize; 4];
    for _ in 0..300 {
        counts[fleet.pick_among(&turn, &[0, 2, 3])] += 1;
    }
    assert_eq!(counts, [100, 0, 100, 100]);
    // In and out all the time: still nobody but itself may notice.
    let (turn, dice) = (strategy(3), Dice::seeded(9));
    let mut counts = [0usize; 4];
    for _ in 0..4_000 {
        let out = dice.below(2) == 0;
        let eligible: &[usize] = if out { &[0, 2, 3] } else { &[0, 1, 2, 3] };
        counts[fleet.pick_among(&turn, eligible)] += 1;
    }
    let others = [counts[0], counts[2], counts[3]];
    let spread = others.iter().max().unwrap() - others.iter().min().unwrap();
    assert!(spread <= 60, "{counts:?}");
}

#[test]
fn a_newcomer_and_one_that_returns_get_no_burst() {
    let (mut fleet, strategy) = (Fleet::of(&[1.0; 3]), strategy(4));
    for _ in 0..500 {
        fleet.pick_among(&strategy, &[0, 1]);
    }
    fleet.backends.push(node("new", 1.0, fleet.now));
    let counts = fleet.shares(&strategy, 8);
    assert_eq!(counts, [2; 4]);
}

#[test]
fn a_reload_keeps_the_turn_and_a_new_weight_takes_effect_at_once() {
    let (mut fleet, strategy) = (Fleet::of(&[1.0, 1.0, 0.001]), strategy(4));
    let mut specs: Vec<_> = fleet.backends.iter().map(|b| b.spec().clone()).collect();
    let build = |specs: &[Spec], before: Option<&Pool>| {
        Pool::build(specs, Policy::default(), before, fleet.now)
    };
    let pool = build(&specs, None);
    specs[2].weight = 1.0;
    let reloaded = build(&specs, Some(&pool));
    fleet.backends = pool.backends().to_vec();
    let last = (0..101).map(|_| fleet.pick(&strategy)).last();
    fleet.backends = reloaded.backends().to_vec();
    let picks: Vec<_> = (0..9).map(|_| fleet.pick(&strategy)).collect();
    assert_ne!(last, Some(picks[0]));
    check_no_repeats(&picks);
    assert_eq!(picks[..3].iter().sum::<usize>(), 3, "{picks:?}");
}

#[test]
fn what_is_gone_is_forgotten() {
    let (mut fleet, strategy) = (Fleet::of(&[1.0; 3]), strategy(5));
    for reload in 0..50 {
        fleet.backends[0] = node(&format!("reload{reload}"), 1.0, fleet.now);
        fleet.shares(&strategy, 100);
    }
    for _ in 0..2 * FORGET_AFTER {
        fleet.pick(&strategy);
    }
    let turns = strategy.turns.lock().unwrap();
    assert_eq!(turns.by_model[&None].places.len(), 3);
}

#[test]
fn models_beyond_the_limit_replace_the_least_used() {
    let (mut fleet, strategy) = (Fleet::of(&[1.0; 2]), strategy(6));
    for number in 0..3 * MODELS_LIMIT {
        fleet.demand.model = Some(model(&format!("m{number}")));
        fleet.pick(&strategy);
        fleet.demand.model = Some(model("busy"));
        let before = fleet.pick(&strategy);
        assert_ne!(fleet.pick(&strategy), before);
    }
    let turns = strategy.turns.lock().unwrap();
    assert_eq!(turns.by_model.len(), MODELS_LIMIT);
    assert_eq!(
        turns.by_model[&Some(model("busy"))].count,
        2 + 6 * MODELS_LIMIT as u64
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_window_of_one_cycle_is_exact(
        seed: u64,
        weights in proptest::collection::vec(1u32..12, 1..8),
        cycles in 2usize..12,
        unit in prop_oneof![Just(1.0), 0.001..1000.0f64],
    ) {
        let cycle = weights.iter().sum::<u32>() as usize;
        let fleet = Fleet::of(&weights.iter().map(|w| f64::from(*w) * unit).collect::<Vec<_>>());
        let strategy = strategy(seed);
        let picks: Vec<_> = (0..cycles * cycle).map(|_| fleet.pick(&strategy)).collect();
        for window in picks.windows(cycle) {
            for (at, weight) in weights.iter().enumerate() {
                let count = window.iter().filter(|pick| **pick == at).count();
                prop_assert_eq!(count, *weight as usize, "{:?} in {:?}", window, picks);
            }
        }
    }

    /// Bit `i` of a mask says whether node `i` is a candidate. Each node is replaced by a newcomer now and then.
    #[test]
    fn equal_nodes_never_follow_themselves(
        seed: u64,
        weight in 0.001..1000.0f64,
        masks in proptest::collection::vec((1u8.., any::<u8>()), 1..400),
    ) {
        let mut fleet = Fleet::of(&[weight; 8]);
        let strategy = strategy(seed);
        let mut last = usize::MAX;
        for (mask, chance) in masks {
            if chance < 8 {
                let new = usize::from(chance);
                fleet.backends[new] = node("new", weight, fleet.now);
                if last == new {
                    last = usize::MAX;
                }
            }
            let eligible: Vec<_> = (0..8).filter(|at| mask >> at & 1 == 1).collect();
            let at = fleet.pick_among(&strategy, &eligible);
            prop_assert!(at != last || eligible.len() == 1, "{eligible:?}");
            last = at;
        }
    }

    /// However long it goes on: what rounding leaves must not add up.
    #[test]
    fn a_long_run_stays_exact(seed: u64, weights in proptest::collection::vec(1u32..50, 2..5)) {
        let cycle = weights.iter().sum::<u32>() as usize;
        let fleet = Fleet::of(&weights.iter().map(|w| f64::from(*w)).collect::<Vec<_>>());
        let strategy = strategy(seed);
        let counts = fleet.shares(&strategy, 60 * cycle);
        let expected: Vec<_> = weights.iter().map(|w| *w as usize * 60).collect();
        prop_assert_eq!(counts, expected);
    }
}
