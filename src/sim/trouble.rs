//! What goes wrong with a node, and when.

use std::time::Duration;

/// A node that is in trouble for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trouble {
    /// From when on, since the start of the run.
    pub from: Duration,
    /// When it is over.
    pub until: Duration,
    /// What is wrong.
    pub kind: Kind,
}

/// What is wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// It answers new requests with 500 after [`FAIL_AFTER`].
    Failing,
    /// Everything takes this many times as long.
    Slow(f64),
    /// It takes requests and goes on with none; its connections stay.
    Frozen,
    /// It is not there: connections are refused, those it had are broken, and its memory is empty.
    Gone,
}

/// How long a failing node takes.
pub const FAIL_AFTER: Duration = Duration::from_millis(4);

impl Kind {
    /// How many times as long everything takes.
    pub fn slowdown(self) -> f64 {
        match self {
            Self::Slow(times) => times,
            Self::Frozen => f64::INFINITY,
            Self::Failing | Self::Gone => 1.0,
        }
    }
}
