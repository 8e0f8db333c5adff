//! What one node would mean for one request: the input of a prediction, from what was learnt or from the truth.

use super::node::SHARING;
use smallvec::SmallVec;

/// A request, measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Tokens of its prompt.
    pub prompt: f64,
    /// Tokens expected in its answer; 0 for an embedding.
    pub output: f64,
}

/// A request that runs or waits in the runner that this one would use.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Peer {
    /// Tokens of its prompt that are still to be computed.
    pub prefill: f64,
    /// Tokens of its answer that are still to come.
    pub output: f64,
    /// Whether its answer is being written.
    pub is_decoding: bool,
}

/// A node, as it stands for one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// Prompt tokens per second of this model, had it the node to itself; above 0.
    pub prefill: f64,
    /// Answer tokens per second of this model, had it the node to itself; above 0.
    pub decode: f64,
    /// By how much of itself each further answer in the same runner slows all of them, 0 to 1.
    pub slope: f64,
    /// Answers that the runner writes at a time, at least 1.
    pub slots: usize,
    /// Who is in the same runner, in order of arrival.
    pub peers: SmallVec<[Peer; 8]>,
    /// The outcome of [`wait`](Self::wait), where it was reckoned before.
    pub wait: Option<f64>,
    /// Other models that are at work on the node.
    pub others: usize,
    /// Seconds of work on prompts of those models.
    pub others_prefill: f64,
    /// Tokens of the prompt that need not be computed again.
    pub cached: f64,
    /// Seconds until the model is in memory; 0 if it is.
    pub load: f64,
    /// Whether the load would replace the same model with other options, or is needed at all.
    pub fit: Fit,
    /// What evicting others costs those who want them, in seconds.
    pub eviction: f64,
    /// Failures of late, each worth less as it ages.
    pub failures: f64,
    /// Requests that a node has whose speed nobody has measured.
    pub unproven: usize,
    /// Seconds since anything was last heard of a request there; 0 while it has one.
    pub idle: f64,
    /// Whether it has work, and has given no sign of progress for too long.
    pub is_stuck: bool,
}

/// How a node stands to the model that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// In memory, as asked for.
    Hot,
    /// On its way into memory, as asked for.
    Loading,
    /// In memory with other options, so that it would be loaded again.
    OtherShape,
    /// Not in memory.
    Cold,
}

impl Outlook {
    /// By how much each further model at work slows the others.
    fn share(&self) -> f64 {
        1.0 + SHARING * self.others as f64
    }

    /// Prompt tokens per second for this request.
    pub fn prefill_rate(&self) -> f64 {
        self.prefill / self.share()
    }

    /// Answers that are written together, with this request's.
    pub fn together(&self) -> usize {
        (self.peers.len() + 1).min(self.slots)
    }

    /// Answer tokens per second for this request.
    pub fn decode_rate(&self) -> f64 {
        self.decode / self.share() / (1.0 + self.slope * (self.together() - 1) as f64)
    }

    /// Seconds until a slot is free, those in the runner served in order of arrival, and until prompts that came before are
    /// done, which keep the whole node busy.
    pub fn wait(&self) -> f64 {
        if let Some(wait) = self.wait {
            return wait;
        }
        let (per_prompt_token, per_token) =
            (self.prefill_rate().recip(), self.decode_rate().recip());
        let prompts: f64 = self.peers.iter().map(|peer| peer.prefill).sum();
        let busy = prompts * per_prompt_token + self.others_prefill;
        if self.peers.len() < self.slots {
            return busy;
        }
        let peers = self.peers.iter();
        let mut takes = peers.map(|it| it.prefill * per_prompt_token + it.output * per_token);
        let mut free_at: SmallVec<[f64; 16]> = takes.by_ref().take(self.slots).collect();
        for more in takes {
            if let Some(first) = free_at
                .iter_mut()
                .reduce(|a, b| if *b < *a { b } else { a })
            {
                *first += more;
            }
        }
        free_at.into_iter().fold(f64::INFINITY, f64::min).max(busy)
    }
}

impl Default for Outlook {
    /// An idle node of middling speed that has the model in memory.
    fn default() -> Self {
        Self {
            prefill: 3000.0,
            decode: 80.0,
            slope: 0.2,
            slots: 1,
            peers: SmallVec::new(),
            wait: None,
            others: 0,
            others_prefill: 0.0,
            cached: 0.0,
            load: 0.0,
            fit: Fit::Hot,
            eviction: 0.0,
            failures: 0.0,
            unproven: 0,
            idle: 0.0,
            is_stuck: false,
        }
    }
}
