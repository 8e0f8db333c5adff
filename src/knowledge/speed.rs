//! How fast a node works, learnt from what its answers say of themselves and from how they come in.

use super::medians::{Measured, Typical};
use smallvec::SmallVec;

/// How much of the past is left after each answer, in the regression of decoding.
const MEMORY: f64 = 0.97;
/// How slow each further answer makes all before anything was learnt, and how many answers that counts for.
const PRIOR_SLOPE: f64 = 0.2;
const PRIOR_WEIGHT: f64 = 2.0;
/// Prompts that are remembered for their speed, and which of them, from the slowest up, speaks for all: contention makes
/// many look slow, a beginning that was known without anybody's knowledge makes a few look much too fast.
const PROMPTS: usize = 20;
const SPOKESMAN: f64 = 0.65;
/// An answer that took so many times more or less than expected counts as that much, once so many were measured: a node
/// that hung for minutes is no slower afterwards.
const OUTLIER: f64 = 3.0;
const OUTLIER_FROM: u32 = 4;
/// A prompt's time says nothing unless so many tokens had to be computed.
const LEAST_TOKENS: f64 = 64.0;
/// Seconds after which what was measured is worth 1/e of what it was.
const FADE: f64 = 120.0;
/// Seconds that a load takes besides moving bytes.
pub(super) const LOAD_BASE: f64 = 1.0;
/// Seconds between two looks at how answers come in.
const LIVE_SPAN: f64 = 1.0;
/// A node that gives less than this share of what it should is taken for slower than it was.
const LIVE_SLOW: f64 = 0.6;
/// Seconds after which a node without work is trusted again.
const LIVE_FADE: f64 = 20.0;
/// Seconds for which an estimate is used again: choices come faster than speeds change.
const REUSE: f64 = 0.1;

/// The speed of one node, in tokens of the reference model.
#[derive(Debug)]
pub(super) struct Speed {
    /// Of the last prompts, the oldest overwritten first.
    rates: SmallVec<[f64; PROMPTS]>,
    prefill: f64,
    prefills: u32,
    decode: Regression,
    bandwidth: Option<f64>,
    measured_at: f64,
    live: f64,
    live_at: f64,
    estimate: Estimate,
    estimated_at: f64,
}

/// What to reckon with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Prompt tokens per second.
    pub prefill: f64,
    /// Answer tokens per second of one answer alone.
    pub decode: f64,
    /// How much each further answer slows all, 0 to 1.
    pub slope: f64,
    /// Bytes per second of a load.
    pub bandwidth: f64,
}

/// Seconds per token = `a + s * n`, n others writing at the same time: least squares that forget, drawn to `s = 0.2 a`.
#[derive(Debug, Default, Clone, Copy)]
struct Regression {
    weight: f64,
    n: f64,
    nn: f64,
    y: f64,
    ny: f64,
    count: u32,
}

impl Regression {
    fn observe(&mut self, n: f64, y: f64) {
        for sum in [
            &mut self.weight,
            &mut self.n,
            &mut self.nn,
            &mut self.y,
            &mut self.ny,
        ] {
            *sum *= MEMORY;
        }
        self.weight += 1.0;
        self.n += n;
        self.nn += n * n;
        self.y += y;
        self.ny += n * y;
        self.count = self.count.saturating_add(1);
    }

    /// Tokens per second alone, and the share by which each other slows it.
    fn solve(&self) -> Option<(f64, f64)> {
        if self.count == 0 {
            return None;
        }
        let aa = self.weight + PRIOR_SLOPE * PRIOR_SLOPE * PRIOR_WEIGHT;
        let cross = self.n - PRIOR_SLOPE * PRIOR_WEIGHT;
        let ss = self.nn + PRIOR_WEIGHT;
        let determinant = aa * ss - cross * cross;
        let a = (self.y * ss - self.ny * cross) / determinant;
        let s = (self.ny * aa - self.y * cross) / determinant;
        // Odd samples can push the line below any sense; the mean is the floor of trust.
        let a = a.max(0.05 * self.y / self.weight).max(1e-6);
        Some((1.0 / a, (s / a).clamp(0.02, 1.0)))
    }
}

