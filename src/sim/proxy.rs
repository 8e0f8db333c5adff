//! The proxy of a simulated fleet: the real pool, the real leases and the real strategy, in virtual time.
//!
//! This is the one place where the simulation meets the code that serves requests. What a real request tells its lease,
//! a [`Passage`] tells it here.

use super::clock::{date, instant};
use super::fleet::Setup;
use super::job::Fault;
use super::node::Node;
use super::request::Request;
use crate::balance::{Entry, Strategy};
use crate::demand::Demand;
use crate::health::{Policy, Signal};
use crate::pool::{Inventory, Lease, Origin, OriginError, Pool, Spec};
use crate::wire::{Counters, RunnerOptions};
use http::StatusCode;
use smallvec::SmallVec;
use std::net::Ipv4Addr;
use std::time::Duration;

/// One proxy, which knows nothing of others.
#[derive(Debug)]
pub struct Proxy {
    pool: Pool,
    strategy: Box<dyn Strategy>,
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
        Ok(Self {
            pool: Pool::build(&specs, Policy::default(), None, instant(Duration::ZERO)),
            strategy: (entry.build)(seed),
        })
    }

    /// Chooses a node for a request and counts it in. `None` if nobody can take it.
    pub fn choose(
        &self,
        demand: &Demand,
        tried: &[usize],
        now: Duration,
    ) -> Option<(usize, Lease)> {
        let backends = self.pool.backends();
        let tried: SmallVec<[u64; 4]> = tried
            .iter()
            .filter_map(|at| Some(backends.get(*at)?.id()))
            .collect();
        let lease = self
            .pool
            .choose(&*self.strategy, demand, &tried, instant(now))?;
        let chosen = lease.backend().id();
        let at = backends.iter().position(|backend| backend.id() == chosen)?;
        Some((at, lease))
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

/// An attempt on its way through the proxy, with its lease, if it needed one.
#[derive(Debug)]
pub struct Passage {
    /// The node that it was given to.
    pub node: usize,
    tokens: u32,
    lease: Option<Lease>,
    is_answered: bool,
}

impl Passage {
    /// An attempt that begins now.
    pub fn new(node: usize, lease: Option<Lease>) -> Self {
        Self {
            node,
            tokens: 0,
            lease,
            is_answered: false,
        }
    }

    /// The head of the answer came, and with it the first token.
    pub fn first_token(&mut self, now: Duration) {
        self.answered(StatusCode::OK, now);
        if let Some(lease) = &self.lease {
            lease.first_byte(instant(now));
        }
        self.progress(1, now);
    }

    /// This many tokens came so far.
    pub fn progress(&mut self, tokens: u32, now: Duration) {
        let more = tokens.saturating_sub(self.tokens);
        self.tokens += more;
        if let Some(lease) = &self.lease
            && more > 0
        {
            lease.progressed(more, instant(now));
        }
    }

    /// The answer is complete, and these numbers were in its last chunk.
    pub fn done(&mut self, counters: &Counters, now: Duration) {
        self.answered(StatusCode::OK, now);
        self.progress(counters.output_tokens.unwrap_or_default(), now);
        if let Some(lease) = &mut self.lease {
            lease.finished(counters, instant(now));
        }
    }

    /// It is over, whatever came of it. Returns how many tokens were passed on.
    pub fn end(mut self, now: Duration) -> u32 {
        if let Some(lease) = &mut self.lease {
            lease.left(instant(now));
        }
        self.tokens
    }

    /// It failed.
    pub fn failed(&mut self, fault: Fault, now: Duration) {
        match fault {
            Fault::Full => self.answered(StatusCode::SERVICE_UNAVAILABLE, now),
            Fault::Error => self.answered(StatusCode::INTERNAL_SERVER_ERROR, now),
            Fault::Unreachable => {
                if let Some(lease) = &self.lease {
                    lease.unreachable("connection refused".to_owned(), instant(now));
                }
            }
            Fault::Broken => {
                if let Some(lease) = &self.lease {
                    lease.failed("connection reset".to_owned(), instant(now));
                }
            }
        }
    }

    fn answered(&mut self, status: StatusCode, now: Duration) {
        if let Some(lease) = &self.lease
            && !self.is_answered
        {
            lease.answered(status, instant(now));
        }
        self.is_answered = true;
    }
}
