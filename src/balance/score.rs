//! Scores of candidates, and the choice of a lowest one.

use super::{Candidates, Dice};
use crate::pool::Backend;
use smallvec::SmallVec;

/// One number for each candidate, lower is better; up to 64 need no allocation.
pub(super) type Scores = SmallVec<[f64; 64]>;

/// How full a backend would be with one more request, per unit of weight. The one more is what lets an idle weak node
/// lose against a strong one that has little to do.
pub(super) fn load(backend: &Backend) -> f64 {
    (backend.in_flight() + 1) as f64 / backend.weight()
}

/// The loads of all candidates, each read once.
pub(super) fn loads(candidates: &Candidates<'_>) -> Scores {
    candidates.iter().map(load).collect()
}

/// The lowest of the scores.
pub(super) fn least(scores: &[f64]) -> f64 {
    scores.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The position of a lowest score; chance decides among equals.
pub(super) fn lowest(scores: &[f64], dice: &Dice) -> usize {
    let least = least(scores);
    let mut equals = scores
        .iter()
        .enumerate()
        .filter(|(_, score)| **score <= least);
    let chosen = match equals.clone().count() {
        0 | 1 => equals.next(),
        several => equals.nth(dice.below(several)),
    };
    chosen.map_or(0, |(at, _)| at)
}
