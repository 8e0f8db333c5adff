//! What is known of one model, whichever node runs it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The size of the model in whose tokens speeds are measured, in bytes: eight billion weights at four bits and a bit.
pub const REFERENCE_BYTES: f64 = 4.9e9;

/// A model is never taken for smaller than this share of the reference, since every token costs something.
const LEAST_WORK: f64 = 0.03;
/// Tokens per byte of a prompt's JSON before any prompt was counted.
const TOKENS_PER_BYTE: f64 = 0.25;
/// Tokens of an answer before any was counted.
const ANSWER_TOKENS: f64 = 200.0;
/// The smallest share that one more answer has in the averages.
const LEAST_GAIN: f64 = 0.02;
/// Seconds after which a request counts for 1/e in the rate of requests.
const RATE_SPAN: f64 = 60.0;
/// Room in memory before any node has shown it, for each byte on disk.
const MEMORY_PER_BYTE: f64 = 1.2;

/// One model.
#[derive(Debug)]
pub struct Model {
    id: u64,
    /// For people; the first one it was seen under.
    name: OnceLock<Box<str>>,
    /// On disk; 0 if nobody has said.
    bytes: AtomicU64,
    /// In memory; 0 if nobody has seen it there.
    memory: AtomicU64,
    /// How many nodes have it in memory, or soon will.
    copies: AtomicUsize,
    /// Which ones, in no order. Copied when it changes while somebody reads it, which is when a model is loaded or put out.
    nodes: Mutex<Arc<Vec<u64>>>,
    lore: Mutex<Lore>,
}

#[derive(Debug)]
struct Lore {
    tokens_per_byte: f64,
    prompts: u32,
    answers: [Mean; 4],
    rate: f64,
    rate_at: f64,
    reuse: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    value: f64,
    count: u32,
}

/// What a model makes of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expectation {
    /// Tokens of the prompt.
    pub prompt: f64,
    /// Tokens of the answer.
    pub output: f64,
    /// Of the tokens that should be computed already, the share that has proved to be.
    pub reuse: f64,
}

impl Model {
    /// A model of which no more is known. The id tells it from all others, under whatever name.
    pub fn new(id: u64) -> Self {
        let lore = Lore {
            tokens_per_byte: TOKENS_PER_BYTE,
            prompts: 0,
            answers: [Mean::default(); 4],
            rate: 0.0,
            rate_at: 0.0,
            reuse: 1.0,
        };
        Self {
            id,
            name: OnceLock::new(),
            bytes: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            copies: AtomicUsize::new(0),
            nodes: Mutex::default(),
            lore: Mutex::new(lore),
        }
    }

    /// Tells it from all others.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Notes what people call it, unless it has a name.
    pub fn set_name(&self, name: &str) {
        self.name.get_or_init(|| name.into());
    }

    /// What people call it; empty if nobody has said.
    pub fn name(&self) -> &str {
        self.name.get().map_or("", |name| name)
    }

