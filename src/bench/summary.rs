//! One run in numbers.

use super::outcome::{Failure, Outcome, Run};
use super::slo::Slo;
use super::spread::{Spread, jain, quantile};
use super::time;
use serde::Serialize;
use std::time::Duration;

/// A generator that is later than this distorts what it measures.
const LATE: Duration = Duration::from_millis(10);
/// As is one that is later than this share of a typical answer's time.
const LATE_SHARE: f64 = 0.01;

/// What a run is measured by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measure {
    /// What a failed request counts as in the percentiles, unless it took even longer: to a client, a quick failure is not
    /// a fast answer.
    pub timeout: Duration,
    /// What goodput counts by.
    pub slo: Slo,
}

/// One run. All times are seconds, all shares go from 0 to 1. The names of the fields are those of the JSON report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// As in [`Run::scenario`].
    pub scenario: String,
    /// As in [`Run::strategy`].
    pub strategy: String,
    /// As in [`Run::load`].
    pub load: Option<f64>,
    /// As in [`Run::seed`].
    pub seed: u64,
    /// Requests that count.
    pub requests: usize,
    /// From the first request that counts to the end of the last one.
    pub seconds: f64,
    /// Time to first token; failed requests count at the timeout. `None` if there were only embeddings.
    pub ttft: Option<Spread>,
    /// Time per further token of answers that came whole: (E2E − TTFT) / (tokens − 1).
    pub tpot: Option<Spread>,
    /// Time to the end of the answer; failed requests count at the timeout.
    pub e2e: Option<Spread>,
    /// Share of requests that kept the service level objective.
    pub goodput: f64,
    /// Tokens of answers per second.
    pub tokens_per_second: f64,
    /// Requests that failed.
    pub errors: Errors,
    /// Tries on further nodes, all requests together.
    pub retries: u64,
    /// Share of all prompts' tokens that did not have to be computed.
    pub cached_prompt_share: f64,
    /// Models loaded per 1000 requests; `None` if nobody counted.
    pub loads_per_1000: Option<f64>,
    /// What each node had of it.
    pub nodes: Vec<NodeShare>,
    /// Jain's index of the requests per node.
    pub jain: Option<f64>,
    /// How late requests were sent; `None` in a simulation.
    pub lag: Option<Lag>,
    /// Why the run proves nothing, if it does not.
    pub invalid: Option<String>,
}

/// Failed requests.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Errors {
    /// Their share of all requests.
    pub share: f64,
    /// 503 and 429.
    pub refused: usize,
    /// Other errors.
    pub answered: usize,
    /// Broken connections and answers without an end.
    pub broken: usize,
    /// Those that took too long.
    pub timed_out: usize,
}

/// One node's part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeShare {
    /// Its name.
    pub name: String,
    /// Requests that it had, those that failed there too.
    pub requests: usize,
    /// Their share of all requests.
    pub share: f64,
    /// Tokens of its answers.
    pub tokens: u64,
    /// Time to the end of the answer, of those that it served whole.
    pub e2e: Option<Spread>,
}

/// How late the generator was, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lag {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl Outcome {
    /// The mean time of each token after the first; `None` unless a whole answer has two.
    pub fn per_token(&self) -> Option<Duration> {
        if self.failure.is_some() {
            return None;
        }
        let gaps = self.tokens.checked_sub(1).filter(|gaps| *gaps > 0)?;
        Some(self.total.saturating_sub(self.first_token?) / gaps)
    }

    /// Whether it made a text or should have, as far as anyone can tell.
    fn is_text(&self) -> bool {
        self.first_token.is_some() || self.failure.is_some()
    }
}

