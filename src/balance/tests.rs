//! What every strategy of the table must do, and the fleets that the strategies' own tests choose from.

use super::{ALL, Candidates, Entry, Strategy};
use crate::clock;
use crate::demand::Demand;
use crate::health::Policy;
use crate::knowledge::Job;
use crate::pool::{Backend, Origin, Spec};
use http::StatusCode;
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Backends `n0`, `n1` and so on, a demand, and a time that only moves when a test moves it.
pub(super) struct Fleet {
    pub backends: Vec<Arc<Backend>>,
    pub demand: Demand,
    pub now: Instant,
}

impl Fleet {
    pub fn of(weights: &[f64]) -> Self {
        let now = clock::epoch();
        let backend = |(at, weight): (usize, &f64)| node(&format!("n{at}"), *weight, now);
        Self {
            backends: weights.iter().enumerate().map(backend).collect(),
            demand: Demand::new(None, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
            now,
        }
    }

    /// The position of the choice among all.
    pub fn pick(&self, strategy: &dyn Strategy) -> usize {
        let all: Vec<_> = (0..self.backends.len()).collect();
        self.pick_among(strategy, &all)
    }

    /// The position of the choice among those at these positions.
    pub fn pick_among(&self, strategy: &dyn Strategy, eligible: &[usize]) -> usize {
        let backends: Vec<_> = eligible.iter().map(|at| &self.backends[*at]).collect();
        let job = Job::new(&self.demand, None, self.now);
        let candidates = Candidates::new(&backends, &job, self.now).unwrap();
        eligible[strategy.pick(&candidates)]
    }

    pub fn measure(&self, at: usize, ttfb: Duration) {
        let lease = self.backends[at].lease(self.now);
        lease.answered(StatusCode::OK, self.now + ttfb);
    }

    /// How often each backend is chosen in so many picks.
    pub fn shares(&self, strategy: &dyn Strategy, picks: usize) -> Vec<usize> {
        let mut counts = vec![0; self.backends.len()];
        for _ in 0..picks {
            counts[self.pick(strategy)] += 1;
        }
        counts
    }
}

pub(super) fn node(name: &str, weight: f64, now: Instant) -> Arc<Backend> {
    let spec = Spec {
        name: name.into(),
        origin: Origin::parse("127.0.0.1:1").unwrap(),
        weight,
        drain: false,
        slots: None,
    };
    Arc::new(Backend::new(spec, Policy::default(), Arc::default(), now))
}

/// What one strategy promises.
struct Promise {
    name: &'static str,
    /// Of 8,000 picks over 8 equal, idle backends, how many one may get more or fewer than its thousand. What is left to
    /// chance gets five standard deviations.
    unevenness: usize,
    /// Whether of two like backends the idle one is chosen.
    prefers_idle: bool,
}

const PROMISES: &[Promise] = &[
    promise("round_robin", 0, false),
    promise("least_connections", 150, true),
    promise("ip_hash", 150, false),
    promise("response_time", 150, true),
    promise("random", 150, false),
    promise("two_choices", 150, true),
    promise("adaptive", 150, true),
];

const fn promise(name: &'static str, unevenness: usize, prefers_idle: bool) -> Promise {
    Promise {
        name,
        unevenness,
        prefers_idle,
    }
}

fn promised() -> impl Iterator<Item = (&'static Entry, &'static Promise)> {
    let of = |entry: &Entry| PROMISES.iter().find(|promise| promise.name == entry.name);
    ALL.iter()
        .map(move |entry| (entry, of(entry).expect("every strategy has a row")))
}

#[test]
fn every_strategy_has_its_row_and_is_found_by_name() {
    let names: Vec<_> = promised().map(|(entry, _)| entry.name).collect();
    let rows: Vec<_> = PROMISES.iter().map(|promise| promise.name).collect();
    assert_eq!(names, rows);
    for entry in ALL {
        assert_eq!(Entry::find(entry.name), Some(entry));
    }
    assert_eq!(Entry::find("roundrobin"), None);
}

#[test]
fn equal_backends_share_evenly_in_any_order() {
    for (entry, promise) in promised() {
        for rotate in [0, 1, 3] {
            let mut fleet = Fleet::of(&[1.0; 8]);
            let strategy = (entry.build)(5);
            let mut order: Vec<_> = (0..8).collect();
            let mut counts = [0usize; 8];
            for client in 0..8_000u32 {
                fleet.demand.client = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + client));
                counts[fleet.pick_among(&*strategy, &order)] += 1;
                order.rotate_left(rotate);
            }
            let worst = counts.iter().map(|count| count.abs_diff(1_000)).max();
            assert!(
                worst <= Some(promise.unevenness),
                "{}, turned by {rotate}: {counts:?}",
                entry.name
            );
        }
    }
}

