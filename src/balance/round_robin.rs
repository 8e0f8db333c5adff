//! Each backend in its turn, heavier ones more often, their turns spread evenly; a turn of its own for each model.
//!
//! A backend of weight w wants a turn every 1/w of a round. Each has a *wait*, the time until it wants its next one. The
//! candidate with the shortest wait gets the request (among equals the one that was served the longest ago), that much
//! time passes for all, and its own wait starts anew at 1/w.
//!
//! From this follow, all tested:
//! - with the same candidates, every backend has exactly its weight in every window of as many picks as all weights sum
//!   up to;
//! - of equal weights none is served twice in a row while another is eligible, whatever the candidates of each call: no
//!   wait is longer than 1/w, the one served last has just that, and loses the tie;
//! - a backend that was out gets no burst when it is back, since no wait falls below zero, and nobody inherits its turn.

use super::{Candidates, Dice, Entry, Strategy};
use crate::wire::ModelKey;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

pub(super) const ENTRY: Entry = Entry {
    name: "round_robin",
    summary: "each backend in its turn, heavier ones more often",
    build: |seed| {
        Box::new(RoundRobin {
            dice: Dice::seeded(seed),
            turns: Mutex::default(),
        })
    },
};

/// Models that have a turn of their own. One more, and the model that was not asked for the longest begins anew.
const MODELS_LIMIT: usize = 256;

/// Picks after which a backend that was in none of them is forgotten: a node that is gone must not be kept for ever, and
/// one that returns later starts as a newcomer.
const FORGET_AFTER: u64 = 1024;

/// Waits that differ by less than this share of a backend's own interval are equal but for rounding.
const ROUNDING: f64 = 1e-9;

#[derive(Debug)]
struct RoundRobin {
    dice: Dice,
    turns: Mutex<Turns>,
}

impl Strategy for RoundRobin {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.pick(candidates, &self.dice)
    }
}

/// The turns of all models; requests without one share a turn too.
#[derive(Debug, Default)]
struct Turns {
    by_model: HashMap<Option<ModelKey>, Turn>,
    picks: u64,
}

impl Turns {
    fn pick(&mut self, candidates: &Candidates<'_>, dice: &Dice) -> usize {
        let model = &candidates.demand().model;
        self.picks += 1;
        if let Some(turn) = self.by_model.get_mut(model) {
            turn.last_pick = self.picks;
            return turn.pick(candidates);
        }
        if self.by_model.len() >= MODELS_LIMIT {
            let oldest = self.by_model.iter().min_by_key(|(_, turn)| turn.last_pick);
            if let Some(model) = oldest.map(|(model, _)| model.clone()) {
                self.by_model.remove(&model);
            }
        }
        let mut turn = Turn::begin(candidates, dice, self.picks);
        let at = turn.pick(candidates);
        self.by_model.insert(model.clone(), turn);
        at
    }
}

/// Whose turn it is for one model.
#[derive(Debug)]
struct Turn {
    /// Sorted by id.
    places: Vec<Place>,
    /// Counts the picks of this turn.
    count: u64,
    /// When it was used, in picks of all models.
    last_pick: u64,
}

#[derive(Debug)]
struct Place {
    id: u64,
    /// Until it wants to be served, in rounds.
    wait: f64,
    /// The pick that it was served by; 0 for a newcomer.
    served: u64,
    /// The pick that it was last a candidate of.
    seen: u64,
}

impl Turn {
    /// A turn that stands somewhere in a round, as if it had gone on before, so that proxies that start together do not
    /// go along the same backends together.
    fn begin(candidates: &Candidates<'_>, dice: &Dice, last_pick: u64) -> Self {
        let longest = candidates
            .iter()
            .map(|backend| interval_of(backend.weight()))
            .fold(0.0, f64::max);
        let passed = dice.unit() * longest;
        let mut order: Vec<_> = candidates
            .iter()
            .map(|backend| {
                let interval = interval_of(backend.weight());
                (backend.id(), interval, passed % interval)
            })
            .collect();
        order.rotate_left(dice.below(candidates.len()));
        // Who would have been served the longest ago comes first among equals.
        order.sort_by(|(_, _, a), (_, _, b)| b.total_cmp(a));
        let mut places: Vec<_> = (1..)
            .zip(order)
            .map(|(served, (id, interval, ago))| Place {
                id,
                wait: interval - ago,
                served,
                seen: 0,
            })
            .collect();
        places.sort_by_key(|place| place.id);
        Self {
            count: places.len() as u64,
            places,
            last_pick,
        }
    }

    fn pick(&mut self, candidates: &Candidates<'_>) -> usize {
        self.count += 1;
        let mut best = Best::default();
        let mut guess = 0;
        for (at, backend) in candidates.iter().enumerate() {
            let interval = interval_of(backend.weight());
            let index = self.index_of(backend.id(), guess, interval);
            guess = index + 1;
            let count = self.count;
            let Some(place) = self.places.get_mut(index) else {
                continue;
            };
            place.seen = count;
            // The weight may have been raised since.
            place.wait = place.wait.min(interval);
            best.offer(at, place, interval);
        }
        self.serve(&best);
        if self.count.is_multiple_of(FORGET_AFTER) {
            let since = self.count - FORGET_AFTER;
            self.places.retain(|place| place.seen > since);
        }
        best.at
    }

    /// Where the backend's place is, which is made if there is none. Candidates mostly come in the order of their ids, so
    /// that the place after the last one is a good guess.
    fn index_of(&mut self, id: u64, guess: usize, interval: f64) -> usize {
        if self.places.get(guess).is_some_and(|place| place.id == id) {
            return guess;
        }
        let found = self.places.binary_search_by_key(&id, |place| place.id);
        found.unwrap_or_else(|index| {
            let newcomer = Place {
                id,
                wait: interval,
                served: 0,
                seen: self.count,
            };
            self.places.insert(index, newcomer);
            index
        })
    }

    /// Lets the time pass that the chosen one had to wait.
    fn serve(&mut self, best: &Best) {
        let rounding = best.interval * ROUNDING;
        for place in &mut self.places {
            if place.id == best.id {
                place.wait = best.interval;
                place.served = self.count;
            } else {
                let left = place.wait - best.wait;
                // What is left by rounding alone would add up.
                place.wait = if left > rounding { left } else { 0.0 };
            }
        }
    }
}

/// The best candidate so far.
#[derive(Debug)]
struct Best {
    at: usize,
    id: u64,
    wait: f64,
    served: u64,
    interval: f64,
}

impl Default for Best {
    fn default() -> Self {
        Self {
            at: 0,
            id: 0,
            wait: f64::INFINITY,
            served: u64::MAX,
            interval: 0.0,
        }
    }
}

impl Best {
    fn offer(&mut self, at: usize, place: &Place, interval: f64) {
        let rounding = interval * ROUNDING;
        let sooner = place.wait < self.wait - rounding;
        let equal = place.wait <= self.wait + rounding;
        if sooner || (equal && place.served < self.served) {
            *self = Self {
                at,
                id: place.id,
                wait: place.wait,
                served: place.served,
                interval,
            };
        }
    }
}

/// How long a backend waits from one turn to the next, in rounds; finite even for the smallest weight.
fn interval_of(weight: f64) -> f64 {
    weight.recip().min(f64::MAX)
}

#[cfg(test)]
mod tests;