impl Speed {
    pub(super) fn new() -> Self {
        let first = Typical::FIRST;
        Self {
            rates: SmallVec::new(),
            prefill: 0.0,
            prefills: 0,
            decode: Regression::default(),
            bandwidth: None,
            measured_at: 0.0,
            live: 1.0,
            live_at: 0.0,
            estimate: Estimate {
                prefill: first.prefill,
                decode: first.decode,
                slope: first.slope,
                bandwidth: first.bandwidth,
            },
            estimated_at: f64::NEG_INFINITY,
        }
    }

    /// Takes in a prompt of which so many tokens, in the reference's, took so many seconds.
    pub(super) fn prefilled(&mut self, tokens: f64, uncached: f64, seconds: f64, now: f64) {
        if uncached < LEAST_TOKENS || seconds <= 0.0 {
            return;
        }
        let rate = tokens / seconds;
        match self.rates.get_mut(self.prefills as usize % PROMPTS) {
            Some(oldest) => *oldest = rate,
            None => self.rates.push(rate),
        }
        let mut sorted = self.rates.clone();
        sorted.sort_by(f64::total_cmp);
        self.prefill = at_share(&sorted, SPOKESMAN);
        self.prefills = self.prefills.saturating_add(1);
        self.measured_at = now;
        self.estimated_at = f64::NEG_INFINITY;
    }

    /// Takes in an answer whose tokens took so many seconds each, with so many others being written meanwhile.
    pub(super) fn decoded(&mut self, others: f64, seconds: f64, now: f64) {
        if seconds > 0.0 && seconds.is_finite() {
            let others = others.max(0.0);
            let seconds = match self
                .decode
                .solve()
                .filter(|_| self.decode.count >= OUTLIER_FROM)
            {
                Some((rate, slope)) => {
                    let expected = (1.0 + slope * others) / rate;
                    seconds.clamp(expected / OUTLIER, expected * OUTLIER)
                }
                None => seconds,
            };
            self.decode.observe(others, seconds);
            self.measured_at = now;
            self.estimated_at = f64::NEG_INFINITY;
        }
    }

    /// Takes in a load of so many bytes.
    pub(super) fn loaded(&mut self, bytes: f64, seconds: f64) {
        let rate = bytes / (seconds - LOAD_BASE).max(0.05);
        let old = self.bandwidth.unwrap_or(rate);
        self.bandwidth = Some(old + 0.3 * (rate - old));
        self.estimated_at = f64::NEG_INFINITY;
    }

    /// Whether it is time to look at how answers come in, and how many seconds that is since the last look.
    pub(super) fn live_due(&self, now: f64) -> Option<f64> {
        let span = now - self.live_at;
        (span >= LIVE_SPAN).then_some(span)
    }

    /// Takes in how many tokens came in since the last look, and how many should have.
    pub(super) fn observe_live(&mut self, came: f64, should: f64, now: f64) {
        if should > 1.0 {
            self.live += 0.5 * ((came / should).clamp(0.02, 1.0) - self.live);
        } else {
            let span = (now - self.live_at).max(0.0);
            self.live += (1.0 - self.live) * (1.0 - (-span / LIVE_FADE).exp());
        }
        self.live_at = now;
        self.estimated_at = f64::NEG_INFINITY;
    }

    /// Begins to look anew, with nothing to be said of the time since the last look.
    pub(super) fn skip_live(&mut self, now: f64) {
        self.live_at = now;
    }

    /// What to reckon with now: what was measured, less and less so as it ages, then what is typical.
    pub(super) fn estimate(&mut self, typical: &Typical, now: f64) -> Estimate {
        if now - self.estimated_at < REUSE && now >= self.estimated_at {
            return self.estimate;
        }
        let mut estimate = self.steady(typical, now);
        if self.live < LIVE_SLOW {
            estimate.prefill *= self.live;
            estimate.decode *= self.live;
        }
        self.estimate = estimate;
        self.estimated_at = now;
        estimate
    }

