//! The line itself: events in, decisions out.

use super::drain::Drain;
use super::flow::{Flow, Turns};
use super::{Arrival, BATCH_PATIENCE, Class, Id, Reason, Refusal, Ticket};
use crate::balance::Dice;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// Kinds whose speed is remembered. Kinds may hold names that clients make up.
const KINDS_KNOWN: usize = 256;
/// When to come again, while it is not known how fast the line moves.
const RETRY_UNKNOWN: Duration = Duration::from_secs(2);
/// The least and the most that a client is asked to stay away, in seconds, before chance is added.
const RETRY_SECONDS: (f64, f64) = (1.0, 60.0);
/// What chance adds at most, as a share.
const RETRY_SPREAD: f64 = 0.2;
/// The share of a full line that should be gone when those who found it full come again: all of them want in then.
const ROOM_SHARE: usize = 4;

/// A bounded line of requests of kinds `K`. See the [module](super) for who goes first.
#[derive(Debug)]
pub struct Line<K> {
    pub(super) limit: usize,
    next_id: u64,
    next_turn: u64,
    /// Everybody in the line, as they stand there now.
    pub(super) waiting: BTreeMap<Id, Ticket<K>>,
    pub(super) flows: HashMap<(Class, u64), Flow<K>>,
    pub(super) kinds: HashMap<K, Turns>,
    pub(super) deadlines: BTreeSet<(Instant, Id)>,
    /// When those of class batch go on as interactive.
    pub(super) promotions: BTreeMap<Id, Instant>,
    pub(super) promotions_due: BTreeSet<(Instant, Id)>,
    /// How fast each kind is served, and all together.
    drains: HashMap<K, Drain>,
    drain: Option<Drain>,
    dice: Dice,
}

