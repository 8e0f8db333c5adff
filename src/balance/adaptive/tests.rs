//! The strategy over a pool, in virtual time: nodes answer as fast as the test says.

use super::*;
use crate::clock;
use crate::demand::Demand;
use crate::health::Signal;
use crate::knowledge::{Peer, Work};
use crate::pool::{Lease, Loaded, Pool, fixture};
use crate::wire::{Counters, Prefix};
use std::time::Duration;
use tokio::time::Instant;

const WORK: Work = Work {
    prompt: 1000.0,
    output: 200.0,
};

#[track_caller]
fn check_better(better: &Outlook, worse: &Outlook) {
    let (a, b) = (score(&WORK, better, 0.1), score(&WORK, worse, 0.1));
    assert!(a.total() < b.total(), "{a:?} {b:?}");
}

#[test]
fn whatever_makes_a_node_worse_costs() {
    let idle = Outlook::default();
    let peer = Peer {
        prefill: 500.0,
        output: 100.0,
        is_decoding: false,
    };
    let writing = Peer {
        prefill: 0.0,
        is_decoding: true,
        ..peer
    };
    let with = |change: fn(&mut Outlook)| {
        let mut node = Outlook::default();
        change(&mut node);
        node
    };
    check_better(&with(|it| it.prefill *= 1.1), &idle);
    check_better(&with(|it| it.decode *= 1.1), &idle);
    check_better(&with(|it| it.cached = 500.0), &idle);
    check_better(&idle, &with(|it| it.load = 1.0));
    check_better(&idle, &with(|it| it.eviction = 1.0));
    check_better(&idle, &with(|it| it.others = 1));
    check_better(&idle, &with(|it| it.others_prefill = 1.0));
    check_better(&idle, &with(|it| it.failures = 1.0));
    check_better(&idle, &with(|it| it.unproven = 1));
    check_better(&idle, &with(|it| it.is_stuck = true));
    let one = Outlook {
        peers: [peer].into_iter().collect(),
        ..Outlook::default()
    };
    let two = Outlook {
        peers: [peer, peer].into_iter().collect(),
        ..Outlook::default()
    };
    let two_slots = Outlook {
        slots: 2,
        ..one.clone()
    };
    let beside = Outlook {
        slots: 2,
        peers: [writing].into_iter().collect(),
        ..Outlook::default()
    };
    check_better(&idle, &one);
    check_better(&one, &two);
    check_better(&two_slots, &one);
    check_better(&idle, &beside);
}

#[test]
fn a_load_and_the_wait_for_a_slot_pass_at_the_same_time() {
    let peer = Peer {
        prefill: 0.0,
        output: 400.0,
        is_decoding: true,
    };
    let node = Outlook {
        peers: [peer].into_iter().collect(),
        load: 3.0,
        ..Outlook::default()
    };
    let terms = score(&WORK, &node, 0.0);
    assert!((terms.wait - 5.0).abs() < 1e-9, "{terms:?}");
    assert!((terms.first_token() - (5.0 + 1000.0 / 3000.0)).abs() < 1e-9);
}

/// Nodes that answer at their own speeds.
struct Fleet {
    pool: Pool,
    strategy: Box<dyn Strategy>,
    demand: Demand,
    now: Instant,
}

