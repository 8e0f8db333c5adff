//! The line against a plain list that does the same by looking at everybody, and what it promises, one by one.

use super::Class::{Batch, Interactive};
use super::*;
use crate::clock;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

impl<K: Clone + Eq + std::hash::Hash + std::fmt::Debug> Line<K> {
    /// Panics if what the line keeps in several places does not agree.
    fn check(&self) {
        let mut standing = 0;
        let mut queues = 0;
        let mut turns_taken = BTreeSet::new();
        for (key, flow) in &self.flows {
            assert!(!flow.queues.is_empty(), "an empty flow {key:?}");
            assert!(turns_taken.insert((key.0, flow.turn)), "a turn of its own");
            for (kind, queue) in &flow.queues {
                assert!(!queue.is_empty(), "an empty queue of {key:?} for {kind:?}");
                // Tickets name one place each, so as many places as tickets means that nobody has two.
                for id in queue {
                    let ticket = &self.waiting[id];
                    assert_eq!((ticket.class, ticket.client), *key, "{id:?}");
                    assert_eq!(ticket.kind, *kind, "{id:?}");
                }
                standing += queue.len();
                queues += 1;
                let turns = self.kinds[kind].of(key.0);
                assert_eq!(turns.get(&flow.turn), Some(&key.1), "its turn");
            }
        }
        assert_eq!(standing, self.waiting.len(), "all are queued, once");
        let turns = self.kinds.values().map(|turns| {
            assert!(!turns.is_empty());
            turns.of(Interactive).len() + turns.of(Batch).len()
        });
        assert_eq!(turns.sum::<usize>(), queues, "a turn for each queue");
        assert_eq!(self.deadlines.len(), self.waiting.len());
        assert_eq!(self.promotions.len(), self.promotions_due.len());
        let mut batch = 0;
        for (id, ticket) in &self.waiting {
            assert!(self.deadlines.contains(&(ticket.deadline, *id)));
            if ticket.class == Batch {
                batch += 1;
                let due = self.promotions[id];
                assert!(self.promotions_due.contains(&(due, *id)));
            }
        }
        assert_eq!(self.promotions.len(), batch);
    }
}

/// The same line as a list, which looks at everybody each time.
#[derive(Debug, Default)]
struct List {
    waiting: BTreeMap<Id, (Ticket<u8>, Instant)>,
    turns: HashMap<(Class, u64), u64>,
    turn: u64,
}

impl List {
    fn join(&mut self, id: Id, ticket: Ticket<u8>, promotion: Instant) {
        self.turn += 1;
        let turn = self.turn;
        let key = (ticket.class, ticket.client);
        let is_there = self
            .waiting
            .values()
            .any(|(other, _)| (other.class, other.client) == key);
        if !is_there {
            self.turns.insert(key, turn);
        }
        self.waiting.insert(id, (ticket, promotion));
    }

