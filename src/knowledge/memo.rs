//! How a node stood a moment ago, for choices that come faster than it changes.

use super::outlook::Outlook;
use crate::wire::RunnerOptions;

/// Seconds for which nothing changes that matters, if no request comes, moves on or ends there.
const REUSE: f64 = 0.1;

/// What a memory holds for: whoever asks the same is told the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    pub(super) model: u64,
    pub(super) runner: RunnerOptions,
    pub(super) is_embedding: bool,
    pub(super) configured: Option<usize>,
}

/// The answer to the last question.
#[derive(Debug)]
pub struct Memo {
    question: Question,
    at: f64,
    /// How the node stands for whoever asks; what of a prompt is computed already is another matter for each.
    pub(super) outlook: Outlook,
}

impl Memo {
    /// An answer of now.
    pub(super) fn new(question: Question, outlook: Outlook, now: f64) -> Self {
        Self {
            question,
            at: now,
            outlook,
        }
    }

    /// Whether it answers this question, and still truly.
    pub(super) fn answers(&self, question: &Question, now: f64) -> bool {
        (0.0..REUSE).contains(&(now - self.at)) && self.question == *question
    }
}
