//! The backend that has the least to do for its weight.

use super::{Candidates, Dice, Entry, Strategy, score};

pub(super) const ENTRY: Entry = Entry {
    name: "least_connections",
    summary: "the backend with the fewest requests in flight per weight",
    build: |seed| Box::new(LeastConnections(Dice::seeded(seed))),
};

#[derive(Debug)]
struct LeastConnections(Dice);

impl Strategy for LeastConnections {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        score::lowest(&score::loads(candidates), &self.0)
    }
}
