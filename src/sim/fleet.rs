//! A run: nodes, proxies and clients, event by event.

use super::clairvoyant;
use super::event::Queue;
use super::job::{Fault, Job, Sign};
use super::model::{CONTEXT, Model};
use super::node::{self, Node};
use super::passage::Passage;
use super::proxy::{Proxy, Verdict, demand};
use super::request::{Request, Start};
use super::runner::Runner;
use super::trouble::Kind;
use crate::balance::Entry;
use crate::bench::{Failure, Outcome, Run};
use crate::demand::Demand;
use crate::pool::{Lease, OriginError};
use crate::retries::Retry;
use smallvec::SmallVec;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Time between two questions of a proxy to a node about what it has in memory.
const ASK_LOADED: Duration = Duration::from_secs(2);
/// The longest time between two looks at how far the answers of a node are; whoever chooses looks too.
const LOOK: Duration = Duration::from_millis(500);
/// How often a proxy looks for room while somebody waits, even if no request ends: as the real one does.
const SETTLE: Duration = Duration::from_millis(100);

/// All that a run follows from, but for who chooses.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What it is called.
    pub scenario: String,
    /// Offered load, as a share of what is full for this fleet; `None` where nobody knows.
    pub load: Option<f64>,
    /// All chance of proxies comes from it. What clients do was decided before.
    pub seed: u64,
    /// The nodes.
    pub nodes: Vec<node::Spec>,
    /// The models, which every node holds for which they are not too large.
    pub models: Arc<[Model]>,
    /// What clients send, those of fixed times in order of these.
    pub requests: Vec<Request>,
    /// Proxies that stand side by side, at least 1; each request goes to one of them by chance.
    pub proxies: usize,
    /// Whether each request says how long its answer will be, as its limit.
    pub says_length: bool,
    /// Nodes that a request may be given to, one after the other, until one answers.
    pub attempts: u16,
    /// How long clients wait for the end of an answer.
    pub patience: Duration,
    /// Requests that were meant to be sent earlier do not count.
    pub warm_up: Duration,
}

/// Who chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Chooser {
    /// A strategy that knows what a proxy can know.
    Strategy(&'static Entry),
    /// The same foresight as the best strategy has, fed with the truth.
    Clairvoyant,
}

impl Chooser {
    /// What users call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Strategy(entry) => entry.name,
            Self::Clairvoyant => clairvoyant::NAME,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Send(usize),
    GiveUp(usize),
    Node(usize),
    Trouble(usize, Option<Kind>),
    AskLoaded(usize),
    Check { proxy: usize, node: usize },
    Look(usize),
    Settle(usize),
}

/// Simulates a run.
///
/// # Errors
/// When a node's name cannot be that of a host.
pub fn simulate(setup: &Setup, chooser: Chooser) -> Result<Run, OriginError> {
    let mut fleet = Fleet::new(setup, chooser)?;
    while fleet.left > 0 {
        let Some((now, event)) = fleet.events.pop() else {
            break;
        };
        fleet.now = now;
        fleet.handle(event);
    }
    Ok(fleet.finish(chooser))
}

struct Fleet<'a> {
    setup: &'a Setup,
    now: Duration,
    nodes: Vec<Node>,
    /// When the next event of each node is planned for.
    planned: Vec<Option<Duration>>,
    is_looked_at: Vec<bool>,
    /// None where the choice is clairvoyant.
    proxies: Vec<Proxy>,
    popularity: Vec<f64>,
    events: Queue<Event>,
    flights: Vec<Flight>,
    /// Requests that are not over.
    left: usize,
    /// What nodes said and nobody has heard yet.
    signs: VecDeque<Sign>,
    /// Proxies before which a line stands that will be looked at.
    has_line: Vec<bool>,
    /// Proxies where a request ended since they last gave room away.
    rung: BTreeSet<usize>,
}

/// What happened to a request so far.
#[derive(Debug, Default)]
struct Flight {
    intended: Duration,
    proxy: usize,
    demand: Option<Demand>,
    tried: SmallVec<[usize; 4]>,
    passage: Option<Passage>,
    /// Held while it is out once more, if somebody counts that.
    retry: Option<Retry>,
    /// Since when it stands in the line.
    waits_since: Option<Duration>,
    /// How long it did before.
    waited: Duration,
    first_token: Option<Duration>,
    tokens: u32,
    cached_tokens: u32,
    ended: Option<Duration>,
    failure: Option<Failure>,
    /// The request that follows it.
    next: Option<(usize, Duration)>,
}

