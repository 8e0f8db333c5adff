//! A request with everything that is known about it before a node is chosen.

use super::{Model, Work};
use crate::clock;
use crate::demand::{Demand, Intent};
use std::sync::Arc;
use tokio::time::Instant;

/// A request to be placed.
#[derive(Debug)]
pub struct Job<'a> {
    /// What it asks for.
    pub demand: &'a Demand,
    /// The model; `None` if it names none, or one that nobody is known to hold.
    pub model: Option<Arc<Model>>,
    /// What it comes to in tokens.
    pub work: Work,
    /// Tokens per byte of its prompt.
    pub tokens_per_byte: f64,
    /// Of the tokens that should be computed already, the share that has proved to be.
    pub reuse: f64,
    /// Seconds since the epoch.
    pub now: f64,
}

impl<'a> Job<'a> {
    /// A request for a model.
    pub fn new(demand: &'a Demand, model: Option<Arc<Model>>, now: Instant) -> Self {
        let bytes = demand.prompt_bytes.max(1);
        let expected = model
            .as_ref()
            .map(|model| model.expect(bytes, demand.output_limit));
        let prompt = expected.map_or(bytes as f64 * 0.25, |expected| expected.prompt);
        let writes = !demand.is_embedding && demand.intent == Intent::Infer;
        Self {
            demand,
            work: Work {
                prompt,
                output: match expected {
                    Some(expected) if writes => expected.output,
                    _ => 0.0,
                },
            },
            tokens_per_byte: prompt / bytes as f64,
            reuse: expected.map_or(1.0, |expected| expected.reuse),
            now: clock::seconds(now),
            model,
        }
    }
}
