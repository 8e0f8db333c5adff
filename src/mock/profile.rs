//! What a simulated node is: its models and its speeds.

use std::io;
use std::time::Duration;

/// No simulated step takes longer than this.
pub(super) const LONGEST: Duration = Duration::from_secs(86_400);

/// A model that a node has on its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// As Ollama would list it; the tag may be left out. Names with `embed` or `minilm` are embedding models.
    pub name: String,
    /// Size on disk, which decides how long a load takes.
    pub size_bytes: u64,
}

impl Model {
    /// A model of a size that suits its name: `8b` in the tag means eight billion weights at four bits and a bit.
    pub fn named(name: &str) -> Self {
        let size_bytes = match billions(name) {
            _ if is_embedding(name) => 274_000_000,
            Some(billions) => billions * 620_000_000,
            None => 2_019_000_000,
        };
        Self {
            name: name.to_owned(),
            size_bytes,
        }
    }
}

/// Whether a model of this name makes vectors and no text.
pub(super) fn is_embedding(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("embed") || name.contains("minilm")
}

/// The `8` of `qwen3:8b`.
fn billions(name: &str) -> Option<u64> {
    let (_, tag) = name.rsplit_once(':')?;
    let digits = tag.split(['b', 'B']).next()?;
    digits.parse().ok().filter(|n| (1..1000).contains(n))
}

/// What a node is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// What it has on disk, newest first.
    pub models: Vec<Model>,
    /// How fast prompts are read, all together. A token is four bytes of prompt.
    pub prefill_tokens_per_second: f64,
    /// How fast one answer alone is written; several at once are each a little slower.
    pub decode_tokens_per_second: f64,
    /// By how much of itself each further answer of a model slows all of them, at least 0: with three at 0.15, each is
    /// written at 1 / (1 + 2 * 0.15) of the speed.
    pub crowding: f64,
    /// Answers written at once per model, at least 1. Embedding models have one slot whatever this says.
    pub slots: usize,
    /// How fast models are loaded.
    pub load_bytes_per_second: f64,
    /// Models loaded at the same time, at least 1.
    pub loaded_limit: usize,
    /// What `/api/version` says.
    pub version: String,
    /// Equal seeds give equal answers to equal requests.
    pub seed: u64,
    /// Mean length of an answer, in tokens, if the request sets none.
    pub answer_tokens: usize,
    /// Everything happens this many times faster than the speeds above say.
    pub time_scale: f64,
}

impl Default for Profile {
    /// A middling card with a chat and an embedding model.
    fn default() -> Self {
        Self {
            models: vec![Model::named("llama3.2"), Model::named("nomic-embed-text")],
            prefill_tokens_per_second: 2000.0,
            decode_tokens_per_second: 60.0,
            crowding: 0.15,
            slots: 1,
            load_bytes_per_second: 2e9,
            loaded_limit: 3,
            version: "0.33.0".to_owned(),
            seed: 0,
            answer_tokens: 60,
            time_scale: 1.0,
        }
    }
}

impl Profile {
    /// How long `amount` takes at `per_second`, sped up by the time scale.
    pub(super) fn time_for(&self, amount: f64, per_second: f64) -> Duration {
        let seconds = amount / per_second / self.time_scale;
        Duration::try_from_secs_f64(seconds).map_or(LONGEST, |time| time.min(LONGEST))
    }

    /// A real duration, sped up by the time scale.
    pub(super) fn scaled(&self, duration: Duration) -> Duration {
        self.time_for(duration.as_secs_f64(), 1.0)
    }

    /// Refuses speeds that are no speeds and names that are no names.
    pub(super) fn check(&self) -> io::Result<()> {
        let wrong = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        for (what, speed) in [
            ("prefill_tokens_per_second", self.prefill_tokens_per_second),
            ("decode_tokens_per_second", self.decode_tokens_per_second),
            ("load_bytes_per_second", self.load_bytes_per_second),
            ("time_scale", self.time_scale),
        ] {
            if !(speed.is_finite() && speed > 0.0) {
                return wrong(format!("{what} is {speed}, but has to be above 0"));
            }
        }
        if !(self.crowding.is_finite() && self.crowding >= 0.0) {
            let crowding = self.crowding;
            return wrong(format!("crowding is {crowding}, but has to be at least 0"));
        }
        for (what, number) in [("slots", self.slots), ("loaded_limit", self.loaded_limit)] {
            if number == 0 {
                return wrong(format!("{what} is 0, but has to be at least 1"));
            }
        }
        if self.slots > tokio::sync::Semaphore::MAX_PERMITS {
            return wrong(format!("slots is {}, which is too many", self.slots));
        }
        for model in &self.models {
            if crate::wire::ModelKey::parse(&model.name).is_none() {
                return wrong(format!("{:?} is not the name of a model", model.name));
            }
        }
        Ok(())
    }
}
