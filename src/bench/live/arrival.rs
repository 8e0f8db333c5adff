//! When requests come.

use fastrand::Rng;
use std::f64::consts::TAU;

/// How the gaps between requests are spread around their mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrival {
    /// All gaps are equal.
    Constant,
    /// As many users who know nothing of each other make them.
    Poisson,
    /// In bursts: gamma-distributed with this coefficient of variation, above 0; 1 is Poisson.
    Gamma(f64),
}

impl Arrival {
    /// The next gap as a multiple of the mean one.
    pub fn gap(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Poisson => -(1.0 - rng.f64()).ln(),
            Self::Gamma(variation) => {
                let shape = (variation * variation).recip();
                gamma(shape, rng) / shape
            }
        }
    }
}

/// A gamma variate of scale 1, by the method of Marsaglia and Tsang.
fn gamma(shape: f64, rng: &mut Rng) -> f64 {
    if shape < 1.0 {
        let power = (1.0 - rng.f64()).powf(shape.recip());
        return gamma(shape + 1.0, rng) * power;
    }
    let d = shape - 1.0 / 3.0;
    let c = (9.0 * d).sqrt().recip();
    loop {
        let x = normal(rng);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && (1.0 - rng.f64()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

/// A standard normal variate, by the method of Box and Muller.
pub(super) fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (TAU * rng.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arrival: Arrival, variation: f64) {
        let mut rng = Rng::with_seed(11);
        let gaps: Vec<f64> = (0..40_000).map(|_| arrival.gap(&mut rng)).collect();
        let mean = gaps.iter().sum::<f64>() / 40_000.0;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / 40_000.0;
        assert!((mean - 1.0).abs() < 0.05, "mean {mean}");
        let found = variance.sqrt() / mean;
        assert!(
            (found - variation).abs() <= 0.05 * variation,
            "variation {found}"
        );
    }

    #[test]
    fn gaps_have_the_mean_and_the_variation_asked_for() {
        check(Arrival::Constant, 0.0);
        check(Arrival::Poisson, 1.0);
        check(Arrival::Gamma(0.5), 0.5);
        check(Arrival::Gamma(1.0), 1.0);
        check(Arrival::Gamma(3.0), 3.0);
    }
}
