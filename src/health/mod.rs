//! Whether a backend may be given requests: one state, fed by checks and by what happens to real requests.
//!
//! Two things can be wrong with a node. It cannot be reached: checks and connects fail, it is *down*, and only successes
//! bring it back. Or it can be reached and fails what it is asked: it is *ejected* for a while that doubles, then one
//! request may try. A check cannot undo an ejection, since `/api/version` works on a node whose GPU is gone. Who comes
//! back from either gets one request at a time, then two, then four, until nothing holds it back.
//!
//! A node is ejected for five failures in a row, or when half of what it answered of late were failures. What a client did
//! is no failure: it left, its body broke off, it asked for what is not there or makes no sense. Such answers are no
//! successes either, since a sick node can give them too. Nor can all be ejected: see [`Quorum`].
//!
//! Pure: time comes in as an argument, nothing is sent or logged.

mod quorum;
mod ramp;
#[cfg(test)]
mod tests;
mod window;

pub use quorum::Quorum;

use ramp::Ramp;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use window::Window;

/// Failed answers in a row that eject a backend.
const EJECT_AFTER: u32 = 5;
const EJECT_FIRST: Duration = Duration::from_secs(1);
const EJECT_LONGEST: Duration = Duration::from_secs(10);
/// How long a backend must have been back for its next ejection to be short again.
const FORGIVE_AFTER: Duration = window::SPAN;

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
    ConnectFailed {
        /// What happened.
        reason: String,
        /// When it was begun.
        since: Instant,
    },
    /// A request was answered as it should be.
    Answered,
    /// A request was answered with what says nothing of the backend's health: that the client is wrong, or that there is
    /// enough to do.
    Turned,
    /// A request was answered with a server error, or its connection broke. Never sent for what a client did.
    Failed(String),
    /// An answer broke off that was [`Signal::Answered`] when it began.
    Broke(String),
    /// A whole answer came.
    Finished,
}

/// The state that users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Takes requests.
    Up,
    /// Cannot be reached.
    Down,
    /// Reachable, but failed too many requests.
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

/// How much a filter lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// Backends that are up and have not more to do than one that has just come back should, and ejected ones whose time
    /// to be tried again has come.
    Healthy,
    /// Also those that have just come back and do have so much to do: better that than no answer.
    Recovering,
    /// Also those that are ejected: better a node that failed before than no answer.
    Ejected,
}

/// What a request was let in as. It comes back with all that is told of the request, and when that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Which outage it was let in after: what began before the last one says nothing of the node now.
    era: u64,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// One of those that a backend which has just come back gets at a time. While it is ejected: the only one that tries.
    Counted,
    /// Let in beside them.
    Free,
    /// Not chosen for the backend's health, such as what goes to every backend: its success does not end an ejection.
    Aside,
}

impl Pass {
    /// For a backend that nothing is held against since that outage.
    pub fn free(era: u64) -> Self {
        let role = Role::Free;
        Self { era, role }
    }

    /// For a request that did not ask whether it may.
    pub fn aside(era: u64) -> Self {
        let role = Role::Aside;
        Self { era, role }
    }

    /// Whether it is counted in, so that the backend has to be told when it is over.
    pub fn is_counted(self) -> bool {
        self.role == Role::Counted
    }
}

/// The health of one backend.
#[derive(Debug)]
pub struct Health {
    state: State,
    unreachable: u32,
    passes: u32,
    reached_at: Instant,
    errors: u32,
    window: Window,
    ejections: u32,
    ejected_until: Instant,
    back_since: Option<Instant>,
    ramp: Ramp,
    era: u64,
    last_error: Option<Arc<str>>,
}

