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
        let client = candidates.demand().client_key();
        let mut draws = candidates.iter().map(|backend| Draw::of(client, backend));
        let Some(mut best) = draws.next() else {
            return 0;
        };
        let mut best_at = 0;
        for (at, draw) in (1..).zip(draws) {
            if draw.beats(&mut best) {
                (best, best_at) = (draw, at);
            }
        }
        best_at
    }
}

/// What one backend drew for one client.
struct Draw<'a> {
    hash: u64,
    backend: &'a Backend,
    /// See [`Draw::time`].
    time: Option<f64>,
}

impl<'a> Draw<'a> {
    fn of(client: u64, backend: &'a Backend) -> Self {
        let both = u128::from(client) << 64 | u128::from(backend.name_hash());
        Self {
            hash: xxh3_64_with_seed(&both.to_be_bytes(), SEED),
            backend,
            time: None,
        }
    }

    /// With equal weights the hashes decide as they are, else the times.
    fn beats(&self, best: &mut Self) -> bool {
        let weight = self.backend.weight();
        let order = if weight.to_bits() == best.backend.weight().to_bits() {
            self.hash.cmp(&best.hash)
        } else {
            let time = best.time();
            // -ln(u) is at least 1 - u, which is enough to rule most of them out.
            if !self.hash as f64 / 2f64.powi(64) / weight > time {
                return false;
            }
            time.total_cmp(&(minus_ln(self.hash) / weight))
        };
        // Two equal hashes are as good as impossible, but then too the order of the configuration must not matter.
        order
            .then_with(|| best.backend.name().cmp(self.backend.name()))
            .is_gt()
    }

    /// The time until the first event of a Poisson process of rate `weight`: a backend's is the shortest of all with a
    /// chance proportional to its weight.
    fn time(&mut self) -> f64 {
        let weight = self.backend.weight();
        *self
            .time
            .get_or_insert_with(|| minus_ln(self.hash) / weight)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::tests::{Fleet, node};
    use std::net::{IpAddr, Ipv4Addr};

    fn places(fleet: &mut Fleet, clients: u32) -> Vec<String> {
        let place = |client| {
            fleet.demand.client = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + client));
            let at = fleet.pick(&IpHash);
            fleet.backends[at].name().to_owned()
        };
        (0..clients).map(place).collect()
    }

    fn count(places: &[String], name: &str) -> usize {
        places.iter().filter(|place| *place == name).count()
    }

    #[test]
    fn vectors_that_must_never_change() {
        #[track_caller]
        fn check(client: &str, equal: &str, weighted: &str) {
            for (weights, name) in [([1.0; 5], equal), ([1.0, 2.0, 0.5, 8.0, 1.0], weighted)] {
                let mut fleet = Fleet::of(&weights);
                fleet.demand.client = client.parse().unwrap();
                let at = fleet.pick(&IpHash);
                assert_eq!(fleet.backends[at].name(), name, "{client} {weights:?}");
            }
        }
        check("127.0.0.1", "n1", "n1");
        check("10.0.0.1", "n4", "n3");
        check("10.0.0.2", "n1", "n1");
        check("192.168.1.77", "n2", "n0");
        check("203.0.113.9", "n4", "n4");
        check("255.255.255.255", "n2", "n3");
        check("::ffff:10.0.0.1", "n4", "n3");
        check("::1", "n3", "n3");
        check("2001:db8::1", "n4", "n4");
        check("2001:db8::ffff:1", "n4", "n4");
        check("2001:db8:0:1::1", "n0", "n0");
        check("fe80::1", "n1", "n1");
    }

    #[test]
    fn neither_order_nor_other_nodes_nor_the_seed_matter() {
        let mut fleet = Fleet::of(&[1.0, 2.0, 3.0, 2.0, 1.0]);
        let before = places(&mut fleet, 2_000);
        fleet.backends.reverse();
        assert_eq!(places(&mut fleet, 2_000), before);
        let one = (ENTRY.build)(1);
        let other = (ENTRY.build)(2);
        assert_eq!(fleet.pick(&*one), fleet.pick(&*other));
    }

    #[test]
    fn a_node_that_comes_or_goes_moves_its_share_and_no_more() {
        for weight in [1.0, 4.0] {
            let mut fleet = Fleet::of(&[1.0; 6]);
            let before = places(&mut fleet, 12_000);
            fleet.backends.push(node("new", weight, fleet.now));
            let after = places(&mut fleet, 12_000);
            let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            assert_eq!(
                moved,
                count(&after, "new"),
                "nobody moves between old nodes"
            );
            let share = 12_000.0 * weight / (6.0 + weight);
            assert!((moved as f64 - share).abs() < 300.0, "{moved} of {share}");
        }
    }

    #[test]
    fn clients_share_out_by_weight() {
        let weights = [1.0, 2.0, 3.0, 0.5];
        let places = places(&mut Fleet::of(&weights), 26_000);
        for (at, weight) in weights.iter().enumerate() {
            let count = count(&places, &format!("n{at}")) as f64;
            assert!((count - weight * 4_000.0).abs() < 400.0, "n{at}: {count}");
        }
    }

    #[test]
    fn the_logarithm_is_one() {
        let mut hash = 1u64;
        for _ in 0..10_000 {
            hash = hash.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            for hash in [hash, hash >> (hash % 60), u64::MAX - (hash >> 40)] {
                let u = (hash | 1) as f64 / 2f64.powi(64);
                let error = minus_ln(hash) + u.ln();
                assert!(error.abs() < 1e-11, "{hash:#x}: {error:e}");
            }
        }
        assert!((minus_ln(0) - 64.0 * std::f64::consts::LN_2).abs() < 1e-11);
        assert!(minus_ln(u64::MAX) >= 0.0, "{}", minus_ln(u64::MAX));
    }
}
