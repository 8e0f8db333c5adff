//! Fleets so big that a choice looks at a few of them only.

use super::*;
use crate::balance::{ALL, Entry, Strategy};
use crate::clock;
use crate::demand::Demand;
use crate::health::Signal;
use crate::pool::{Choice, Lease, Loaded, fixture};
use crate::wire::{Counters, Prefix};
use proptest::prelude::*;
use std::collections::HashSet;
use std::time::Duration;

const MODEL: &str = r#"{"models":[{"name":"m:latest","digest":"aaaaaaaaaaaa","size":5000000000}]}"#;

/// Nodes `n0`, `n1` and so on, of whom all hold one model.
struct Fleet {
    pool: Pool,
    strategy: Box<dyn Strategy>,
    demand: Demand,
    now: Instant,
}

impl Fleet {
    fn of(count: usize, strategy: &Entry, seed: u64) -> Self {
        Self {
            pool: fixture::alike(count, 2, MODEL),
            strategy: (strategy.build)(seed),
            demand: fixture::asks("m"),
            now: clock::epoch(),
        }
    }

    fn adaptive(count: usize) -> Self {
        Self::of(count, Entry::find("adaptive").unwrap(), 5)
    }

    /// These have the model in memory.
    fn warm(self, places: impl Iterator<Item = usize>) -> Self {
        for at in places {
            let loaded = Loaded::from_ps(MODEL.as_bytes()).unwrap();
            let backend = &self.pool.backends()[at];
            backend.see(loaded, self.now, self.now, jiff::Timestamp::UNIX_EPOCH);
            backend.report(self.now); // which takes it in
        }
        self
    }

    fn down(&self, at: usize) {
        for _ in 0..2 {
            let refused = Signal::CheckFailed("refused".into());
            self.pool.backends()[at].observe(refused, self.now);
        }
    }

    fn choose(&self, tried: &[u64]) -> Option<Lease> {
        (self.pool).choose(&*self.strategy, &self.demand, tried, self.now)
    }

    fn choose_unless_full(&self) -> Choice {
        (self.pool).choose_unless_full(&*self.strategy, &self.demand, &[], self.now)
    }

    fn job(&self) -> Job<'_> {
        self.pool.job(&self.demand, self.now)
    }

    fn sample(&self, tried: &[u64]) -> Option<Eligible<'_>> {
        let all = |_: &Backend| true;
        self.pool
            .sample(&*self.strategy, &self.job(), tried, self.now, all)
    }
}

fn place(lease: &Lease) -> usize {
    lease.backend().name()[1..].parse().unwrap()
}

fn turns(session: u64, count: u64) -> impl Iterator<Item = Prefix> {
    (0..count).map(move |turn| Prefix {
        hash: xxhash_rust::xxh3::xxh3_64(&(session << 32 | turn).to_le_bytes()),
        bytes: 20_000 * (turn + 1),
    })
}

/// Lets an answer come whole, so that the node remembers the prompt.
fn answer(fleet: &mut Fleet, mut lease: Lease) {
    fleet.now += Duration::from_millis(500);
    lease.first_byte(fleet.now);
    fleet.now += Duration::from_secs(4);
    let counters = Counters {
        prompt_tokens: Some(u32::try_from(fleet.demand.prompt_bytes / 4).unwrap()),
        prompt_time: Some(Duration::from_millis(500)),
        output_tokens: Some(200),
        output_time: Some(Duration::from_secs(4)),
        ..Counters::default()
    };
    lease.progressed(200, fleet.now);
    lease.finished(&counters, fleet.now);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_sample_is_of_those_who_can_take_the_request_each_once(
        seed: u64,
        count in 1usize..200,
        down in proptest::collection::vec(0usize..200, 0..150),
        warm in proptest::collection::vec(0usize..200, 0..40),
        tried in proptest::collection::vec(0usize..200, 0..40),
    ) {
        for entry in ALL {
            let warm = warm.iter().map(|at| at % count);
            let mut fleet = Fleet::of(count, entry, seed).warm(warm);
            fleet.demand.prefixes = turns(1, 5).collect();
            fleet.choose(&[]);
            for at in &down {
                fleet.down(at % count);
            }
            let ids = fleet.pool.backends().iter().map(|backend| backend.id());
            let tried: Vec<_> = ids.enumerate().filter(|(at, _)| tried.contains(at)).map(|(_, id)| id).collect();
            if let Some(sample) = fleet.sample(&tried) {
                let ids: HashSet<_> = sample.iter().map(|backend| backend.id()).collect();
                prop_assert_eq!(ids.len(), sample.len(), "each once");
                prop_assert!(count > WHOLE && sample.len() < 2 * WHOLE, "{} of {}", sample.len(), count);
                for backend in &sample {
                    prop_assert!(backend.admits(Admit::Healthy, fleet.now) && !tried.contains(&backend.id()));
                }
            }
            let all = fleet.pool.eligible(fleet.demand.model.as_ref(), &tried, fleet.now);
            let chosen = fleet.choose(&tried);
            prop_assert_eq!(chosen.is_some(), !all.is_empty());
            if let Some(lease) = chosen {
                prop_assert!(all.iter().any(|backend| backend.id() == lease.backend().id()));
            }
        }
    }
}