impl Summary {
    /// Measures a run.
    pub fn of(run: &Run, by: &Measure) -> Self {
        let outcomes = &run.outcomes;
        let counted = |outcome: &Outcome, time: Duration| match outcome.failure {
            None => time,
            Some(_) => by.timeout.max(outcome.total),
        };
        let spread = |times: &mut dyn Iterator<Item = Duration>| {
            Spread::of(times.map(|time| time.as_secs_f64()).collect())
        };
        let e2e = spread(&mut outcomes.iter().map(|o| counted(o, o.total)));
        let texts = outcomes.iter().filter(|outcome| outcome.is_text());
        let seconds = length(outcomes).as_secs_f64();
        let tokens: u64 = outcomes.iter().map(|o| u64::from(o.tokens)).sum();
        let lag = lag(run);
        let served = outcomes.iter().filter(|outcome| outcome.failure.is_none());
        let service = spread(&mut served.map(|outcome| outcome.total));
        let nodes = nodes(run);
        let requests: Vec<f64> = nodes.iter().map(|node| node.requests as f64).collect();
        let good = outcomes.iter().filter(|o| by.slo.is_met(o)).count();
        Self {
            scenario: run.scenario.clone(),
            strategy: run.strategy.clone(),
            load: run.load,
            seed: run.seed,
            requests: outcomes.len(),
            seconds,
            ttft: spread(&mut texts.map(|o| counted(o, o.first_token.unwrap_or(o.total)))),
            tpot: spread(&mut outcomes.iter().filter_map(Outcome::per_token)),
            e2e,
            goodput: share(good as f64, outcomes.len() as f64),
            tokens_per_second: share(tokens as f64, seconds),
            errors: Errors::of(outcomes),
            retries: outcomes
                .iter()
                .map(|outcome| u64::from(outcome.attempts.saturating_sub(1)))
                .sum(),
            cached_prompt_share: share(
                outcomes.iter().map(|o| f64::from(o.cached_tokens)).sum(),
                outcomes.iter().map(|o| f64::from(o.prompt_tokens)).sum(),
            ),
            loads_per_1000: run
                .loads
                .map(|loads| share(loads as f64 * 1000.0, outcomes.len() as f64)),
            jain: jain(&requests),
            nodes,
            invalid: lag.and_then(|lag| lag.complaint(service.map(|service| service.p50))),
            lag,
        }
    }
}

/// A part of a whole; of nothing it is nothing.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// From the first request to the last end.
fn length(outcomes: &[Outcome]) -> Duration {
    let first = outcomes.iter().map(|outcome| outcome.intended).min();
    let last = outcomes.iter().map(|o| o.intended + o.total).max();
    last.zip(first)
        .map_or(Duration::ZERO, |(last, first)| last.saturating_sub(first))
}

impl Errors {
    fn of(outcomes: &[Outcome]) -> Self {
        let mut errors = Self::default();
        for failure in outcomes.iter().filter_map(|outcome| outcome.failure) {
            match failure {
                Failure::Refused => errors.refused += 1,
                Failure::Answered => errors.answered += 1,
                Failure::Broken => errors.broken += 1,
                Failure::TimedOut => errors.timed_out += 1,
            }
        }
        errors.share = share(errors.count() as f64, outcomes.len() as f64);
        errors
    }

    /// All of them.
    pub fn count(&self) -> usize {
        self.refused + self.answered + self.broken + self.timed_out
    }
}

fn nodes(run: &Run) -> Vec<NodeShare> {
    let of_node = |(at, name): (usize, &String)| {
        let here = || {
            let outcomes = run.outcomes.iter();
            outcomes.filter(move |outcome| outcome.node.map(usize::from) == Some(at))
        };
        let served = here().filter(|outcome| outcome.failure.is_none());
        NodeShare {
            name: name.clone(),
            requests: here().count(),
            share: share(here().count() as f64, run.outcomes.len() as f64),
            tokens: here().map(|outcome| u64::from(outcome.tokens)).sum(),
            e2e: Spread::of(served.map(|outcome| outcome.total.as_secs_f64()).collect()),
        }
    };
    run.nodes.iter().enumerate().map(of_node).collect()
}

fn lag(run: &Run) -> Option<Lag> {
    Some(Lag {
        p50: quantile(&run.lags, 0.50)?.as_secs_f64(),
        p99: quantile(&run.lags, 0.99)?.as_secs_f64(),
    })
}

impl Lag {
    /// Why a run with this lag proves nothing, given its median service time in seconds.
    fn complaint(self, service: Option<f64>) -> Option<String> {
        let late = time::text(self.p99);
        if self.p99 > LATE.as_secs_f64() {
            let limit = time::text(LATE.as_secs_f64());
            return Some(format!(
                "1 % of the requests were sent {late} late or more, over {limit}"
            ));
        }
        let service = service.filter(|service| self.p99 > LATE_SHARE * service)?;
        Some(format!(
            "1 % of the requests were sent {late} late or more, over 1 % of the median service time of {}",
            time::text(service)
        ))
    }
}
