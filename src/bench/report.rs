//! What a benchmark reports: every run, and runs that differ in their seed alone taken together.

use super::estimate::Estimate;
use super::ratio::Ratios;
use super::series::Series;
use super::slo::Slo;
use super::spread::Spread;
use super::summary::{Measure, Summary};
use serde::Serialize;

/// Which benchmark it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Strategies compared in a simulation.
    Sim,
    /// Something that runs was measured.
    Live,
}

/// A report. Its JSON is what `--json` writes: times are seconds, shares go from 0 to 1, and fields are added, but never
/// renamed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of the program.
    pub llamero: &'static str,
    /// Which benchmark.
    pub kind: Kind,
    /// What was measured, in a few words.
    pub title: String,
    /// How it was measured, in a sentence.
    pub subtitle: String,
    /// What a reader has to know before believing it.
    pub notes: Vec<String>,
    /// What goodput counts by.
    pub slo: Slo,
    /// What failed requests count as, in seconds.
    pub timeout: f64,
    /// The strategy that others are compared with; `None`: with the best of each scenario.
    pub baseline: Option<String>,
    /// Every run.
    pub runs: Vec<Summary>,
    /// Runs of the same scenario, strategy and load together, in the order in which these came first.
    pub cells: Vec<Cell>,
    /// Strategies compared fleet by fleet, where fleets have nothing in common.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ratios: Vec<Ratios>,
    /// The course of a run, for the charts of a page; not part of the JSON.
    #[serde(skip)]
    pub series: Option<Series>,
}

/// What runs with different seeds say together. `None` where none of them has a value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// As in each of the runs.
    pub scenario: String,
    /// As in each of the runs.
    pub strategy: String,
    /// As in each of the runs.
    pub load: Option<f64>,
    /// The seeds of the runs.
    pub seeds: Vec<u64>,
    /// Mean time to the end of the answer as a multiple of the baseline's in the same scenario and load.
    pub ratio: Option<f64>,
    /// Mean time to the end of the answer.
    pub e2e_mean: Option<Estimate>,
    /// Its median.
    pub e2e_p50: Option<Estimate>,
    /// Its 95th percentile.
    pub e2e_p95: Option<Estimate>,
    /// Its 99th percentile.
    pub e2e_p99: Option<Estimate>,
    /// Mean time to first token.
    pub ttft_mean: Option<Estimate>,
    /// Its median.
    pub ttft_p50: Option<Estimate>,
    /// Its 99th percentile.
    pub ttft_p99: Option<Estimate>,
    /// Median time per further token.
    pub tpot_p50: Option<Estimate>,
    /// Share of requests that kept the objective.
    pub goodput: Option<Estimate>,
    /// Share of requests that failed.
    pub errors: Option<Estimate>,
    /// Retries per 1000 requests.
    pub retries_per_1000: Option<Estimate>,
    /// Share of the prompts' tokens that did not have to be computed.
    pub cached_prompt_share: Option<Estimate>,
    /// Models loaded per 1000 requests.
    pub loads_per_1000: Option<Estimate>,
    /// Fairness between the nodes.
    pub jain: Option<Estimate>,
}

impl Report {
    /// A report of these runs. Without a `baseline` strategies are compared with the best of each scenario and load.
    pub fn new(
        kind: Kind,
        title: impl Into<String>,
        subtitle: impl Into<String>,
        by: &Measure,
        runs: Vec<Summary>,
        baseline: Option<&str>,
    ) -> Self {
        let mut notes = Vec::new();
        for run in &runs {
            if let Some(reason) = &run.invalid {
                notes.push(match kind {
                    Kind::Sim => format!("Invalid: {} in {}: {reason}", run.strategy, run.scenario),
                    Kind::Live => format!("Invalid: {reason}"),
                });
            }
        }
        Self {
            llamero: env!("CARGO_PKG_VERSION"),
            kind,
            title: title.into(),
            subtitle: subtitle.into(),
            notes,
            slo: by.slo,
            timeout: by.timeout.as_secs_f64(),
            baseline: baseline.map(ToOwned::to_owned),
            cells: cells(&runs, baseline),
            runs,
            ratios: Vec::new(),
            series: None,
        }
    }

    /// The report as JSON, with a line's end behind it.
    ///
    /// # Errors
    /// Never for a report made by [`Report::new`]; serde leaves the possibility open.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }
}

fn cells(runs: &[Summary], baseline: Option<&str>) -> Vec<Cell> {
    let mut groups: Vec<Vec<&Summary>> = Vec::new();
    for run in runs {
        let group = groups.iter_mut().find(|group| {
            group.first().is_some_and(|first| {
                first.scenario == run.scenario
                    && first.strategy == run.strategy
                    && first.load == run.load
            })
        });
        match group {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    let mut cells: Vec<Cell> = groups.iter().filter_map(|group| Cell::of(group)).collect();
    let ratios: Vec<_> = cells
        .iter()
        .map(|cell| cell.ratio(&cells, baseline))
        .collect();
    for (cell, ratio) in cells.iter_mut().zip(ratios) {
        cell.ratio = ratio;
    }
    cells
}

impl Cell {
    fn of(group: &[&Summary]) -> Option<Self> {
        let first = group.first()?;
        let estimate = |value: &dyn Fn(&Summary) -> Option<f64>| {
            let values: Vec<f64> = group.iter().filter_map(|run| value(run)).collect();
            Estimate::of(&values)
        };
        let e2e = |part: fn(&Spread) -> f64| estimate(&|run| run.e2e.as_ref().map(part));
        let ttft = |part: fn(&Spread) -> f64| estimate(&|run| run.ttft.as_ref().map(part));
        Some(Self {
            scenario: first.scenario.clone(),
            strategy: first.strategy.clone(),
            load: first.load,
            seeds: group.iter().map(|run| run.seed).collect(),
            ratio: None,
            e2e_mean: e2e(|spread| spread.mean),
            e2e_p50: e2e(|spread| spread.p50),
            e2e_p95: e2e(|spread| spread.p95),
            e2e_p99: e2e(|spread| spread.p99),
            ttft_mean: ttft(|spread| spread.mean),
            ttft_p50: ttft(|spread| spread.p50),
            ttft_p99: ttft(|spread| spread.p99),
            tpot_p50: estimate(&|run| run.tpot.as_ref().map(|spread| spread.p50)),
            goodput: estimate(&|run| Some(run.goodput)),
            errors: estimate(&|run| Some(run.errors.share)),
            retries_per_1000: estimate(&|run| {
                (run.requests > 0).then(|| run.retries as f64 * 1000.0 / run.requests as f64)
            }),
            cached_prompt_share: estimate(&|run| Some(run.cached_prompt_share)),
            loads_per_1000: estimate(&|run| run.loads_per_1000),
            jain: estimate(&|run| run.jain),
        })
    }

    fn ratio(&self, all: &[Self], baseline: Option<&str>) -> Option<f64> {
        let mean = |cell: &Self| cell.e2e_mean.map(|estimate| estimate.mean);
        let peers = all
            .iter()
            .filter(|cell| cell.scenario == self.scenario && cell.load == self.load);
        let reference = peers
            .filter(|cell| baseline.is_none_or(|name| cell.strategy == name))
            .filter_map(mean)
            .min_by(f64::total_cmp)?;
        (reference > 0.0).then_some(mean(self)? / reference)
    }
}
