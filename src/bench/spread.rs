//! How a quantity is spread over requests.

use serde::Serialize;

/// Mean and exact percentiles of times, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Requests that it was measured on.
    pub count: usize,
    /// The mean.
    pub mean: f64,
    /// Half of the requests took no longer.
    pub p50: f64,
    /// 90 % of them.
    pub p90: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// All of them.
    pub max: f64,
}

impl Spread {
    /// The spread of these values; `None` if there are none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            count: values.len(),
            mean: mean(&values)?,
            p50: quantile(&values, 0.50)?,
            p90: quantile(&values, 0.90)?,
            p95: quantile(&values, 0.95)?,
            p99: quantile(&values, 0.99)?,
            max: *values.last()?,
        })
    }
}

/// The mean; `None` of nothing.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The smallest of sorted values that a share of them does not exceed (nearest rank); `None` of nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank is a whole number from 1 to the count"
)]
pub(super) fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    // A hair less, so that 0.95 of 100 is the 95th although 0.95 is no binary number.
    let rank = (share * sorted.len() as f64 - 1e-9).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).checked_sub(1)?).copied()
}

/// Jain's index of fairness: 1 when all have the same, 1/n when one has everything; `None` if nobody has anything.
pub fn jain(shares: &[f64]) -> Option<f64> {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    (squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let spread = Spread::of((1..=200).rev().map(f64::from).collect()).unwrap();
        let expected = Spread {
            count: 200,
            mean: 100.5,
            p50: 100.0,
            p90: 180.0,
            p95: 190.0,
            p99: 198.0,
            max: 200.0,
        };
        assert_eq!(spread, expected);
        assert_eq!(Spread::of(Vec::new()), None);
        let one = Spread::of(vec![3.0]).unwrap();
        assert_eq!((one.p50, one.p99, one.max), (3.0, 3.0, 3.0));
    }

    #[track_caller]
    fn check_rank(count: u32, share: f64, expected: u32) {
        let values: Vec<u32> = (1..=count).collect();
        assert_eq!(
            quantile(&values, share),
            Some(expected),
            "{share} of {count}"
        );
    }

    #[test]
    fn ranks_are_exact() {
        check_rank(100, 0.95, 95);
        check_rank(100, 0.99, 99);
        check_rank(10, 0.99, 10);
        check_rank(3, 0.5, 2);
        check_rank(4, 0.5, 2);
        check_rank(1, 0.0, 1);
    }

    #[track_caller]
    fn check_jain(shares: &[f64], expected: Option<f64>) {
        match (jain(shares), expected) {
            (Some(index), Some(expected)) => assert!((index - expected).abs() < 1e-12, "{index}"),
            (index, expected) => assert_eq!(index, expected),
        }
    }

    #[test]
    fn fairness_goes_from_one_down_to_one_of_n() {
        check_jain(&[5.0, 5.0, 5.0, 5.0], Some(1.0));
        check_jain(&[9.0, 0.0, 0.0], Some(1.0 / 3.0));
        check_jain(&[1.0, 2.0, 3.0], Some(36.0 / 42.0));
        check_jain(&[0.0, 0.0], None);
        check_jain(&[], None);
    }
}
