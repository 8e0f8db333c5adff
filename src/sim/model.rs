//! What a node serves.

use super::gpu::{Gpu, REFERENCE_GB};
use crate::wire::ModelKey;
use std::time::Duration;

/// Tokens of context that a model has unless a request says otherwise.
pub const CONTEXT: u32 = 4096;

/// A model, the same on every node.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// As users write it.
    pub name: String,
    /// For comparing.
    pub key: ModelKey,
    /// Of its file, in gigabytes.
    pub size_gb: f64,
    /// Whether it embeds texts: one at a time, and nothing is decoded.
    pub is_embedding: bool,
}

impl Model {
    /// A model that writes answers. `None` if no Ollama would accept the name.
    pub fn chat(name: &str, size_gb: f64) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            key: ModelKey::parse(name)?,
            size_gb,
            is_embedding: false,
        })
    }

    /// A model that embeds texts. `None` if no Ollama would accept the name.
    pub fn embedding(name: &str, size_gb: f64) -> Option<Self> {
        Some(Self {
            is_embedding: true,
            ..Self::chat(name, size_gb)?
        })
    }

    /// Its work per token, the reference model's being 1.
    pub fn effort(&self) -> f64 {
        self.size_gb / REFERENCE_GB
    }

    /// Gigabytes that it takes in memory with this context for each of so many requests at a time.
    pub fn memory_gb(&self, context: u32, slots: usize) -> f64 {
        let tokens = f64::from(context) * slots as f64;
        // 128 KiB per token for the reference model; caches grow more slowly than models.
        self.size_gb * 1.15 + tokens * 131_072e-9 * self.effort().sqrt()
    }

    /// Requests that its runner works on at a time, where others would have `slots`.
    pub fn slots(&self, slots: usize) -> usize {
        if self.is_embedding { 1 } else { slots.max(1) }
    }

    /// How long a machine takes to load it.
    pub fn load_time(&self, gpu: &Gpu) -> Duration {
        Duration::from_secs_f64(1.0 + self.size_gb / gpu.load_gb)
    }

    /// What nodes say is its digest: 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        format!("{:016x}", self.key.hash64()).repeat(4)
    }
}
