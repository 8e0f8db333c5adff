//! What clients ask for.

use super::prompt::Prompt;
use std::time::Duration;

/// One request of a workload.
#[derive(Debug, Clone)]
pub struct Request {
    /// When it is sent.
    pub start: Start,
    /// Who sends it.
    pub client: u32,
    /// What belongs to the same conversation has the same, if its client says so.
    pub session: Option<u64>,
    /// The place of its model in the scenario's list.
    pub model: usize,
    /// The context it asks for, in tokens, if it does.
    pub context: Option<u32>,
    /// What is read.
    pub prompt: Prompt,
    /// Tokens of the answer; at least 1, except where texts are embedded.
    pub output: u32,
}

/// When a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At a time, since the start of the run.
    At(Duration),
    /// Some time after the end of an earlier request of the list.
    After(usize, Duration),
}
