//! A request as one node sees it, and what the node lets others see of it.

use super::prompt::Prompt;
use crate::wire::Counters;
use std::time::Duration;

/// A request that was given to a node.
#[derive(Debug, Clone)]
pub struct Job {
    /// By which all others speak of it.
    pub id: usize,
    /// The place of its model in the scenario's list.
    pub model: usize,
    /// The context that it is to be served with, in tokens.
    pub context: u32,
    /// What is read.
    pub prompt: Prompt,
    /// Tokens of the answer; 0 where texts are embedded.
    pub output: u32,
    /// When the node got it.
    pub came: Duration,
}

/// Something that the proxy notices of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The first token of its answer came.
    FirstToken(usize),
    /// All of its answer came.
    Done {
        /// The job.
        id: usize,
        /// What the node says at the end.
        counters: Counters,
        /// Tokens of the prompt that were not computed, which no node says.
        cached: u32,
    },
    /// It was not, or not fully, answered.
    Failed(usize, Fault),
}

/// How a node fails a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No connection could be made.
    Unreachable,
    /// 503: too many wait for models that are not in memory.
    Full,
    /// 500.
    Error,
    /// The connection broke.
    Broken,
}