    fn promote(&mut self, now: Instant) {
        let mut due: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, (ticket, promotion))| ticket.class == Batch && *promotion <= now)
            .map(|(id, (_, promotion))| (*promotion, *id))
            .collect();
        due.sort();
        for (promotion, id) in due {
            let (mut ticket, _) = self.waiting.remove(&id).unwrap();
            ticket.class = Interactive;
            self.join(id, ticket, promotion);
        }
    }

    fn offer(&mut self, mask: u8) -> Option<Id> {
        let rank = |(id, (ticket, _)): (&Id, &(Ticket<u8>, Instant))| {
            let key = (ticket.class, ticket.client);
            (ticket.class, self.turns[&key], *id)
        };
        let able = |(_, (ticket, _)): &(&Id, &(Ticket<u8>, Instant))| mask >> ticket.kind & 1 == 1;
        let (class, _, id) = self.waiting.iter().filter(able).map(rank).min()?;
        let (ticket, _) = self.waiting.remove(&id).unwrap();
        self.turn += 1;
        self.turns.insert((class, ticket.client), self.turn);
        Some(id)
    }

    fn sizes(&self, class: Class) -> BTreeMap<u64, usize> {
        let mut sizes = BTreeMap::new();
        for (ticket, _) in self.waiting.values() {
            if ticket.class == class {
                *sizes.entry(ticket.client).or_default() += 1;
            }
        }
        sizes
    }

    /// Whether a newcomer that finds the line full may have the place of `victim`, or of nobody.
    fn may_displace(&self, newcomer: &Ticket<u8>, victim: Option<Id>) -> bool {
        let batch = self.sizes(Batch);
        let of_batch = newcomer.class == Interactive && !batch.is_empty();
        let (class, sizes) = if of_batch {
            (Batch, batch)
        } else {
            (newcomer.class, self.sizes(newcomer.class))
        };
        let most = sizes.values().max().copied().unwrap_or(0);
        let own = sizes.get(&newcomer.client).copied().unwrap_or(0);
        let Some(victim) = victim else {
            return !of_batch && most < own + 2;
        };
        let (ticket, _) = &self.waiting[&victim];
        let newest = self
            .waiting
            .iter()
            .filter(|(_, (other, _))| (other.class, other.client) == (class, ticket.client))
            .map(|(id, _)| *id)
            .max();
        ticket.class == class
            && sizes[&ticket.client] == most
            && newest == Some(victim)
            && (of_batch || most >= own + 2)
    }
}

fn after(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn is_sane(refusal: Refusal) -> bool {
    (after(1000)..=after(72_000)).contains(&refusal.retry_after)
}

/// Random events for a line and a list side by side; both must always decide alike. Returns why requests were refused.
fn walk(seed: u64, steps: usize) -> HashSet<Reason> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut limit = random.usize(0..16);
    let mut line = Line::new(limit, seed);
    let mut list = List::default();
    let mut now = clock::epoch();
    let clients = random.u64(1..8);
    let kinds = random.u8(1..6);
    let mut past = Vec::new();
    let mut last_id = None;
    let mut reasons = HashSet::new();
    // Some fleets are fast enough for everybody, others drown.
    let comers = random.u32(20..70);
    for _ in 0..steps {
        let chance = random.u32(0..100);
        if chance < comers {
            let class = if random.bool() { Interactive } else { Batch };
            let ticket = Ticket {
                client: random.u64(0..clients),
                class,
                kind: random.u8(0..kinds),
                deadline: now + after(random.u64(0..90_000)),
            };
            list.promote(now);
            let before = line.len();
            match line.arrive(ticket.clone(), now) {
                Ok(Arrival { id, displaced }) => {
                    assert!(last_id < Some(id), "numbers grow");
                    last_id = Some(id);
                    if let Some((victim, refusal)) = displaced {
                        assert!(before >= limit, "only a full line displaces");
                        assert!(list.may_displace(&ticket, Some(victim)), "{victim:?}");
                        assert!(refusal.reason == Reason::Displaced && is_sane(refusal));
                        reasons.insert(refusal.reason);
                        list.waiting.remove(&victim);
                        past.push(victim);
                    } else {
                        assert!(before < limit);
                    }
                    let half = ticket.deadline.saturating_duration_since(now) / 2;
                    list.join(id, ticket, now + BATCH_PATIENCE.min(half));
                    assert!(line.len() <= limit.max(before));
                }
                Err(refusal) => {
                    reasons.insert(refusal.reason);
                    assert!(is_sane(refusal), "{refusal:?}");
                    match refusal.reason {
                        Reason::Full => {
                            assert!(before >= limit && list.may_displace(&ticket, None));
                        }
                        Reason::Expired => assert!(ticket.deadline <= now),
                        Reason::Hopeless => assert!(ticket.deadline > now),
                        Reason::Displaced => panic!("nobody displaces a newcomer"),
                    }
                    assert_eq!(line.len(), before);
                }
            }
        } else if chance < 90 {
            let mask = random.u8(..);
            list.promote(now);
            let chosen = line.offer(|kind| mask >> kind & 1 == 1, now);
            assert_eq!(chosen, list.offer(mask), "mask {mask:b}");
            past.extend(chosen);
        } else if chance < 95 {
            let somebody = random.choice(list.waiting.keys().copied().collect::<Vec<_>>());
            if let Some(id) = somebody {
                line.leave(id);
                list.waiting.remove(&id);
                past.push(id);
            }
            // Who is gone, may say so again.
            if let Some(id) = random.choice(&past) {
                line.leave(*id);
            }
        } else if chance < 96 {
            limit = random.usize(0..16);
            line.set_limit(limit);
        } else {
            now += after(random.u64(0..2000));
            let expired = line.expire(now);
            assert!(expired.is_sorted_by_key(|(id, _)| list.waiting[id].0.deadline));
            for (id, refusal) in expired {
                assert!(refusal.reason == Reason::Expired && is_sane(refusal));
                let (ticket, _) = list.waiting.remove(&id).unwrap();
                assert!(ticket.deadline <= now);
                past.push(id);
            }
            assert!(line.next_deadline().is_none_or(|next| next > now));
        }
        line.check();
        assert!(line.waiting.keys().eq(list.waiting.keys()));
        let first = list.waiting.values().map(|(ticket, _)| ticket.deadline);
        assert_eq!(line.next_deadline(), first.min());
        let batch: usize = list.sizes(Batch).values().sum();
        assert_eq!(line.len_of(Batch), batch);
        assert_eq!(line.len_of(Interactive), line.len() - batch);
    }
    reasons
}