impl<K: Clone + Eq + Hash> Line<K> {
    /// An empty line for so many requests. All chance comes from the seed.
    pub fn new(limit: usize, seed: u64) -> Self {
        Self {
            limit,
            next_id: 0,
            next_turn: 0,
            waiting: BTreeMap::new(),
            flows: HashMap::new(),
            kinds: HashMap::new(),
            deadlines: BTreeSet::new(),
            promotions: BTreeMap::new(),
            promotions_due: BTreeSet::new(),
            drains: HashMap::new(),
            drain: None,
            dice: Dice::seeded(seed),
        }
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Requests that wait in a class. Batch requests that have waited long count as interactive.
    pub fn len_of(&self, class: Class) -> usize {
        match class {
            Class::Interactive => self.len() - self.promotions.len(),
            Class::Batch => self.promotions.len(),
        }
    }

    /// Changes how many may wait. Those who do keep their places, even if they are more.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// When [`Line::expire`] has something to do next, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Somebody comes for whom no slot is free.
    ///
    /// # Errors
    /// When it may not wait.
    pub fn arrive(&mut self, ticket: Ticket<K>, now: Instant) -> Result<Arrival, Refusal> {
        self.promote(now);
        let patience = ticket.deadline.saturating_duration_since(now);
        if patience.is_zero() {
            return Err(self.refusal(Reason::Expired, self.wait_of(&ticket, now)));
        }
        if let Some(wait) = self.wait_of(&ticket, now)
            && wait > patience.as_secs_f64()
        {
            let over = wait - patience.as_secs_f64();
            return Err(self.refusal(Reason::Hopeless, Some(over)));
        }
        let mut displaced = None;
        if self.len() >= self.limit {
            let Some(id) = self.displaceable(&ticket) else {
                return Err(self.refusal(Reason::Full, self.until_room(now)));
            };
            self.remove(id);
            displaced = Some((id, self.refusal(Reason::Displaced, self.until_room(now))));
        }
        let id = Id(self.next_id);
        self.next_id += 1;
        self.begin_drains(&ticket.kind, now);
        self.deadlines.insert((ticket.deadline, id));
        if ticket.class == Class::Batch {
            let due = now + BATCH_PATIENCE.min(patience / 2);
            self.promotions.insert(id, due);
            self.promotions_due.insert((due, id));
        }
        self.enqueue(id, &ticket);
        self.waiting.insert(id, ticket);
        Ok(Arrival { id, displaced })
    }

    /// Somebody leaves. Nothing happens if it is not in the line any more.
    pub fn leave(&mut self, id: Id) {
        self.remove(id);
    }

    /// A slot is free: takes the one out of the line who is to have it. `can_use` says whether a kind can use one; it is
    /// asked about each kind at most once. To be asked again until it finds nobody; [`Line::expire`] comes before it.
    pub fn offer(&mut self, mut can_use: impl FnMut(&K) -> bool, now: Instant) -> Option<Id> {
        self.promote(now);
        let mut first: Option<(Class, u64, Id)> = None;
        for (kind, turns) in &self.kinds {
            let next = turns.first().and_then(|(class, turn, client)| {
                let flow = self.flows.get(&(class, client))?;
                Some((class, turn, *flow.queues.get(kind)?.first()?))
            });
            let Some(next) = next else { continue };
            if first.is_none_or(|first| next < first) && can_use(kind) {
                first = Some(next);
            }
        }
        let (_, _, id) = first?;
        let ticket = self.remove(id)?;
        self.rotate((ticket.class, ticket.client));
        if let Some(drain) = self.drains.get_mut(&ticket.kind) {
            drain.serve(now);
        }
        if let Some(drain) = &mut self.drain {
            drain.serve(now);
        }
        Some(id)
    }

    /// Takes out those whose deadline has come.
    pub fn expire(&mut self, now: Instant) -> Vec<(Id, Refusal)> {
        let mut expired = Vec::new();
        while let Some((deadline, id)) = self.deadlines.first().copied()
            && deadline <= now
        {
            let Some(ticket) = self.remove(id) else { break };
            let wait = self.wait_of(&ticket, now);
            expired.push((id, self.refusal(Reason::Expired, wait)));
        }
        expired
    }

    /// Batch requests that have waited long enough go on as interactive ones.
    fn promote(&mut self, now: Instant) {
        while let Some((due, id)) = self.promotions_due.first().copied()
            && due <= now
        {
            let Some(mut ticket) = self.remove(id) else {
                break;
            };
            ticket.class = Class::Interactive;
            self.deadlines.insert((ticket.deadline, id));
            self.enqueue(id, &ticket);
            self.waiting.insert(id, ticket);
        }
    }

    fn enqueue(&mut self, id: Id, ticket: &Ticket<K>) {
        let key = (ticket.class, ticket.client);
        let flow = self.flows.entry(key).or_insert_with(|| {
            self.next_turn += 1;
            Flow {
                turn: self.next_turn,
                queues: HashMap::new(),
            }
        });
        flow.queues
            .entry(ticket.kind.clone())
            .or_default()
            .insert(id);
        let turns = self.kinds.entry(ticket.kind.clone()).or_default();
        turns.of_mut(ticket.class).insert(flow.turn, ticket.client);
    }

    fn remove(&mut self, id: Id) -> Option<Ticket<K>> {
        let ticket = self.waiting.remove(&id)?;
        self.deadlines.remove(&(ticket.deadline, id));
        if let Some(due) = self.promotions.remove(&id) {
            self.promotions_due.remove(&(due, id));
        }
        let key = (ticket.class, ticket.client);
        let flow = self.flows.get_mut(&key)?;
        let queue = flow.queues.get_mut(&ticket.kind)?;
        queue.remove(&id);
        if queue.is_empty() {
            flow.queues.remove(&ticket.kind);
            let turns = self.kinds.get_mut(&ticket.kind)?;
            turns.of_mut(ticket.class).remove(&flow.turn);
            if turns.is_empty() {
                self.kinds.remove(&ticket.kind);
            }
        }
        if flow.queues.is_empty() {
            self.flows.remove(&key);
        }
        Some(ticket)
    }

    /// Puts a client that was served behind the others of its class.
    fn rotate(&mut self, key: (Class, u64)) {
        let Some(flow) = self.flows.get_mut(&key) else {
            return;
        };
        let (class, client) = key;
        self.next_turn += 1;
        for kind in flow.queues.keys() {
            if let Some(turns) = self.kinds.get_mut(kind) {
                turns.of_mut(class).remove(&flow.turn);
                turns.of_mut(class).insert(self.next_turn, client);
            }
        }
        flow.turn = self.next_turn;
    }

    /// Who has to make room in a full line, if anybody.
    fn displaceable(&self, newcomer: &Ticket<K>) -> Option<Id> {
        let largest = |class| {
            let flows = self.flows.iter().filter(|((of, _), _)| *of == class);
            flows
                .map(|(_, flow)| (flow.len(), flow.newest(), flow))
                .max_by_key(|(len, newest, _)| (*len, *newest))
        };
        if newcomer.class == Class::Interactive
            && let Some((_, newest, _)) = largest(Class::Batch)
        {
            return newest;
        }
        let key = (newcomer.class, newcomer.client);
        let own = self.flows.get(&key).map_or(0, Flow::len);
        let (len, newest, _) = largest(newcomer.class)?;
        (len >= own + 2).then_some(newest).flatten()
    }

    /// About how long a newcomer with this ticket would wait, in seconds, if that is known.
    fn wait_of(&self, ticket: &Ticket<K>, now: Instant) -> Option<f64> {
        let drain = self.drains.get(&ticket.kind)?;
        let Some(turns) = self.kinds.get(&ticket.kind) else {
            return drain.wait_behind(0, false, now);
        };
        let waiting = |class, client| {
            let flow = self.flows.get(&(class, client));
            flow.map_or(0, |flow| flow.len_of(&ticket.kind))
        };
        let own = waiting(ticket.class, ticket.client);
        let peers = turns.of(ticket.class).values();
        let mut ahead: usize = peers
            .map(|client| waiting(ticket.class, *client).min(own + 1))
            .sum();
        if ticket.class == Class::Batch {
            let before = turns.of(Class::Interactive).values();
            ahead += before
                .map(|client| waiting(Class::Interactive, *client))
                .sum::<usize>();
        }
        drain.wait_behind(ahead, true, now)
    }

    /// About how long until a full line has room for more than a few, in seconds, if that is known.
    fn until_room(&self, now: Instant) -> Option<f64> {
        let drain = self.drain.as_ref()?;
        drain.wait_behind(self.len() / ROOM_SHARE, !self.is_empty(), now)
    }

    /// Notes from when on a kind waits.
    fn begin_drains(&mut self, kind: &K, now: Instant) {
        if self.waiting.is_empty() {
            self.drain.get_or_insert_with(|| Drain::new(now)).begin(now);
        }
        if self.kinds.contains_key(kind) && self.drains.contains_key(kind) {
            return;
        }
        if !self.drains.contains_key(kind) && self.drains.len() >= KINDS_KNOWN {
            let oldest = self.drains.iter().min_by_key(|(_, drain)| drain.since());
            if let Some(oldest) = oldest.map(|(kind, _)| kind.clone()) {
                self.drains.remove(&oldest);
            }
        }
        let drain = self.drains.entry(kind.clone());
        drain.or_insert_with(|| Drain::new(now)).begin(now);
    }

    fn refusal(&self, reason: Reason, seconds: Option<f64>) -> Refusal {
        let (least, most) = RETRY_SECONDS;
        let seconds = seconds
            .unwrap_or(RETRY_UNKNOWN.as_secs_f64())
            .clamp(least, most);
        let spread = 1.0 + RETRY_SPREAD * self.dice.unit();
        Refusal {
            reason,
            retry_after: Duration::from_secs_f64(seconds * spread),
        }
    }
}