#[test]
fn an_idle_backend_goes_before_a_loaded_one() {
    for (entry, promise) in promised() {
        for loaded in [0, 1] {
            let fleet = Fleet::of(&[2.0; 2]);
            fleet.measure(0, Duration::from_millis(200));
            fleet.measure(1, Duration::from_millis(200));
            let _lease = fleet.backends[loaded].lease(fleet.now);
            let strategy = (entry.build)(1);
            let counts = fleet.shares(&*strategy, 100);
            if promise.prefers_idle {
                assert_eq!(counts[loaded], 0, "{}", entry.name);
            }
        }
    }
}

#[test]
fn many_threads_choose_at_once_and_every_lease_comes_back() {
    for entry in ALL {
        let fleet = Fleet::of(&[1.0, 2.0, 1.0, 0.5, 3.0]);
        let strategy = (entry.build)(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000u32 {
                        let at = fleet.pick(&*strategy);
                        let lease = fleet.backends[at].lease(fleet.now);
                        let status = if round % 100 == 0 { 500 } else { 200 };
                        let first_byte = fleet.now + Duration::from_millis(u64::from(round % 50));
                        lease.answered(StatusCode::from_u16(status).unwrap(), first_byte);
                    }
                });
            }
        });
        let in_flight: usize = fleet.backends.iter().map(|node| node.in_flight()).sum();
        let requests: u64 = fleet.backends.iter().map(|node| node.requests()).sum();
        assert_eq!((in_flight, requests), (0, 80_000), "{}", entry.name);
    }
}

/// What has happened to one backend.
#[derive(Debug, Clone)]
struct Past {
    weight: f64,
    in_flight: usize,
    ttfb_ms: Option<u64>,
    errors: u32,
}

fn past() -> impl proptest::strategy::Strategy<Value = Past> {
    let weight = prop_oneof![Just(1.0), 0.01..100.0, Just(f64::MIN_POSITIVE), Just(1e300)];
    let ttfb = proptest::option::of(0u64..600_000);
    (weight, 0usize..6, ttfb, 0u32..40).prop_map(|(weight, in_flight, ttfb_ms, errors)| Past {
        weight,
        in_flight,
        ttfb_ms,
        errors,
    })
}

/// Chooses 60 times among changing candidates, keeping two of three requests in flight.
fn run(entry: &Entry, seed: u64, pasts: &[Past], skips: &[u8]) -> Vec<usize> {
    let mut fleet = Fleet::of(&pasts.iter().map(|past| past.weight).collect::<Vec<_>>());
    let mut leases = Vec::new();
    for (at, past) in pasts.iter().enumerate() {
        leases.extend((0..past.in_flight).map(|_| fleet.backends[at].lease(fleet.now)));
        if let Some(ttfb) = past.ttfb_ms {
            fleet.measure(at, Duration::from_millis(ttfb));
        }
        for _ in 0..past.errors {
            let lease = fleet.backends[at].lease(fleet.now);
            lease.failed("reset".into(), fleet.now);
        }
    }
    let strategy = (entry.build)(seed);
    let mut chosen = Vec::new();
    for step in 0..60 {
        let skip = usize::from(skips[step % skips.len()]) % pasts.len();
        let mut eligible: Vec<_> = (0..pasts.len()).collect();
        if eligible.len() > 1 {
            eligible.remove(skip);
        }
        let at = fleet.pick_among(&*strategy, &eligible);
        if step % 3 > 0 {
            leases.push(fleet.backends[at].lease(fleet.now));
        }
        fleet.now += Duration::from_secs(u64::from(skips[0]));
        chosen.push(at);
    }
    chosen
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// A position out of range fails inside `pick_among`.
    #[test]
    fn choices_are_in_range_and_follow_from_the_seed(
        seed: u64,
        pasts in proptest::collection::vec(past(), 1..=40),
        skips in proptest::collection::vec(any::<u8>(), 1..20),
    ) {
        for entry in ALL {
            let first = run(entry, seed, &pasts, &skips);
            prop_assert_eq!(first, run(entry, seed, &pasts, &skips), "{}", entry.name);
        }
    }
}
