//! The backend that will probably send its first byte the soonest: its average so far, times what it has to do.
//!
//! The average alone would send everybody to the node that was fastest a moment ago, until it drowns; and a node once
//! slow would never be asked again. So the requests in flight count, and what is known of a node fades when nothing new
//! is learnt. A node that fails at once is not a fast one: failures are not measured, and push it away.

use super::score::{self, Scores};
use super::{Candidates, Dice, Entry, Strategy};
use crate::ewma::Tick;
use crate::pool::Backend;
use smallvec::SmallVec;
use std::time::Duration;
use tokio::time::Instant;

pub(super) const ENTRY: Entry = Entry {
    name: "response_time",
    summary: "the backend with the shortest time to the first byte, times its requests in flight per weight",
    build: |seed| Box::new(ResponseTime(Dice::seeded(seed))),
};

/// Scores that exceed the lowest by no more than this share are as good as it, and among these the load decides:
/// averages of like nodes differ that much by chance, and the one that looks best must not get everything.
const BAND: f64 = 0.25;

/// Each failure in a row doubles the score, up to this many.
const DOUBLINGS_LIMIT: u32 = 16;

/// What failures add to the score falls to 1/e in this time. A node that never does anything but fail is thus asked
/// about every two minutes by a fleet with nothing to do, more often where the others are loaded.
const FORGIVE: Duration = Duration::from_secs(10);

/// Averages that the fleet's median is taken of.
const MEDIAN_OF: usize = 16;

#[derive(Debug)]
struct ResponseTime(Dice);

impl Strategy for ResponseTime {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let mut loads = score::loads(candidates);
        let scores = scores(candidates, &loads);
        let limit = score::least(&scores) * (1.0 + BAND);
        for (load, score) in loads.iter_mut().zip(scores) {
            if score > limit {
                *load = f64::INFINITY;
            }
        }
        score::lowest(&loads, &self.0)
    }
}

fn scores(candidates: &Candidates<'_>, loads: &Scores) -> Scores {
    let now = candidates.now;
    let tick = Tick::of(now);
    let readings: SmallVec<[_; 64]> = candidates
        .iter()
        .map(|backend| backend.ttfb(tick))
        .collect();
    // Some tell the middle of many well enough, and in time.
    let stride = readings.len().div_ceil(MEDIAN_OF);
    let sample = readings.iter().step_by(stride).flatten();
    let median = median(sample.map(|reading| reading.seconds).collect()).or_else(|| {
        readings
            .iter()
            .flatten()
            .map(|reading| reading.seconds)
            .next()
    });
    candidates
        .iter()
        .zip(&readings)
        .zip(loads)
        .map(|((backend, reading), load)| {
            let expected = match (*reading, median) {
                // The speed fades, not the time: a node once very slow is tried again in minutes, not in hours. With
                // trust 1/fade this is the reciprocal of trust/seconds + (1 - trust)/median, in one division.
                (Some(reading), Some(median)) => {
                    let (seconds, fade) = (reading.seconds, reading.fade());
                    seconds * median * fade / (median + (fade - 1.0) * seconds)
                }
                // One request at a time finds out how fast it is; a second only if all candidates are so.
                (None, Some(median)) if backend.in_flight() > 0 => median * UNKNOWN,
                (None, Some(median)) => median,
                (_, None) => 1.0,
            };
            expected * load * penalty(backend, now)
        })
        .collect()
}

/// The factor of a probe that is under way: more than load and penalties make of a backend that is known.
const UNKNOWN: f64 = 1e12;

/// The lower one of the two in the middle if their number is even: of two nodes the faster one is the measure.
fn median(mut seconds: Scores) -> Option<f64> {
    let middle = seconds.len().checked_sub(1)? / 2;
    let (_, median, _) = seconds.select_nth_unstable_by(middle, f64::total_cmp);
    Some(*median)
}

fn penalty(backend: &Backend, now: Instant) -> f64 {
    let errors = backend.errors().min(DOUBLINGS_LIMIT);
    if errors == 0 {
        return 1.0;
    }
    let faded = (-backend.failed_ago(now).as_secs_f64() / FORGIVE.as_secs_f64()).exp();
    1.0 + f64::from(1u32 << errors) * faded
}

#[cfg(test)]
mod tests;