#[test]
fn it_decides_like_a_plain_list() {
    let mut reasons = HashSet::new();
    for seed in 0..256 {
        let seen = std::panic::catch_unwind(|| walk(seed, 3000));
        assert!(seen.is_ok(), "seed {seed}");
        reasons.extend(seen.into_iter().flatten());
    }
    assert_eq!(reasons.len(), 4, "every reason was met: {reasons:?}");
}

const SECOND: Duration = Duration::from_secs(1);
const ANY: fn(&u8) -> bool = |_| true;

fn ticket(client: u64, class: Class, kind: u8, deadline: Instant) -> Ticket<u8> {
    Ticket {
        client,
        class,
        kind,
        deadline,
    }
}

/// A line, the time, and a way to join it with plenty of time.
struct Scene {
    line: Line<u8>,
    now: Instant,
}

impl Scene {
    fn new(limit: usize) -> Self {
        Self {
            line: Line::new(limit, 7),
            now: clock::epoch(),
        }
    }

    fn arrive(&mut self, client: u64, class: Class, kind: u8) -> Result<Arrival, Refusal> {
        let deadline = self.now + 600 * SECOND;
        self.line
            .arrive(ticket(client, class, kind, deadline), self.now)
    }

    #[track_caller]
    fn join(&mut self, client: u64, class: Class, kind: u8) -> Id {
        let arrival = self.arrive(client, class, kind).unwrap();
        assert_eq!(arrival.displaced, None);
        arrival.id
    }

    fn serve(&mut self) -> Option<Id> {
        self.line.offer(ANY, self.now)
    }
}

#[test]
fn clients_with_one_request_each_are_served_oldest_first_whatever_they_ask_for() {
    let mut scene = Scene::new(9);
    let ids: Vec<_> = (0..9)
        .map(|at| scene.join(100 - u64::from(at), Interactive, at % 3))
        .collect();
    let served: Vec<_> = std::iter::from_fn(|| scene.serve()).collect();
    assert_eq!(served, ids);
}

#[test]
fn a_client_with_a_hundred_requests_takes_turns_with_one_that_has_one() {
    let mut scene = Scene::new(512);
    for at in 0..100 {
        scene.join(1, Interactive, at % 2);
    }
    let lone = scene.join(2, Interactive, 0);
    scene.serve();
    assert_eq!(scene.serve(), Some(lone));
    // One that always comes back at once gets every other slot, and takes no more.
    for _ in 0..20 {
        let again = scene.join(2, Interactive, 0);
        assert_ne!(scene.serve(), Some(again), "the other's turn");
        assert_eq!(scene.serve(), Some(again));
    }
}

