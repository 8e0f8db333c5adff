//! What the adaptive strategy promises, as limits that a simulation can break.
//!
//! The strategy was tuned on seeds 1 to 1000. Promises are kept on seeds from [`HELD_OUT`] on, which nobody tuned for.

use crate::bench::{Cell, Quantity, Ratios};
use crate::sim::CLAIRVOYANT;

/// The first of the seeds that nothing was tuned on.
pub const HELD_OUT: u64 = 20_001;
/// Whose promises they are.
pub const GATED: &str = "adaptive";
/// Whom it is compared with on random fleets.
pub const BASELINE: &str = "least_connections";
/// The load at which it is compared in scenarios.
pub const LOAD: f64 = 0.7;

/// Ratios to the [`BASELINE`] on random fleets; `None` where nothing is promised.
#[derive(Debug, Clone, Copy)]
pub struct FleetLimit {
    /// What is limited.
    pub quantity: Quantity,
    /// The geometric mean over fleets.
    pub geo_mean: f64,
    /// What 95 % of them keep.
    pub p95: Option<f64>,
    /// What all of them keep.
    pub worst: Option<f64>,
}

/// What is promised on hundreds of random fleets.
pub const FLEETS: [FleetLimit; 3] = [
    FleetLimit {
        quantity: Quantity::E2eMean,
        geo_mean: 0.80,
        p95: Some(1.05),
        worst: Some(1.25),
    },
    FleetLimit {
        quantity: Quantity::E2eP95,
        geo_mean: 0.85,
        p95: Some(1.20),
        worst: None,
    },
    FleetLimit {
        quantity: Quantity::TtftMean,
        geo_mean: 0.70,
        p95: None,
        worst: None,
    },
];

/// A multiple of what another strategy needs in a scenario.
#[derive(Debug, Clone, Copy)]
pub struct ScenarioLimit {
    /// Where.
    pub scenario: &'static str,
    /// What is limited.
    pub need: Need,
    /// Whose need is the measure.
    pub than: &'static str,
    /// How many times that.
    pub times: f64,
}

/// What a strategy needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Mean time to the end of the answer.
    Mean,
    /// Mean time to first token.
    FirstToken,
    /// Models loaded.
    Loads,
}

/// What is promised in scenarios at [`LOAD`].
pub const IN_SCENARIOS: [ScenarioLimit; 14] = [
    near_best("homog"),
    near_best("hetero"),
    near_best("multimodel"),
    near_best("multiturn"),
    near_best("multiturn_p40"),
    near_best("mooncake"),
    near_best("embed"),
    near_best("failfast"),
    near_best("slow"),
    near_best("hang"),
    near_best("join"),
    better("multimodel", Need::Loads, 1.0),
    better("multimodel", Need::Mean, 0.25),
    better("multiturn_p40", Need::FirstToken, 0.8),
];

const fn near_best(scenario: &'static str) -> ScenarioLimit {
    ScenarioLimit {
        scenario,
        need: Need::Mean,
        than: CLAIRVOYANT,
        times: 1.10,
    }
}

const fn better(scenario: &'static str, need: Need, times: f64) -> ScenarioLimit {
    ScenarioLimit {
        scenario,
        need,
        than: BASELINE,
        times,
    }
}

/// What is no number keeps no limit.
fn keeps(value: f64, most: f64) -> bool {
    value <= most
}

/// The promises on random fleets that are broken, in words. What was not measured is broken.
pub fn on_fleets(ratios: &[Ratios], limits: &[FleetLimit]) -> Vec<String> {
    let mut broken = Vec::new();
    for limit in limits {
        let name = limit.quantity.name();
        let own = |ratios: &&Ratios| ratios.quantity == limit.quantity && ratios.strategy == GATED;
        let Some(found) = ratios.iter().find(own) else {
            broken.push(format!("{name}: not measured"));
            continue;
        };
        let worst = format!("worst fleet ({})", found.worst_seed);
        for (what, value, most) in [
            ("geometric mean", found.geo_mean, Some(limit.geo_mean)),
            ("95th percentile", found.p95, limit.p95),
            (&worst, found.worst, limit.worst),
        ] {
            if let Some(most) = most.filter(|most| !keeps(value, *most)) {
                broken.push(format!(
                    "{name}, {what}: {value:.3} x {BASELINE}, over {most:.2}"
                ));
            }
        }
    }
    broken
}

/// The promises in scenarios that are broken, in words. What was not measured is broken.
pub fn in_scenarios(cells: &[Cell], limits: &[ScenarioLimit]) -> Vec<String> {
    let broken = |limit: &ScenarioLimit| {
        let (scenario, times, than) = (limit.scenario, limit.times, limit.than);
        let (what, of): (_, fn(&Cell) -> Option<f64>) = match limit.need {
            Need::Mean => ("mean", |cell| Some(cell.e2e_mean?.mean)),
            Need::FirstToken => ("mean TTFT", |cell| Some(cell.ttft_mean?.mean)),
            Need::Loads => ("loads", |cell| Some(cell.loads_per_1000?.mean)),
        };
        let find = |strategy| {
            let mut cells = cells.iter();
            let cell = cells.find(|cell| cell.scenario == scenario && cell.strategy == strategy)?;
            of(cell)
        };
        let Some((own, other)) = find(GATED).zip(find(than)) else {
            return Some(format!("{scenario}, {what}: not measured"));
        };
        (!keeps(own, times * other)).then(|| {
            format!(
                "{scenario}, {what}: {:.3} x {than}, over {times:.2}",
                own / other
            )
        })
    };
    limits.iter().filter_map(broken).collect()
}
