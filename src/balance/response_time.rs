//! The backend that will probably send its first byte the soonest: its average so far, times what it has to do.
//!
//! The average alone would send everybody to the node that was fastest a moment ago, until it drowns; and a node once
//! slow would never be asked again. So the requests in flight count, and what is known of a node fades when nothing new
//! is learnt. A node that fails at once is not a fast one: failures are not measured, and push it away.

use super::score::{self, Scores};
use super::{Candidates, Dice, Entry, Sight, Strategy};
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

/// Candidates that are looked at for one choice.
const LOOKED_AT: usize = 24;

/// Averages that the fleet's median is taken of.
const MEDIAN_OF: usize = 16;

#[derive(Debug)]
struct ResponseTime(Dice);

impl Strategy for ResponseTime {
    fn sight(&self) -> Option<Sight<'_>> {
        Some(Sight {
            drawn: LOOKED_AT,
            idlest: LOOKED_AT,
            warm: 0,
            familiar: 0,
            dice: &self.0,
        })
    }

    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let tick = Tick::of(candidates.now);
        // Of very many candidates a few, spread evenly from a place that chance picks, are as good as all, and in time.
        let count = candidates.len();
        let looked_at = count.min(LOOKED_AT);
        let (first, stride) = (self.0.below(count), count / looked_at);
        let place = |nth: usize| {
            let at = first + nth * stride;
            if at < count { at } else { at - count }
        };
        // All that is known is gathered in one pass, since following the pointers is what costs.
        let mut known: SmallVec<[Known; LOOKED_AT]> = SmallVec::new();
        let backends = (0..looked_at).filter_map(|nth| candidates.get(place(nth)));
        known.extend(backends.map(|backend| Known::of(backend, tick, candidates.now)));
        let median = median(&known);
        let mut best = f64::INFINITY;
        for known in &mut known {
            known.score = known.expected(median) * known.load * known.penalty;
            best = best.min(known.score);
        }
        let limit = best * (1.0 + BAND);
        let load = |known: &Known| {
            if known.score <= limit {
                known.load
            } else {
                f64::INFINITY
            }
        };
        let mut loads = Scores::new();
        loads.extend(known.iter().map(load));
        place(score::lowest(&loads, &self.0))
    }
}

/// What is known of one candidate.
#[derive(Debug)]
struct Known {
    load: f64,
    /// The average in seconds and how much it has faded.
    average: Option<(f64, f64)>,
    penalty: f64,
    is_busy: bool,
    score: f64,
}

impl Known {
    fn of(backend: &Backend, tick: Tick, now: Instant) -> Self {
        let reading = backend.ttfb(tick);
        Self {
            load: score::load(backend),
            average: reading.map(|reading| (reading.seconds, reading.fade())),
            penalty: penalty(backend, now),
            is_busy: backend.in_flight() > 0,
            score: 0.0,
        }
    }

    /// The time to the first byte that is to be expected of it, in seconds, but for its load.
    fn expected(&self, median: Option<f64>) -> f64 {
        match (self.average, median) {
            // The speed fades, not the time: a node once very slow is tried again in minutes, not in hours. With trust
            // 1/fade this is the reciprocal of trust/seconds + (1 - trust)/median, in one division.
            (Some((seconds, fade)), Some(median)) => {
                seconds * median * fade / (median + (fade - 1.0) * seconds)
            }
            // One request at a time finds out how fast it is; a second only if all candidates are so.
            (None, Some(median)) if self.is_busy => median * UNKNOWN,
            (None, Some(median)) => median,
            (_, None) => 1.0,
        }
    }
}

/// The factor of a probe that is under way: more than load and penalties make of a backend that is known.
const UNKNOWN: f64 = 1e12;

/// The median of the averages, or of some of them, which tell the middle of many well enough: the lower one of the two in
/// the middle if their number is even, since of two nodes the faster one is the measure.
fn median(known: &[Known]) -> Option<f64> {
    let seconds = |known: &Known| known.average.map(|(seconds, _)| seconds);
    let stride = known.len().div_ceil(MEDIAN_OF).max(1);
    let mut sample: SmallVec<[f64; MEDIAN_OF]> = SmallVec::new();
    sample.extend(known.iter().step_by(stride).filter_map(seconds));
    let Some(middle) = sample.len().checked_sub(1).map(|last| last / 2) else {
        return known.iter().find_map(seconds);
    };
    let (_, median, _) = sample.select_nth_unstable_by(middle, f64::total_cmp);
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
