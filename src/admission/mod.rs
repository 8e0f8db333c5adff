//! The line in front of the fleet, pure: who waits, who goes first, who is turned away. Knows nothing of backends, sockets
//! or tasks.
//!
//! A [`Line`] is fed events (somebody comes, leaves, a slot is free, time passes) and answers with what is to be done. Time
//! is an argument, chance comes from a seed.
//!
//! # The order
//!
//! Of the requests that can use a free slot, the first is found so:
//!
//! 1. [`Class::Interactive`] before [`Class::Batch`]. A batch request that has waited for [`BATCH_PATIENCE`], or for half of
//!    the time it has, goes on as an interactive one: batch waits longer, but does not starve.
//! 2. The clients of a class take turns, one request each. A client that joins takes its turn last, one that was served
//!    goes to the end, so a client with a hundred waiting requests does not starve one that has one.
//! 3. A client's requests of a class go in the order in which they came.
//!
//! Clients that have one request each are so served oldest first. Requests wait in groups of the same *kind*: those that
//! can use the same slots. What a free slot costs grows with the kinds that wait, not with the requests, and a kind
//! whose slots are all taken holds up no other.
//!
//! # The bound
//!
//! When the line is full, a newcomer may take the place of another, who is turned away instead:
//!
//! - an interactive request that of the newest batch request of the client with most of them: those could not have gone
//!   before it anyway, and their clients can best wait;
//! - any request that of the newest of the client which has most waiting in its class, if that has at least two more than
//!   the newcomer's: so one client may fill the line while nobody else wants in, and no longer.
//!
//! # Who need not wait
//!
//! From how fast its kind was served while it waited (the mean over the last few dozen requests) follows about how long a
//! newcomer would wait. If that is longer than it has, it is turned away at once. As long as nothing is known, nobody is.

mod drain;
mod flow;
mod line;
#[cfg(test)]
mod tests;

pub use line::Line;

use std::time::Duration;
use tokio::time::Instant;

/// How long a batch request waits before it goes on as an interactive one.
pub const BATCH_PATIENCE: Duration = Duration::from_secs(30);

/// A request in the line. No two of a line have the same, and later ones have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

/// How pressing a request is. The lower comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody waits for the answer.
    Interactive,
    /// Nobody does: embeddings, and what says so.
    Batch,
}

/// What a request brings to the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket<K> {
    /// Whose it is: requests with the same number share their turns.
    pub client: u64,
    /// How pressing it is.
    pub class: Class,
    /// Which slots it can use.
    pub kind: K,
    /// When it is turned away if it has not been served.
    pub deadline: Instant,
}

/// What became of a newcomer that may wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// What it is called from now on.
    pub id: Id,
    /// Who had to make room.
    pub displaced: Option<(Id, Refusal)>,
}

/// Why a request is turned away, and when it may come again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// When the line will probably be short enough: 1 to 60 s, and up to a fifth longer, so that those who were turned
    /// away together do not come back together.
    pub retry_after: Duration,
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The line is full.
    Full,
    /// The line is full, and another needed its place more.
    Displaced,
    /// It would not be served before its deadline.
    Hopeless,
    /// It was not served before its deadline.
    Expired,
}
