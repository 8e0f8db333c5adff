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
    outlook: Outlook,
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

    /// The answer, if it is the same question and still true.
    pub(super) fn recall(&self, question: &Question, now: f64) -> Option<&Outlook> {
        let is_fresh = (0.0..REUSE).contains(&(now - self.at));
        (is_fresh && self.question == *question).then_some(&self.outlook)
    }
}
