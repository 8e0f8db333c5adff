//! Where a request will be done the soonest and delay others the least, as far as can be told from what is known.
//!
//! The score of each node is in seconds ([`score()`]). The backend with the least to do is taken unless another one is
//! clearly better, so that small errors of prediction cost nothing.

mod score;
#[cfg(test)]
mod tests;

pub use score::{Terms, score};

use super::{Candidates, Dice, Entry, Sight, Strategy, WHOLE, score as scores};
use crate::knowledge::{Fit, Outlook};
use smallvec::SmallVec;
use std::sync::atomic::Ordering::Relaxed;

pub(super) const ENTRY: Entry = Entry {
    name: "adaptive",
    summary: "the backend that should be done first and delay others least, as learnt from the answers",
    build: |seed| Box::new(Adaptive(Dice::seeded(seed))),
};

/// Another backend than the one with the least to do must cost less than this share of it.
const CLEARLY: f64 = 0.9;
/// Backends within this factor and so many seconds of the best are as good.
const EQUAL_FACTOR: f64 = 1.03;
const EQUAL_SECONDS: f64 = 0.02;
/// Backends with as much to do and within this factor differ by rounding.
const SAME_FACTOR: f64 = 1.000_001;
/// Among those, one that has so many more tokens of the prompt computed already is taken.
const MORE_CACHED: f64 = 64.0;
/// A backend that has the model and nothing to do is tried again after so many seconds, if it should not cost more than
/// this factor of the best: what is not tried is not known.
const TRY_AFTER: f64 = 120.0;
const TRY_FACTOR: f64 = 1.5;
/// What is looked at where there are more than [`WHOLE`] candidates: of so many that chance draws, those with the least
/// to do. The others are no loss: the best of very many predictions is too good to be true, and it is mostly that of a
/// busy node. What chance would miss is where a request saves work: nodes that have the model in memory, all of them
/// while they are few, and those that were last sent the conversation. Where all have it, two of those that are looked at
/// are drawn whatever they have to do, which is how fast nodes that are never idle are found.
const DRAWN: usize = 16;
const IDLEST: usize = 10;
const WARM: usize = 12;
const FAMILIAR: usize = 4;

#[derive(Debug)]
struct Adaptive(Dice);

/// A candidate, looked at.
struct Looked {
    at: usize,
    score: f64,
    /// Requests per slot, with one more.
    load: f64,
    cached: f64,
    fit: Fit,
    idle: f64,
}

impl Strategy for Adaptive {
    fn reckons_with_lines(&self) -> bool {
        true
    }

    fn sight(&self) -> Option<Sight<'_>> {
        Some(Sight {
            drawn: DRAWN,
            idlest: IDLEST,
            warm: WARM,
            familiar: FAMILIAR,
            dice: &self.0,
        })
    }

    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let Some(first) = candidates.get(0) else {
            return 0;
        };
        if candidates.len() == 1 {
            return 0;
        }
        if candidates.job.model.is_none() {
            return scores::lowest(&scores::loads(candidates), &self.0);
        }
        let lore = first.lore();
        let miss_cost = lore.medians.cached_share();
        let places = self.worth_a_look(candidates.len());
        let mut looked = SmallVec::<[Looked; 16]>::with_capacity(places.len());
        looked.extend(places.filter_map(|at| {
            let backend = candidates.get(at)?;
            Some(backend.look(candidates.job, |outlook| Looked {
                at,
                score: score(&candidates.job.work, outlook, miss_cost).total(),
                load: load(backend.in_flight(), backend.weight(), outlook),
                cached: outlook.cached,
                fit: outlook.fit,
                idle: outlook.idle,
            }))
        }));
        let Some(chosen) = self.choose(&looked) else {
            return 0;
        };
        // What a choice by load alone would have reloaded.
        let idlest = looked.iter().min_by(|a, b| a.load.total_cmp(&b.load));
        if chosen.fit != Fit::OtherShape
            && idlest.is_some_and(|idlest| idlest.fit == Fit::OtherShape)
        {
            lore.reloads_avoided.fetch_add(1, Relaxed);
        }
        chosen.at
    }
}

impl Adaptive {
    fn choose<'a>(&self, looked: &'a [Looked]) -> Option<&'a Looked> {
        let order =
            |a: &&Looked, b: &&Looked| a.load.total_cmp(&b.load).then(a.score.total_cmp(&b.score));
        let idlest = looked.iter().min_by(order)?;
        let best = looked
            .iter()
            .map(|it| it.score)
            .fold(f64::INFINITY, f64::min);
        // A request that could save itself work somewhere is not the one to try others with.
        let is_stale = |it: &&Looked| {
            it.fit == Fit::Hot && it.idle > TRY_AFTER && it.score < TRY_FACTOR * best
        };
        let saves = looked.iter().any(|it| it.cached > MORE_CACHED);
        let stale = looked.iter().filter(is_stale).filter(|_| !saves);
        if let Some(stale) = stale.max_by(|a, b| a.idle.total_cmp(&b.idle)) {
            return Some(stale);
        }
        if best > CLEARLY * idlest.score {
            return self.any_of(
                looked
                    .iter()
                    .filter(|it| it.load <= idlest.load && it.score <= SAME_FACTOR * idlest.score),
            );
        }
        self.any_of(
            looked
                .iter()
                .filter(|it| it.score <= EQUAL_FACTOR * best + EQUAL_SECONDS),
        )
    }

    /// Of backends that are as good, the one that has the most of the prompt computed and the least to do; chance decides
    /// among the rest, since a difference too small to mean anything would decide the same every time.
    fn any_of<'a>(&self, good: impl Iterator<Item = &'a Looked>) -> Option<&'a Looked> {
        let mut good: SmallVec<[&Looked; 16]> = good.collect();
        let most = good.iter().map(|it| it.cached).fold(0.0, f64::max);
        good.retain(|it| it.cached > most - MORE_CACHED);
        let least = good.iter().map(|it| it.load).fold(f64::INFINITY, f64::min);
        good.retain(|it| it.load <= least);
        good.get(self.0.below(good.len())).copied()
    }

    /// The places of those who are scored: everybody, unless more are shown than can be looked at in time.
    fn worth_a_look(&self, count: usize) -> impl ExactSizeIterator<Item = usize> + use<> {
        let stride = count.div_ceil(WHOLE).max(1);
        let first = if stride > 1 { self.0.below(stride) } else { 0 };
        (first..count).step_by(stride)
    }
}

/// How full a backend would be: by what its slots hold, and what it is said to be able to do.
fn load(in_flight: usize, weight: f64, outlook: &Outlook) -> f64 {
    (in_flight + 1) as f64 / (weight * outlook.slots as f64)
}