#[test]
fn a_busy_kind_holds_up_no_other() {
    let mut scene = Scene::new(99);
    for client in 0..50 {
        scene.join(client, Interactive, 0);
    }
    let other = scene.join(0, Interactive, 1);
    let mut asked = Vec::new();
    let served = scene.line.offer(
        |kind| {
            asked.push(*kind);
            *kind == 1
        },
        scene.now,
    );
    assert_eq!(served, Some(other));
    asked.sort_unstable();
    assert_eq!(asked, [0, 1], "once for each kind");
    assert_eq!(scene.line.offer(|kind| *kind == 1, scene.now), None);
}

#[test]
fn interactive_goes_before_batch_which_does_not_starve() {
    let mut scene = Scene::new(99);
    let batch = scene.join(1, Batch, 0);
    let later = scene.join(1, Batch, 0);
    let pressing = scene.join(2, Interactive, 0);
    assert_eq!(scene.serve(), Some(pressing));
    let mut slots = 0;
    let served = loop {
        // More interactive requests than slots, for ever.
        scene.join(3 + slots % 2, Interactive, 0);
        scene.now += SECOND;
        slots += 1;
        let served = scene.serve();
        if served == Some(batch) {
            break slots;
        }
        assert_ne!(served, Some(later));
    };
    assert!((30..=33).contains(&served), "{served} s");
}

#[test]
fn batch_with_little_time_goes_on_as_interactive_after_half_of_it() {
    let mut scene = Scene::new(99);
    let deadline = scene.now + 4 * SECOND;
    let hurried = ticket(1, Batch, 0, deadline);
    let hurried = scene.line.arrive(hurried, scene.now).unwrap().id;
    scene.now += 2 * SECOND;
    assert_eq!(scene.line.len_of(Batch), 1);
    scene.line.offer(|_| false, scene.now);
    assert_eq!(scene.line.len_of(Batch), 0);
    scene.join(2, Interactive, 0);
    assert_eq!(scene.serve(), Some(hurried));
}

#[test]
fn in_a_full_line_interactive_takes_the_place_of_the_newest_of_most_batch() {
    let mut scene = Scene::new(5);
    let _ = scene.join(1, Interactive, 0);
    let _ = scene.join(2, Batch, 0);
    let newest = [scene.join(3, Batch, 0), scene.join(3, Batch, 1)][1];
    let _ = scene.join(2, Interactive, 0);
    let (displaced, refusal) = scene.arrive(1, Interactive, 0).unwrap().displaced.unwrap();
    assert_eq!((displaced, refusal.reason), (newest, Reason::Displaced));
    assert_eq!(scene.line.len(), 5);
    let full = scene.arrive(4, Batch, 0).unwrap_err();
    assert_eq!(full.reason, Reason::Full);
}

#[test]
fn one_client_may_fill_the_line_until_others_want_in() {
    let mut scene = Scene::new(4);
    let ids: Vec<_> = (0..4).map(|_| scene.join(1, Interactive, 0)).collect();
    assert_eq!(
        scene.arrive(1, Interactive, 0).unwrap_err().reason,
        Reason::Full
    );
    let displaced = |scene: &mut Scene| {
        let arrival = scene.arrive(2, Interactive, 0);
        arrival.map(|arrival| arrival.displaced.unwrap().0)
    };
    assert_eq!(displaced(&mut scene), Ok(ids[3]));
    assert_eq!(displaced(&mut scene), Ok(ids[2]));
    assert_eq!(displaced(&mut scene).unwrap_err().reason, Reason::Full);
}

#[test]
fn no_limit_means_no_line() {
    let mut scene = Scene::new(0);
    let refusal = scene.arrive(1, Interactive, 0).unwrap_err();
    assert_eq!(refusal.reason, Reason::Full);
    assert!(refusal.retry_after >= 2 * SECOND && refusal.retry_after < 3 * SECOND);
}

