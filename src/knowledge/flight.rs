//! A request on a node.

use super::{Job, Model};
use crate::clock;
use crate::wire::Prefix;
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use tokio::time::Instant;

/// How far an answer has come. Written for each chunk, without a lock.
#[derive(Debug, Default)]
pub struct Progress {
    tokens: AtomicU32,
    last: AtomicU64,
}

impl Progress {
    /// So many more tokens came in.
    pub fn add(&self, tokens: u32, now: Instant) {
        self.tokens.fetch_add(tokens, Relaxed);
        self.last.store(clock::seconds(now).to_bits(), Relaxed);
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u32 {
        self.tokens.load(Relaxed)
    }

    /// When the last one came, in seconds since the epoch; 0 if none came.
    pub fn last(&self) -> f64 {
        f64::from_bits(self.last.load(Relaxed))
    }
}

/// What is known of a request while it is on its node.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each may be so whatever the others are"
)]
pub struct Flight {
    pub(super) id: u64,
    pub(super) model_id: u64,
    pub(super) model: Arc<Model>,
    pub(super) progress: Arc<Progress>,
    pub(super) prompt_bytes: u64,
    /// Of most requests there is one.
    pub(super) prefixes: SmallVec<[Prefix; 1]>,
    pub(super) limit: Option<u32>,
    pub(super) is_embedding: bool,
    /// Whether its answer comes token by token.
    pub(super) is_streamed: bool,
    /// Tokens.
    pub(super) prompt: f64,
    pub(super) cached: f64,
    pub(super) output: f64,
    /// Seconds since the epoch.
    pub(super) dispatched: f64,
    /// When it is believed to have got its slot.
    pub(super) started: Option<f64>,
    pub(super) first_byte: Option<f64>,
    /// Tokens by the last look at how answers come in.
    pub(super) looked_at: u32,
    /// Answers being written in its runner, summed over time, when its own began.
    pub(super) area: f64,
    /// Runners at work, summed over time, when its own began.
    pub(super) active_area: f64,
    /// Whether its model was not in memory when it came.
    pub(super) was_cold: bool,
    /// Whether it is the one that had the model loaded.
    pub(super) loads: bool,
    /// Seconds until its first token, as was expected.
    pub(super) expected_first: f64,
}

impl Flight {
    pub(super) fn new(id: u64, job: &Job<'_>, model: Arc<Model>, cached: f64) -> Self {
        let demand = job.demand;
        Self {
            id,
            model_id: model.id(),
            model,
            progress: Arc::default(),
            prompt_bytes: demand.prompt_bytes,
            prefixes: SmallVec::from_slice(&demand.prefixes),
            limit: demand.output_limit,
            is_embedding: demand.is_embedding,
            is_streamed: demand.is_streamed,
            prompt: job.work.prompt,
            cached,
            output: job.work.output,
            dispatched: job.now,
            started: None,
            first_byte: None,
            looked_at: 0,
            area: 0.0,
            active_area: 0.0,
            was_cold: false,
            loads: false,
            expected_first: 0.0,
        }
    }

    /// Tokens of the prompt that are still to be computed, at so many per second; 0 once the first byte came.
    pub(super) fn prefill_left(&self, rate: f64, now: f64) -> f64 {
        if self.first_byte.is_some() {
            return 0.0;
        }
        let uncached = (self.prompt - self.cached).max(0.0);
        let Some(started) = self.started else {
            return uncached;
        };
        // As long as no token has come it cannot be done, unless nothing shows when it is.
        let least = if self.is_streamed {
            0.05 * uncached
        } else {
            0.0
        };
        (uncached - rate * (now - started)).max(least)
    }

    /// Tokens of the answer that are still to come, at so many per second if one cannot see them.
    pub(super) fn output_left(&self, prefill: f64, decode: f64, now: f64) -> f64 {
        let written = if self.is_streamed {
            f64::from(self.progress.tokens())
        } else {
            let uncached = (self.prompt - self.cached).max(0.0);
            let began = self.started.map(|started| started + uncached / prefill);
            began.map_or(0.0, |began| (now - began).max(0.0) * decode)
        };
        (self.output - written).max(0.25 * self.output)
    }

    /// Whether its answer is being written, as far as one can tell.
    pub(super) fn is_decoding(&self, prefill: f64, now: f64) -> bool {
        if self.is_embedding {
            return false;
        }
        if self.is_streamed {
            self.first_byte.is_some()
        } else {
            self.started.is_some() && self.prefill_left(prefill, now) <= 0.0
        }
    }
}
