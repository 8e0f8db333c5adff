//! The same client to the same backend for as long as it is there, without a table: rendezvous hashing.
//!
//! Each backend draws a number for each client from a hash of the two, and the best number wins. A backend that leaves
//! takes only its own clients with it, and one that comes takes its share evenly from all. The draw depends on nothing
//! but the client, the backend's name and its weight, so replicas agree, and restarts change nothing.
//!
//! **Everything here is a promise between versions:** replicas of two versions that disagree would tear clients from
//! their backends. The test vectors must never change.

use super::{Candidates, Entry, Strategy};
use crate::pool::Backend;
use std::cmp::Ordering;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(super) const ENTRY: Entry = Entry {
    name: "ip_hash",
    summary: "the same client address to the same backend",
    build: |_seed| Box::new(IpHash),
};

/// Not the process's seed, which differs between replicas.
const SEED: u64 = 0x6c6c_616d_6572_6f01;

#[derive(Debug)]
struct IpHash;

impl Strategy for IpHash {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let client = candidates.demand.client_key();
        let draws = candidates.iter().map(|backend| Draw::of(client, backend));
        let best = draws.enumerate().max_by(|(_, a), (_, b)| a.against(b));
        best.map_or(0, |(at, _)| at)
    }
}

/// What one backend drew for one client.
struct Draw<'a> {
    hash: u64,
    backend: &'a Backend,
}

impl<'a> Draw<'a> {
    fn of(client: u64, backend: &'a Backend) -> Self {
        let both = u128::from(client) << 64 | u128::from(backend.name_hash());
        let hash = xxh3_64_with_seed(&both.to_be_bytes(), SEED);
        Self { hash, backend }
    }

    /// Greater is better. With equal weights the hashes decide as they are; else the waiting time of a Poisson process
    /// of rate `weight`, of which the shortest belongs to each backend with a chance proportional to its weight.
    fn against(&self, other: &Self) -> Ordering {
        let (weight, others) = (self.backend.weight(), other.backend.weight());
        let order = if weight.to_bits() == others.to_bits() {
            self.hash.cmp(&other.hash)
        } else {
            (minus_ln(other.hash) / others).total_cmp(&(minus_ln(self.hash) / weight))
        };
        // Two equal hashes are as good as impossible, but then too the order of the configuration must not matter.
        order.then_with(|| other.backend.name().cmp(self.backend.name()))
    }
}

/// `-ln(u)` for the `u` between 0 and 1 that the hash stands for, exact to twelve digits.
///
/// The platform's logarithm may differ in its last bit from that of another. This one has only additions,
/// multiplications and divisions, which are the same to the bit wherever IEEE 754 holds.
fn minus_ln(hash: u64) -> f64 {
    const LN_2: f64 = std::f64::consts::LN_2;
    const ONE: u64 = 1 << 52;
    // u = mantissa * 2^-exponent with the mantissa in [1, 2); the lowest bit keeps it from being 0.
    let hash = hash | 1;
    let exponent = hash.leading_zeros() + 1;
    let fraction = (hash << (exponent - 1) << 1) >> 12;
    let mantissa = 1.0 + fraction as f64 / ONE as f64;
    // ln(x) = 2 artanh((x - 1) / (x + 1)), taken about the middle of [1, 2) where the series is short.
    let middle = std::f64::consts::SQRT_2;
    let s = (mantissa - middle) / (mantissa + middle);
    let square = s * s;
    let mut series = 0.0;
    for odd in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * square + 1.0 / odd;
    }
    f64::from(exponent) * LN_2 - LN_2 / 2.0 - 2.0 * s * series
}
