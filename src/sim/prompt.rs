//! What a model reads: a conversation in links, of which only hashes and lengths matter.

use crate::wire::Prefix;
use std::sync::Arc;

/// One message of a conversation, with all that stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Of everything up to the end of this message.
    pub hash: u64,
    /// Tokens up to here.
    pub tokens: u32,
    /// Bytes of JSON up to here.
    pub bytes: u32,
}

/// The beginning of a conversation. Several share one list of messages.
#[derive(Debug, Clone)]
pub struct Prompt {
    links: Arc<[Link]>,
    len: usize,
}

impl Prompt {
    /// The first `len` messages of a conversation, or all of them if it has fewer.
    pub fn new(links: Arc<[Link]>, len: usize) -> Self {
        let len = len.min(links.len());
        Self { links, len }
    }

    /// Its messages.
    pub fn links(&self) -> &[Link] {
        self.links.get(..self.len).unwrap_or(&self.links)
    }

    /// Tokens of it all.
    pub fn tokens(&self) -> u32 {
        self.links().last().map_or(0, |link| link.tokens)
    }

    /// Bytes of it all.
    pub fn bytes(&self) -> u64 {
        self.links().last().map_or(0, |link| u64::from(link.bytes))
    }

    /// The conversation with one message more, as it stands after the answer.
    #[must_use]
    pub fn with_answer(&self) -> Self {
        Self::new(Arc::clone(&self.links), self.len + 1)
    }

    /// Tokens that both begin with.
    pub fn common(&self, other: &Self) -> u32 {
        let (a, b) = (self.links(), other.links());
        // A hash is of all that stands before it, so the equal ones come first.
        let pairs = a.len().min(b.len());
        let (mut equal, mut differ) = (0, pairs);
        while equal < differ {
            let middle = usize::midpoint(equal, differ);
            let is_equal =
                matches!((a.get(middle), b.get(middle)), (Some(a), Some(b)) if a.hash == b.hash);
            if is_equal {
                equal = middle + 1;
            } else {
                differ = middle;
            }
        }
        equal
            .checked_sub(1)
            .and_then(|last| a.get(last))
            .map_or(0, |link| link.tokens)
    }

    /// The hashes of its messages, which the proxy may know.
    pub fn prefixes(&self) -> impl ExactSizeIterator<Item = Prefix> {
        self.links().iter().map(|link| Prefix {
            hash: link.hash,
            bytes: u64::from(link.bytes),
        })
    }
}
