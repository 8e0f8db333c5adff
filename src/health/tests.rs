//! One backend's health, event by event.

use super::*;
use crate::clock;

fn failed() -> Signal {
    Signal::Failed("500".into())
}

fn unreachable() -> Signal {
    Signal::CheckFailed("refused".into())
}

fn unconnected(since: Instant) -> Signal {
    let reason = "refused".into();
    Signal::ConnectFailed { reason, since }
}

/// A health, in time that moves only when a test moves it, in a fleet where it may be ejected.
struct Patient {
    health: Health,
    now: Instant,
    may_eject: bool,
}

impl Patient {
    fn new() -> Self {
        let now = clock::epoch();
        Self {
            health: Health::new(now),
            now,
            may_eject: true,
        }
    }

    fn hear(&mut self, signal: Signal, pass: Option<Pass>) -> Option<State> {
        let may = self.may_eject;
        self.health
            .observe(signal, pass, &Policy::default(), self.now, || may)
    }

    fn enter(&mut self) -> Option<Pass> {
        self.health.enter(Admit::Healthy, self.now)
    }

    /// One that was ejected just now.
    fn ejected() -> Self {
        let mut patient = Self::new();
        for _ in 0..EJECT_AFTER {
            patient.hear(failed(), None);
        }
        assert_eq!(patient.health.state(), State::Ejected);
        patient
    }

    fn wait_until_tried(&mut self) {
        self.now = self.now.max(self.health.ejected_until());
    }

    /// How many are let in one after the other, up to a hundred.
    fn let_in(&mut self) -> Vec<Pass> {
        (0..100).map_while(|_| self.enter()).collect()
    }
}

#[test]
fn goes_down_after_fall_and_up_after_rise() {
    let mut patient = Patient::new();
    assert_eq!(patient.hear(unreachable(), None), None);
    assert_eq!(patient.hear(Signal::CheckPassed, None), None);
    assert_eq!(
        patient.hear(unreachable(), None),
        None,
        "a pass in between starts the count anew"
    );
    assert_eq!(
        patient.hear(unconnected(patient.now), None),
        Some(State::Down)
    );
    assert_eq!(patient.enter(), None);
    assert_eq!(patient.hear(Signal::CheckPassed, None), None);
    assert!(patient.health.is_recovering());
    assert_eq!(patient.hear(Signal::CheckPassed, None), Some(State::Up));
    assert_eq!(patient.health.last_error().as_deref(), Some("refused"));
    assert_eq!(patient.health.limit(patient.now), Some(1));
}

#[test]
fn a_lost_packet_takes_nobody_out_who_answers_others_meanwhile() {
    let mut patient = Patient::new();
    let since = patient.now;
    patient.now += Duration::from_secs(1);
    patient.hear(Signal::Answered, None);
    for _ in 0..10 {
        assert_eq!(patient.hear(unconnected(since), None), None);
    }
    assert_eq!(patient.hear(unconnected(patient.now), None), None);
    let down = patient.hear(unconnected(patient.now), None);
    assert_eq!(down, Some(State::Down));
}

#[test]
fn failures_in_a_row_eject_and_each_failed_trial_doubles_the_time() {
    let mut patient = Patient::new();
    for _ in 0..EJECT_AFTER - 1 {
        assert_eq!(patient.hear(failed(), None), None);
    }
    let old = Pass::free(patient.health.era());
    assert_eq!(patient.hear(failed(), None), Some(State::Ejected));
    for out_for in [1, 2, 4, 8, 10, 10] {
        let until = patient.health.ejected_until();
        assert_eq!(until - patient.now, Duration::from_secs(out_for));
        assert_eq!(patient.hear(Signal::CheckPassed, None), None);
        assert_eq!(patient.enter(), None, "not yet");
        for now in [patient.now, until] {
            patient.now = now;
            for signal in [failed(), Signal::Answered, Signal::Broke("x".into())] {
                assert_eq!(patient.hear(signal, Some(old)), None);
            }
            assert_eq!(
                patient.health.ejected_until(),
                until,
                "what began before says nothing"
            );
        }
        let trial = patient.enter();
        assert!(trial.is_some_and(Pass::is_counted));
        assert_eq!(patient.enter(), None, "one at a time");
        assert_eq!(patient.hear(failed(), trial), None);
        patient.health.leave(trial.unwrap());
    }
    patient.wait_until_tried();
    let trial = patient.enter();
    assert_eq!(patient.hear(Signal::Answered, trial), Some(State::Up));
    assert_eq!(patient.health.errors(), 0);
}

