//! Choosing one of several backends that could all serve a request. Knows nothing of HTTP.
//!
//! Each strategy is one file. To add one, write the file with its [`Entry`], then name it in the module list and in
//! [`ALL`]; configuration, help texts, property tests and the bench walk that table.

mod adaptive;
mod dice;
mod ip_hash;
mod least_connections;
mod random;
mod response_time;
mod round_robin;
mod score;
mod sight;
#[cfg(test)]
mod tests;
mod two_choices;

pub use adaptive::{Terms, score};
pub use dice::Dice;
pub use sight::{Sight, WHOLE, draw, leave_idlest};

use crate::demand::Demand;
use crate::knowledge::Job;
use crate::pool::Backend;
use std::fmt;
use std::sync::Arc;
use tokio::time::Instant;

/// Every strategy, in the order users see.
pub const ALL: &[Entry] = &[
    round_robin::ENTRY,
    least_connections::ENTRY,
    ip_hash::ENTRY,
    response_time::ENTRY,
    random::ENTRY,
    two_choices::ENTRY,
    adaptive::ENTRY,
];

/// One strategy of the table.
#[derive(Clone, Copy)]
pub struct Entry {
    /// What users write in the configuration.
    pub name: &'static str,
    /// One line for help texts.
    pub summary: &'static str,
    /// Makes one; all chance comes from the seed.
    pub build: fn(seed: u64) -> Box<dyn Strategy>,
}

impl Entry {
    /// The strategy of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|entry| entry.name == name)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// A way of choosing. Called from many threads at once; must not block, do I/O or read a clock.
pub trait Strategy: fmt::Debug + Send + Sync {
    /// The position of the chosen candidate, below `candidates.len()`.
    fn pick(&self, candidates: &Candidates<'_>) -> usize;

    /// Whether it knows how long the line at a full node is, and so may choose one while others have room.
    fn reckons_with_lines(&self) -> bool {
        false
    }

    /// What it wants to see where more than [`WHOLE`] backends could serve a request; `None` if that is all of them. It may
    /// still be shown more.
    fn sight(&self) -> Option<Sight<'_>> {
        None
    }
}

/// Backends that may all serve a request, never none of them, and what is known of the request.
#[derive(Debug)]
pub struct Candidates<'a> {
    backends: &'a [&'a Arc<Backend>],
    /// The request, with what is known of it.
    pub job: &'a Job<'a>,
    /// The time of the choice.
    pub now: Instant,
}

impl<'a> Candidates<'a> {
    /// `None` if there is nobody to choose from.
    pub fn new(backends: &'a [&'a Arc<Backend>], job: &'a Job<'a>, now: Instant) -> Option<Self> {
        (!backends.is_empty()).then_some(Self { backends, job, now })
    }

    /// What the request asks for.
    pub fn demand(&self) -> &'a Demand {
        self.job.demand
    }

    /// How many there are, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.backends.len()
    }

    /// The candidates: in the configuration's order, unless they are a few of many.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a Backend> {
        self.backends.iter().map(|backend| &***backend)
    }

    /// The candidate at a position, if there is one.
    pub fn get(&self, at: usize) -> Option<&'a Arc<Backend>> {
        self.backends.get(at).copied()
    }
}
