//! Random numbers of the shapes that load has.

use std::f64::consts::TAU;

/// A source that follows from its seed alone.
#[derive(Debug)]
pub struct Chance(fastrand::Rng);

/// A distribution by some of its quantiles, with straight lines between: pairs of a share from 0 to 1 and a value, both
/// rising.
pub type Quantiles = [(f64, f64)];

impl Chance {
    /// The source of a seed; `stream` tells several of one seed apart.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(fastrand::Rng::with_seed(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream,
        ))
    }

    /// From 0 to just under 1.
    pub fn unit(&mut self) -> f64 {
        self.0.f64()
    }

    /// Any number.
    pub fn bits(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// Below `n`; 0 if that is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { self.0.usize(..n) }
    }

    /// Evenly between two bounds.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Exponential, of mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (TAU * self.unit()).cos()
    }

    /// Log-normal, by its median and the deviation of its logarithm.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }

    /// Gamma, of mean 1 and with this coefficient of variation (Marsaglia and Tsang).
    pub fn gamma(&mut self, cv: f64) -> f64 {
        let shape = 1.0 / (cv * cv);
        // Small shapes by way of one that is larger by 1.
        let boost = if shape < 1.0 {
            (1.0 - self.unit()).powf(1.0 / shape)
        } else {
            1.0
        };
        let d = if shape < 1.0 { shape + 1.0 } else { shape } - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.unit()).ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
                return boost * d * v / shape;
            }
        }
    }

    /// A value of a distribution.
    pub fn of(&mut self, quantiles: &Quantiles) -> f64 {
        let share = self.unit();
        let above = quantiles.partition_point(|(at, _)| *at <= share);
        let low = above.checked_sub(1).and_then(|below| quantiles.get(below));
        match (low, quantiles.get(above)) {
            (Some((p, v)), Some((q, w))) => v + (w - v) * (share - p) / (q - p),
            (Some((_, v)), None) | (None, Some((_, v))) => *v,
            (None, None) => 0.0,
        }
    }

    /// The same as a number of tokens, at least 1.
    pub fn tokens(&mut self, quantiles: &Quantiles) -> u32 {
        tokens(self.of(quantiles))
    }

    /// A place of a list, each as likely as its weight says.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut rest = self.unit() * weights.iter().sum::<f64>();
        let past = |weight: &f64| {
            rest -= weight;
            rest < 0.0
        };
        weights
            .iter()
            .position(past)
            .unwrap_or(weights.len().saturating_sub(1))
    }
}

/// A number of tokens, at least 1 and some millions at most.
pub fn tokens(count: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within the limits"
    )]
    let tokens = count.round().clamp(1.0, 4e6) as u32;
    tokens
}

/// The mean of a distribution.
pub fn mean(quantiles: &Quantiles) -> f64 {
    let area = |(a, b): (&(f64, f64), &(f64, f64))| (b.0 - a.0) * f64::midpoint(a.1, b.1);
    quantiles
        .iter()
        .zip(quantiles.iter().skip(1))
        .map(area)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mean: f64, cv: f64, mut draw: impl FnMut(&mut Chance) -> f64) {
        let mut chance = Chance::new(1, 2);
        let draws: Vec<f64> = (0..100_000).map(|_| draw(&mut chance)).collect();
        let found = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| (x - found).powi(2)).sum::<f64>() / 1e5;
        assert!(
            (found / mean - 1.0).abs() < 0.03,
            "mean {found}, not {mean}"
        );
        assert!(
            (variance.sqrt() / found / cv - 1.0).abs() < 0.05,
            "cv {}, not {cv}",
            variance.sqrt() / found
        );
    }

    #[test]
    fn draws_have_the_moments_that_they_should_have() {
        check(1.0, 1.0, Chance::exponential);
        check(1.0, 0.5, |chance| chance.gamma(0.5));
        check(1.0, 2.0, |chance| chance.gamma(2.0));
        // The moments of a log-normal follow from its deviation.
        check((0.125f64).exp(), (0.25f64.exp() - 1.0).sqrt(), |chance| {
            chance.log_normal(1.0, 0.5)
        });
        let even = [(0.0, 0.0), (0.5, 1.0), (1.0, 2.0)];
        check(mean(&even), 1.0 / 3f64.sqrt(), |chance| chance.of(&even));
        check(0.75, 1.0 / 3f64.sqrt(), |chance| {
            chance.weighted(&[1.0, 0.0, 3.0]) as f64 / 2.0
        });
    }
}
