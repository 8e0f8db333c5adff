//! One answer of a simulated model, token by token at its speed.

use super::duration::Keep;
use super::exchange::Shared;
use super::library::Entry;
use super::pace::Stint;
use super::refusal::Refusal;
use super::runner::Lease;
use super::text::Words;
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes of prompt per token.
const BYTES_PER_TOKEN: usize = 4;
/// Tokens of thinking before an answer that was asked to think.
const THOUGHTS: usize = 4;
/// Tokens in the longest answer.
const LONGEST: usize = 1 << 20;

/// How long an answer gets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Length {
    /// As the seed and the prompt have it.
    Free,
    /// Ollama's `num_predict`: the simulated model never stops before.
    Exactly(usize),
    /// The limit of the OpenAI and Anthropic families.
    AtMost(usize),
}

/// What a model is asked.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) entry: Entry,
    pub(super) prompt: String,
    pub(super) length: Length,
    pub(super) think: bool,
    /// The tool that is called instead of a text.
    pub(super) tool: Option<String>,
    pub(super) keep: Option<Keep>,
}

/// A token's worth of answer.
#[derive(Debug)]
pub(super) enum Part {
    Thinking(String),
    Text(String),
    Tool(String),
}

/// A whole answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) thinking: String,
    pub(super) text: String,
    pub(super) tool: Option<String>,
}

/// What an answer took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub(super) total: Duration,
    pub(super) load: Duration,
    pub(super) prompt_tokens: usize,
    pub(super) prompt: Duration,
    pub(super) answer_tokens: usize,
    pub(super) answer: Duration,
    /// Whether the answer was cut off at the length asked for.
    pub(super) cut_off: bool,
}

/// An answer in the making. It holds its slot until it is dropped.
#[derive(Debug)]
pub(super) struct Generation {
    stint: Stint,
    _slot: OwnedSemaphorePermit,
    _lease: Lease,
    words: Words,
    thoughts: usize,
    tool: Option<String>,
    left: usize,
    cut_off: bool,
    began: Instant,
    load: Duration,
    prompt_tokens: usize,
    prompt: Duration,
    first: Instant,
    emitted: usize,
}

impl Generation {
    /// Waits for the model, a slot and the reading of the prompt; ends when the first token is there.
    pub(super) async fn begin(shared: &Shared, ask: Ask) -> Result<Self, Refusal> {
        let profile = &shared.profile;
        let began = Instant::now();
        let lease = shared.runners.join(&ask.entry, ask.keep).await?;
        let load = began.elapsed();
        let slot = lease.slot().await?;
        let reading = Instant::now();
        let prompt_tokens = tokens(&ask.prompt);
        let mut stint = Stint::begin(Arc::clone(&lease.pace), prompt_tokens);
        stint.first_token().await;
        let first = Instant::now();
        let seed = xxh3_64_with_seed(
            ask.prompt.as_bytes(),
            profile.seed ^ xxh3_64(ask.entry.digest.as_bytes()),
        );
        let natural = natural_length(profile.answer_tokens, seed);
        let (left, cut_off) = match ask.length {
            Length::Free => (natural, false),
            Length::Exactly(tokens) => (tokens, true),
            Length::AtMost(tokens) => (natural.min(tokens), tokens < natural),
        };
        Ok(Self {
            stint,
            _slot: slot,
            _lease: lease,
            words: Words::new(seed),
            thoughts: if ask.think { THOUGHTS } else { 0 },
            left: if ask.tool.is_some() {
                0
            } else {
                left.min(LONGEST)
            },
            cut_off: cut_off && ask.tool.is_none(),
            tool: ask.tool,
            began,
            load,
            prompt_tokens,
            prompt: first - reading,
            first,
            emitted: 0,
        })
    }

    /// The next part, when it is due; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Part> {
        if self.thoughts == 0 && self.left == 0 && self.tool.is_none() {
            return None;
        }
        if self.emitted > 0 {
            self.stint.next_token().await;
        }
        self.emitted += 1;
        if self.thoughts > 0 {
            self.thoughts -= 1;
            return Some(Part::Thinking(self.words.word()));
        }
        if let Some(tool) = self.tool.take() {
            return Some(Part::Tool(tool));
        }
        self.left -= 1;
        Some(Part::Text(self.words.word()))
    }

    /// All the parts at once.
    pub(super) async fn whole(&mut self) -> Answer {
        let mut answer = Answer::default();
        while let Some(part) = self.next().await {
            match part {
                Part::Thinking(token) => answer.thinking.push_str(&token),
                Part::Text(token) => answer.text.push_str(&token),
                Part::Tool(name) => answer.tool = Some(name),
            }
        }
        answer
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            total: self.began.elapsed(),
            load: self.load,
            prompt_tokens: self.prompt_tokens,
            prompt: self.prompt,
            answer_tokens: self.emitted,
            answer: self.first.elapsed(),
            cut_off: self.cut_off,
        }
    }
}

impl Lease {
    /// Waits for a slot. The semaphore is never closed, so there is always one in the end.
    pub(super) async fn slot(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let closed = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the model is gone");
        self.slots.clone().acquire_owned().await.map_err(closed)
    }
}

/// How many tokens a prompt has, at least one.
pub(super) fn tokens(prompt: &str) -> usize {
    prompt.len().div_ceil(BYTES_PER_TOKEN).max(1)
}

/// Between half the mean and one and a half of it.
fn natural_length(mean: usize, seed: u64) -> usize {
    let mean = mean.min(LONGEST);
    fastrand::Rng::with_seed(!seed).usize(mean / 2..=mean + mean / 2)
}
