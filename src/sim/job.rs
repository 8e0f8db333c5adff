//! A request as one node sees it, and what the node lets others see of it.

use super::prompt::Prompt;
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

/// What a node says at the end of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Tokens of the prompt, those included that were not computed.
    pub prompt_tokens: u32,
    /// Of these the ones that were not computed, which no real node says.
    pub cached_tokens: u32,
    /// How long the others took.
    pub prompt_duration: Duration,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// How long it took to write them.
    pub output_duration: Duration,
    /// How long the model took to come into memory, with the wait for that.
    pub load_duration: Duration,
    /// Everything together, with the wait for a slot.
    pub total_duration: Duration,
}

/// Something that the proxy notices of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The first token of its answer came.
    FirstToken(usize),
    /// All of its answer came.
    Done(usize, Counters),
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