impl<'a> Fleet<'a> {
    fn new(setup: &'a Setup, chooser: Chooser) -> Result<Self, OriginError> {
        let nodes: Vec<_> = setup
            .nodes
            .iter()
            .map(|spec| Node::new(spec.clone(), Arc::clone(&setup.models)))
            .collect();
        let count = match chooser {
            Chooser::Strategy(_) => setup.proxies.max(1),
            Chooser::Clairvoyant => 0,
        };
        let mut random = fastrand::Rng::with_seed(setup.seed);
        let proxy = |_| match chooser {
            Chooser::Strategy(entry) => Proxy::new(&nodes, entry, random.u64(..)).map(Some),
            Chooser::Clairvoyant => Ok(None),
        };
        let proxies = (0..count).map(proxy).collect::<Result<Vec<_>, _>>()?;
        let mut fleet = Self {
            setup,
            now: Duration::ZERO,
            planned: vec![None; nodes.len()],
            is_looked_at: vec![false; nodes.len()],
            nodes,
            proxies: proxies.into_iter().flatten().collect(),
            popularity: clairvoyant::popularity(setup),
            events: Queue::default(),
            flights: setup.requests.iter().map(|_| Flight::default()).collect(),
            left: setup.requests.len(),
            signs: VecDeque::new(),
            has_line: vec![false; count],
            rung: BTreeSet::new(),
        };
        for flight in &mut fleet.flights {
            flight.proxy = random.usize(..setup.proxies.max(1));
        }
        fleet.begin();
        Ok(fleet)
    }

