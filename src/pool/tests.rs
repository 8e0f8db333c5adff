//! Who may be chosen.

use super::*;
use crate::balance;
use crate::clock;
use crate::health::{Signal, State};
use crate::wire::Counters;
use http::StatusCode;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

fn pool_of(names: &[&str]) -> Pool {
    let spec = |name: &&str| Spec {
        name: (*name).into(),
        origin: Origin::parse(name).expect("a host name"),
        weight: 1.0,
        drain: false,
        slots: None,
    };
    let specs: Vec<_> = names.iter().map(spec).collect();
    let policy = health::Policy::default();
    Pool::build(&specs, policy, None, Instant::now())
}

fn pool() -> Pool {
    pool_of(&["a", "b"])
}

fn names(pool: &Pool, now: Instant) -> Vec<&str> {
    let eligible = pool.eligible(None, &[], now);
    eligible.iter().map(|backend| backend.name()).collect()
}

fn demand() -> Demand {
    Demand::new(None, IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Has the strategy of a name choose.
fn choose(pool: &Pool, strategy: &str, now: Instant) -> Option<Lease> {
    let entry = balance::Entry::find(strategy).expect("a strategy");
    pool.choose(&*(entry.build)(7), &demand(), &[], now)
}

fn eject(backend: &Backend, now: Instant) {
    for _ in 0..5 {
        backend.observe(Signal::Failed("500".into()), now);
    }
}

fn finish(mut lease: Lease, now: Instant) {
    lease.answered(StatusCode::OK, now);
    lease.finished(&Counters::default(), now);
}

#[test]
fn who_comes_back_is_asked_what_it_has_in_memory() {
    let (pool, now) = (pool(), Instant::now());
    let backend = &pool.backends()[0];
    let is_due = || backend.begin_asking_loaded(Duration::from_secs(30), now);
    assert!(is_due() && !is_due());
    for signal in [
        Signal::CheckFailed("gone".into()),
        Signal::CheckFailed("gone".into()),
        Signal::CheckPassed,
        Signal::CheckPassed,
    ] {
        backend.observe(signal, now);
    }
    assert_eq!(names(&pool, now), ["a", "b"]);
    assert!(is_due() && !is_due());
}

#[tokio::test]
async fn slots_are_counted_however_slow_the_answers_are() {
    for pace in [0.05, 0.5, 8.0] {
        let pool = pool_of(&["a"]);
        let node = &pool.backends()[0];
        let entry = r#"{"models":[{"name":"m:latest","digest":"aaaaaaaaaaaa","size":5000000000}]}"#;
        pool.learn(node, Inventory::from_tags(entry.as_bytes()).unwrap());
        let mut now = clock::epoch();
        let loaded = Loaded::from_ps(entry.as_bytes()).unwrap();
        node.see(loaded, now, now, jiff::Timestamp::now());
        let strategy = balance::Entry::find("adaptive").unwrap();
        let strategy = (strategy.build)(7);
        let mut demand = Demand::new(ModelKey::parse("m"), IpAddr::V4(Ipv4Addr::LOCALHOST));
        demand.is_streamed = true;
        let leases = [(); 3].map(|()| pool.choose(&*strategy, &demand, &[], now).unwrap());
        // Two are answered, the third waits inside the node.
        for lease in &leases[..2] {
            lease.first_byte(now);
        }
        for _ in 0..4 {
            now += Duration::from_secs_f64(pace);
            for lease in &leases[..2] {
                lease.progressed(1, now);
            }
        }
        now += Duration::from_secs_f64(pace / 2.0);
        let key = demand.model.as_ref();
        assert!(!pool.has_room(key, false, &[], now), "{pace}");
        assert_eq!(node.report(now).slots, 2, "{pace}");
    }
}

#[tokio::test]
async fn an_ejected_backend_is_tried_by_one_request_although_an_old_one_still_runs() {
    let pool = pool();
    let sick = &pool.backends()[0];
    let now = Instant::now();
    let old = sick.lease(now);
    eject(sick, now);
    assert_eq!(names(&pool, now), ["b"]);
    let later = now + Duration::from_secs(2);
    assert_eq!(names(&pool, later), ["a", "b"]);
    let trial = choose(&pool, "least_connections", later).unwrap();
    let trial = if trial.is_on_probation() {
        trial
    } else {
        // Chance chose the other, which is the busier one now.
        choose(&pool, "least_connections", later).unwrap()
    };
    assert_eq!(trial.backend().name(), "a");
    assert_eq!(names(&pool, later), ["b"], "one at a time");
    drop(trial);
    assert_eq!(names(&pool, later), ["a", "b"]);
    drop(old);
    assert_eq!(sick.in_flight(), 0);
}

#[tokio::test]
async fn whatever_goes_to_every_backend_is_no_trial() {
    let pool = pool();
    let sick = &pool.backends()[0];
    let now = Instant::now();
    eject(sick, now);
    let later = now + Duration::from_secs(2);
    let pull = sick.lease(later);
    assert_eq!(names(&pool, later), ["a", "b"], "nobody tries it yet");
    pull.answered(StatusCode::OK, later);
    assert_eq!(sick.condition().0, State::Ejected);
}

#[tokio::test]
async fn many_who_come_at_once_try_an_ejected_backend_once() {
    const THREADS: usize = 8;
    let pool = pool();
    let (sick, now) = (&pool.backends()[0], Instant::now());
    for round in 1..50 {
        eject(sick, now);
        let later = now + Duration::from_secs(100 * round);
        let start = std::sync::Barrier::new(THREADS);
        let leases: Vec<_> = std::thread::scope(|scope| {
            let choosing = || {
                start.wait();
                (0..4)
                    .filter_map(|_| choose(&pool, "round_robin", later))
                    .collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(choosing)).collect();
            let joined = threads.into_iter().map(|thread| thread.join().unwrap());
            joined.flatten().collect()
        });
        assert_eq!(leases.len(), THREADS * 4);
        let trials = leases.iter().filter(|it| it.backend().name() == "a");
        assert_eq!(trials.count(), 1);
    }
}

#[tokio::test]
async fn who_comes_back_gets_one_then_two_then_four_at_a_time() {
    let pool = pool();
    let (back, other) = (&pool.backends()[0], &pool.backends()[1]);
    let now = Instant::now();
    for signal in [
        Signal::CheckFailed("refused".into()),
        Signal::CheckFailed("refused".into()),
        Signal::CheckPassed,
        Signal::CheckPassed,
    ] {
        back.observe(signal, now);
    }
    for limit in [1, 2, 4, 8] {
        let mut leases: Vec<_> = (0..50)
            .filter_map(|_| choose(&pool, "least_connections", now))
            .collect();
        assert_eq!(leases.len(), 50, "nobody fails for it");
        assert_eq!(back.in_flight(), limit);
        assert_eq!(other.in_flight(), 50 - limit);
        assert_eq!(names(&pool, now), ["b"]);
        let at = leases.iter().position(|it| it.backend().name() == "a");
        finish(leases.remove(at.unwrap()), now);
    }
    assert_eq!(back.restraint(now).limit, None);
}

#[tokio::test]
async fn who_comes_back_alone_gets_all() {
    let pool = pool_of(&["a"]);
    let (only, now) = (&pool.backends()[0], Instant::now());
    for _ in 0..2 {
        only.observe(Signal::CheckFailed("refused".into()), now);
    }
    assert!(choose(&pool, "adaptive", now).is_none());
    for _ in 0..2 {
        only.observe(Signal::CheckPassed, now);
    }
    let leases: Vec<_> = (0..9)
        .filter_map(|_| choose(&pool, "adaptive", now))
        .collect();
    assert_eq!(leases.len(), 9);
    assert!(pool.has_room(None, false, &[], now));
}

/// What happened to one backend of a fleet of chance.
#[derive(Default)]
struct Record {
    /// When the ejection ends that is under way, or was last.
    until: Option<Instant>,
    out_for: Duration,
    ejections: usize,
}

/// A request on its way, and the number of the ejection that it tries to end, if it does.
struct Flight {
    at: usize,
    lease: Lease,
    tries: Option<usize>,
}

/// Runs a fleet of chance for a while and looks at what must always hold.
struct Chaos {
    random: fastrand::Rng,
    pool: Pool,
    strategy: Box<dyn Strategy>,
    now: Instant,
    flights: Vec<Flight>,
    records: Vec<Record>,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let pool = pool_of(&names[..random.usize(1..=8)]);
        let entry = &balance::ALL[random.usize(..balance::ALL.len())];
        Self {
            strategy: (entry.build)(seed),
            now: Instant::now(),
            flights: Vec::new(),
            records: pool.backends().iter().map(|_| Record::default()).collect(),
            pool,
            random,
        }
    }

    fn states(&self) -> Vec<State> {
        let backends = self.pool.backends().iter();
        backends.map(|backend| backend.condition().0).collect()
    }

    fn step(&mut self) {
        let before = self.states();
        match self.random.u32(..10) {
            0..4 => self.arrive(&before),
            4..8 => self.end(),
            8 => self.check(),
            _ => self.now += Duration::from_millis(self.random.u64(..3000)),
        }
        self.look(&before);
    }

    fn arrive(&mut self, before: &[State]) {
        let admits = |admit| {
            let mut backends = self.pool.backends().iter();
            backends.any(|backend| backend.admits(admit, self.now))
        };
        let spared = admits(Admit::Recovering);
        let chosen = self.pool.choose(&*self.strategy, &demand(), &[], self.now);
        let Some(lease) = chosen else {
            assert!(before.iter().all(|state| *state == State::Down));
            return;
        };
        let backends = &mut self.pool.backends().iter();
        let at = backends.position(|it| it.id() == lease.backend().id());
        let at = at.unwrap();
        let is_out = before[at] == State::Ejected;
        assert_ne!(before[at], State::Down);
        if is_out && spared {
            assert!(lease.is_on_probation(), "not while others can serve");
            assert!(Some(self.now) >= self.records[at].until, "too early");
        }
        let tries = (is_out && lease.is_on_probation()).then(|| self.records[at].ejections);
        self.flights.push(Flight { at, lease, tries });
    }

    fn end(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let flight = self
            .flights
            .swap_remove(self.random.usize(..self.flights.len()));
        let (lease, now) = (flight.lease, self.now);
        // The higher a backend's number, the more it fails.
        let fails = self.random.usize(..8) < 3 + flight.at;
        match self.random.u32(..8) {
            0 => drop(lease),
            1 => lease.answered(StatusCode::NOT_FOUND, now),
            2 if fails && self.random.bool() => lease.unreachable("refused".into(), now, now),
            3 if fails => lease.failed("reset".into(), now),
            4 if fails => {
                lease.answered(StatusCode::OK, now);
                lease.failed("broke off".into(), now);
            }
            _ if fails => lease.answered(StatusCode::INTERNAL_SERVER_ERROR, now),
            _ => finish(lease, now),
        }
    }

    fn check(&mut self) {
        let backend = &self.pool.backends()[self.random.usize(..self.records.len())];
        let signal = if self.random.u32(..20) == 0 {
            Signal::CheckFailed("refused".into())
        } else {
            Signal::CheckPassed
        };
        backend.observe(signal, self.now);
    }

    fn look(&mut self, before: &[State]) {
        let after = self.states();
        let count = |state| after.iter().filter(|is| **is == state).count();
        assert!(count(State::Ejected) <= after.len() / 2, "{after:?}");
        for (at, record) in self.records.iter_mut().enumerate() {
            let restraint = self.pool.backends()[at].restraint(self.now);
            let Some(until) = restraint.ejected_until else {
                continue;
            };
            if before[at] == State::Up {
                assert!(count(State::Up) > 0, "never the last: {after:?}");
            }
            if before[at] == State::Up || record.until != Some(until) {
                let (out_for, doubled) = (until - self.now, record.out_for * 2);
                let longer = doubled.min(Duration::from_secs(10));
                let first = Duration::from_secs(1);
                let may_be_first = before[at] == State::Up;
                assert!(
                    out_for == longer || (may_be_first && out_for == first),
                    "{out_for:?} after {:?}",
                    record.out_for
                );
                record.until = Some(until);
                record.out_for = out_for;
                record.ejections += 1;
            }
            let current = Some(record.ejections);
            let mut trials = self.flights.iter();
            let trials = trials
                .by_ref()
                .filter(|it| it.at == at && it.tries == current);
            assert!(trials.count() <= 1, "one at a time");
        }
    }
}

#[tokio::test]
async fn whatever_happens_half_stay_in_and_one_at_a_time_tries() {
    let mut ejections = 0;
    for seed in 0..300 {
        let mut chaos = Chaos::new(seed);
        for _ in 0..1000 {
            chaos.step();
        }
        ejections += chaos.records.iter().map(|it| it.ejections).sum::<usize>();
        chaos.flights.clear();
        let mut backends = chaos.pool.backends().iter();
        assert!(backends.all(|backend| backend.in_flight() == 0));
    }
    assert!(ejections > 2000, "only {ejections}");
}

#[tokio::test]
async fn when_no_holder_can_take_it_those_who_have_not_spoken_may() {
    let pool = pool();
    let now = Instant::now();
    let holder = &pool.backends()[0];
    let model = ModelKey::parse("m").unwrap();
    pool.learn(
        holder,
        Inventory::from_tags(br#"{"models":[{"name":"m"}]}"#).unwrap(),
    );
    let names = || {
        let eligible = pool.eligible(Some(&model), &[], now);
        eligible
            .iter()
            .map(|backend| backend.name())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(), ["a"]);
    for _ in 0..2 {
        holder.observe(Signal::CheckFailed("refused".into()), now);
    }
    assert_eq!(names(), ["b"]);
    pool.learn(&pool.backends()[1], Inventory::default());
    assert_eq!(names(), [""; 0], "now it is known not to have it");
}

#[tokio::test]
async fn what_two_backends_say_at_once_is_both_heard() {
    const ROUNDS: usize = 1000;
    let model = ModelKey::parse("m").unwrap();
    for round in 0..ROUNDS {
        let (pool, together) = (pool(), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            for backend in pool.backends() {
                let inventory = Inventory::from_tags(br#"{"models":[{"name":"m"}]}"#).unwrap();
                scope.spawn(|| {
                    together.wait();
                    pool.learn(backend, inventory);
                });
            }
        });
        let holders = pool.eligible(Some(&model), &[], Instant::now()).len();
        assert_eq!(holders, 2, "round {round}");
    }
}

#[tokio::test]
async fn a_backend_that_never_spoke_and_is_down_does_not_keep_the_others_from_saying_no() {
    let pool = pool();
    let now = Instant::now();
    let (healthy, dead) = (&pool.backends()[0], &pool.backends()[1]);
    pool.learn(healthy, Inventory::default());
    for _ in 0..2 {
        dead.observe(Signal::CheckFailed("refused".into()), now);
    }
    let model = ModelKey::parse("nobody-has-it").unwrap();
    let eligible = pool.eligible(Some(&model), &[], now);
    assert_eq!(
        eligible
            .iter()
            .map(|backend| backend.name())
            .collect::<Vec<_>>(),
        ["a"]
    );
}
