//! What happened to the requests of one run, simulated or real.

use std::time::Duration;

/// One run: a workload, offered once.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What was offered: the name of a scenario, a trace or an arrival process.
    pub scenario: String,
    /// Who chose: a strategy's name, or the address of what was driven.
    pub strategy: String,
    /// Offered load as a share of what the scenario calls its full load; `None` where nobody knows what is full.
    pub load: Option<f64>,
    /// Repeats the run exactly, where it was simulated.
    pub seed: u64,
    /// Names of the nodes, in the order that [`Outcome::node`] counts.
    pub nodes: Vec<String>,
    /// Every request that counts, in the order in which they were meant to be sent.
    pub outcomes: Vec<Outcome>,
    /// Models loaded into memory during the run; `None` if nobody counted.
    pub loads: Option<u64>,
    /// How late requests were sent, sorted; empty for a simulated run, which is never late.
    pub lags: Vec<Duration>,
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// When it was meant to be sent, since the start of the run. All times below count from here, so that waiting to be
    /// sent is waiting.
    pub intended: Duration,
    /// Until the first token of its answer; `None` for an embedding, and where none came.
    pub first_token: Option<Duration>,
    /// Until the end of its answer, or until it failed.
    pub total: Duration,
    /// Tokens of the answer.
    pub tokens: u32,
    /// Tokens of the prompt, and how many of them the node had computed before.
    pub prompt_tokens: u32,
    /// Of the prompt's tokens those that did not have to be computed; 0 if nobody said.
    pub cached_tokens: u32,
    /// The node that served it, by its place in [`Run::nodes`].
    pub node: Option<u16>,
    /// How often it was sent to a node, at least 1 unless it never left the line.
    pub attempts: u16,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// It was refused because nobody had room: 503, or 429.
    Refused,
    /// It was answered with an error.
    Answered,
    /// Its answer broke off.
    Broken,
    /// It took longer than it was given.
    TimedOut,
}
