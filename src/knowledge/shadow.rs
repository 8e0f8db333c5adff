//! What a runner has computed before, mirrored: the beginnings of the prompts that its idle slots and its cache in main
//! memory should still hold.

use crate::hashed::Hashed;
use crate::wire::Prefix;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Prompts that are remembered of a runner, whatever their size.
const ENTRIES: usize = 64;
/// Tokens that Ollama keeps of earlier prompts in main memory, of the reference model.
const CACHE_TOKENS: f64 = 65_000.0;
/// Ollama finds an earlier prompt good enough if it shares this much of the new one.
const LEAST_SHARE: f64 = 0.1;

/// The prompts of one runner.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    /// The one that was used last at the back.
    entries: VecDeque<Entry>,
    /// How many entries begin so. An entry has all beginnings of each of its beginnings.
    index: Hashed<u64, u32>,
    tokens: f64,
}

#[derive(Debug)]
struct Entry {
    prefixes: SmallVec<[Prefix; 8]>,
    tokens: f64,
    /// Tokens of the answer, which the next turn of a conversation begins with.
    answer: f64,
}

/// A prompt, as far as its beginnings matter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prompt<'a> {
    pub(super) prefixes: &'a [Prefix],
    /// Bytes of the whole, what stands before the first message included.
    pub(super) bytes: u64,
    pub(super) tokens: f64,
}

impl Prompt<'_> {
    /// Tokens up to the end of a beginning.
    fn tokens_to(&self, prefix: &Prefix) -> f64 {
        let last = self.prefixes.last().map_or(0, |last| last.bytes);
        let head = self.bytes.saturating_sub(last);
        self.tokens * (head + prefix.bytes) as f64 / self.bytes.max(1) as f64
    }
}

impl Shadow {
    /// Tokens of the prompt that need not be computed.
    pub(super) fn cached(&self, prompt: Prompt<'_>) -> f64 {
        let Some((prefix, answer)) = self.longest(prompt) else {
            return 0.0;
        };
        // The last token is always computed, to go on from.
        let tokens = (prompt.tokens_to(&prefix) + answer).min(prompt.tokens - 1.0);
        if tokens < prompt.tokens * LEAST_SHARE {
            return 0.0;
        }
        tokens
    }

    /// The longest beginning that was computed, and the tokens of the answer that went on from just there.
    fn longest(&self, prompt: Prompt<'_>) -> Option<(Prefix, f64)> {
        // Mostly the whole but the last turn or nothing at all is known; else whatever is known stands first.
        let known = |prefix: &Prefix| self.index.contains_key(&prefix.hash);
        prompt.prefixes.first().filter(|first| known(first))?;
        let count = prompt.prefixes.partition_point(known);
        let prefix = *prompt.prefixes.get(count.checked_sub(1)?)?;
        let goes_on = count < prompt.prefixes.len();
        let whole = self.whole(&prefix).and_then(|at| self.entries.get(at));
        let answer = whole.filter(|_| goes_on).map_or(0.0, |entry| entry.answer);
        Some((prefix, answer))
    }

    /// The entry that is just this beginning.
    fn whole(&self, prefix: &Prefix) -> Option<usize> {
        let is_last = |entry: &Entry| {
            entry
                .prefixes
                .last()
                .is_some_and(|last| last.hash == prefix.hash)
        };
        self.entries.iter().rposition(is_last)
    }

    /// A request that begins with an earlier prompt goes on in its slot: nobody else finds it there meanwhile.
    pub(super) fn begin(&mut self, prompt: Prompt<'_>) {
        if let Some((prefix, _)) = self.longest(prompt)
            && let Some(at) = self.whole(&prefix)
        {
            self.remove(at);
        }
    }

    /// The prompt has been computed, and an answer of so many tokens behind it. `work` is the model's.
    pub(super) fn end(&mut self, prompt: Prompt<'_>, answer: f64, work: f64, slots: usize) {
        if prompt.prefixes.is_empty() {
            return;
        }
        let entry = Entry {
            prefixes: prompt.prefixes.into(),
            tokens: prompt.tokens + answer,
            answer,
        };
        self.tokens += entry.tokens;
        for prefix in &entry.prefixes {
            *self.index.entry(prefix.hash).or_default() += 1;
        }
        self.entries.push_back(entry);
        let limit = CACHE_TOKENS / work.max(0.1);
        while self.entries.len() > slots.max(1)
            && (self.tokens > limit || self.entries.len() > ENTRIES)
        {
            self.remove(0);
        }
    }

    fn remove(&mut self, at: usize) {
        let Some(entry) = self.entries.remove(at) else {
            return;
        };
        self.tokens -= entry.tokens;
        for prefix in &entry.prefixes {
            if let Some(count) = self.index.get_mut(&prefix.hash) {
                *count -= 1;
                if *count == 0 {
                    self.index.remove(&prefix.hash);
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(hashes: &[u64]) -> Vec<Prefix> {
        let prefix = |(at, hash): (usize, &u64)| Prefix {
            hash: *hash,
            bytes: (at as u64 + 1) * 400,
        };
        hashes.iter().enumerate().map(prefix).collect()
    }

    fn prompt(prefixes: &[Prefix]) -> Prompt<'_> {
        let bytes = prefixes.last().unwrap().bytes;
        Prompt {
            prefixes,
            bytes,
            tokens: bytes as f64 / 4.0,
        }
    }

    #[track_caller]
    fn check(shadow: &Shadow, prefixes: &[Prefix], expected: f64) {
        let cached = shadow.cached(prompt(prefixes));
        assert!((cached - expected).abs() < 0.5, "{cached}");
    }

    #[test]
    fn the_next_turn_finds_the_last_and_its_answer() {
        let mut shadow = Shadow::default();
        let (first, second, other) = (turns(&[1, 2]), turns(&[1, 2, 3, 4]), turns(&[9, 8]));
        shadow.end(prompt(&first), 50.0, 1.0, 1);
        check(&shadow, &second, 250.0);
        check(&shadow, &other, 0.0);
        shadow.begin(prompt(&second));
        check(&shadow, &second, 0.0); // its slot is in use
        shadow.end(prompt(&second), 10.0, 1.0, 1);
        check(&shadow, &turns(&[1, 5]), 100.0); // what both begin with
        check(&shadow, &second, 399.0); // one token is always computed
    }

    #[test]
    fn what_does_not_fit_is_forgotten_the_oldest_first() {
        let mut shadow = Shadow::default();
        for at in 0..1000u64 {
            let prefixes = turns(&[at * 2, at * 2 + 1]);
            shadow.end(prompt(&prefixes), 1000.0, 1.0, 1);
            assert!(shadow.tokens <= CACHE_TOKENS && shadow.entries.len() <= ENTRIES);
            assert_eq!(shadow.index.len(), shadow.entries.len() * 2);
        }
        assert!(shadow.cached(prompt(&turns(&[1998, 1999]))) > 0.0);
        assert!(shadow.cached(prompt(&turns(&[0, 1]))) < 1.0);
    }
}
