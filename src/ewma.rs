//! A moving average that many threads may feed and read without a lock.

use crate::clock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// Share of a new sample in the average, if the last one has just come.
const GAIN: f64 = 0.2;

/// Time after which an average without new samples is worth 1/e of what it was.
const FADE: Duration = Duration::from_secs(120);

/// A time for an [`Ewma`]: tenths of a second since the first one of this process was made, for 13 years. Made once per
/// choice, since a choice reads many averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick(u32);

impl Tick {
    /// The tick of a time; those before the first are all the first.
    pub fn of(now: Instant) -> Self {
        let tenths = now.saturating_duration_since(clock::epoch()).as_millis() / 100;
        Self(u32::try_from(tenths).unwrap_or(u32::MAX))
    }
}

/// An exponentially weighted moving average of a duration, with the time of its last sample.
///
/// Both halves live in one word, so that a reader never sees the value of one sample with the time of another.
#[derive(Debug, Default)]
pub struct Ewma(AtomicU64);

/// What an [`Ewma`] knows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The average, in seconds; above zero.
    pub seconds: f64,
    /// How long ago the last sample came, in tenths of a second.
    idle_tenths: u32,
}

impl Ewma {
    /// Mixes in a sample; the first one is taken as it is, and a later one counts for more the older the average is.
    pub fn observe(&self, sample: Duration, now: Tick) {
        let sample = sample.as_secs_f64().max(1e-6);
        // Relaxed: the word carries all there is to know.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let value = unpack(word, now).map_or(sample, |old| {
                let gain = GAIN.max(1.0 - old.fade().recip());
                old.seconds + gain * (sample - old.seconds)
            });
            Some(pack(value, now))
        });
    }

    /// The average as of the last sample, or `None` before the first.
    pub fn read(&self, now: Tick) -> Option<Reading> {
        unpack(self.0.load(Relaxed), now)
    }

    /// Forgets everything, as if nothing had ever been measured.
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

impl Reading {
    /// How many times less the average is worth after the time without samples: 1 at first, about e after [`FADE`].
    pub fn fade(&self) -> f64 {
        // (1 + x/16)^16 for e^x: a little below it, and many times faster, since every choice comes here.
        let x = f64::from(self.idle_tenths) * (0.1 / FADE.as_secs_f64());
        let mut power = 1.0 + x * (1.0 / 16.0);
        for _ in 0..4 {
            power *= power;
        }
        power
    }
}

fn pack(seconds: f64, Tick(now): Tick) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "seven digits suffice")]
    let seconds = seconds as f32;
    u64::from(seconds.to_bits()) << 32 | u64::from(now)
}

fn unpack(word: u64, Tick(now): Tick) -> Option<Reading> {
    let seconds = f64::from(f32::from_bits((word >> 32) as u32));
    let last = u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let idle_tenths = now.saturating_sub(last);
    (seconds > 0.0).then_some(Reading {
        seconds,
        idle_tenths,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_and_ages() {
        let ewma = Ewma::default();
        assert_eq!(ewma.read(Tick(0)), None);
        ewma.observe(Duration::from_secs(1), Tick(100));
        ewma.observe(Duration::from_secs(2), Tick(110));
        let reading = ewma.read(Tick(710)).unwrap();
        assert!((reading.seconds - 1.2).abs() < 1e-6, "{reading:?}");
        let fade = reading.fade();
        assert!(
            (1.6..1.65).contains(&fade),
            "after half the time, about the root of e: {fade}"
        );
        ewma.observe(Duration::from_secs(2), Tick(100_000));
        let reading = ewma.read(Tick(100_000)).unwrap();
        assert!((reading.seconds - 2.0).abs() < 1e-3, "{reading:?}");
        ewma.reset();
        assert_eq!(ewma.read(Tick(710)), None);
    }
}
