//! The options of a request that its model's runner is started with.

use super::reader::Reader;

/// What a runner is started with: a model that is loaded with other values is loaded again. `None` where the request
/// leaves it open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RunnerOptions {
    /// The context, in tokens.
    pub num_ctx: Option<i64>,
    /// Tokens of a prompt that are worked on at a time.
    pub num_batch: Option<i64>,
    /// Layers on GPUs.
    pub num_gpu: Option<i64>,
    /// The GPU for what is not split.
    pub main_gpu: Option<i64>,
    /// Whether the model's file is mapped into memory.
    pub use_mmap: Option<bool>,
    /// Threads on the CPU.
    pub num_thread: Option<i64>,
}

impl Options {
    /// Takes over what an `options` object says. Ollama, which reads it into a map, minds the case of its keys, and adds
    /// up several such objects; `null` for the whole forgets what came before, for one option leaves it open.
    pub(super) fn take(&mut self, raw: &str) {
        if raw == "null" {
            *self = Self::default();
            return;
        }
        let mut given = *self;
        let read = Reader::new(raw).object(|reader, key| {
            given.note(key, reader.value()?);
            Some(())
        });
        // What is no object says nothing.
        if read.is_some() {
            *self = given;
        }
    }

    fn note(&mut self, key: &str, raw: &str) {
        match key {
            "num_ctx" => self.runner.num_ctx = integer(raw),
            "num_batch" => self.runner.num_batch = integer(raw),
            "num_gpu" => self.runner.num_gpu = integer(raw),
            "main_gpu" => self.runner.main_gpu = integer(raw),
            "use_mmap" => self.runner.use_mmap = serde_json::from_str(raw).ok(),
            "num_thread" => self.runner.num_thread = integer(raw),
            "num_predict" => self.num_predict = integer(raw),
            _ => {}
        }
    }
}

/// The options of a request that matter to routing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Options {
    pub(super) runner: RunnerOptions,
    /// Tokens that the answer may have; negative for no limit.
    pub(super) num_predict: Option<i64>,
}

/// A number, whatever is behind its point cut off.
#[expect(
    clippy::cast_possible_truncation,
    reason = "cutting off is what Ollama does, and the ends of the range are far from anything that it accepts"
)]
fn integer(raw: &str) -> Option<i64> {
    let number: f64 = serde_json::from_str(raw).ok()?;
    Some(number as i64)
}
