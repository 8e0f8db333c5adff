//! Chance that can be repeated: the same seed gives the same sequence, whoever asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A source of random numbers that many threads may use without a lock.
///
/// Each draw is one atomic addition (SplitMix64), so threads never draw the same number twice.
#[derive(Debug)]
pub struct Dice(AtomicU64);

impl Dice {
    /// Dice whose throws follow from the seed alone.
    pub fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A number below `n`, each as likely as the others; 0 if `n` is 0.
    pub fn below(&self, n: usize) -> usize {
        // The high half of the product; its bias is n in 2^64.
        let high = (u128::from(self.next()) * n as u128) >> 64;
        usize::try_from(high).unwrap_or_default() // below n, so it fits
    }

    /// A number from 0 to just under 1.
    pub fn unit(&self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Other dice, whose throws follow from one of these.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(AtomicU64::new(self.next()))
    }

    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut x = self.0.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throws_are_even_and_repeatable() {
        let (dice, again) = (Dice::seeded(7), Dice::seeded(7));
        let mut faces = [0u32; 6];
        let mut sum = 0.0;
        for _ in 0..60_000 {
            let face = dice.below(6);
            assert_eq!(face, again.below(6));
            faces[face] += 1;
            let unit = dice.unit();
            assert!((0.0..1.0).contains(&unit));
            assert_eq!(unit.to_bits(), again.unit().to_bits());
            sum += unit;
        }
        // Five standard deviations.
        assert!(
            faces.iter().all(|count| count.abs_diff(10_000) < 460),
            "{faces:?}"
        );
        assert!((sum / 60_000.0 - 0.5).abs() < 0.006, "{sum}");
        assert_eq!(dice.below(0), 0);
        assert_eq!(dice.below(1), 0);
    }
}
