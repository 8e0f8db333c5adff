//! A moving average that many threads may feed and read without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Share of a new sample in the average, if the last one has just come.
const GAIN: f64 = 0.2;

/// Time after which an average without new samples is worth 1/e of what it was.
const FADE: Duration = Duration::from_secs(120);

/// An exponentially weighted moving average of a duration, with the time of its last sample.
///
/// Both halves live in one word, so that a reader never sees the value of one sample with the time of another. Times are
/// given as durations since an epoch of the owner's choice and kept to a tenth of a second (for 13 years).
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
    pub fn observe(&self, sample: Duration, now: Duration) {
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
    pub fn read(&self, now: Duration) -> Option<Reading> {
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

fn pack(seconds: f64, now: Duration) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "seven digits suffice")]
    let seconds = seconds as f32;
    u64::from(seconds.to_bits()) << 32 | u64::from(tenths(now))
}

fn unpack(word: u64, now: Duration) -> Option<Reading> {
    let seconds = f64::from(f32::from_bits((word >> 32) as u32));
    let last = u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let idle_tenths = tenths(now).saturating_sub(last);
    (seconds > 0.0).then_some(Reading {
        seconds,
        idle_tenths,
    })
}

fn tenths(time: Duration) -> u32 {
    // By parts, since every choice comes here and a division of 128 bits is slow.
    let tenths = time
        .as_secs()
        .saturating_mul(10)
        .saturating_add(u64::from(time.subsec_millis() / 100));
    u32::try_from(tenths).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_and_ages() {
        let ewma = Ewma::default();
        assert_eq!(ewma.read(Duration::ZERO), None);
        ewma.observe(Duration::from_secs(1), Duration::from_secs(10));
        ewma.observe(Duration::from_secs(2), Duration::from_secs(11));
        let reading = ewma.read(Duration::from_secs(71)).unwrap();
        assert!((reading.seconds - 1.2).abs() < 1e-6, "{reading:?}");
        let fade = reading.fade();
        assert!(
            (1.6..1.65).contains(&fade),
            "after half the time, about the root of e: {fade}"
        );
        ewma.observe(Duration::from_secs(2), Duration::from_secs(10_000));
        let reading = ewma.read(Duration::from_secs(10_000)).unwrap();
        assert!((reading.seconds - 2.0).abs() < 1e-3, "{reading:?}");
        ewma.reset();
        assert_eq!(ewma.read(Duration::from_secs(71)), None);
    }
}
