//! The proxy of a simulated fleet: the real pool, the real leases and the real strategy, in virtual time.
//!
//! Here, and in what a [`Passage`](super::passage::Passage) tells its lease, the simulation meets the code that serves
//! requests. Who finds every node full waits in the real [`Line`].

use super::clock::{date, instant};
use super::fleet::Setup;
use super::node::Node;
use super::request::Request;
use crate::admission::{Class, Id, Line, Ticket};
use crate::balance::{Entry, Strategy};
use crate::config;
use crate::demand::Demand;
use crate::health::{Policy, Signal};
use crate::pool::{Choice, Inventory, Lease, Origin, OriginError, Pool, Spec};
use crate::retries::{Retries, Retry};
use crate::wire::{ModelKey, RunnerOptions};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// One proxy, which knows nothing of others.
#[derive(Debug)]
pub struct Proxy {
    pool: Pool,
    strategy: Box<dyn Strategy>,
    line: Line<Kind>,
    waiting: BTreeMap<Id, Waiter>,
    queue: config::Queue,
    retries: Retries,
    /// Requests that are not over.
    pub active: usize,
}

/// Which slots a request can use.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    model: Option<ModelKey>,
    is_embedding: bool,
    /// Backends that it was given to before.
    tried: SmallVec<[u64; 4]>,
}

/// Somebody in the line.
#[derive(Debug)]
struct Waiter {
    request: usize,
    demand: Demand,
    kind: Kind,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Verdict {
    /// It goes to a node, where it is counted in.
    Node(usize, Lease),
    /// Nobody can take it.
    Nobody,
    /// It may not wait, or not any longer.
    Refused,
}

impl Proxy {
    /// A proxy that has just started in front of these nodes.
    ///
    /// # Errors
    /// When a node's name cannot be that of a host.
    pub fn new(nodes: &[Node], entry: &Entry, seed: u64) -> Result<Self, OriginError> {
        let spec = |node: &Node| {
            let name = &node.spec().name;
            Ok(Spec {
                name: name.as_str().into(),
                origin: Origin::parse(name)?,
                weight: 1.0,
                slots: None,
                drain: false,
            })
        };
        let specs = nodes.iter().map(spec).collect::<Result<Vec<_>, _>>()?;
        let queue = config::Queue::default();
        Ok(Self {
            pool: Pool::build(&specs, Policy::default(), None, instant(Duration::ZERO)),
            strategy: (entry.build)(seed),
            line: Line::new(queue.limit, seed),
            waiting: BTreeMap::new(),
            queue,
            retries: Retries::default(),
            active: 0,
        })
    }

    /// Decides about a request, which is known by its number and has waited for so long before. If it has to
    /// wait, nothing is said of it yet, but perhaps of one that has to make room.
    pub fn admit(
        &mut self,
        request: usize,
        demand: &Demand,
        tried: &[usize],
        before: Duration,
        now: Duration,
    ) -> Option<(usize, Verdict)> {
        let kind = Kind {
            model: demand.model.clone(),
            is_embedding: demand.is_embedding,
            tried: self.ids(tried),
        };
        let choice =
            self.pool
                .choose_unless_full(&*self.strategy, demand, &kind.tried, instant(now));
        match choice {
            Choice::Lease(lease) => return Some((request, self.verdict(Some(lease)))),
            Choice::Nobody => return Some((request, Verdict::Nobody)),
            Choice::Full => {}
        }
        let ticket = Ticket {
            client: demand.client_key(),
            // As the proxy has it unless a header says otherwise.
            class: if demand.is_embedding {
                Class::Batch
            } else {
                Class::Interactive
            },
            kind: kind.clone(),
            deadline: instant(now + self.queue.timeout.saturating_sub(before)),
        };
        let Ok(arrival) = self.line.arrive(ticket, instant(now)) else {
            return Some((request, Verdict::Refused));
        };
        let waiter = Waiter {
            request,
            demand: demand.clone(),
            kind,
        };
        self.waiting.insert(arrival.id, waiter);
        let (displaced, _) = arrival.displaced?;
        let displaced = self.waiting.remove(&displaced)?;
        Some((displaced.request, Verdict::Refused))
    }

