//! The course of one run, small enough to be drawn.

use super::outcome::{Failure, Outcome, Run};
use super::summary::Measure;
use serde::Serialize;
use std::time::Duration;

/// Requests drawn one by one; of more, an even choice is drawn.
const DOTS: usize = 3000;
/// Points of a distribution's line.
const QUANTILES: usize = 200;
/// Pieces that the time is cut into at most.
const BUCKETS: f64 = 60.0;
/// Requests in a piece, at least on average: of fewer, percentiles are noise.
const BUCKET_REQUESTS: f64 = 8.0;

/// What the charts of a run are drawn from. Times are seconds, to the tenth of a millisecond.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// Single requests.
    pub dots: Vec<Dot>,
    /// How many requests there were.
    pub of: usize,
    /// Quantiles of the time to first token at 0, 1/200, … 1; empty if there is none.
    pub ttft: Vec<f64>,
    /// Of the time to the end.
    pub e2e: Vec<f64>,
    /// Of the time per token.
    pub tpot: Vec<f64>,
    /// Length of a bucket.
    pub bucket: f64,
    /// The run in equal pieces, by when requests were meant to be sent.
    pub buckets: Vec<Bucket>,
}

/// One request: when it was meant to be sent, its time to first token and to the end, its node, and 0, or 1 to 4 for
/// refused, answered with an error, broken, timed out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Dot(f64, Option<f64>, f64, Option<u16>, u8);

/// The requests of a piece of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bucket {
    /// When it begins.
    pub at: f64,
    /// Requests that were meant to be sent in it.
    pub requests: usize,
    /// Those of them that failed: refused, answered with an error, broken, timed out.
    pub failed: [usize; 4],
    /// Quantiles of the time to the end, failed requests at the timeout: the median and the 99th percentile.
    pub p50: f64,
    /// As `p50`.
    pub p99: f64,
}

impl Series {
    /// The course of a run.
    pub fn of(run: &Run, by: &Measure) -> Self {
        let outcomes = &run.outcomes;
        let counted = |outcome: &Outcome, time: Duration| match outcome.failure {
            None => time,
            Some(_) => by.timeout.max(outcome.total),
        };
        let line = |times: &mut dyn Iterator<Item = Duration>| {
            let mut times: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
            times.sort_by(f64::total_cmp);
            let points = 0..=QUANTILES;
            points
                .filter_map(|point| {
                    let at = point * times.len().checked_sub(1)? / QUANTILES;
                    times.get(at).copied().map(rounded)
                })
                .collect()
        };
        let (bucket, buckets) = buckets(outcomes, by);
        Self {
            dots: outcomes
                .iter()
                .step_by(outcomes.len().div_ceil(DOTS).max(1))
                .map(Dot::of)
                .collect(),
            of: outcomes.len(),
            ttft: line(&mut outcomes.iter().filter_map(|o| match o.failure {
                None => o.first_token,
                Some(_) => Some(counted(o, o.total)),
            })),
            e2e: line(&mut outcomes.iter().map(|o| counted(o, o.total))),
            tpot: line(&mut outcomes.iter().filter_map(Outcome::per_token)),
            bucket,
            buckets,
        }
    }
}

impl Dot {
    fn of(outcome: &Outcome) -> Self {
        Self(
            rounded(outcome.intended.as_secs_f64()),
            outcome.first_token.map(|time| rounded(time.as_secs_f64())),
            rounded(outcome.total.as_secs_f64()),
            outcome.node,
            match outcome.failure {
                None => 0,
                Some(Failure::Refused) => 1,
                Some(Failure::Answered) => 2,
                Some(Failure::Broken) => 3,
                Some(Failure::TimedOut) => 4,
            },
        )
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1e4).round() / 1e4
}

/// The run in pieces of a round length.
fn buckets(outcomes: &[Outcome], by: &Measure) -> (f64, Vec<Bucket>) {
    let at = |outcome: &Outcome| outcome.intended.as_secs_f64();
    let first = outcomes.iter().map(at).fold(f64::INFINITY, f64::min);
    let last = outcomes.iter().map(at).fold(0.0, f64::max);
    if !first.is_finite() {
        return (1.0, Vec::new());
    }
    let lengths = [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0, 900.0,
    ];
    let count = (outcomes.len() as f64 / BUCKET_REQUESTS).clamp(1.0, BUCKETS);
    let wanted = (last - first) / count;
    let length = lengths.into_iter().find(|length| *length >= wanted);
    let length = length.unwrap_or(wanted);
    let mut pieces: Vec<(f64, Vec<&Outcome>)> = Vec::new();
    let mut sorted: Vec<&Outcome> = outcomes.iter().collect();
    sorted.sort_by_key(|outcome| outcome.intended);
    for outcome in sorted {
        let begin = (at(outcome) / length).floor() * length;
        match pieces.last_mut() {
            Some((last, piece)) if (*last - begin).abs() < length / 2.0 => piece.push(outcome),
            _ => pieces.push((begin, vec![outcome])),
        }
    }
    let pieces = pieces
        .into_iter()
        .map(|(at, piece)| Bucket::of(at, &piece, by));
    (length, pieces.collect())
}

impl Bucket {
    fn of(at: f64, outcomes: &[&Outcome], by: &Measure) -> Self {
        let mut failed = [0; 4];
        let mut times = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            let time = match outcome.failure {
                None => outcome.total,
                Some(_) => by.timeout.max(outcome.total),
            };
            times.push(time.as_secs_f64());
            let Dot(.., kind) = Dot::of(outcome);
            let place = usize::from(kind).checked_sub(1);
            if let Some(count) = place.and_then(|place| failed.get_mut(place)) {
                *count += 1;
            }
        }
        times.sort_by(f64::total_cmp);
        let quantile = |share| super::spread::quantile(&times, share).map_or(0.0, rounded);
        Self {
            at: rounded(at),
            requests: outcomes.len(),
            failed,
            p50: quantile(0.50),
            p99: quantile(0.99),
        }
    }
}
