//! The queue in front of the fleet: the [line](Line) with those who wait in it. A request that finds every backend full
//! that could take it waits here for the first slot that comes free on any of them.
//!
//! The line is asked under one lock, which also covers every choice that heeds room: so no slot is given away twice, and
//! nobody overtakes. Nothing waits under that lock. Room that comes free is only rung for, by a [`Bell`]; one task,
//! [`Queue::run`], hears it and gives the room away.

mod tally;
#[cfg(test)]
mod tests;

use crate::access::Access;
use crate::admission::{Class, Id, Line, Reason, Refusal, Ticket};
use crate::demand::Demand;
use crate::error::Error;
use crate::pool::{Bell, Choice, Lease};
use crate::state::State;
use crate::urgency::Urgency;
use crate::wire::ModelKey;
use arc_swap::ArcSwap;
use serde_json::{Value, json};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tally::Tally;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// How often the queue is looked at while somebody waits, even if nothing rings: backends come back, or get new models.
const LOOK: Duration = Duration::from_millis(100);

/// Which slots a request can use: all that decides which backends are eligible, and whether they are full.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    model: Option<ModelKey>,
    is_embedding: bool,
    /// Backends that it was given to before.
    tried: SmallVec<[u64; 4]>,
}

/// Requests that wait for a backend. It outlives configurations.
#[derive(Debug)]
pub struct Queue {
    bell: Arc<Bell>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    line: Line<Kind>,
    waiters: HashMap<Id, Waiter>,
    limit: usize,
    interactive: Tally,
    batch: Tally,
}

/// Somebody in the line.
#[derive(Debug)]
struct Waiter {
    demand: Demand,
    kind: Kind,
    class: Class,
    answer: oneshot::Sender<Answer>,
}

/// What a waiter is told in the end: a lease, or that no backend can take it any more, or why it may not wait.
type Answer = Result<Option<Lease>, Refusal>;

impl Queue {
    /// An empty queue that listens to a bell. All chance comes from the seed.
    pub fn new(limit: usize, bell: Arc<Bell>, seed: u64) -> Self {
        Self {
            bell,
            inner: Mutex::new(Inner {
                line: Line::new(limit, seed),
                waiters: HashMap::new(),
                limit,
                interactive: Tally::default(),
                batch: Tally::default(),
            }),
        }
    }

    /// Changes how many may wait; those who do keep their places.
    pub fn set_limit(&self, limit: usize) {
        let mut inner = self.lock();
        inner.limit = limit;
        inner.line.set_limit(limit);
    }

    /// Gives room away whenever there is some, for ever.
    pub async fn run(&self, state: &ArcSwap<State>) {
        loop {
            let deadline = self.lock().line.next_deadline();
            if let Some(deadline) = deadline {
                tokio::select! {
                    () = self.bell.rung() => {}
                    () = sleep_until(deadline.min(Instant::now() + LOOK)) => {}
                }
            } else {
                self.bell.rung().await;
            }
            let state = state.load_full();
            self.settle(&mut self.lock(), &state, Instant::now());
        }
    }

