//! Hashes of every beginning of a conversation, by which to know who worked on the same beginning before.
//!
//! A backend that has computed a prompt needs to compute only what is new in one that begins alike. Two requests have a
//! prefix in common exactly if they have its hash in common. The hashes have a fixed seed, so that all proxies of a
//! fleet agree; nothing of a text leaves the process but these 64-bit numbers.

use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};
use smallvec::SmallVec;

/// Prefixes that are kept of one request: the first quarter, where conversations with the same beginning part, and the
/// last ones, since the next turn of a conversation goes on where this one ends.
pub const PREFIXES: usize = 256;
const FIRST: usize = PREFIXES / 4;
const LAST: usize = PREFIXES - FIRST;
/// Bytes of a text without messages between the ends of two prefixes.
const BLOCK_BYTES: usize = 1024;
const SEED: u64 = 0x6c6c_616d_6572_6f31;

/// One beginning of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Of the model, the system prompt, the tools, and every message up to here.
    pub hash: u64,
    /// Bytes of the messages up to here, as JSON.
    pub bytes: u64,
}

/// Prefixes in the making. It needs bounded space however many messages there are.
#[derive(Debug, Default)]
pub(super) struct Chain {
    kept: SmallVec<[Prefix; 8]>,
    last: Prefix,
    links: usize,
}

impl Default for Prefix {
    fn default() -> Self {
        Self {
            hash: SEED,
            bytes: 0,
        }
    }
}

impl Chain {
    /// Adds a message.
    pub(super) fn push(&mut self, message: &[u8]) {
        self.last = Prefix {
            hash: hash(message, self.last.hash),
            bytes: self.last.bytes + message.len() as u64,
        };
        let at = match self.links.checked_sub(FIRST) {
            None => self.links,
            Some(later) => FIRST + later % LAST,
        };
        match self.kept.get_mut(at) {
            Some(slot) => *slot = self.last,
            None => self.kept.push(self.last),
        }
        self.links += 1;
    }

    /// Adds a text, block by block; the last block may be shorter.
    pub(super) fn push_blocks(&mut self, text: &[u8]) {
        for block in text.chunks(BLOCK_BYTES) {
            self.push(block);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.links == 0
    }

    /// Bytes of all that was added.
    pub(super) fn bytes(&self) -> u64 {
        self.last.bytes
    }

    /// The prefixes, shortest first, of a conversation that these stand before: model, system prompt, tools.
    pub(super) fn finish(mut self, head: &[&[u8]]) -> SmallVec<[Prefix; 8]> {
        if let (Some(later), Some(last)) =
            (self.links.checked_sub(PREFIXES), self.kept.get_mut(FIRST..))
        {
            last.rotate_left(later % LAST);
        }
        let head = head.iter().fold(SEED, |seed, part| hash(part, seed));
        for prefix in &mut self.kept {
            prefix.hash = hash(&prefix.hash.to_le_bytes(), head);
        }
        self.kept
    }
}

/// Messages mostly have some hundred bytes, for which this takes less than half of what xxh3 takes, made for longer ones.
fn hash(bytes: &[u8], seed: u64) -> u64 {
    rapidhash_v3_seeded(bytes, &RapidSecrets::seed_cpp(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(messages: usize, head: &str) -> SmallVec<[Prefix; 8]> {
        let mut chain = Chain::default();
        for at in 0..messages {
            chain.push(at.to_string().as_bytes());
        }
        chain.finish(&[head.as_bytes()])
    }

    #[test]
    fn the_next_turn_begins_like_the_last() {
        let (one, next) = (prefixes(5, "m"), prefixes(7, "m"));
        assert_eq!(one[..], next[..5]);
        assert!(one.iter().all(|prefix| !prefixes(5, "n").contains(prefix)));
    }

    #[test]
    fn of_a_long_conversation_the_ends_are_kept_in_order() {
        for messages in [PREFIXES - 1, PREFIXES, PREFIXES + 1, PREFIXES + LAST, 1000] {
            let kept = prefixes(messages, "m");
            assert_eq!(kept.len(), messages.min(PREFIXES));
            assert!(kept.windows(2).all(|pair| pair[0].bytes < pair[1].bytes));
            let next = prefixes(messages + 2, "m");
            assert!(next.contains(kept.last().unwrap()), "{messages}");
            assert_eq!(next[..FIRST], kept[..FIRST]);
        }
    }
}
