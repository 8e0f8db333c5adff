//! A fleet under load in simulated time, health checks left out: the strategy must cope alone.

use super::*;
use crate::balance::tests::Fleet;
use crate::pool::Lease;
use http::StatusCode;
use std::collections::BTreeMap;
use std::ops::Range;

/// How one node answers.
#[derive(Clone, Copy)]
struct Node {
    ttfb: Duration,
    /// From the first byte to the last.
    stream: Duration,
    status: StatusCode,
}

const fn node(ttfb_ms: u64) -> Node {
    Node {
        ttfb: Duration::from_millis(ttfb_ms),
        stream: Duration::from_millis(2 * ttfb_ms),
        status: StatusCode::OK,
    }
}

/// A node that fails whatever it is asked, at once.
const BROKEN: Node = Node {
    status: StatusCode::INTERNAL_SERVER_ERROR,
    ..node(1)
};

/// Nodes that serve any number at once, each time by chance up to a half faster or slower than they are on average.
struct World {
    fleet: Fleet,
    nodes: Vec<Node>,
    strategy: ResponseTime,
    noise: Dice,
    /// What happens next to requests under way; the number keeps two of one moment apart.
    ahead: BTreeMap<(Instant, u64), Step>,
    started: u64,
}

enum Step {
    FirstByte(usize, Lease),
    LastByte(#[expect(dead_code, reason = "dropped when the time has come")] Lease),
}

impl World {
    fn of(nodes: &[Node], seed: u64) -> Self {
        Self {
            fleet: Fleet::of(&vec![1.0; nodes.len()]),
            nodes: nodes.to_vec(),
            strategy: ResponseTime(Dice::seeded(seed)),
            noise: Dice::seeded(!seed),
            ahead: BTreeMap::new(),
            started: 0,
        }
    }

    /// Requests that come at this distance for so long; how many each node got.
    fn run(&mut self, gap_ms: u64, seconds: u64) -> Vec<usize> {
        let gap = Duration::from_millis(gap_ms);
        let mut counts = vec![0; self.nodes.len()];
        for _ in 0..seconds * 1000 / gap_ms {
            counts[self.arrive()] += 1;
            let next = self.fleet.now + gap;
            self.advance(next);
            self.fleet.now = next;
        }
        counts
    }

    fn arrive(&mut self) -> usize {
        let at = self.fleet.pick(&self.strategy);
        let lease = self.fleet.backends[at].lease(self.fleet.now);
        let ttfb = self.nodes[at].ttfb.mul_f64(0.5 + self.noise.unit());
        self.started += 1;
        let when = (self.fleet.now + ttfb, self.started);
        self.ahead.insert(when, Step::FirstByte(at, lease));
        at
    }

    fn advance(&mut self, until: Instant) {
        while let Some(next) = self.ahead.first_entry() {
            let (now, number) = *next.key();
            if now > until {
                break;
            }
            if let Step::FirstByte(at, lease) = next.remove() {
                let node = self.nodes[at];
                lease.answered(node.status, now);
                let last_byte = (now + node.stream, number);
                self.ahead.insert(last_byte, Step::LastByte(lease));
            }
        }
    }
}

fn share(counts: &[usize], at: usize) -> f64 {
    counts[at] as f64 / counts.iter().sum::<usize>() as f64
}

#[test]
fn a_node_that_fails_fast_gets_next_to_nothing() {
    for seed in 0..3 {
        for gap_ms in [20, 100, 1000] {
            let mut world = World::of(&[node(200), node(200), BROKEN], seed);
            let counts = world.run(gap_ms, 600);
            let total: usize = counts.iter().sum();
            let after_five = counts[2].saturating_sub(5);
            assert!(after_five * 50 < total, "gap {gap_ms}: {counts:?}");
            // Asked now and then, it is found when it works again.
            assert!(counts[2] > 5, "gap {gap_ms}: {counts:?}");
            world.nodes[2] = node(200);
            world.run(gap_ms, 180);
            let share = share(&world.run(gap_ms, 120), 2);
            assert!((0.15..0.6).contains(&share), "gap {gap_ms}: {share}");
        }
    }
}

#[test]
fn a_node_known_to_be_fast_that_begins_to_fail_is_left_too() {
    let mut world = World::of(&[node(400), node(400), node(50)], 1);
    assert!(share(&world.run(50, 120), 2) > 0.5);
    world.nodes[2] = BROKEN;
    let counts = world.run(50, 600);
    assert!((counts[2] - 5) * 50 < counts.iter().sum(), "{counts:?}");
}

#[test]
fn equal_nodes_share_without_herding() {
    #[track_caller]
    fn check(gap_ms: u64, shares: Range<f64>) {
        for seed in 0..3 {
            let counts = World::of(&[node(300); 4], seed).run(gap_ms, 600);
            for at in 0..4 {
                assert!(shares.contains(&share(&counts, at)), "{counts:?}");
            }
        }
    }
    check(20, 0.22..0.28);
    check(250, 0.22..0.28);
    // One request at a time finds all nodes idle: here luck may favour one for a while, and nobody waits for it.
    check(2000, 0.05..0.6);
}

#[test]
fn a_node_gets_more_the_faster_it_is() {
    let mut world = World::of(&[node(100), node(200), node(800)], 1);
    let counts = world.run(10, 300);
    assert!(
        counts[0] > counts[1] * 2 && counts[1] > counts[2] * 4,
        "{counts:?}"
    );
    assert!(counts[2] > 0);
}

#[test]
fn a_node_that_was_slow_is_found_when_it_is_fast_again() {
    for gap_ms in [20, 100] {
        let mut world = World::of(&[node(200), node(200), node(10_000)], 1);
        let slow = share(&world.run(gap_ms, 300), 2);
        assert!(slow < 0.05, "gap {gap_ms}: {slow}");
        world.nodes[2] = node(200);
        world.run(gap_ms, 360);
        let again = share(&world.run(gap_ms, 120), 2);
        assert!(again > 0.25, "gap {gap_ms}: {again}");
    }
}

#[test]
fn an_unknown_node_gets_one_probe_at_a_time() {
    let fleet = Fleet::of(&[1.0; 3]);
    let strategy = ResponseTime(Dice::seeded(1));
    fleet.measure(0, Duration::from_secs(1));
    fleet.measure(1, Duration::from_secs(1));
    let busy: Vec<_> = (0..10)
        .map(|at| fleet.backends[at % 2].lease(fleet.now))
        .collect();
    assert_eq!(fleet.pick(&strategy), 2, "idle, so it is tried");
    let _probe = fleet.backends[2].lease(fleet.now);
    assert_eq!(fleet.shares(&strategy, 50)[2], 0, "until it has answered");
    assert_eq!(fleet.pick_among(&strategy, &[2]), 2);
    fleet.measure(2, Duration::from_secs(1));
    assert_eq!(fleet.pick(&strategy), 2);
    drop(busy);
}

#[test]
fn where_nothing_is_measured_the_load_decides() {
    let fleet = Fleet::of(&[1.0, 4.0]);
    let strategy = ResponseTime(Dice::seeded(1));
    let mut leases = Vec::new();
    for _ in 0..50 {
        leases.push(fleet.backends[fleet.pick(&strategy)].lease(fleet.now));
    }
    assert_eq!(fleet.backends[1].in_flight(), 40);
}