    /// Decides about those who need not wait any longer.
    pub fn settle(&mut self, now: Duration) -> Vec<(usize, Verdict)> {
        let mut told = Vec::new();
        let now = instant(now);
        for (id, _) in self.line.expire(now) {
            let waiter = self.waiting.remove(&id);
            told.extend(waiter.map(|waiter| (waiter.request, Verdict::Refused)));
        }
        let can_go = |kind: &Kind| {
            let model = kind.model.as_ref();
            self.pool
                .has_room(model, kind.is_embedding, &kind.tried, now)
        };
        while let Some(id) = self.line.offer(can_go, now) {
            let Some(waiter) = self.waiting.remove(&id) else {
                continue;
            };
            let (strategy, tried) = (&*self.strategy, &waiter.kind.tried);
            let choice = self
                .pool
                .choose_with_room(strategy, &waiter.demand, tried, now);
            let lease = match choice {
                Choice::Lease(lease) => Some(lease),
                Choice::Nobody => None,
                Choice::Full => self.pool.choose(strategy, &waiter.demand, tried, now),
            };
            told.push((waiter.request, self.verdict(lease)));
        }
        told
    }

    /// Whether one more node may work on a request. Where all fail, that is counted for as long as it is out.
    pub fn may_repeat(&self, tried: &[usize], out: &mut Option<Retry>, now: Duration) -> bool {
        if self.pool.has_sound(&self.ids(tried), instant(now)) {
            return true;
        }
        *out = self.retries.begin(self.active);
        out.is_some()
    }

    fn ids(&self, nodes: &[usize]) -> SmallVec<[u64; 4]> {
        let id = |at: &usize| Some(self.pool.backends().get(*at)?.id());
        nodes.iter().filter_map(id).collect()
    }

    /// A client leaves the line, if it stands there.
    pub fn leave(&mut self, request: usize) {
        let mut waiting = self.waiting.iter();
        let id = waiting.find_map(|(id, waiter)| (waiter.request == request).then_some(*id));
        if let Some(id) = id {
            self.waiting.remove(&id);
            self.line.leave(id);
        }
    }

    /// Whether anybody stands in the line.
    pub fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    fn verdict(&self, lease: Option<Lease>) -> Verdict {
        let place = |lease: &Lease| {
            let mut backends = self.pool.backends().iter();
            backends.position(|backend| backend.id() == lease.backend().id())
        };
        match lease.and_then(|lease| Some((place(&lease)?, lease))) {
            Some((at, lease)) => Verdict::Node(at, lease),
            None => Verdict::Nobody,
        }
    }

    /// Asks a node what it has in memory.
    pub fn ask_loaded(&self, at: usize, node: &Node, now: Duration) {
        if let Some(backend) = self.pool.backends().get(at)
            && !node.is_gone()
        {
            let (today, now) = (date(now), instant(now));
            backend.see(node.ps(), now, now, today);
        }
    }

    /// Checks a node; returns the time until the next check.
    pub fn check(&self, at: usize, node: &Node, now: Duration) -> Option<Duration> {
        let backend = self.pool.backends().get(at)?;
        if node.is_gone() {
            backend.observe(
                Signal::CheckFailed("connection refused".to_owned()),
                instant(now),
            );
        } else {
            backend.observe(Signal::CheckPassed, instant(now));
            if backend.inventory().is_none() {
                // It is our own JSON, and a node that says nonsense would just not be known.
                let inventory = Inventory::from_tags(node.tags().as_bytes()).unwrap_or_default();
                self.pool.learn(backend, inventory);
            }
        }
        Some(backend.check_interval())
    }
}

/// What the proxy finds in a request.
pub fn demand(request: &Request, setup: &Setup) -> Demand {
    let model = setup.models.get(request.model);
    let client =
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + request.client % (1 << 24));
    Demand {
        is_embedding: model.is_some_and(|model| model.is_embedding),
        runner: RunnerOptions {
            num_ctx: request.context.map(i64::from),
            ..RunnerOptions::default()
        },
        output_limit: setup.says_length.then_some(request.output),
        session: request.session,
        is_streamed: true,
        prompt_bytes: request.prompt.bytes(),
        prefixes: request.prompt.prefixes().collect(),
        ..Demand::new(model.map(|model| model.key.clone()), client.into())
    }
}
