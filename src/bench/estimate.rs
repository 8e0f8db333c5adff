//! What several runs with different seeds say together.

use super::spread::{mean, quantile};
use fastrand::Rng;
use serde::Serialize;

/// How often the runs are drawn again.
const RESAMPLES: usize = 2000;
/// Equal runs have equal intervals.
const SEED: u64 = 0x5eed_ba5e;

/// A mean over runs, and the interval that the true one is in, 95 times of 100.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean of the runs.
    pub mean: f64,
    /// Lower end of the interval; the mean itself if there was one run.
    pub low: f64,
    /// Upper end of it.
    pub high: f64,
}

impl Estimate {
    /// Bootstraps the interval: runs are drawn with replacement, again and again, always in the same way. `None` if there
    /// are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mean_of_all = mean(values)?;
        if values.len() == 1 {
            return Some(Self {
                mean: mean_of_all,
                low: mean_of_all,
                high: mean_of_all,
            });
        }
        let mut rng = Rng::with_seed(SEED);
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let drawn = values.iter().filter_map(|_| rng.choice(values));
                drawn.sum::<f64>() / values.len() as f64
            })
            .collect();
        means.sort_by(f64::total_cmp);
        Some(Self {
            mean: mean_of_all,
            low: quantile(&means, 0.025)?.min(mean_of_all),
            high: quantile(&means, 0.975)?.max(mean_of_all),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_around_the_mean_and_the_same_every_time() {
        let values = [2.0, 4.0, 6.0, 8.0, 10.0];
        let estimate = Estimate::of(&values).unwrap();
        assert!((estimate.mean - 6.0).abs() < 1e-12);
        // The deviation of a mean of five of these is the square root of 8 / 5; 1.96 of it is 2.5.
        assert!((3.0..4.2).contains(&estimate.low), "{estimate:?}");
        assert!((7.8..9.0).contains(&estimate.high), "{estimate:?}");
        assert_eq!(Estimate::of(&values), Some(estimate));
    }

    #[test]
    fn one_run_has_no_width_and_none_has_no_estimate() {
        let one = Estimate::of(&[3.0]).unwrap();
        assert_eq!((one.mean, one.low, one.high), (3.0, 3.0, 3.0));
        assert_eq!(Estimate::of(&[]), None);
    }
}
