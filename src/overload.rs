//! How hard pressed the process is for descriptors and memory, and what it stops doing for that, step by step.

use crate::{descriptors, memory};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How far the fullness has to fall below where a level begins before that level ends.
const SLACK: f64 = 0.03;

/// What is stopped; each level stops what those before it do too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    #[default]
    Calm,
    /// Connections are idle for seconds only.
    Brief,
    /// Every answer ends its connection.
    Closing,
    /// New requests are refused.
    Refusing,
    /// New connections are left in the kernel's backlog.
    Paused,
}

/// How full something may be before a level begins, from 0 to 1.
const LEVELS: [(Level, f64); 4] = [
    (Level::Brief, 0.85),
    (Level::Closing, 0.92),
    (Level::Refusing, 0.95),
    (Level::Paused, 0.98),
];

/// How much is used of what there is, from 0 to 1 and above; `None` where there is no limit, or it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Fullness {
    /// Descriptors.
    pub descriptors: Option<f64>,
    /// Memory.
    pub memory: Option<f64>,
}

/// How hard pressed the process is now, for all who are to heed it. By default it is not, and never will be.
#[derive(Debug, Default)]
pub struct Overload {
    level: AtomicU8,
    fullness: Mutex<Fullness>,
    changed: Notify,
}

impl Level {
    /// The level that follows this one.
    #[must_use]
    pub fn after(self, fullness: f64) -> Self {
        let held = Self::at(fullness + SLACK).min(self);
        Self::at(fullness).max(held)
    }

    fn at(fullness: f64) -> Self {
        let reached = LEVELS.iter().rev().find(|(_, from)| fullness >= *from);
        reached.map_or(Self::Calm, |(level, _)| *level)
    }

    /// How operators read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Brief => "short_idle",
            Self::Closing => "closing",
            Self::Refusing => "refusing",
            Self::Paused => "paused",
        }
    }
}

impl Fullness {
    /// What the process uses now; memory may be configured, in bytes, and the system may allow less.
    fn now(configured: Option<u64>, allowed: Option<u64>) -> Self {
        let share = |used: Option<u64>, of: Option<u64>| Some(used? as f64 / of?.max(1) as f64);
        let memory = configured.into_iter().chain(allowed).min();
        Self {
            descriptors: share(descriptors::used(), Some(descriptors::allowed())),
            memory: share(memory.and_then(|_| memory::resident()), memory),
        }
    }

    fn most(self) -> f64 {
        let parts = self.descriptors.into_iter().chain(self.memory);
        parts.fold(0.0, f64::max)
    }
}

impl Overload {
    /// The level now. Costs one relaxed load.
    pub fn level(&self) -> Level {
        let level = self.level.load(Relaxed);
        let mut above = LEVELS.iter().map(|(above, _)| *above);
        above
            .find(|above| *above as u8 == level)
            .unwrap_or_default()
    }

    /// Waits until connections are to be left in the backlog, or no more.
    pub async fn until_paused(&self, paused: bool) {
        loop {
            // Whatever changes after this line is heard of.
            let changed = self.changed.notified();
            if (self.level() >= Level::Paused) == paused {
                return;
            }
            changed.await;
        }
    }

    /// What operators see of it.
    pub fn status(&self) -> Value {
        let fullness = *self.lock();
        let shown = |part: Option<f64>| part.map(|part| (part * 1000.0).round() / 1000.0);
        json!({
            "level": self.level().as_str(),
            "descriptors": shown(fullness.descriptors),
            "memory": shown(fullness.memory),
        })
    }

    /// Looks again and again, for ever; `configured` says how many bytes of
    /// memory the process may have, if that is.
    pub async fn watch(&self, configured: impl Fn() -> Option<u64>) {
        let allowed = memory::allowed();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.note(Fullness::now(configured(), allowed));
        }
    }

    /// Takes note of how full everything is now.
    pub fn note(&self, fullness: Fullness) {
        *self.lock() = fullness;
        let before = self.level();
        let level = before.after(fullness.most());
        if level == before {
            return;
        }
        self.level.store(level as u8, Relaxed);
        self.changed.notify_waiters();
        let percent = |part: Option<f64>| part.map(|part| (part * 100.0).round());
        let (descriptors, memory) = (percent(fullness.descriptors), percent(fullness.memory));
        let name = level.as_str();
        if level > before {
            tracing::warn!(level = name, descriptors, memory, "overload rises");
        } else {
            tracing::info!(level = name, descriptors, memory, "overload falls");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Fullness> {
        self.fullness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::{Brief, Calm, Closing, Paused, Refusing};

    /// Follows one fullness after another, in percent, and asserts the levels.
    #[track_caller]
    fn check(steps: &[(f64, Level)]) {
        let overload = Overload::default();
        for (at, (percent, level)) in steps.iter().enumerate() {
            let memory = Some(percent / 100.0);
            overload.note(Fullness {
                descriptors: Some(0.1),
                memory,
            });
            assert_eq!(overload.level(), *level, "step {at} of {steps:?}");
        }
    }

    #[test]
    fn each_step_begins_at_its_share() {
        check(&[(84.9, Calm), (85.0, Brief), (91.9, Brief), (92.0, Closing)]);
        check(&[(94.9, Closing), (95.0, Refusing), (97.9, Refusing)]);
        check(&[(98.0, Paused), (130.0, Paused)]);
        check(&[(100.0, Paused), (0.0, Calm), (95.0, Refusing)]);
    }

    #[test]
    fn a_step_ends_well_below_where_it_began() {
        check(&[(85.0, Brief), (82.1, Brief), (81.9, Calm), (84.9, Calm)]);
        check(&[(98.0, Paused), (95.1, Paused), (94.9, Refusing)]);
        check(&[(98.0, Paused), (94.9, Refusing), (97.9, Refusing)]);
        check(&[(95.0, Refusing), (91.0, Closing), (88.0, Brief)]);
    }

    #[test]
    fn the_fullest_counts_and_what_is_not_known_does_not() {
        let full = |descriptors, memory| Fullness {
            descriptors,
            memory,
        };
        for (fullness, most) in [
            (full(None, None), 0.0),
            (full(Some(0.5), None), 0.5),
            (full(Some(0.5), Some(0.9)), 0.9),
            (full(Some(0.95), Some(0.9)), 0.95),
        ] {
            assert!((fullness.most() - most).abs() < 1e-9, "{fullness:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_last_level_pauses() {
        let overload = Overload::default();
        let set = |share| {
            overload.note(Fullness {
                descriptors: Some(share),
                memory: None,
            });
        };
        overload.until_paused(false).await;
        set(0.97);
        let waiting = tokio::time::timeout(Duration::from_secs(60), overload.until_paused(true));
        assert!(waiting.await.is_err());
        for (paused, share, level) in [(true, 0.99, Paused), (false, 0.9, Closing)] {
            let changed = async {
                tokio::task::yield_now().await;
                set(share);
            };
            tokio::join!(overload.until_paused(paused), changed);
            assert_eq!(overload.level(), level);
        }
    }
}
