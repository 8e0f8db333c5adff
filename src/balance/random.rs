//! Chance alone.

use super::{Candidates, Entry, Strategy};

pub(super) const ENTRY: Entry = Entry {
    name: "random",
    summary: "any backend by chance, heavier ones more often",
    build: |_seed| Box::new(Random),
};

#[derive(Debug)]
struct Random;

impl Strategy for Random {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        candidates.len() - 1
    }
}
