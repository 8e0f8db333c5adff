//! The way to a backend: its health, in a form that every choice can read without a lock while nothing is wrong.

use crate::health::{Admit, Health, Pass, Policy, Quorum, Signal, State};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

const OPEN: u8 = 0;
const SHUT: u8 = 1;
/// It has to be asked for each request.
const AJAR: u8 = 2;

/// A backend's health. What can be read without its lock is written under it.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Gate {
    position: AtomicU8,
    errors: AtomicU32,
    era: AtomicU64,
    health: Mutex<Health>,
}

/// A change of state, for whoever tells people.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) state: State,
    pub(super) reason: Arc<str>,
}

/// What keeps requests from a backend that is not down, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restraint {
    /// Until when an ejected backend gets nothing; later, if nobody has tried it since.
    pub ejected_until: Option<Instant>,
    /// How many requests at a time it gets, having just come back.
    pub limit: Option<u32>,
}

impl Gate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            position: AtomicU8::new(OPEN),
            era: AtomicU64::new(0),
            errors: AtomicU32::new(0),
            health: Mutex::new(Health::new(now)),
        }
    }

    pub(super) fn admits(&self, admit: Admit, now: Instant) -> bool {
        match self.position.load(Relaxed) {
            OPEN => true,
            SHUT => false,
            _ => self.lock().admits(admit, now),
        }
    }

    /// Whether it is down.
    pub(super) fn is_shut(&self) -> bool {
        self.position.load(Relaxed) == SHUT
    }

    /// Lets a request in, if it may be.
    pub(super) fn enter(&self, admit: Admit, now: Instant) -> Option<Pass> {
        match self.position.load(Relaxed) {
            OPEN => Some(Pass::free(self.era.load(Relaxed))),
            SHUT => None,
            _ => {
                let mut health = self.lock();
                let pass = health.enter(admit, now);
                self.publish(&health, now);
                pass
            }
        }
    }

    /// Lets a request in that asks nobody.
    pub(super) fn enter_aside(&self) -> Pass {
        Pass::aside(self.era.load(Relaxed))
    }

    pub(super) fn leave(&self, pass: Pass) {
        if pass.is_counted() {
            self.lock().leave(pass);
        }
    }

    /// A whole answer came.
    pub(super) fn finished(&self, pass: Pass, policy: &Policy, now: Instant) {
        if self.position.load(Relaxed) == AJAR {
            let mut health = self.lock();
            health.observe(Signal::Finished, Some(pass), policy, now, || false);
            self.publish(&health, now);
        }
    }

    /// Takes in a signal of the backend of that number. The fleet's quorum hears of a change before another can follow.
    pub(super) fn observe(
        &self,
        signal: Signal,
        pass: Option<Pass>,
        policy: &Policy,
        now: Instant,
        quorum: &Mutex<Quorum>,
        id: u64,
    ) -> Option<Change> {
        let quorum = || quorum.lock().unwrap_or_else(PoisonError::into_inner);
        let mut health = self.lock();
        let state = health.observe(signal, pass, policy, now, || quorum().eject(id));
        self.publish(&health, now);
        let state = state?;
        quorum().note(id, state);
        let reason = health.last_error().unwrap_or_default();
        Some(Change { state, reason })
    }

    /// Reads what is known under the lock.
    pub(super) fn read<T>(&self, of: impl FnOnce(&Health) -> T) -> T {
        of(&self.lock())
    }

    pub(super) fn errors(&self) -> u32 {
        self.errors.load(Relaxed)
    }

    pub(super) fn restraint(&self, now: Instant) -> Restraint {
        self.read(|health| Restraint {
            ejected_until: (health.state() == State::Ejected).then(|| health.ejected_until()),
            limit: health.limit(now),
        })
    }

    fn publish(&self, health: &Health, now: Instant) {
        let position = match health.state() {
            State::Up if health.is_whole(now) => OPEN,
            State::Up | State::Ejected => AJAR,
            State::Down => SHUT,
        };
        self.errors.store(health.errors(), Relaxed);
        self.era.store(health.era(), Relaxed);
        self.position.store(position, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
