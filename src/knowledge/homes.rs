//! Where conversations were last: a memory of the whole fleet, of one size whatever its load, for choices that cannot ask
//! every node whether it has computed the beginning of a prompt.

use crate::wire::{PREFIXES, Prefix};
use smallvec::SmallVec;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Beginnings that are remembered at most, in 2 MiB: of 1,000 nodes as many as their runners keep prompts, and their
/// landmarks. A later one takes the place of an earlier one that falls on the same.
const PLACES: usize = 1 << 18;
/// Of the longest beginnings of a prompt, how many are looked for: the next turn of a conversation goes on two messages
/// behind the end of the last, or three or four where tools were called.
const LAST: usize = 4;

/// The node that each beginning of a conversation was last sent to. It only says where to look: what is computed where,
/// the node's own memory knows.
#[derive(Debug, Default)]
pub struct Homes {
    /// For each hash that falls there its upper half, and the lower half of the node's number. Made when the first is
    /// noted, since most fleets are small enough to need none.
    places: OnceLock<Box<[AtomicU64]>>,
}

impl Homes {
    /// Notes that a prompt goes to a node.
    pub fn note(&self, prefixes: &[Prefix], node: u64) {
        let Some(last) = prefixes.last() else {
            return;
        };
        let places = self
            .places
            .get_or_init(|| (0..PLACES).map(|_| AtomicU64::new(0)).collect());
        for prefix in landmarks(prefixes).chain([last]) {
            if let Some(place) = place(places, prefix) {
                // Relaxed: the word carries all there is to know.
                place.store(tag(prefix) | node & LOWER, Relaxed);
            }
        }
    }

    /// The nodes that were last sent the beginnings of a prompt, each once, the one of the longest first.
    pub fn nodes(&self, prefixes: &[Prefix], most: usize) -> SmallVec<[u64; 4]> {
        let mut nodes = SmallVec::new();
        let Some(places) = self.places.get() else {
            return nodes;
        };
        let last = prefixes.iter().rev().take(LAST);
        for prefix in last.chain(landmarks(prefixes)) {
            if nodes.len() >= most {
                break;
            }
            let word = place(places, prefix).map_or(0, |place| place.load(Relaxed));
            let node = word & LOWER;
            if word != 0 && word & !LOWER == tag(prefix) && !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }
}

/// The half of a word that is the node's number: a process does not make four billion of them.
const LOWER: u64 = u32::MAX as u64;

fn tag(prefix: &Prefix) -> u64 {
    prefix.hash & !LOWER
}

fn place<'a>(places: &'a [AtomicU64], prefix: &Prefix) -> Option<&'a AtomicU64> {
    places.get(usize::try_from(prefix.hash & (PLACES as u64 - 1)).ok()?)
}

/// Some beginnings of every length, the longest first: those of 1, 2, 4, 8 messages and so on. By them requests meet that
/// have no more than their beginning in common, as questions on one text do.
fn landmarks(prefixes: &[Prefix]) -> impl Iterator<Item = &Prefix> {
    let powers = (0..=PREFIXES.ilog2())
        .rev()
        .map(|power| (1usize << power) - 1);
    powers.filter_map(|at| prefixes.get(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(hashes: impl IntoIterator<Item = u64>) -> Vec<Prefix> {
        // As spread as real ones.
        let prefix = |hash| Prefix {
            hash: xxhash_rust::xxh3::xxh3_64(&u64::to_le_bytes(hash)),
            bytes: 0,
        };
        hashes.into_iter().map(prefix).collect()
    }

    #[test]
    fn each_turn_finds_where_the_last_one_went() {
        let homes = Homes::default();
        assert!(homes.nodes(&prompt(0..3), 4).is_empty());
        homes.note(&[], 1);
        assert!(homes.places.get().is_none(), "nothing was there to note");
        for turn in 0..200 {
            let messages = 2 * turn + 1;
            let before = homes.nodes(&prompt(0..messages), 4);
            assert_eq!(
                before.first().copied(),
                (turn > 0).then_some(turn),
                "{turn}"
            );
            homes.note(&prompt(0..messages), turn + 1);
        }
    }

    #[test]
    fn questions_on_one_text_meet() {
        let homes = Homes::default();
        homes.note(&prompt((0..100).chain([1000])), 7);
        homes.note(&prompt((0..20).chain(2000..2080)), 8);
        // The longest that is known comes first, and each node once.
        assert_eq!(*homes.nodes(&prompt((0..100).chain([3000])), 4), [7, 8]);
        assert_eq!(*homes.nodes(&prompt((0..100).chain([3000])), 1), [7]);
        assert!(homes.nodes(&prompt(5000..5100), 4).is_empty());
    }
}
