//! One choice of the adaptive strategy in a fleet that is well known and has work.

use llamero::balance::{Entry, Strategy};
use llamero::demand::Demand;
use llamero::health::Policy;
use llamero::pool::{Inventory, Lease, Origin, Pool, Spec};
use llamero::wire::{ModelKey, Prefix};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::time::Instant;

/// Requests in flight on each node.
const IN_FLIGHT: usize = 8;

/// Nodes that all hold the model.
pub struct Fleet {
    pool: Pool,
    strategy: Box<dyn Strategy>,
    demand: Demand,
    now: Instant,
    _leases: Vec<Lease>,
}

impl Fleet {
    pub fn new(size: usize) -> Self {
        let start = Instant::now();
        let spec = |at: usize| Spec {
            name: format!("node{at}").into(),
            origin: Origin::parse("127.0.0.1").expect("an address"),
            weight: 1.0,
            drain: false,
            slots: None,
        };
        let specs: Vec<_> = (0..size).map(spec).collect();
        let pool = Pool::build(&specs, Policy::default(), None, start);
        let tags = br#"{"models":[{"name":"m","digest":"a80c4f17acd5","size":2019393189}]}"#;
        for backend in pool.backends() {
            pool.learn(backend, Inventory::from_tags(tags).expect("tags"));
        }
        let build = |name| (Entry::find(name).expect("a strategy").build)(1);
        let spread = build("least_connections");
        let mut demand = Demand::new(
            ModelKey::parse("m"),
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        );
        demand.prompt_bytes = 8000;
        let mut leases = Vec::new();
        for at in 0..size * IN_FLIGHT {
            let prefix = |turn| Prefix {
                hash: (at as u64) << 32 | turn,
                bytes: 400 * (turn + 1),
            };
            demand.prefixes = (0..20).map(prefix).collect();
            let lease = pool.choose(&*spread, &demand, &[], start);
            let lease = lease.expect("somebody is eligible");
            lease.first_byte(start + Duration::from_millis(100));
            lease.progressed(20, start + Duration::from_millis(400));
            leases.push(lease);
        }
        Self {
            pool,
            strategy: build("adaptive"),
            demand,
            now: start + Duration::from_millis(500),
            _leases: leases,
        }
    }

    /// Chooses, and gives the place back.
    pub fn choose(&self) {
        drop(black_box(self.pool.choose(
            &*self.strategy,
            black_box(&self.demand),
            &[],
            self.now,
        )));
    }
}
