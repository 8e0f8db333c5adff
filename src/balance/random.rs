//! Chance alone.

use super::{Candidates, Dice, Entry, Strategy};
use crate::pool::Backend;

pub(super) const ENTRY: Entry = Entry {
    name: "random",
    summary: "any backend by chance, heavier ones more often",
    build: |seed| Box::new(Random(Dice::seeded(seed))),
};

#[derive(Debug)]
struct Random(Dice);

impl Strategy for Random {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let total: f64 = candidates.iter().map(Backend::weight).sum();
        let mut left = self.0.unit() * total;
        let chosen = candidates.iter().position(|backend| {
            left -= backend.weight();
            left < 0.0
        });
        // Rounding may leave a crumb after the last one.
        chosen.unwrap_or(candidates.len() - 1)
    }
}
