//! Prompts that a runner has computed and keeps, as llama-server keeps them: one in each slot, more in main memory.

use super::prompt::Prompt;
use std::collections::VecDeque;

/// Of a new prompt the share that a slot must hold already to be preferred to the one that was idle the longest.
const SIMILAR: f64 = 0.10;
/// A slot that would keep less than this share of what it holds saves it in main memory first.
const KEEP: f64 = 0.5;

/// What one slot holds.
#[derive(Debug, Clone, Default)]
pub struct Kept(Option<Prompt>);

impl Kept {
    /// Tokens that a prompt need not compute again; the last one always is, since the answer begins from it.
    pub fn cached(&self, prompt: &Prompt) -> u32 {
        let common = self.0.as_ref().map_or(0, |kept| kept.common(prompt));
        common.min(prompt.tokens().saturating_sub(1))
    }

    /// From now on it holds this.
    pub fn hold(&mut self, prompt: Prompt) {
        self.0 = Some(prompt);
    }
}

/// Prompts that were replaced in their slots, the oldest first.
#[derive(Debug, Default)]
pub struct Attic {
    prompts: VecDeque<Prompt>,
    tokens: u64,
    capacity: u64,
}

impl Attic {
    /// Room for so many tokens.
    pub fn with_capacity(capacity: u64) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    fn best(&self, prompt: &Prompt) -> Option<(usize, u32)> {
        let commons = self.prompts.iter().map(|kept| kept.common(prompt));
        commons.enumerate().max_by_key(|(_, common)| *common)
    }

    fn save(&mut self, prompt: Prompt) {
        let tokens = u64::from(prompt.tokens());
        if tokens > self.capacity {
            return;
        }
        self.tokens += tokens;
        self.prompts.push_back(prompt);
        while self.tokens > self.capacity {
            let Some(oldest) = self.prompts.pop_front() else {
                break;
            };
            self.tokens -= u64::from(oldest.tokens());
        }
    }

    /// Exchanges what a slot holds for something that saves the prompt more work, if there is.
    pub fn swap(&mut self, slot: &mut Kept, prompt: &Prompt) {
        if self.capacity == 0 {
            return;
        }
        let common = slot.0.as_ref().map_or(0, |kept| kept.common(prompt));
        if let Some(kept) = &slot.0
            && f64::from(common) < KEEP * f64::from(kept.tokens())
        {
            self.save(kept.clone());
        }
        if let Some((at, saved)) = self.best(prompt)
            && saved > common
            && let Some(found) = self.prompts.remove(at)
        {
            self.tokens -= u64::from(found.tokens());
            slot.hold(found);
        }
    }

    /// Tokens of a prompt that need not be computed, if it is taken from here.
    pub fn cached(&self, prompt: &Prompt) -> u32 {
        let best = self.best(prompt).map_or(0, |(_, common)| common);
        best.min(prompt.tokens().saturating_sub(1))
    }
}

/// Which of the idle slots a prompt goes to, given what they hold and when they became idle: the place in the list.
pub fn choose_slot<'a>(
    idle: impl Iterator<Item = (usize, &'a Kept, std::time::Duration)> + Clone,
    prompt: &Prompt,
) -> Option<usize> {
    let enough = SIMILAR * f64::from(prompt.tokens());
    let similar = idle
        .clone()
        .map(|(at, kept, _)| (at, kept.cached(prompt)))
        .filter(|(_, cached)| *cached > 0 && f64::from(*cached) >= enough)
        // Of equals the first.
        .max_by_key(|(at, cached)| (*cached, std::cmp::Reverse(*at)));
    similar.map(|(at, _)| at).or_else(|| {
        let oldest = idle.min_by_key(|(at, _, since)| (*since, *at));
        oldest.map(|(at, _, _)| at)
    })
}