impl Health {
    /// A backend is believed healthy until something says otherwise.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Up,
            unreachable: 0,
            passes: 0,
            reached_at: now,
            errors: 0,
            window: Window::new(now),
            ejections: 0,
            ejected_until: now,
            back_since: None,
            ramp: Ramp::over(now),
            era: 0,
            last_error: None,
        }
    }

    /// Whether a request that comes now may be let in.
    pub fn admits(&self, admit: Admit, now: Instant) -> bool {
        match self.state {
            State::Up => admit != Admit::Healthy || self.ramp.has_room(now),
            State::Down => false,
            State::Ejected => admit == Admit::Ejected || self.is_to_be_tried(now),
        }
    }

    /// Lets a request in, if it may be. A pass that [is counted](Pass::is_counted) must be given back.
    pub fn enter(&mut self, admit: Admit, now: Instant) -> Option<Pass> {
        if !self.admits(admit, now) {
            return None;
        }
        let era = self.era;
        if !self.admits(Admit::Healthy, now) || self.is_whole(now) {
            return Some(Pass::free(era));
        }
        self.ramp.enter();
        let role = Role::Counted;
        Some(Pass { era, role })
    }

    /// A request is over.
    pub fn leave(&mut self, pass: Pass) {
        if pass.is_counted() && pass.era == self.era {
            self.ramp.leave();
        }
    }

    /// Takes in one signal, with the pass of the request that it is about, if any, and returns the new state if it
    /// changed. `may_eject` is asked before the backend is ejected; after a yes, it is.
    pub fn observe(
        &mut self,
        signal: Signal,
        pass: Option<Pass>,
        policy: &Policy,
        now: Instant,
        may_eject: impl FnOnce() -> bool,
    ) -> Option<State> {
        let before = self.state;
        let is_old = pass.is_some_and(|pass| pass.era != self.era);
        match signal {
            Signal::CheckPassed | Signal::Turned => self.reached(policy, now),
            // It was reached meanwhile: a packet got lost and not the backend. In a burst of requests that would be two.
            Signal::ConnectFailed { reason, since }
                if since < self.reached_at && !self.is_trial(pass) =>
            {
                self.last_error = Some(reason.into());
            }
            Signal::CheckFailed(reason) | Signal::ConnectFailed { reason, .. } => {
                self.last_error = Some(reason.into());
                self.passes = 0;
                self.unreachable = self.unreachable.saturating_add(1);
                if self.unreachable >= policy.fall && self.state != State::Down {
                    self.state = State::Down;
                    self.era += 1;
                } else if !is_old && self.is_trial(pass) {
                    self.eject(now);
                }
            }
            Signal::Answered if is_old => self.reached(policy, now),
            Signal::Answered => {
                self.errors = 0;
                self.window.succeeded(now);
                if self.state == State::Ejected && pass.is_none_or(|pass| pass.role != Role::Aside)
                {
                    self.state = State::Up;
                    self.window.clear();
                    self.back_since = Some(now);
                    self.ramp.restart(now);
                }
                self.reached(policy, now);
            }
            Signal::Failed(reason) | Signal::Broke(reason) if is_old => {
                self.last_error = Some(reason.into());
            }
            Signal::Failed(reason) => {
                self.window.failed(now);
                self.failed(reason, pass, now, may_eject);
            }
            Signal::Broke(reason) => {
                self.window.broke(now);
                self.failed(reason, pass, now, may_eject);
            }
            Signal::Finished => {
                if !is_old && self.state == State::Up {
                    self.ramp.grow(now);
                }
            }
        }
        (self.state != before).then_some(self.state)
    }

    fn failed(
        &mut self,
        reason: String,
        pass: Option<Pass>,
        now: Instant,
        may_eject: impl FnOnce() -> bool,
    ) {
        self.last_error = Some(reason.into());
        self.errors = self.errors.saturating_add(1);
        match self.state {
            State::Up => {
                let is_sick = self.errors >= EJECT_AFTER || self.window.is_bad(now);
                if is_sick && may_eject() {
                    let was_out = self.back_since.take();
                    if was_out.is_none_or(|since| now >= since + FORGIVE_AFTER) {
                        self.ejections = 0;
                    }
                    self.eject(now);
                } else if !self.is_whole(now) {
                    self.ramp.restart(now);
                }
            }
            State::Ejected if self.is_trial(pass) => self.eject(now),
            State::Ejected | State::Down => {}
        }
    }

    fn reached(&mut self, policy: &Policy, now: Instant) {
        self.unreachable = 0;
        self.reached_at = now;
        self.passes = self.passes.saturating_add(1);
        if self.state == State::Down && self.passes >= policy.rise {
            self.state = State::Up;
            self.errors = 0;
            self.ejections = 0;
            self.back_since = None;
            self.window.clear();
            self.ramp = Ramp::start(now);
        }
    }

    fn eject(&mut self, now: Instant) {
        let out_for =
            (EJECT_FIRST * 2u32.saturating_pow(self.ejections.min(10))).min(EJECT_LONGEST);
        self.ejections = self.ejections.saturating_add(1);
        self.ejected_until = now + out_for;
        self.state = State::Ejected;
        self.era += 1;
        self.ramp = Ramp::start(now);
    }

    fn is_to_be_tried(&self, now: Instant) -> bool {
        now >= self.ejected_until && self.ramp.is_empty()
    }

    /// Whether it is the request that tries an ejected backend.
    fn is_trial(&self, pass: Option<Pass>) -> bool {
        self.state == State::Ejected && pass.is_some_and(Pass::is_counted)
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether it takes as many requests as come.
    pub fn is_whole(&self, now: Instant) -> bool {
        self.state == State::Up && self.ramp.limit(now).is_none()
    }

    /// How many requests at a time a backend gets that has just come back; `None` if nothing holds it back, or it is out.
    pub fn limit(&self, now: Instant) -> Option<u32> {
        let limit = self.ramp.limit(now);
        limit.filter(|_| self.state == State::Up)
    }

    /// Until when an ejected backend gets nothing; after it, one request at a time may try.
    pub fn ejected_until(&self) -> Instant {
        self.ejected_until
    }

    /// Counts the outages so far.
    pub fn era(&self) -> u64 {
        self.era
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
