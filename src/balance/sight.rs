//! What a strategy wants to see of a fleet that is too big to be looked at whole.

use super::Dice;
use super::score::load;
use crate::pool::{Backend, Eligible};
use smallvec::SmallVec;
use std::sync::Arc;

/// Of fewer backends than this, or as many, every strategy sees all.
pub const WHOLE: usize = 32;
/// Draws from one part of many backends, before it is given up: enough of the parts bring one even if most are down.
const DRAWS: usize = 4;

/// A few of many backends.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// How many are drawn by chance, spread evenly over all; 1 to [`WHOLE`].
    pub drawn: usize,
    /// How many of those are shown, the ones with the least to do; at least 1.
    pub idlest: usize,
    /// How many that have the model in memory should be among them; what is missing is added, if there are so many.
    pub warm: usize,
    /// How many are added that were last sent what the prompt begins with.
    pub familiar: usize,
    /// Chance.
    pub dice: &'a Dice,
}

/// Draws a number below `len` from each of `parts` equal parts, or of `len` if that is less, in ascending order, and takes
/// what is found there. A part where there is little to be found may bring nothing.
pub fn draw<T>(
    len: usize,
    parts: usize,
    dice: &Dice,
    mut find: impl FnMut(usize) -> Option<T>,
) -> impl Iterator<Item = T> {
    let parts = parts.min(len);
    // Shared dice would pass from core to core with each throw.
    let dice = dice.fork();
    (0..parts).filter_map(move |part| {
        let (from, to) = (part * len / parts, (part + 1) * len / parts);
        // Each time anew, so that who stands behind one that is down does not get its share.
        let throw = |_| from + dice.below(to - from);
        (0..DRAWS).map(throw).find_map(&mut find)
    })
}

/// Leaves of some backends so many that have the least to do for their weight; chance decides among equals.
pub fn leave_idlest(backends: &mut Eligible<'_>, count: usize, dice: &Dice) {
    if backends.len() <= count {
        return;
    }
    let first = dice.below(backends.len());
    backends.rotate_left(first);
    let loads = backends.drain(..).map(|backend| (load(backend), backend));
    let mut loads: SmallVec<[(f64, &Arc<Backend>); WHOLE]> = loads.collect();
    loads.select_nth_unstable_by(count.saturating_sub(1), |(a, _), (b, _)| a.total_cmp(b));
    backends.extend(loads.into_iter().map(|(_, backend)| backend).take(count));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn draws_each_at_most_once_and_only_who_will_do(seed: u64, len in 0usize..2000, parts in 0usize..50, modulus in 1usize..20) {
            let dice = Dice::seeded(seed);
            let drawn: Vec<_> = draw(len, parts, &dice, |at| (at % modulus == 0).then_some(at)).collect();
            prop_assert!(drawn.is_sorted_by(|a, b| a < b), "{:?}", drawn);
            prop_assert!(drawn.iter().all(|at| *at < len && at % modulus == 0), "{:?}", drawn);
            if modulus == 1 {
                prop_assert_eq!(drawn.len(), parts.min(len));
            }
        }
    }

    #[test]
    fn all_are_drawn_alike_whoever_their_neighbours_are() {
        let dice = Dice::seeded(3);
        let mut counts = [0usize; 100];
        let up = |at: usize| (!(50..58).contains(&at)).then_some(at);
        for _ in 0..10_000 {
            draw(100, 5, &dice, up).for_each(|at| counts[at] += 1);
        }
        // 500 each, and 833 of the part where 12 of 20 are up, less those that four draws miss; five standard deviations.
        for (at, count) in counts.iter().enumerate() {
            let expected = match at {
                50..58 => 0,
                40..60 => 812,
                _ => 500,
            };
            assert!(count.abs_diff(expected) < 150, "{at}: {count}");
        }
    }
}