    /// The same without regard to how answers come in just now.
    pub(super) fn steady(&self, typical: &Typical, now: f64) -> Estimate {
        let fade = (-(now - self.measured_at).max(0.0) / FADE).exp();
        let drawn = |value: f64, typical: f64, count: u32| {
            let trust = f64::from(count) / f64::from(count + 1) * fade;
            typical * (trust * (value.max(1e-3) / typical).ln()).exp()
        };
        let (decode, slope) = self
            .decode
            .solve()
            .unwrap_or((typical.decode, typical.slope));
        Estimate {
            prefill: drawn(self.prefill, typical.prefill, self.prefills),
            decode: drawn(decode, typical.decode, self.decode.count),
            slope: drawn(slope, typical.slope, self.decode.count),
            bandwidth: self.bandwidth.unwrap_or(typical.bandwidth),
        }
    }

    /// Whether anything was ever measured.
    pub(super) fn is_proven(&self) -> bool {
        self.prefills > 0 || self.decode.count > 0
    }

    pub(super) fn measured(&self) -> Measured {
        Measured {
            prefill: (self.prefills > 0).then_some(self.prefill),
            decode: self.decode.solve(),
            bandwidth: self.bandwidth,
        }
    }

    /// How much of what it should a node gives just now, 0 to 1.
    pub(super) fn live(&self) -> f64 {
        self.live
    }
}

/// The value below which this share of sorted ones lies, the neighbours mixed; 0 of none.
fn at_share(sorted: &[f64], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (place.floor(), place.ceil());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in the list"
    )]
    let value = |place: f64| sorted.get(place as usize).copied().unwrap_or(0.0);
    value(low) + (place - low) * (value(high) - value(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_the_line_through_its_answers() {
        let mut speed = Speed::new();
        for at in 0..200 {
            let others = f64::from(at % 4);
            speed.decoded(others, 0.01 * (1.0 + 0.3 * others), 0.0);
            speed.prefilled(1000.0, 1000.0, 0.5, 0.0);
        }
        let learnt = speed.estimate(&Typical::FIRST, 0.0);
        assert!((learnt.decode / 100.0 - 1.0).abs() < 0.03, "{learnt:?}");
        assert!((learnt.slope - 0.3).abs() < 0.05, "{learnt:?}");
        assert!((learnt.prefill / 2000.0 - 1.0).abs() < 0.01, "{learnt:?}");
        let old = speed.estimate(
            &Typical {
                decode: 20.0,
                ..Typical::FIRST
            },
            10_000.0,
        );
        assert!(
            (old.decode - 20.0).abs() < 0.1,
            "it fades to the typical: {old:?}"
        );
    }

    #[test]
    fn an_answer_that_hung_for_minutes_is_soon_forgotten() {
        let mut speed = Speed::new();
        for _ in 0..50 {
            speed.decoded(0.0, 0.01, 0.0);
        }
        speed.decoded(0.0, 2.0, 0.0);
        let hung = speed.estimate(&Typical::FIRST, 0.0).decode;
        assert!(hung > 85.0, "{hung}");
        for _ in 0..200 {
            speed.decoded(0.0, 0.04, 0.0);
        }
        let slow = speed.estimate(&Typical::FIRST, 0.0).decode;
        assert!(
            (slow / 25.0 - 1.0).abs() < 0.05,
            "a lasting change is learnt: {slow}"
        );
    }

    #[test]
    fn a_node_that_gives_less_than_it_should_is_slow_until_it_rests() {
        let mut speed = Speed::new();
        speed.decoded(0.0, 0.01, 0.0);
        let before = speed.estimate(&Typical::FIRST, 0.0).decode;
        for at in 1..=6 {
            speed.observe_live(10.0, 80.0, f64::from(at));
        }
        let slow = speed.estimate(&Typical::FIRST, 6.0).decode;
        assert!(slow < before * 0.2, "{before} {slow}");
        speed.observe_live(0.0, 0.0, 126.0);
        assert!(speed.live() > 0.99);
    }
}
