//! Whether a backend may be given requests: one state, fed by checks and by what happens to real requests.
//!
//! Two things can be wrong with a node. It cannot be reached: checks and connects fail, it is *down*, and only successes
//! bring it back. Or it can be reached and fails what it is asked: it is *ejected* for a while that doubles, then one
//! request may try. A check cannot undo an ejection, since `/api/version` works on a node whose GPU is gone.
//!
//! Pure: time comes in as an argument, nothing is sent or logged.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Failed answers in a row that eject a backend.
const EJECT_AFTER: u32 = 5;
const EJECT_FIRST: Duration = Duration::from_secs(1);
const EJECT_LONGEST: Duration = Duration::from_secs(10);

/// How a backend's health is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Time between two checks of a backend that is up.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// Failures in a row that take a backend out, at least 1.
    pub fall: u32,
    /// Successes in a row that bring it back, at least 1.
    pub rise: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            fall: 2,
            rise: 2,
        }
    }
}

/// What has been learnt about a backend's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A check was answered in time.
    CheckPassed,
    /// A check failed, with the reason.
    CheckFailed(String),
    /// No connection could be made for a request.
    ConnectFailed(String),
    /// A request was answered with a status below 500.
    Answered,
    /// A request was answered with a server error, or its connection broke. Never sent for what a client did.
    Failed(String),
}

/// The state that users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Takes requests.
    Up,
    /// Cannot be reached.
    Down,
    /// Reachable, but failed too many requests in a row.
    Ejected,
}

impl State {
    /// The name used in logs and in the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
        }
    }
}

/// The health of one backend.
#[derive(Debug)]
pub struct Health {
    state: State,
    unreachable: u32,
    passes: u32,
    errors: u32,
    ejections: u32,
    ejected_until: Instant,
    last_error: Option<Arc<str>>,
}

impl Health {
    /// A backend is believed healthy until something says otherwise.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Up,
            unreachable: 0,
            passes: 0,
            errors: 0,
            ejections: 0,
            ejected_until: now,
            last_error: None,
        }
    }

    /// Takes in one signal and returns the new state if it changed.
    pub fn observe(&mut self, signal: Signal, policy: &Policy, now: Instant) -> Option<State> {
        let before = self.state;
        match signal {
            Signal::CheckPassed => self.reached(policy),
            Signal::CheckFailed(reason) | Signal::ConnectFailed(reason) => {
                self.last_error = Some(reason.into());
                self.passes = 0;
                self.unreachable = self.unreachable.saturating_add(1);
                if self.unreachable >= policy.fall {
                    self.state = State::Down;
                }
            }
            Signal::Answered => {
                self.errors = 0;
                self.ejections = 0;
                if self.state == State::Ejected {
                    self.state = State::Up;
                }
                self.reached(policy);
            }
            Signal::Failed(reason) => {
                self.last_error = Some(reason.into());
                self.errors = self.errors.saturating_add(1);
                let trial_failed = self.state == State::Ejected && now >= self.ejected_until;
                if trial_failed || (self.state == State::Up && self.errors >= EJECT_AFTER) {
                    self.eject(now);
                }
            }
        }
        (self.state != before).then_some(self.state)
    }

    fn reached(&mut self, policy: &Policy) {
        self.unreachable = 0;
        self.passes = self.passes.saturating_add(1);
        if self.state == State::Down && self.passes >= policy.rise {
            self.state = State::Up;
            self.errors = 0;
            self.ejections = 0;
        }
    }

    fn eject(&mut self, now: Instant) {
        let out_for =
            (EJECT_FIRST * 2u32.saturating_pow(self.ejections.min(10))).min(EJECT_LONGEST);
        self.ejections = self.ejections.saturating_add(1);
        self.ejected_until = now + out_for;
        self.state = State::Ejected;
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Until when an ejected backend gets nothing; after it, one request at a time may try.
    pub fn ejected_until(&self) -> Instant {
        self.ejected_until
    }

    /// Answers in a row that were failures.
    pub fn errors(&self) -> u32 {
        self.errors
    }

    /// Whether the backend is down but has begun to answer, so that the next check should come soon.
    pub fn is_recovering(&self) -> bool {
        self.state == State::Down && self.passes > 0
    }

    /// What went wrong last, if anything ever did.
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.last_error.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Signal {
        Signal::Failed("500".into())
    }

    fn unreachable() -> Signal {
        Signal::CheckFailed("refused".into())
    }

    #[tokio::test]
    async fn goes_down_after_fall_and_up_after_rise() {
        let (policy, now) = (Policy::default(), Instant::now());
        let mut health = Health::new(now);
        assert_eq!(health.observe(unreachable(), &policy, now), None);
        assert_eq!(health.observe(Signal::CheckPassed, &policy, now), None);
        assert_eq!(
            health.observe(unreachable(), &policy, now),
            None,
            "a pass in between starts the count anew"
        );
        assert_eq!(
            health.observe(Signal::ConnectFailed("refused".into()), &policy, now),
            Some(State::Down)
        );
        assert_eq!(health.observe(Signal::CheckPassed, &policy, now), None);
        assert!(health.is_recovering());
        assert_eq!(
            health.observe(Signal::CheckPassed, &policy, now),
            Some(State::Up)
        );
        assert_eq!(health.last_error().as_deref(), Some("refused"));
    }

    #[tokio::test]
    async fn failures_in_a_row_eject_and_each_failed_trial_doubles_the_time() {
        let (policy, mut now) = (Policy::default(), Instant::now());
        let mut health = Health::new(now);
        for _ in 0..EJECT_AFTER - 1 {
            assert_eq!(health.observe(failed(), &policy, now), None);
        }
        assert_eq!(health.observe(failed(), &policy, now), Some(State::Ejected));
        for out_for in [1, 2, 4, 8, 10, 10] {
            assert_eq!(health.ejected_until() - now, Duration::from_secs(out_for));
            assert_eq!(
                health.observe(Signal::CheckPassed, &policy, now),
                None,
                "a check does not undo an ejection"
            );
            assert_eq!(
                health.observe(failed(), &policy, now),
                None,
                "an old request does not count as the trial"
            );
            now = health.ejected_until();
            health.observe(failed(), &policy, now);
        }
        assert_eq!(
            health.observe(Signal::Answered, &policy, now),
            Some(State::Up)
        );
        assert_eq!(health.errors(), 0);
    }

    #[tokio::test]
    async fn successes_between_failures_keep_a_backend_in() {
        let (policy, now) = (Policy::default(), Instant::now());
        let mut health = Health::new(now);
        for _ in 0..20 {
            for _ in 0..EJECT_AFTER - 1 {
                assert_eq!(health.observe(failed(), &policy, now), None);
            }
            assert_eq!(health.observe(Signal::Answered, &policy, now), None);
        }
    }
}