    fn begin(&mut self) {
        for (at, spec) in self.setup.nodes.iter().enumerate() {
            for trouble in &spec.troubles {
                self.events
                    .push(trouble.from, Event::Trouble(at, Some(trouble.kind)));
                self.events.push(trouble.until, Event::Trouble(at, None));
            }
        }
        for proxy in 0..self.proxies.len() {
            for node in 0..self.nodes.len() {
                self.events
                    .push(Duration::ZERO, Event::Check { proxy, node });
            }
            // Not all at the same moments.
            let offset = ASK_LOADED.mul_f64(proxy as f64 / self.proxies.len() as f64);
            self.events.push(offset, Event::AskLoaded(proxy));
        }
        for (at, request) in self.setup.requests.iter().enumerate() {
            match request.start {
                Start::At(time) => self.events.push(time, Event::Send(at)),
                Start::After(before, pause) => {
                    if let Some(flight) = self.flights.get_mut(before) {
                        flight.next = Some((at, pause));
                    }
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Send(at) => {
                let (Some(flight), Some(request)) =
                    (self.flights.get_mut(at), self.setup.requests.get(at))
                else {
                    return;
                };
                flight.intended = now;
                flight.demand = Some(demand(request, self.setup));
                if let Some(proxy) = self.proxies.get_mut(flight.proxy) {
                    proxy.active += 1;
                }
                self.events
                    .push(now + self.setup.patience, Event::GiveUp(at));
                self.dispatch(at);
            }
            Event::GiveUp(at) => {
                let flight = self.flights.get(at);
                let node = flight.and_then(|flight| Some(flight.passage.as_ref()?.node));
                if let Some(node) = node {
                    self.with_node(node, |node, signs| node.cancel(at, now, signs));
                } else if let Some(flight) = flight
                    && flight.waits_since.is_some()
                    && let Some(proxy) = self.proxies.get_mut(flight.proxy)
                {
                    proxy.leave(at);
                }
                self.end(at, Some(Failure::TimedOut));
            }
            Event::Node(at) => {
                // Plans change; only the last one counts.
                if self
                    .nodes
                    .get(at)
                    .is_some_and(|node| node.soonest() == Some(now))
                {
                    self.with_node(at, |node, signs| node.advance(now, signs));
                }
            }
            Event::Trouble(at, trouble) => {
                self.with_node(at, |node, signs| node.set_trouble(trouble, now, signs));
            }
            Event::AskLoaded(proxy) => {
                for at in 0..self.nodes.len() {
                    self.with_node(at, |node, signs| node.advance(now, signs));
                    if let (Some(proxy), Some(node)) = (self.proxies.get(proxy), self.nodes.get(at))
                    {
                        proxy.ask_loaded(at, node, now);
                    }
                }
                self.events.push(now + ASK_LOADED, Event::AskLoaded(proxy));
            }
            Event::Check { proxy, node } => {
                let checked = self.proxies.get(proxy).zip(self.nodes.get(node));
                if let Some(pause) = checked.and_then(|(proxy, of)| proxy.check(node, of, now)) {
                    self.events.push(now + pause, Event::Check { proxy, node });
                }
            }
            Event::Look(at) => self.look(at),
            Event::Settle(proxy) => {
                if let Some(has_line) = self.has_line.get_mut(proxy) {
                    *has_line = false;
                }
                self.settle(proxy);
            }
        }
        self.listen();
        while let Some(proxy) = self.rung.pop_first() {
            self.settle(proxy);
            self.listen();
        }
    }

    /// Does something to a node and plans its next event.
    fn with_node(&mut self, at: usize, act: impl FnOnce(&mut Node, &mut Vec<Sign>)) {
        let (Some(node), Some(planned)) = (self.nodes.get_mut(at), self.planned.get_mut(at)) else {
            return;
        };
        let mut signs = Vec::new();
        act(node, &mut signs);
        self.signs.extend(signs);
        if *planned != node.soonest() {
            *planned = node.soonest();
            if let Some(soonest) = *planned {
                self.events.push(soonest, Event::Node(at));
            }
        }
    }

    /// Looks at a node again and again for as long as it writes answers.
    fn look(&mut self, at: usize) {
        let any = self.pass_on(at);
        if any {
            self.events.push(self.now + LOOK, Event::Look(at));
        }
        if let Some(looked_at) = self.is_looked_at.get_mut(at) {
            *looked_at = any;
        }
    }

    /// Passes on how far the answers of a node are; returns whether there are any.
    fn pass_on(&mut self, at: usize) -> bool {
        let now = self.now;
        self.with_node(at, |node, signs| node.advance(now, signs));
        let mut any = false;
        let runners = self.nodes.get(at).map_or(&[][..], Node::runners);
        for (id, tokens) in runners.iter().flat_map(Runner::answers) {
            any = true;
            let flight = self.flights.get_mut(id);
            if let Some(passage) = flight.and_then(|flight| flight.passage.as_mut()) {
                passage.progress(tokens, now);
            }
        }
        any
    }

    /// Chooses a node for a request and gives it to that, or lets it wait, or ends it.
    fn dispatch(&mut self, at: usize) {
        let now = self.now;
        let Some(proxy) = self.flights.get(at).map(|flight| flight.proxy) else {
            return;
        };
        if self.proxies.get(proxy).is_some_and(Proxy::has_line) {
            self.settle(proxy); // those who wait go first
        }
        self.hear();
        let (Some(flight), Some(request)) = (self.flights.get_mut(at), self.setup.requests.get(at))
        else {
            return;
        };
        if let Some(proxy) = self.proxies.get_mut(proxy) {
            let Some(demand) = &flight.demand else { return };
            flight.waits_since = Some(now);
            let told = proxy.admit(at, demand, &flight.tried, flight.waited, now);
            self.tell(told);
        } else {
            let (models, wanted) = (&self.setup.models, &self.popularity);
            match clairvoyant::choose(&self.nodes, request, models, wanted, &flight.tried, now) {
                Some(node) => self.submit(at, node, None),
                None => self.give_up(at),
            }
        }
        self.watch(proxy);
    }

    /// Whoever chooses knows what has come in by now, token by token.
    fn hear(&mut self) {
        for node in 0..self.nodes.len() {
            self.pass_on(node);
        }
    }

    /// Lets a proxy decide about those who wait.
    fn settle(&mut self, proxy: usize) {
        if !self.proxies.get(proxy).is_some_and(Proxy::has_line) {
            return;
        }
        self.hear();
        let now = self.now;
        if let Some(proxy) = self.proxies.get_mut(proxy) {
            let told = proxy.settle(now);
            self.tell(told);
        }
        self.watch(proxy);
    }

    /// Sees to it that a line is looked at soon.
    fn watch(&mut self, proxy: usize) {
        if let Some(has_line @ false) = self.has_line.get_mut(proxy)
            && self.proxies.get(proxy).is_some_and(Proxy::has_line)
        {
            *has_line = true;
            self.events.push(self.now + SETTLE, Event::Settle(proxy));
        }
    }

    /// Does what a proxy decided.
    fn tell(&mut self, told: impl IntoIterator<Item = (usize, Verdict)>) {
        for (at, verdict) in told {
            if let Some(flight) = self.flights.get_mut(at)
                && let Some(since) = flight.waits_since.take()
            {
                flight.waited += self.now.saturating_sub(since);
            }
            match verdict {
                Verdict::Node(node, lease) => self.submit(at, node, Some(lease)),
                Verdict::Nobody => self.give_up(at),
                Verdict::Refused => self.end(at, Some(Failure::Refused)),
            }
        }
    }

    /// Gives a request to a node.
    fn submit(&mut self, at: usize, node: usize, lease: Option<Lease>) {
        let (Some(flight), Some(request)) = (self.flights.get_mut(at), self.setup.requests.get(at))
        else {
            return;
        };
        flight.tried.push(node);
        flight.passage = Some(Passage::new(node, lease));
        let job = Job {
            id: at,
            model: request.model,
            context: request.context.unwrap_or(CONTEXT),
            prompt: request.prompt.clone(),
            output: request.output,
            came: self.now,
        };
        self.with_node(node, |node, signs| node.submit(job, signs));
    }

    /// Nobody can take a request: it ends as its last attempt did.
    fn give_up(&mut self, at: usize) {
        let last = self.flights.get(at).and_then(|flight| flight.failure);
        self.end(at, Some(last.unwrap_or(Failure::Refused)));
    }

    /// Lets the proxies hear what the nodes said.
    fn listen(&mut self) {
        let now = self.now;
        while let Some(sign) = self.signs.pop_front() {
            let (Sign::FirstToken(at) | Sign::Done { id: at, .. } | Sign::Failed(at, _)) = sign;
            let Some(flight) = self.flights.get_mut(at) else {
                continue;
            };
            let Some(passage) = &mut flight.passage else {
                continue;
            };
            let node = passage.node;
            match sign {
                Sign::FirstToken(_) => {
                    passage.first_token(now);
                    flight.first_token = Some(now);
                    flight.retry = None;
                    if let Some(looked_at @ false) = self.is_looked_at.get_mut(node) {
                        *looked_at = true;
                        self.events.push(now + LOOK, Event::Look(node));
                    }
                }
                Sign::Done {
                    counters, cached, ..
                } => {
                    passage.done(&counters, now);
                    flight.cached_tokens = cached;
                    self.end(at, None);
                }
                Sign::Failed(_, fault) => {
                    passage.failed(fault, now);
                    flight.retry = None;
                    let proxy = self.proxies.get(flight.proxy);
                    let may_retry = flight.first_token.is_none()
                        && flight.tried.len() < usize::from(self.setup.attempts)
                        && (fault == Fault::Unreachable
                            || proxy.is_none_or(|proxy| {
                                proxy.may_repeat(&flight.tried, &mut flight.retry, now)
                            }));
                    flight.failure = Some(failure(fault));
                    if may_retry && let Some(passage) = flight.passage.take() {
                        passage.end(now);
                        self.rung.insert(flight.proxy);
                        self.dispatch(at);
                    } else {
                        self.give_up(at);
                    }
                }
            }
        }
    }

    /// A request is over.
    fn end(&mut self, at: usize, failure: Option<Failure>) {
        let Some(flight) = self
            .flights
            .get_mut(at)
            .filter(|flight| flight.ended.is_none())
        else {
            return;
        };
        flight.tokens = flight
            .passage
            .take()
            .map_or(0, |passage| passage.end(self.now));
        self.rung.insert(flight.proxy);
        (flight.retry, flight.demand) = (None, None);
        flight.ended = Some(self.now);
        flight.failure = failure;
        self.left -= 1;
        if let Some(proxy) = self.proxies.get_mut(flight.proxy) {
            proxy.active -= 1;
        }
        if let Some((next, pause)) = flight.next {
            self.events.push(self.now + pause, Event::Send(next));
        }
    }

    fn finish(self, chooser: Chooser) -> Run {
        let setup = self.setup;
        let mut outcomes: Vec<_> = setup
            .requests
            .iter()
            .zip(&self.flights)
            .filter(|(_, flight)| flight.intended >= setup.warm_up)
            .map(|(request, flight)| Outcome {
                intended: flight.intended,
                first_token: flight
                    .first_token
                    .map(|first| first.saturating_sub(flight.intended)),
                total: flight
                    .ended
                    .unwrap_or(self.now)
                    .saturating_sub(flight.intended),
                tokens: flight.tokens,
                prompt_tokens: request.prompt.tokens(),
                cached_tokens: flight.cached_tokens,
                node: flight
                    .tried
                    .last()
                    .and_then(|node| u16::try_from(*node).ok()),
                attempts: u16::try_from(flight.tried.len()).unwrap_or(u16::MAX),
                failure: flight.failure,
            })
            .collect();
        outcomes.sort_by_key(|outcome| outcome.intended);
        Run {
            scenario: setup.scenario.clone(),
            strategy: chooser.name().to_owned(),
            load: setup.load,
            seed: setup.seed,
            nodes: setup.nodes.iter().map(|node| node.name.clone()).collect(),
            outcomes,
            loads: Some(self.nodes.iter().map(Node::loads).sum()),
            lags: Vec::new(),
        }
    }
}

fn failure(fault: Fault) -> Failure {
    match fault {
        Fault::Unreachable | Fault::Full => Failure::Refused,
        Fault::Error => Failure::Answered,
        Fault::Broken => Failure::Broken,
    }
}
