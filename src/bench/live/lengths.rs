//! How long prompts and answers are.

use super::arrival::normal;
use fastrand::Rng;
use std::fmt;
use std::str::FromStr;

/// No prompt and no answer is longer, in tokens.
const LONGEST: u32 = 1 << 20;
/// The 90th percentile of a standard normal distribution.
const Z90: f64 = 1.281_551_565_5;

/// A distribution of lengths in tokens, each at least 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lengths {
    /// All the same.
    Fixed(u32),
    /// Any from the first to the second, equally often.
    Uniform(u32, u32),
    /// Lognormal.
    Lognormal {
        /// Its mean.
        mean: f64,
        /// Its 90th percentile, from 1 to 2.27 times the mean.
        p90: f64,
        /// The deviation of the logarithm, which follows from both.
        sigma: f64,
    },
}

impl Lengths {
    /// A lognormal distribution with this mean and 90th percentile; `None` if there is no such.
    pub fn lognormal(mean: f64, p90: f64) -> Option<Self> {
        let root = Z90 * Z90 - 2.0 * (p90 / mean).ln();
        let possible = mean >= 1.0 && mean <= f64::from(LONGEST) && p90 >= mean && root >= 0.0;
        possible.then(|| Self::Lognormal {
            mean,
            p90,
            sigma: Z90 - root.sqrt(),
        })
    }

    /// One of them.
    pub fn draw(self, rng: &mut Rng) -> u32 {
        match self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform(least, most) => rng.u32(least..=most),
            Self::Lognormal { mean, sigma, .. } => {
                let middle = mean.ln() - sigma * sigma / 2.0;
                whole((middle + sigma * normal(rng)).exp())
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is brought into range first"
)]
fn whole(tokens: f64) -> u32 {
    tokens.round().clamp(1.0, f64::from(LONGEST)) as u32
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let tokens = |text: &str| {
            let number = text.trim().parse().ok();
            number.filter(|tokens| (1..=LONGEST).contains(tokens))
        };
        let read = || {
            if let Some(rest) = text.strip_prefix("lognormal:") {
                let (mean, p90) = rest.split_once('/')?;
                return Self::lognormal(tokens(mean)?.into(), tokens(p90)?.into());
            }
            match text.split_once('-') {
                Some((least, most)) => {
                    let (least, most) = (tokens(least)?, tokens(most)?);
                    (least <= most).then_some(Self::Uniform(least, most))
                }
                None => tokens(text).map(Self::Fixed),
            }
        };
        read().ok_or_else(|| {
            format!(
                "{text:?} is no length: write 200, 50-400, or lognormal:MEAN/P90 with P90 from 1 to 2.27 times MEAN, in tokens"
            )
        })
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(tokens) => write!(f, "{tokens}"),
            Self::Uniform(least, most) => write!(f, "{least}-{most}"),
            Self::Lognormal { mean, p90, .. } => write!(f, "lognormal:{mean}/{p90}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, good: bool) {
        match text.parse::<Lengths>() {
            Ok(lengths) => assert!(good && lengths.to_string() == text, "{text}: {lengths:?}"),
            Err(error) => assert!(!good, "{error}"),
        }
    }

    #[test]
    fn lengths_are_read_as_they_are_written() {
        for good in [
            "1",
            "200",
            "50-400",
            "7-7",
            "lognormal:211/395",
            "lognormal:100/100",
        ] {
            check(good, true);
        }
        for bad in [
            "",
            "0",
            "-5",
            "9-3",
            "2000000",
            "lognormal:100",
            "lognormal:100/300",
            "lognormal:100/90",
        ] {
            check(bad, false);
        }
    }

    #[test]
    fn a_lognormal_has_its_mean_and_its_90th_percentile() {
        let lengths = Lengths::lognormal(211.0, 395.0).unwrap();
        let mut rng = Rng::with_seed(3);
        let mut drawn: Vec<u32> = (0..20_000).map(|_| lengths.draw(&mut rng)).collect();
        drawn.sort_unstable();
        let mean = drawn.iter().map(|&tokens| f64::from(tokens)).sum::<f64>() / 20_000.0;
        let p90 = f64::from(drawn[18_000]);
        assert!((mean / 211.0 - 1.0).abs() < 0.03, "mean {mean}");
        assert!((p90 / 395.0 - 1.0).abs() < 0.05, "p90 {p90}");
    }
}