#[test]
fn deadlines_come_in_their_order() {
    let mut scene = Scene::new(9);
    let mut ids = Vec::new();
    for seconds in [3, 1, 2] {
        let deadline = scene.now + seconds * SECOND;
        let arrival = scene
            .line
            .arrive(ticket(1, Interactive, 0, deadline), scene.now);
        ids.push(arrival.unwrap().id);
    }
    assert_eq!(scene.line.next_deadline(), Some(scene.now + SECOND));
    assert!(scene.line.expire(scene.now + after(999)).is_empty());
    let expired = scene.line.expire(scene.now + 2 * SECOND);
    let expired: Vec<_> = expired.into_iter().map(|(id, _)| id).collect();
    assert_eq!(expired, [ids[1], ids[2]]);
    assert_eq!(scene.line.next_deadline(), Some(scene.now + 3 * SECOND));
}

/// Serves `count` requests of a kind, one in so many milliseconds, and leaves as many waiting as there were.
fn serve_steadily(scene: &mut Scene, count: usize, gap: u64) {
    for _ in 0..count {
        scene.now += after(gap);
        assert!(scene.serve().is_some());
        scene.join(1, Interactive, 0);
    }
}

#[test]
fn who_would_wait_too_long_is_told_at_once_and_when_to_come_again() {
    let mut scene = Scene::new(99);
    for _ in 0..20 {
        scene.join(1, Interactive, 0);
    }
    let now = scene.now;
    let hurried = |scene: &mut Scene, client, kind, seconds: u32| {
        let deadline = scene.now + seconds * SECOND;
        let ticket = ticket(client, Interactive, kind, deadline);
        scene.line.arrive(ticket, scene.now)
    };
    let unknown = hurried(&mut scene, 1, 0, 1).unwrap();
    scene.line.leave(unknown.id);
    serve_steadily(&mut scene, 40, 2000);
    assert_eq!(scene.now - now, 80 * SECOND);
    // Twenty are before it, one each two seconds.
    let refusal = hurried(&mut scene, 1, 0, 10).unwrap_err();
    assert_eq!(refusal.reason, Reason::Hopeless);
    let seconds = refusal.retry_after.as_secs_f64();
    assert!(
        (32.0..=38.4).contains(&seconds),
        "42 s less 10 s: {seconds}"
    );
    let arrival = hurried(&mut scene, 1, 0, 43).unwrap();
    scene.line.leave(arrival.id);
    // Another client's turn comes after one, and of another kind nothing is known.
    assert!(hurried(&mut scene, 2, 0, 5).is_ok());
    assert!(hurried(&mut scene, 1, 1, 1).is_ok());
    let batch = ticket(3, Batch, 0, scene.now + 41 * SECOND);
    let refusal = scene.line.arrive(batch, scene.now).unwrap_err();
    assert_eq!(
        refusal.reason,
        Reason::Hopeless,
        "all of them come before it"
    );
}

#[test]
fn those_who_are_turned_away_together_do_not_come_back_together() {
    let mut scene = Scene::new(40);
    for _ in 0..40 {
        scene.join(1, Interactive, 0);
    }
    serve_steadily(&mut scene, 20, 1000);
    let mut times: Vec<_> = (0..50)
        .map(|_| scene.arrive(1, Interactive, 0).unwrap_err().retry_after)
        .collect();
    times.sort();
    times.dedup();
    assert!(times.len() > 40, "{times:?}");
    // A quarter of the line is to be gone by then.
    assert!(times[0] >= 11 * SECOND && times[times.len() - 1] <= 14 * SECOND);
}

#[test]
fn those_who_stay_keep_their_places_when_the_limit_is_lowered() {
    let mut scene = Scene::new(3);
    let ids: Vec<_> = (0..3).map(|at| scene.join(at, Interactive, 0)).collect();
    scene.line.set_limit(1);
    assert!(scene.arrive(9, Interactive, 0).is_err());
    let served: Vec<_> = std::iter::from_fn(|| scene.serve()).collect();
    assert_eq!(served, ids);
}