#[test]
fn a_backend_that_fails_soon_after_it_came_back_stays_out_longer() {
    let mut patient = Patient::ejected();
    let mut fail_after = |seconds: u64| {
        patient.wait_until_tried();
        let trial = patient.enter();
        patient.hear(Signal::Answered, trial);
        patient.now += Duration::from_secs(seconds);
        for _ in 0..EJECT_AFTER {
            patient.hear(failed(), None);
        }
        patient.health.ejected_until() - patient.now
    };
    assert_eq!(fail_after(0), Duration::from_secs(2));
    assert_eq!(fail_after(29), Duration::from_secs(4));
    assert_eq!(fail_after(30), Duration::from_secs(1), "forgiven");
}

#[test]
fn a_trial_that_says_nothing_leaves_the_place_to_the_next() {
    for signal in [None, Some(Signal::Turned)] {
        let mut patient = Patient::ejected();
        patient.wait_until_tried();
        for _ in 0..5 {
            let trial = patient.enter();
            assert!(trial.is_some() && patient.enter().is_none());
            if let Some(signal) = signal.clone() {
                assert_eq!(patient.hear(signal, trial), None);
            }
            patient.health.leave(trial.unwrap());
        }
    }
}

#[test]
fn a_trial_that_failed_and_lingers_does_not_open_the_way_for_two() {
    let mut patient = Patient::ejected();
    patient.wait_until_tried();
    let first = patient.enter();
    patient.hear(failed(), first);
    patient.wait_until_tried();
    assert!(patient.enter().is_some());
    patient.health.leave(first.unwrap());
    assert_eq!(patient.enter(), None);
}

#[test]
fn in_need_an_ejected_backend_takes_all_and_any_success_brings_it_back() {
    let mut patient = Patient::ejected();
    let pass = patient.health.enter(Admit::Ejected, patient.now);
    assert!(pass.is_some_and(|pass| !pass.is_counted()), "no trial yet");
    assert_eq!(
        patient.hear(failed(), pass),
        None,
        "and its failure counts for none"
    );
    let aside = Pass::aside(patient.health.era());
    assert_eq!(patient.hear(Signal::Answered, Some(aside)), None);
    assert_eq!(patient.hear(Signal::Answered, pass), Some(State::Up));
}

#[test]
fn successes_between_failures_keep_a_backend_in_unless_half_fail() {
    let mut patient = Patient::new();
    for _ in 0..20 {
        for _ in 0..EJECT_AFTER - 1 {
            assert_eq!(patient.hear(failed(), None), None);
        }
        for _ in 0..2 * EJECT_AFTER {
            assert_eq!(patient.hear(Signal::Answered, None), None);
        }
    }
    let mut patient = Patient::new();
    let mut failures = 0;
    while patient.health.state() == State::Up {
        patient.hear(Signal::Answered, None);
        patient.hear(failed(), None);
        failures += 1;
    }
    assert_eq!(failures, window::LEAST_ANSWERS / 2);
}

#[test]
fn what_clients_do_is_neither_failure_nor_success() {
    let mut patient = Patient::new();
    for _ in 0..EJECT_AFTER - 1 {
        patient.hear(failed(), None);
        for _ in 0..100 {
            assert_eq!(patient.hear(Signal::Turned, None), None);
        }
    }
    assert_eq!(
        patient.hear(failed(), None),
        Some(State::Ejected),
        "still five in a row"
    );
}

#[test]
fn who_may_not_be_ejected_stays_and_goes_as_soon_as_it_may() {
    let mut patient = Patient::new();
    patient.may_eject = false;
    for _ in 0..50 {
        assert_eq!(patient.hear(failed(), None), None);
    }
    assert_eq!(patient.health.errors(), 50, "recorded all the same");
    patient.may_eject = true;
    assert_eq!(patient.hear(failed(), None), Some(State::Ejected));
}

#[test]
fn comes_back_in_steps_and_from_the_first_one_after_a_failure() {
    let mut patient = Patient::ejected();
    patient.wait_until_tried();
    let trial = patient.enter();
    patient.hear(Signal::Answered, trial);
    assert_eq!(patient.let_in().len(), 0, "the trial has the first place");
    patient.hear(Signal::Finished, trial);
    patient.health.leave(trial.unwrap());
    let two = patient.let_in();
    assert_eq!(two.len(), 2);
    patient.hear(Signal::Answered, two.first().copied());
    patient.hear(Signal::Finished, two.first().copied());
    assert_eq!(patient.let_in().len(), 2, "four in all");
    patient.hear(failed(), two.last().copied());
    assert_eq!(patient.health.limit(patient.now), Some(1));
    assert!(
        patient.health.admits(Admit::Recovering, patient.now),
        "it takes more if nobody else can"
    );
    for _ in 0..4 {
        patient.hear(Signal::Finished, Some(Pass::free(patient.health.era())));
    }
    assert!(patient.health.is_whole(patient.now));
    assert_eq!(patient.let_in().len(), 100);
}
