//! Backends of one kind, by their places in the pool.

/// Places of backends, in the pool's order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Places<'a> {
    /// All of so many backends.
    All(usize),
    /// Those of a list, in ascending order.
    At(&'a [usize]),
}

impl Places<'_> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::All(count) => count,
            Self::At(places) => places.len(),
        }
    }

    pub(super) fn get(self, nth: usize) -> Option<usize> {
        match self {
            Self::All(count) => (nth < count).then_some(nth),
            Self::At(places) => places.get(nth).copied(),
        }
    }

    pub(super) fn contain(self, place: usize) -> bool {
        match self {
            Self::All(count) => place < count,
            Self::At(places) => places.binary_search(&place).is_ok(),
        }
    }
}