    /// Notes its size on disk, in bytes.
    pub fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Relaxed);
    }

    /// Notes its size in memory, in bytes; the largest counts.
    pub fn set_memory(&self, bytes: u64) {
        self.memory.fetch_max(bytes, Relaxed);
    }

    /// Its size on disk, in bytes; the reference's if nobody has said.
    pub fn bytes(&self) -> f64 {
        match self.bytes.load(Relaxed) {
            0 => REFERENCE_BYTES,
            bytes => bytes as f64,
        }
    }

    /// The room that it takes in memory, in bytes.
    pub fn memory(&self) -> f64 {
        match self.memory.load(Relaxed) {
            0 => self.bytes() * MEMORY_PER_BYTE,
            bytes => bytes as f64,
        }
    }

    /// The work of one of its tokens, the reference's being 1.
    pub fn work(&self) -> f64 {
        (self.bytes() / REFERENCE_BYTES).max(LEAST_WORK)
    }

    /// How many nodes have it in memory, or soon will.
    pub fn copies(&self) -> usize {
        self.copies.load(Relaxed)
    }

    /// The numbers of those nodes, in no order.
    pub fn nodes(&self) -> Arc<Vec<u64>> {
        Arc::clone(&self.lock_nodes())
    }

    pub(super) fn add_copy(&self, node: u64) {
        let mut nodes = self.lock_nodes();
        Arc::make_mut(&mut nodes).push(node);
        self.copies.store(nodes.len(), Relaxed);
    }

    pub(super) fn remove_copy(&self, node: u64) {
        let mut nodes = self.lock_nodes();
        if let Some(at) = nodes.iter().position(|it| *it == node) {
            Arc::make_mut(&mut nodes).swap_remove(at);
        }
        self.copies.store(nodes.len(), Relaxed);
    }

    fn lock_nodes(&self) -> MutexGuard<'_, Arc<Vec<u64>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that somebody asks for it.
    pub fn arrived(&self, now: f64) {
        let mut lore = self.lore();
        lore.rate = lore.faded_rate(now) + 1.0 / RATE_SPAN;
        lore.rate_at = now;
    }

    /// Requests per second of late.
    pub fn rate(&self, now: f64) -> f64 {
        self.lore().faded_rate(now)
    }

    /// What to expect of a request with so many bytes of prompt and at most so many tokens of answer.
    pub fn expect(&self, prompt_bytes: u64, limit: Option<u32>) -> Expectation {
        let lore = self.lore();
        let cap = limit.map_or(f64::INFINITY, f64::from);
        let mean = lore.answers.get(class(limit)).copied().unwrap_or_default();
        let output = if mean.count == 0 {
            ANSWER_TOKENS
        } else {
            mean.value
        };
        Expectation {
            prompt: (prompt_bytes as f64 * lore.tokens_per_byte).max(1.0),
            output: output.min(cap).max(1.0),
            reuse: lore.reuse,
        }
    }

    /// Takes in what a prompt of so many bytes came to.
    pub fn counted_prompt(&self, bytes: u64, tokens: u32) {
        if bytes == 0 || tokens == 0 {
            return;
        }
        let mut lore = self.lore();
        lore.prompts = lore.prompts.saturating_add(1);
        let gain = (1.0 / f64::from(lore.prompts)).max(LEAST_GAIN);
        let ratio = f64::from(tokens) / bytes as f64;
        lore.tokens_per_byte += gain * (ratio - lore.tokens_per_byte);
    }

    /// Takes in how long an answer got that might have so many tokens.
    pub fn counted_answer(&self, limit: Option<u32>, tokens: u32) {
        if let Some(mean) = self.lore().answers.get_mut(class(limit)) {
            mean.count = mean.count.saturating_add(1);
            let gain = (1.0 / f64::from(mean.count)).max(LEAST_GAIN);
            mean.value += gain * (f64::from(tokens) - mean.value);
        }
    }

    /// Takes in whether what should have been computed before had been.
    pub fn reused(&self, was: bool) {
        let mut lore = self.lore();
        lore.reuse += 0.1 * (f64::from(u8::from(was)) - lore.reuse);
    }

    fn lore(&self) -> MutexGuard<'_, Lore> {
        self.lore.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lore {
    fn faded_rate(&self, now: f64) -> f64 {
        self.rate * ((self.rate_at - now).min(0.0) / RATE_SPAN).exp()
    }
}

/// Answers are averaged apart for requests that limit them much, little, or not at all.
fn class(limit: Option<u32>) -> usize {
    match limit {
        None => 0,
        Some(0..=64) => 1,
        Some(65..=512) => 2,
        Some(_) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_what_prompts_and_answers_come_to() {
        let model = Model::new(1);
        assert!((model.expect(400, None).prompt - 100.0).abs() < 0.5);
        assert!((model.expect(400, Some(10)).output - 10.0).abs() < 0.5);
        for _ in 0..50 {
            model.counted_prompt(1000, 500);
            model.counted_answer(None, 40);
            model.counted_answer(Some(20), 7);
        }
        let free = model.expect(1000, None);
        assert!((free.prompt - 500.0).abs() < 1.0, "{free:?}");
        assert!((free.output - 40.0).abs() < 0.1, "{free:?}");
        assert!((model.expect(1, Some(20)).output - 7.0).abs() < 0.1);
    }

    #[test]
    fn the_rate_of_requests_fades() {
        let model = Model::new(1);
        for at in 0..600 {
            model.arrived(f64::from(at) * 0.5);
        }
        let rate = model.rate(300.0);
        assert!((rate - 2.0).abs() < 0.1, "{rate}");
        assert!(model.rate(420.0) < rate * 0.15);
    }
}
