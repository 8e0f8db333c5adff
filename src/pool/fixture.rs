//! Nodes that are all alike, for tests of choices.

use super::{Inventory, Origin, Pool, Spec};
use crate::clock;
use crate::demand::Demand;
use crate::health::Policy;
use crate::wire::ModelKey;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Nodes `n0`, `n1` and so on, which hold what `/api/tags` says of them, at the clock's epoch.
pub(crate) fn alike(count: usize, slots: usize, tags: &str) -> Pool {
    let spec = |at| Spec {
        name: format!("n{at}").into(),
        origin: Origin::parse("127.0.0.1:1").unwrap(),
        weight: 1.0,
        drain: false,
        slots: Some(slots),
    };
    let specs: Vec<_> = (0..count).map(spec).collect();
    let pool = Pool::build(&specs, Policy::default(), None, clock::epoch());
    let inventory = Arc::new(Inventory::from_tags(tags.as_bytes()).unwrap());
    for backend in pool.backends() {
        backend.set_inventory(Arc::clone(&inventory));
    }
    pool.recall();
    pool
}

/// A prompt of middling length for a model.
pub(crate) fn asks(model: &str) -> Demand {
    let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let mut demand = Demand::new(ModelKey::parse(model), client);
    demand.prompt_bytes = 4000;
    demand
}