impl Fleet {
    fn of(count: usize) -> Self {
        let tags = r#"{"models":[
            {"name":"a:latest","digest":"aaaaaaaaaaaa","size":4900000000},
            {"name":"b:latest","digest":"bbbbbbbbbbbb","size":4900000000}]}"#;
        Self {
            pool: fixture::alike(count, 1, tags),
            strategy: (ENTRY.build)(3),
            demand: fixture::asks("a"),
            now: clock::epoch(),
        }
    }

    /// Everybody has these in memory.
    fn loaded(self, names: &[&str]) -> Self {
        for backend in self.pool.backends() {
            self.sees(backend.name(), names);
        }
        self
    }

    fn sees(&self, backend: &str, names: &[&str]) {
        let entry = |name: &&str| {
            let digest = name.repeat(12);
            format!(r#"{{"name":"{name}:latest","digest":"{digest}","size":6000000000}}"#)
        };
        let entries: Vec<_> = names.iter().map(entry).collect();
        let loaded = Loaded::from_ps(format!(r#"{{"models":[{}]}}"#, entries.join(",")).as_bytes());
        let node = self.pool.backends().iter().find(|it| it.name() == backend);
        node.unwrap()
            .see(loaded.unwrap(), self.now, self.now, jiff::Timestamp::now());
    }

    fn choose(&self) -> Lease {
        self.pool
            .choose(&*self.strategy, &self.demand, &[], self.now)
            .unwrap()
    }

    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    /// Lets a node answer at so many tokens a second; returns its name.
    fn answer(&mut self, mut lease: Lease, rate: f64) -> String {
        self.pass(10.0 / rate);
        lease.first_byte(self.now);
        self.pass(200.0 / rate);
        lease.progressed(200, self.now);
        let time = |tokens: f64| Some(Duration::from_secs_f64(tokens / rate));
        let counters = Counters {
            prompt_tokens: Some(1000),
            prompt_time: time(10.0),
            output_tokens: Some(200),
            output_time: time(200.0),
            ..Counters::default()
        };
        lease.finished(&counters, self.now);
        lease.backend().name().to_owned()
    }

    /// Shares of so many requests one after another, half of which overlap with the next.
    fn shares(&mut self, requests: usize, rate: impl Fn(&str) -> f64) -> Vec<usize> {
        let mut counts = vec![0; self.pool.backends().len()];
        let mut before: Option<Lease> = None;
        for _ in 0..requests {
            let lease = self.choose();
            let name = lease.backend().name().to_owned();
            counts[name[1..].parse::<usize>().unwrap()] += 1;
            if let Some(before) = before.replace(lease) {
                let rate = rate(before.backend().name());
                self.answer(before, rate);
            }
        }
        counts
    }
}

#[tokio::test]
async fn a_faster_node_gets_more_and_more() {
    let mut last = 0;
    for factor in [1.0, 2.0, 4.0, 8.0] {
        let mut fleet = Fleet::of(3).loaded(&["a"]);
        let shares = fleet.shares(400, |name| if name == "n1" { 50.0 * factor } else { 50.0 });
        assert!(shares[1] + 20 >= last, "{factor}: {shares:?}");
        last = shares[1];
    }
    assert!(last > 180, "{last} of 400");
}

#[tokio::test]
async fn equal_nodes_get_equal_shares() {
    let mut fleet = Fleet::of(4).loaded(&["a"]);
    let shares = fleet.shares(400, |_| 50.0);
    assert!(
        shares.iter().all(|share| share.abs_diff(100) < 30),
        "{shares:?}"
    );
}

#[tokio::test]
async fn goes_where_the_model_is_and_loads_a_copy_only_when_that_is_sooner() {
    let mut fleet = Fleet::of(2);
    fleet.sees("n0", &["b"]);
    fleet.sees("n1", &["a"]);
    for _ in 0..5 {
        let lease = fleet.choose();
        assert_eq!(fleet.answer(lease, 80.0), "n1");
    }
    let leases: Vec<_> = (0..12).map(|_| fleet.choose()).collect();
    let elsewhere = leases
        .iter()
        .filter(|it| it.backend().name() == "n0")
        .count();
    assert!((1..=8).contains(&elsewhere), "{elsewhere} of 12");
}

#[tokio::test]
async fn two_shapes_of_a_model_do_not_take_turns_on_one_node() {
    let mut fleet = Fleet::of(2).loaded(&["a"]);
    let mut seen = std::collections::HashMap::<i64, Vec<String>>::new();
    for turn in 0..20 {
        let num_ctx = if turn % 2 == 0 { 8192 } else { 32768 };
        fleet.demand.runner.num_ctx = Some(num_ctx);
        let lease = fleet.choose();
        let name = fleet.answer(lease, 80.0);
        seen.entry(num_ctx).or_default().push(name);
    }
    for (num_ctx, names) in seen {
        // The first may find both nodes with the default shape and take either.
        assert!(
            names[1..].iter().all(|name| *name == names[1]),
            "{num_ctx}: {names:?}"
        );
    }
    assert!(fleet.pool.reloads_avoided() > 5);
}

#[tokio::test]
async fn the_next_turn_of_a_conversation_goes_where_the_last_was_computed() {
    let mut fleet = Fleet::of(4).loaded(&["a"]);
    // Slow enough that computing the prompt again would be felt.
    fleet.shares(40, |_| 20.0);
    for session in 0..20u64 {
        let mut home = None;
        for turns in 1..5u64 {
            let prefix = |turn| Prefix {
                hash: session * 100 + turn,
                bytes: 20_000 * (turn + 1),
            };
            fleet.demand.prefixes = (0..turns).map(prefix).collect();
            fleet.demand.prompt_bytes = 20_000 * turns;
            let lease = fleet.choose();
            let name = fleet.answer(lease, 20.0);
            assert_eq!(*home.get_or_insert(name.clone()), name, "{session} {turns}");
        }
    }
}

#[tokio::test]
async fn a_node_that_gives_no_sign_of_life_gets_nothing_more() {
    let mut fleet = Fleet::of(2).loaded(&["a"]);
    fleet.shares(20, |_| 50.0);
    let silent = fleet.choose();
    silent.first_byte(fleet.now);
    silent.progressed(1, fleet.now);
    fleet.pass(60.0);
    for _ in 0..6 {
        let lease = fleet.choose();
        assert_ne!(lease.backend().name(), silent.backend().name());
        std::mem::forget(lease); // still running
    }
}

#[tokio::test]
async fn one_that_fails_is_left_alone_while_another_can_serve() {
    let mut fleet = Fleet::of(2).loaded(&["a"]);
    fleet.shares(20, |_| 50.0);
    let sick = &fleet.pool.backends()[0];
    for _ in 0..5 {
        sick.observe(Signal::Failed("500".into()), fleet.now);
    }
    let leases: Vec<_> = (0..10).map(|_| fleet.choose()).collect();
    assert!(leases.iter().all(|lease| lease.backend().name() == "n1"));
}

#[tokio::test]
async fn every_idle_node_that_has_the_model_is_used_now_and_then() {
    let mut fleet = Fleet::of(3).loaded(&["a"]);
    fleet.shares(60, |name| if name == "n2" { 10.0 } else { 60.0 });
    let mut counts = [0; 3];
    for _ in 0..600 {
        let lease = fleet.choose();
        fleet.pass(2.0);
        let at: usize = lease.backend().name()[1..].parse().unwrap();
        counts[at] += 1;
        fleet.answer(lease, if at == 2 { 10.0 } else { 60.0 });
    }
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
}

#[tokio::test]
async fn the_order_of_the_configuration_changes_nothing() {
    let speed = |name: &str| if name == "n0" { 100.0 } else { 40.0 };
    let turned = |name: &str| if name == "n2" { 100.0 } else { 40.0 };
    let first = Fleet::of(3).loaded(&["a"]).shares(600, speed);
    let last = Fleet::of(3).loaded(&["a"]).shares(600, turned);
    assert!(first[0].abs_diff(last[2]) < 60, "{first:?} {last:?}");
    assert!(first[2].abs_diff(last[0]) < 60, "{first:?} {last:?}");
}