    /// Waits until a backend has room for a request, and counts it in there; at once if one has. `None` if no backend can
    /// take it at all.
    ///
    /// Dropping the future gives up the place in the queue, and a lease that was on its way.
    ///
    /// # Errors
    /// When the request may not wait, or not any longer.
    pub async fn admit(
        &self,
        state: &State,
        demand: &Demand,
        urgency: Urgency,
        tried: &[u64],
        access: &mut Access,
    ) -> Result<Option<Lease>, Error> {
        let has_room = |state: &State, now| {
            let model = demand.model.as_ref();
            state.pool.has_room(model, demand.is_embedding, tried, now)
        };
        let before = access.queued.unwrap_or_default();
        let came = access.started();
        let (place, answer) = {
            let mut inner = self.lock();
            let now = Instant::now();
            if !inner.line.is_empty() && has_room(state, now) {
                self.settle(&mut inner, state, now); // those who wait go first
            }
            match state.choose_unless_full(demand, tried, now) {
                Choice::Lease(lease) => return Ok(Some(lease)),
                Choice::Nobody => return Ok(None),
                Choice::Full => {}
            }
            let own = urgency.patience.map(|patience| came + patience);
            let most = now + state.settings.queue.timeout.saturating_sub(before);
            let deadline = own.map_or(most, |own| own.min(most));
            let (answer, told) = oneshot::channel();
            let waiter = Waiter {
                demand: demand.clone(),
                kind: Kind {
                    model: demand.model.clone(),
                    is_embedding: demand.is_embedding,
                    tried: tried.into(),
                },
                class: urgency.class,
                answer,
            };
            let joined = self.join(&mut inner, waiter, deadline, now);
            let id = joined.map_err(|refusal| inner.busy(refusal, before))?;
            if has_room(state, now) {
                self.settle(&mut inner, state, now); // it came free before the bell was told to ring
            }
            let place = Place {
                queue: self,
                id,
                before,
                since: now,
                queued: &mut access.queued,
            };
            (place, told)
        };
        let told = answer.await;
        drop(place);
        match told {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(refusal)) => {
                let waited = access.queued.unwrap_or_default();
                Err(self.lock().busy(refusal, waited))
            }
            // Every waiter is told something before it is forgotten.
            Err(_) => Ok(None),
        }
    }

    /// What operators see of it.
    pub fn status(&self) -> Value {
        let inner = self.lock();
        let (interactive, batch) = (&inner.interactive, &inner.batch);
        json!({
            "waiting": inner.line.len(),
            "limit": inner.limit,
            "admitted": interactive.admitted + batch.admitted,
            "refused": interactive.refused() + batch.refused(),
            "interactive": interactive.status(),
            "batch": batch.status(),
        })
    }

    fn join(
        &self,
        inner: &mut Inner,
        waiter: Waiter,
        deadline: Instant,
        now: Instant,
    ) -> Result<Id, Refusal> {
        let ticket = Ticket {
            client: waiter.demand.client_key(),
            class: waiter.class,
            kind: waiter.kind.clone(),
            deadline,
        };
        let was_empty = inner.line.is_empty();
        let arrival = inner.line.arrive(ticket, now).inspect_err(|refusal| {
            inner.tally(waiter.class).refuse(refusal.reason);
        })?;
        inner.tally(waiter.class).waiting += 1;
        inner.waiters.insert(arrival.id, waiter);
        if let Some((id, refusal)) = arrival.displaced {
            inner.tell(id, Err(refusal));
        }
        self.bell.set_waiting(inner.line.len());
        if was_empty {
            self.bell.ring(); // somebody has to look at the clock now
        }
        Ok(arrival.id)
    }

    /// Tells everybody who need not wait any longer.
    fn settle(&self, inner: &mut Inner, state: &State, now: Instant) {
        for (id, refusal) in inner.line.expire(now) {
            inner.tell(id, Err(refusal));
        }
        let can_go = |kind: &Kind| {
            let model = kind.model.as_ref();
            state
                .pool
                .has_room(model, kind.is_embedding, &kind.tried, now)
        };
        while let Some(id) = inner.line.offer(can_go, now) {
            let Some(waiter) = inner.waiters.get(&id) else {
                continue;
            };
            let (demand, tried) = (&waiter.demand, &waiter.kind.tried);
            let lease = match state.choose_with_room(demand, tried, now) {
                Choice::Lease(lease) => Some(lease),
                Choice::Nobody => None,
                // Taken by a request that asks for no room, so that it makes none scarce for long.
                Choice::Full => state.choose(demand, tried, now),
            };
            inner.tell(id, Ok(lease));
        }
        self.bell.set_waiting(inner.line.len());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tally(&mut self, class: Class) -> &mut Tally {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Batch => &mut self.batch,
        }
    }

    /// Tells somebody who is not in the line any more. If nobody listens, a lease is dropped here, which only rings.
    fn tell(&mut self, id: Id, answer: Answer) {
        let Some(waiter) = self.waiters.remove(&id) else {
            return;
        };
        let tally = self.tally(waiter.class);
        tally.waiting -= 1;
        match &answer {
            Ok(_) => tally.admitted += 1,
            Err(refusal) => tally.refuse(refusal.reason),
        }
        let _ = waiter.answer.send(answer);
    }

    fn forget(&mut self, id: Id) {
        if let Some(waiter) = self.waiters.remove(&id) {
            self.line.leave(id);
            self.tally(waiter.class).waiting -= 1;
        }
    }

    /// A refusal in words that Ollama's clients know.
    fn busy(&self, refusal: Refusal, waited: Duration) -> Error {
        let why = match refusal.reason {
            Reason::Full => "and as many requests wait as may",
            Reason::Displaced => "and its place was needed for another request",
            Reason::Hopeless => "and will be for longer than this request has time",
            Reason::Expired => "and were for as long as this request had time",
        };
        Error::Busy {
            text: format!(
                "server busy, please try again.  all backends that could take this request are full, {why} (queue {}/{}, waited {:.1} s)",
                self.line.len(),
                self.limit,
                waited.as_secs_f64()
            ),
            retry_after: refusal.retry_after,
        }
    }
}

/// A place in the line, given up when dropped; then it is also known how long it was held.
struct Place<'q> {
    queue: &'q Queue,
    id: Id,
    /// What the request has waited before.
    before: Duration,
    since: Instant,
    queued: &'q mut Option<Duration>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.queued = Some(self.before + self.since.elapsed());
        let mut inner = self.queue.lock();
        inner.forget(self.id);
        self.queue.bell.set_waiting(inner.line.len());
    }
}
