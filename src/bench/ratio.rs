//! How strategies compare on fleets that have nothing in common: fleet by fleet, as multiples of one of them.

use super::spread::quantile;
use super::summary::Summary;
use serde::Serialize;
use std::collections::BTreeMap;

/// A fleet on which a strategy takes this many times as long as the other counts as one where it is worse.
const WORSE: f64 = 1.05;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Mean time to the end of the answer.
    E2eMean,
    /// Its 95th percentile.
    E2eP95,
    /// Mean time to first token.
    TtftMean,
}

impl Quantity {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 3] = [Self::E2eMean, Self::E2eP95, Self::TtftMean];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::E2eMean => "mean",
            Self::E2eP95 => "p95",
            Self::TtftMean => "TTFT",
        }
    }

    /// Of a run, in seconds.
    fn of(self, run: &Summary) -> Option<f64> {
        match self {
            Self::E2eMean => Some(run.e2e?.mean),
            Self::E2eP95 => Some(run.e2e?.p95),
            Self::TtftMean => Some(run.ttft?.mean),
        }
    }
}

/// One quantity of a strategy on many fleets, as multiples of what it is with the baseline on the same fleet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratios {
    /// Which quantity.
    pub quantity: Quantity,
    /// Whose.
    pub strategy: String,
    /// Fleets that were compared.
    pub fleets: usize,
    /// Geometric mean.
    pub geo_mean: f64,
    /// 95 % of the fleets are not worse.
    pub p95: f64,
    /// The worst fleet's.
    pub worst: f64,
    /// The worst fleet.
    pub worst_seed: u64,
    /// Share of fleets above 1.05.
    pub worse: f64,
    /// Every fleet by its seed, the best first.
    pub by_seed: Vec<(u64, f64)>,
}

impl Ratios {
    /// Compares each strategy with the baseline, seed by seed, in the order in which strategies come first.
    pub fn of(runs: &[Summary], baseline: &str) -> Vec<Self> {
        let mut of_baseline = BTreeMap::new();
        let mut strategies: Vec<&str> = Vec::new();
        for run in runs {
            if run.strategy == baseline {
                of_baseline.insert(run.seed, run);
            } else if !strategies.contains(&run.strategy.as_str()) {
                strategies.push(&run.strategy);
            }
        }
        let mut all = Vec::new();
        for quantity in Quantity::ALL {
            for strategy in &strategies {
                let ratio = |run: &Summary| {
                    let base = quantity.of(of_baseline.get(&run.seed)?)?;
                    let ratio = quantity.of(run)? / base;
                    (base > 0.0 && ratio > 0.0).then_some((run.seed, ratio))
                };
                let own = runs.iter().filter(|run| run.strategy == *strategy);
                all.extend(Self::new(
                    quantity,
                    strategy,
                    own.filter_map(ratio).collect(),
                ));
            }
        }
        all
    }

    fn new(quantity: Quantity, strategy: &str, mut by_seed: Vec<(u64, f64)>) -> Option<Self> {
        by_seed.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        let (worst_seed, worst) = *by_seed.last()?;
        let (_, p95) = quantile(&by_seed, 0.95)?;
        let count = by_seed.len() as f64;
        let logs: f64 = by_seed.iter().map(|(_, ratio)| ratio.ln()).sum();
        let above = by_seed.iter().filter(|(_, ratio)| *ratio > WORSE);
        Some(Self {
            quantity,
            strategy: strategy.to_owned(),
            fleets: by_seed.len(),
            geo_mean: (logs / count).exp(),
            p95,
            worst,
            worst_seed,
            worse: above.count() as f64 / count,
            by_seed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_summed_up_as_by_hand() {
        let by_seed = (1..=40).map(|seed| (seed, if seed == 7 { 4.0 } else { 0.5 }));
        let ratios = Ratios::new(Quantity::E2eMean, "s", by_seed.collect()).unwrap();
        let geo_mean = 2f64.powf((2.0 - 39.0) / 40.0);
        assert!((ratios.geo_mean - geo_mean).abs() < 1e-12, "{ratios:?}");
        assert_eq!((ratios.fleets, ratios.worst_seed), (40, 7));
        for (found, expected) in [
            (ratios.p95, 0.5),
            (ratios.worst, 4.0),
            (ratios.worse, 0.025),
        ] {
            assert!((found - expected).abs() < 1e-12, "{ratios:?}");
        }
        assert_eq!(Ratios::new(Quantity::E2eMean, "s", Vec::new()), None);
    }
}
