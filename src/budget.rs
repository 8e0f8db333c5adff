//! Memory that all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that are held, of a number that may change with each request. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Budget(Arc<AtomicUsize>);

/// Bytes of a budget, given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// A share of nothing, to be grown.
    pub fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

impl Share {
    /// Takes more bytes if all shares together then have at most `limit`. `false` takes none.
    pub fn grow(&mut self, bytes: usize, limit: usize) -> bool {
        let held = self.budget.0.fetch_add(bytes, Relaxed);
        let fits = held.checked_add(bytes).is_some_and(|held| held <= limit);
        if fits {
            self.bytes += bytes;
        } else {
            self.budget.0.fetch_sub(bytes, Relaxed);
        }
        fits
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let budget = Budget::default();
        let mut first = budget.share();
        let mut second = budget.share();
        assert!(first.grow(6, 10) && second.grow(4, 10));
        assert!(!second.grow(1, 10) && second.grow(1, 11));
        drop(first);
        assert!(second.grow(6, 11) && !second.grow(1, 11));
        drop(second);
        assert!(budget.share().grow(11, 11));
    }
}
