//! What the middling node of a fleet is like: the first guess for one that nobody has measured.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Seconds for which the medians stand.
const STAND: f64 = 1.0;

/// Medians over the nodes that were measured. Readers never wait.
#[derive(Debug)]
pub struct Medians {
    prefill: AtomicU64,
    decode: AtomicU64,
    slope: AtomicU64,
    bandwidth: AtomicU64,
    /// The share of prompts that nodes had computed before, over the fleet.
    cached_share: AtomicU64,
    taken: AtomicU64,
}

/// One reading of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Typical {
    /// Prompt tokens per second.
    pub prefill: f64,
    /// Answer tokens per second.
    pub decode: f64,
    /// How much each further answer slows all, as a share.
    pub slope: f64,
    /// Bytes per second that loads take.
    pub bandwidth: f64,
}

impl Typical {
    /// A middling card, for a fleet of which nothing was measured yet.
    pub const FIRST: Self = Self {
        prefill: 2000.0,
        decode: 60.0,
        slope: 0.2,
        bandwidth: 1e9,
    };
}

impl Default for Medians {
    fn default() -> Self {
        let first = Typical::FIRST;
        let bits = |value: f64| AtomicU64::new(value.to_bits());
        Self {
            prefill: bits(first.prefill),
            decode: bits(first.decode),
            slope: bits(first.slope),
            bandwidth: bits(first.bandwidth),
            cached_share: bits(0.0),
            taken: bits(f64::NEG_INFINITY),
        }
    }
}

impl Medians {
    /// What is typical.
    pub fn read(&self) -> Typical {
        let value = |of: &AtomicU64| f64::from_bits(of.load(Relaxed));
        Typical {
            prefill: value(&self.prefill),
            decode: value(&self.decode),
            slope: value(&self.slope),
            bandwidth: value(&self.bandwidth),
        }
    }

    /// The share of prompts that nodes had computed before, 0 to 1.
    pub fn cached_share(&self) -> f64 {
        f64::from_bits(self.cached_share.load(Relaxed))
    }

    /// Takes in a prompt of which this share had been computed before.
    pub fn observe_cached(&self, share: f64) {
        let old = self.cached_share();
        // Two at once may lose one of the two, which an average can bear.
        self.cached_share.store(
            (old + 0.02 * (share.clamp(0.0, 1.0) - old)).to_bits(),
            Relaxed,
        );
    }

    /// Whether they are to be taken anew; the answer counts as taken.
    pub fn begin(&self, now: f64) -> bool {
        let taken = f64::from_bits(self.taken.load(Relaxed));
        let due = now >= taken + STAND || now < taken;
        if due {
            self.taken.store(now.to_bits(), Relaxed);
        }
        due
    }

    /// Takes them over nodes; where nobody was measured, what stood before stays.
    pub fn take(&self, nodes: impl Iterator<Item = Measured>) {
        let (mut prefill, mut decode, mut slope, mut bandwidth) = (vec![], vec![], vec![], vec![]);
        for node in nodes {
            prefill.extend(node.prefill);
            if let Some((rate, by)) = node.decode {
                decode.push(rate);
                slope.push(by);
            }
            bandwidth.extend(node.bandwidth);
        }
        for (values, to) in [
            (&mut prefill, &self.prefill),
            (&mut decode, &self.decode),
            (&mut slope, &self.slope),
            (&mut bandwidth, &self.bandwidth),
        ] {
            if let Some(median) = median(values) {
                to.store(median.to_bits(), Relaxed);
            }
        }
    }
}

/// What was measured of a node; `None` where nothing was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    /// Prompt tokens per second.
    pub prefill: Option<f64>,
    /// Answer tokens per second, and how much each further answer slows all.
    pub decode: Option<(f64, f64)>,
    /// Bytes per second that loads take.
    pub bandwidth: Option<f64>,
}

/// The value in the middle; of an even number, the mean of the two.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_those_who_were_measured() {
        let medians = Medians::default();
        let node = |rate| Measured {
            prefill: Some(rate),
            ..Measured::default()
        };
        medians.take([node(1.0), node(100.0), node(5.0), Measured::default()].into_iter());
        assert_eq!(
            medians.read(),
            Typical {
                prefill: 5.0,
                ..Typical::FIRST
            }
        );
        medians.take([node(1.0), node(3.0)].into_iter());
        assert!((medians.read().prefill - 2.0).abs() < 1e-9);
        assert!(medians.begin(10.0) && !medians.begin(10.5) && medians.begin(11.0));
    }
}