#[tokio::test]
async fn the_only_one_that_is_up_among_a_thousand_is_found() {
    for entry in ALL {
        let fleet = Fleet::of(1000, entry, 3);
        (0..1000)
            .filter(|at| *at != 617)
            .for_each(|at| fleet.down(at));
        let lease = fleet.choose(&[]).expect("one is up");
        assert_eq!(place(&lease), 617, "{}", entry.name);
        assert!(fleet.choose(&[lease.backend().id()]).is_none());
    }
}

#[tokio::test]
async fn the_only_one_with_room_among_a_thousand_is_found() {
    for entry in ALL {
        let fleet = Fleet::of(1000, entry, 3).warm(0..1000);
        let all = fleet.pool.eligible(None, &[], fleet.now);
        let job = fleet.job();
        let fill = |backend: &Arc<Backend>| backend.lease_for(&job, Admit::Healthy, fleet.now);
        let two_each = all
            .iter()
            .flat_map(|backend| [fill(backend), fill(backend)]);
        let mut leases: Vec<_> = two_each.flatten().collect();
        let has_room = || (fleet.pool).has_room(fleet.demand.model.as_ref(), false, &[], fleet.now);
        assert!(!has_room());
        assert!(
            matches!(fleet.choose_unless_full(), Choice::Full),
            "{}",
            entry.name
        );
        leases.swap_remove(2 * 400);
        assert!(has_room());
        let Choice::Lease(lease) = fleet.choose_unless_full() else {
            panic!("{}: one has room", entry.name);
        };
        assert_eq!(place(&lease), 400, "{}", entry.name);
        assert!(
            matches!(fleet.choose_unless_full(), Choice::Full),
            "{}",
            entry.name
        );
    }
}

#[tokio::test]
async fn a_thousand_equal_nodes_have_about_as_much_to_do() {
    for (name, most) in [("adaptive", 4), ("response_time", 5), ("two_choices", 8)] {
        let fleet = Fleet::of(1000, Entry::find(name).unwrap(), 5).warm(0..1000);
        let leases: Vec<_> = (0..3000).filter_map(|_| fleet.choose(&[])).collect();
        assert_eq!(leases.len(), 3000);
        let loads = fleet.pool.backends().iter().map(|it| it.in_flight());
        let (least, busiest) = (loads.clone().min().unwrap(), loads.max().unwrap());
        assert!(busiest <= most, "{name}: {least} to {busiest}");
        assert!(
            name != "adaptive" || least >= 2,
            "{name}: {least} to {busiest}"
        );
    }
}

#[tokio::test]
async fn each_conversation_goes_back_to_its_node_among_a_thousand() {
    let mut fleet = Fleet::adaptive(1000).warm(0..1000);
    let mut homes = [None; 100];
    for turn in 1..5 {
        for (session, home) in (0..).zip(&mut homes) {
            fleet.demand.prefixes = turns(session, 2 * turn - 1).collect();
            fleet.demand.prompt_bytes = 20_000 * (2 * turn - 1);
            let lease = fleet.choose(&[]).expect("all are up");
            let at = place(&lease);
            assert_eq!(*home.get_or_insert(at), at, "{session}, {turn}");
            answer(&mut fleet, lease);
        }
    }
    let homes: HashSet<_> = homes.into_iter().collect();
    assert!(homes.len() > 80, "only {} nodes", homes.len());
}

#[tokio::test]
async fn a_model_on_ten_of_a_thousand_is_not_loaded_elsewhere_while_those_have_room() {
    let warm = |at: &usize| at % 100 == 7;
    let mut fleet = Fleet::adaptive(1000).warm((0..1000).filter(warm));
    for at in (0..1000).filter(warm) {
        let backend = &fleet.pool.backends()[at];
        let lease = backend.lease_for(&fleet.job(), Admit::Healthy, fleet.now);
        answer(&mut fleet, lease.unwrap()); // now its speed is known
    }
    let mut leases = Vec::new();
    for _ in 0..20 {
        let Choice::Lease(lease) = fleet.choose_unless_full() else {
            panic!("there is room");
        };
        assert!(warm(&place(&lease)), "{}", place(&lease));
        leases.push(lease);
    }
    let model = fleet.job().model.unwrap();
    assert_eq!(model.copies(), 10);
    // Whoever comes while all of them are full may have it loaded on one more, and then it is one of those that are known.
    while model.copies() == 10 {
        leases.extend(fleet.choose(&[]));
        assert!(leases.len() < 200);
    }
    let at = place(leases.last().unwrap());
    assert!(model.nodes().contains(&fleet.pool.backends()[at].id()));
    drop(fleet);
    drop(leases);
    assert_eq!(model.copies(), 0);
}
