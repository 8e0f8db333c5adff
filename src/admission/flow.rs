//! The requests of one client and class, and the order in which clients take turns for one kind.

use super::{Class, Id};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

/// The waiting requests of one client in one class; never empty.
#[derive(Debug)]
pub(super) struct Flow<K> {
    /// When its turn is: joining or being served puts it behind all others.
    pub turn: u64,
    /// Its requests, oldest first, by kind; none of them empty.
    pub queues: HashMap<K, BTreeSet<Id>>,
}

impl<K: Eq + Hash> Flow<K> {
    pub(super) fn len(&self) -> usize {
        self.queues.values().map(BTreeSet::len).sum()
    }

    pub(super) fn len_of(&self, kind: &K) -> usize {
        self.queues.get(kind).map_or(0, BTreeSet::len)
    }

    pub(super) fn newest(&self) -> Option<Id> {
        self.queues
            .values()
            .filter_map(|queue| queue.last())
            .max()
            .copied()
    }
}

/// The clients that wait for one kind, by turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    interactive: BTreeMap<u64, u64>,
    batch: BTreeMap<u64, u64>,
}

impl Turns {
    pub(super) fn of(&self, class: Class) -> &BTreeMap<u64, u64> {
        match class {
            Class::Interactive => &self.interactive,
            Class::Batch => &self.batch,
        }
    }

    pub(super) fn of_mut(&mut self, class: Class) -> &mut BTreeMap<u64, u64> {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Batch => &mut self.batch,
        }
    }

    /// Class, turn and client of whoever is next.
    pub(super) fn first(&self) -> Option<(Class, u64, u64)> {
        [Class::Interactive, Class::Batch]
            .into_iter()
            .find_map(|class| {
                let (turn, client) = self.of(class).first_key_value()?;
                Some((class, *turn, *client))
            })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.interactive.is_empty() && self.batch.is_empty()
    }
}
