//! What choosing a backend costs: each strategy alone, and with the filter before it, for pools of 2 to 1000.

use criterion::{BenchmarkId, Criterion};
use http::StatusCode;
use llamero::balance::{ALL, Candidates, Entry};
use llamero::demand::Demand;
use llamero::health::Policy;
use llamero::knowledge::Job;
use llamero::pool::{Inventory, Lease, Origin, Pool, Spec};
use llamero::wire::{ModelKey, Prefix};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::time::Instant;

const SIZES: [usize; 4] = [2, 8, 64, 1000];

/// A pool under some load: weights of 1 to 3, up to three requests in flight, all measured in the last minute.
fn pool(size: usize, now: Instant) -> (Pool, Vec<Lease>) {
    let spec = |at: usize| Spec {
        name: format!("node{at}").into(),
        origin: Origin::parse("127.0.0.1").expect("an address"),
        weight: (at % 3 + 1) as f64,
        drain: false,
        slots: None,
    };
    let specs: Vec<_> = (0..size).map(spec).collect();
    let pool = Pool::build(&specs, Policy::default(), None, now);
    let mut leases = Vec::new();
    for (at, backend) in pool.backends().iter().enumerate() {
        let ago = Duration::from_secs(at as u64 % 60);
        let lease = backend.lease(now);
        let ttfb = Duration::from_millis(50 + at as u64 * 7 % 100);
        lease.answered(StatusCode::OK, now + Duration::from_secs(60) - ago + ttfb);
        drop(lease);
        leases.extend((0..at % 4).map(|_| backend.lease(now)));
    }
    (pool, leases)
}

fn choose(criterion: &mut Criterion) {
    let demand = Demand::new(
        ModelKey::parse("llama3.2"),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
    );
    let model = demand.model.as_ref();
    for size in SIZES {
        let start = Instant::now();
        let (pool, _leases) = pool(size, start);
        let now = start + Duration::from_secs(61);
        let mut group = criterion.benchmark_group("eligible");
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| pool.eligible(black_box(model), &[], now).len());
        });
        group.finish();
        for entry in ALL {
            let strategy = (entry.build)(1);
            let mut group = criterion.benchmark_group(entry.name);
            let eligible = pool.eligible(model, &[], now);
            let job = Job::new(&demand, None, now);
            group.bench_function(BenchmarkId::new("pick", size), |bencher| {
                bencher.iter(|| {
                    let candidates = Candidates::new(black_box(&eligible), &job, now);
                    candidates.map(|candidates| strategy.pick(&candidates))
                });
            });
            group.bench_function(BenchmarkId::new("choice", size), |bencher| {
                bencher.iter(|| {
                    let eligible = pool.eligible(black_box(model), &[], now);
                    let candidates = Candidates::new(&eligible, &job, now);
                    candidates.map(|candidates| strategy.pick(&candidates))
                });
            });
            group.finish();
        }
    }
}

/// What a choice that knows the nodes costs: everybody holds the model and has 8 requests for it.
fn informed(criterion: &mut Criterion) {
    let mut demand = Demand::new(
        ModelKey::parse("llama3.2"),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
    );
    demand.prompt_bytes = 8000;
    let tags = br#"{"models":[{"name":"llama3.2","digest":"a80c4f17acd5","size":2019393189}]}"#;
    for size in [2, 16, 32, 64, 1000] {
        let start = Instant::now();
        let (pool, _leases) = pool(size, start);
        for backend in pool.backends() {
            pool.learn(backend, Inventory::from_tags(tags).expect("tags"));
        }
        let strategy = Entry::find("least_connections").map(|entry| (entry.build)(1));
        let strategy = strategy.expect("a strategy");
        let mut leases = Vec::new();
        for at in 0..size * 8 {
            demand.prefixes = (0..20)
                .map(|turn| Prefix {
                    hash: (at as u64) << 32 | turn,
                    bytes: 400 * (turn + 1),
                })
                .collect();
            let lease = pool.choose(&*strategy, &demand, &[], start);
            let lease = lease.expect("somebody is eligible");
            lease.first_byte(start + Duration::from_millis(100));
            lease.progressed(20, start + Duration::from_millis(400));
            leases.push(lease);
        }
        let now = start + Duration::from_millis(500);
        let mut group = criterion.benchmark_group("informed");
        for entry in ALL {
            let strategy = (entry.build)(1);
            group.bench_function(BenchmarkId::new(entry.name, size), |bencher| {
                bencher.iter(|| pool.choose(&*strategy, black_box(&demand), &[], now));
            });
        }
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .without_plots()
        .configure_from_args();
    choose(&mut criterion);
    informed(&mut criterion);
    criterion.final_summary();
}
