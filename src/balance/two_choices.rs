//! Two backends by chance, and of these the one with less to do: nearly as even as looking at all of them, and proxies
//! that know nothing of each other do not all run to the same one.

use super::{Candidates, Dice, Entry, Sight, Strategy, score};

pub(super) const ENTRY: Entry = Entry {
    name: "two_choices",
    summary: "of two backends drawn by chance the one with fewer requests in flight per weight",
    build: |seed| Box::new(TwoChoices(Dice::seeded(seed))),
};

/// Each backend is drawn as often as any other; weights count only when the two are compared. In a small pool of very
/// unequal nodes two weak ones may thus meet, and one of them wins: `least_connections` is the better choice there.
#[derive(Debug)]
struct TwoChoices(Dice);

/// Of many backends, how many are drawn first: more than two, lest two that stand side by side never meet, and few.
const DRAWN: usize = 8;

impl Strategy for TwoChoices {
    fn sight(&self) -> Option<Sight<'_>> {
        Some(Sight {
            drawn: DRAWN,
            idlest: DRAWN,
            warm: 0,
            familiar: 0,
            dice: &self.0,
        })
    }

    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let one = self.0.below(candidates.len());
        let other = match self.0.below(candidates.len() - 1) {
            at if at >= one => at + 1,
            at => at,
        };
        match (candidates.get(one), candidates.get(other)) {
            // Which of them is `one` was chance, so it may win a tie.
            (Some(a), Some(b)) if score::load(b) < score::load(a) => other,
            _ => one,
        }
    }
}
