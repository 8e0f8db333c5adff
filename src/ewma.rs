//! A moving average that many threads may feed and read without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Share of a new sample in the average.
const GAIN: f32 = 0.2;

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
    /// How long ago the last sample came.
    pub idle: Duration,
}

impl Ewma {
    /// Mixes in a sample; the first one is taken as it is.
    pub fn observe(&self, sample: Duration, now: Duration) {
        let sample = sample.as_secs_f32().max(1e-6);
        // Relaxed: the word carries all there is to know.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let old = f32::from_bits((word >> 32) as u32);
            let value = if old > 0.0 {
                old + GAIN * (sample - old)
            } else {
                sample
            };
            Some(u64::from(value.to_bits()) << 32 | u64::from(tenths(now)))
        });
    }

    /// The average as of the last sample, or `None` before the first.
    pub fn read(&self, now: Duration) -> Option<Reading> {
        let word = self.0.load(Relaxed);
        let seconds = f64::from(f32::from_bits((word >> 32) as u32));
        let last = u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        let idle = Duration::from_millis(u64::from(tenths(now).saturating_sub(last)) * 100);
        (seconds > 0.0).then_some(Reading { seconds, idle })
    }

    /// Forgets everything, as if nothing had ever been measured.
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

fn tenths(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / 100).unwrap_or(u32::MAX)
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
        assert_eq!(reading.idle, Duration::from_secs(60));
        ewma.reset();
        assert_eq!(ewma.read(Duration::from_secs(71)), None);
    }
}
