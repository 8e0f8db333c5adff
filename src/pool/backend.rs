//! One Ollama node: what the operator said of it, and what is known of it now.

use super::gate::{Change, Gate, Restraint};
use super::{Inventory, Lease, Loaded, LoadedModel, Lore, Origin};
use crate::clock;
use crate::ewma::{Ewma, Reading, Tick};
use crate::health::{self, Admit, Pass, Signal, State};
use crate::knowledge::{Job, Model, Models, Node, Outlook, Report, Seen, Sighting};
use crate::link::Links;
use crate::wire::ModelKey;
use arc_swap::ArcSwapOption;
use http::HeaderValue;
use jiff::Timestamp;
use std::collections::HashSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What the configuration says of a backend.
#[derive(Debug, Clone, PartialEq)]
#[repr(C)]
pub struct Spec {
    /// Relative capacity, finite and above zero.
    pub weight: f64,
    /// Whether it gets no new requests.
    pub drain: bool,
    /// Answers that it writes at a time for each model, at least 1; `None` if that is to be learnt.
    pub slots: Option<usize>,
    /// Unique; shown to users.
    pub name: Arc<str>,
    /// Where it listens.
    pub origin: Origin,
}

/// A backend of one configuration. Its [`Live`] part outlives the configuration.
///
/// In this and in what it consists of, that comes first which a choice reads of everybody: in a big fleet nothing of it is
/// in a cache, and so it is one line of memory for each, and not five.
#[derive(Debug)]
#[repr(C)]
pub struct Backend {
    live: Arc<Live>,
    spec: Spec,
    policy: health::Policy,
    name_hash: u64,
    label: HeaderValue,
}

/// What is known of a node, and kept across reloads for as long as its name and URL stay.
#[derive(Debug)]
#[repr(C)]
struct Live {
    id: u64,
    in_flight: AtomicUsize,
    gate: Gate,
    epoch: Instant,
    released: AtomicU64,
    tags_asked: AskedAt,
    loaded_asked: AskedAt,
    requests: AtomicU64,
    failures: AtomicU64,
    /// Tells who waits for an answer that a check or a connect has failed.
    troubled: Notify,
    /// Whether the last answer that says anything of the node was a good one.
    does_well: AtomicBool,
    /// The millisecond since `epoch` of the last failure. Means nothing while there are no errors in a row.
    failed_at: AtomicU64,
    ttfb: Ewma,
    inventory: ArcSwapOption<Inventory>,
    inventory_doubted: AtomicBool,
    loaded: ArcSwapOption<Loaded>,
    guarded: Mutex<HashSet<ModelKey>>,
    version: ArcSwapOption<String>,
    links: Links,
    node: Node,
    lore: Arc<Lore>,
}

/// When a question was asked last, and how much had happened by then.
#[derive(Debug, Default)]
struct AskedAt {
    /// Milliseconds since the epoch, plus 1; 0 for never.
    at: AtomicU64,
    events: AtomicU64,
}

impl AskedAt {
    fn begin(&self, events: u64, now: Duration, age: Duration) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let at = self.at.load(Relaxed);
        let old = at == 0 || millis(now) + 1 >= at.saturating_add(millis(age));
        // Two who come at once may both ask, which costs a question and no more.
        let due = old || self.events.load(Relaxed) != events;
        if due {
            self.at.store(millis(now) + 1, Relaxed);
            self.events.store(events, Relaxed);
        }
        due
    }

    /// Whoever asks whether it is due is told yes.
    fn forget(&self) {
        self.at.store(0, Relaxed);
    }
}

/// Loads of one backend that are kept alive at one time: names of models are the clients' to make up.
const GUARDS_LIMIT: usize = 16;

impl Backend {
    /// A backend that nothing is known of.
    pub(crate) fn new(spec: Spec, policy: health::Policy, lore: Arc<Lore>, now: Instant) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let live = Live {
            id,
            epoch: now,
            in_flight: AtomicUsize::new(0),
            released: AtomicU64::new(0),
            tags_asked: AskedAt::default(),
            loaded_asked: AskedAt::default(),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            gate: Gate::new(now),
            troubled: Notify::new(),
            does_well: AtomicBool::new(false),
            failed_at: AtomicU64::new(0),
            ttfb: Ewma::default(),
            inventory: ArcSwapOption::empty(),
            inventory_doubted: AtomicBool::new(false),
            loaded: ArcSwapOption::empty(),
            guarded: Mutex::default(),
            version: ArcSwapOption::empty(),
            links: Links::default(),
            node: Node::new(id),
            lore,
        };
        Self::with_live(spec, policy, Arc::new(live))
    }

    /// The same node under a new configuration: what is known of it stays.
    pub(super) fn renewed(&self, spec: Spec, policy: health::Policy) -> Self {
        Self::with_live(spec, policy, Arc::clone(&self.live))
    }

    fn with_live(spec: Spec, policy: health::Policy, live: Arc<Live>) -> Self {
        Self {
            name_hash: xxhash_rust::xxh3::xxh3_64(spec.name.as_bytes()),
            label: HeaderValue::try_from(&*spec.name).unwrap_or(HeaderValue::from_static("?")),
            spec,
            policy,
            live,
        }
    }

    /// What the configuration says.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The unique name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The name as a header has it.
    pub fn label(&self) -> &HeaderValue {
        &self.label
    }

    /// A hash of the name, the same in every process and version (xxh3-64).
    pub fn name_hash(&self) -> u64 {
        self.name_hash
    }

    /// Relative capacity, finite and above zero.
    pub fn weight(&self) -> f64 {
        self.spec.weight
    }

    /// A number that no other node of this process has or had; it stays across reloads. Not the same in two processes.
    pub fn id(&self) -> u64 {
        self.live.id
    }

    /// Requests that chose this backend and have not received their last byte.
    pub fn in_flight(&self) -> usize {
        self.live.in_flight.load(Relaxed)
    }

    /// Requests given to this backend so far.
    pub fn requests(&self) -> u64 {
        self.live.requests.load(Relaxed)
    }

    /// Of those, how many failed by the backend's fault.
    pub fn failures(&self) -> u64 {
        self.live.failures.load(Relaxed)
    }

    /// Failed answers in a row.
    pub fn errors(&self) -> u32 {
        self.live.gate.errors()
    }

    /// How long ago the last failure came; means nothing while [`Backend::errors`] is 0.
    pub fn failed_ago(&self, now: Instant) -> Duration {
        let failed_at = Duration::from_millis(self.live.failed_at.load(Relaxed));
        self.since_epoch(now).saturating_sub(failed_at)
    }

    /// The average time to the first byte of successes, or `None` while there is none.
    pub fn ttfb(&self, now: Tick) -> Option<Reading> {
        self.live.ttfb.read(now)
    }

    /// Whether a request that comes now may choose this backend, its models aside.
    pub fn admits(&self, admit: Admit, now: Instant) -> bool {
        !self.spec.drain && self.live.gate.admits(admit, now)
    }

    /// How it stands for a request.
    pub fn look<R>(&self, job: &Job<'_>, look: impl FnOnce(&Outlook) -> R) -> R {
        let typical = self.live.lore.medians.read();
        (self.live.node).look(job, self.spec.slots, &typical, look)
    }

    /// Whether it has no room for a request for a model but in its own line.
    pub fn is_full(&self, model: &Model, is_embedding: bool, now: Instant) -> bool {
        self.live
            .node
            .is_full(model, is_embedding, self.spec.slots, clock::seconds(now))
    }

    /// What is known of its work, for people. Speeds are in tokens of a model of eight billion weights.
    pub fn report(&self, now: Instant) -> Report {
        let typical = self.live.lore.medians.read();
        self.live.node.report(&typical, clock::seconds(now))
    }

    /// What is known of it beyond what it says.
    pub fn node(&self) -> &Node {
        &self.live.node
    }

    /// What is known of the fleet.
    pub(crate) fn lore(&self) -> &Lore {
        &self.live.lore
    }

    /// Counts a request in, with all that it will do to the node, from this moment until the lease is dropped. `None` if
    /// another request took the one place that it had.
    pub fn lease_for(self: &Arc<Self>, job: &Job<'_>, admit: Admit, now: Instant) -> Option<Lease> {
        let pass = self.live.gate.enter(admit, now)?;
        let mut lease = self.begin(pass, now);
        let typical = self.live.lore.medians.read();
        lease.flight = self.live.node.begin(job, self.spec.slots, &typical);
        Some(lease)
    }

    /// Counts a request in that nobody chose this backend for, from this moment until the lease is dropped. It does not
    /// try an ejected backend.
    pub fn lease(self: &Arc<Self>, now: Instant) -> Lease {
        self.begin(self.live.gate.enter_aside(), now)
    }

    fn begin(self: &Arc<Self>, pass: Pass, now: Instant) -> Lease {
        self.live.in_flight.fetch_add(1, Relaxed);
        self.live.requests.fetch_add(1, Relaxed);
        Lease::new(Arc::clone(self), pass, now)
    }

    pub(super) fn release(&self, pass: Pass) {
        self.live.gate.leave(pass);
        self.live.in_flight.fetch_sub(1, Relaxed);
        self.live.released.fetch_add(1, Relaxed);
        self.live.lore.bell.ring();
    }

    /// A whole answer came.
    pub(super) fn finished(&self, pass: Pass, now: Instant) {
        self.live.gate.finished(pass, &self.policy, now);
    }

    /// Whether the last answer that says anything of it was a good one, neither a failure nor that it has enough to do.
    pub fn does_well(&self) -> bool {
        self.live.does_well.load(Relaxed)
    }

    /// It has enough to do.
    pub(super) fn turned_away(&self) {
        self.live.does_well.store(false, Relaxed);
    }

    /// Takes in the time to the first byte of a success.
    pub(super) fn measured(&self, ttfb: Duration, now: Instant) {
        self.live.ttfb.observe(ttfb, Tick::of(now));
    }

    /// Takes in a signal of health; logs and returns the new state if it changed.
    pub fn observe(&self, signal: Signal, now: Instant) -> Option<State> {
        self.hear(signal, None, now)
    }

    /// The same of a request.
    pub(super) fn hear(&self, signal: Signal, pass: Option<Pass>, now: Instant) -> Option<State> {
        if signal == Signal::Answered {
            self.live.does_well.store(true, Relaxed);
        }
        if matches!(
            signal,
            Signal::Failed(_) | Signal::Broke(_) | Signal::ConnectFailed { .. }
        ) {
            self.blame(now);
        }
        let (gate, quorum) = (&self.live.gate, &self.live.lore.quorum);
        let is_unreachable = matches!(
            signal,
            Signal::CheckFailed(_) | Signal::ConnectFailed { .. }
        );
        let change = gate.observe(signal, pass, &self.policy, now, quorum, self.id());
        if is_unreachable {
            self.live.troubled.notify_waiters();
        }
        let Change { state, reason } = change?;
        if state == State::Up {
            // What was measured before an outage says little of the node that came back.
            self.live.ttfb.reset();
            self.live.node.restarted();
            self.live.loaded_asked.forget();
            tracing::info!(backend = self.name(), "backend is up");
        } else {
            self.live.links.clear();
            tracing::warn!(backend = self.name(), state = state.as_str(), %reason, "backend is out");
        }
        Some(state)
    }

    /// A request failed by its fault. Its health, which may know already, is not told.
    pub fn blame(&self, now: Instant) {
        self.live.does_well.store(false, Relaxed);
        self.live.failures.fetch_add(1, Relaxed);
        self.live.node.failed(clock::seconds(now));
        let failed_at = self.since_epoch(now).as_millis();
        self.live
            .failed_at
            .store(u64::try_from(failed_at).unwrap_or(u64::MAX), Relaxed);
    }

    /// Waits until a condition holds; looks at once, and whenever a check or a connect has failed.
    pub async fn until_troubled(&self, holds: impl Fn() -> bool) {
        loop {
            let mut troubled = pin!(self.live.troubled.notified());
            // Listened for before the look, so that nothing is missed in between.
            troubled.as_mut().enable();
            if holds() {
                return;
            }
            troubled.await;
        }
    }

    /// Whether it is down.
    pub fn is_down(&self) -> bool {
        self.live.gate.is_shut()
    }

    /// The state and the last error, for people.
    pub fn condition(&self) -> (State, Option<Arc<str>>) {
        self.live
            .gate
            .read(|health| (health.state(), health.last_error()))
    }

    /// What keeps requests from it although it is not down, for people.
    pub fn restraint(&self, now: Instant) -> Restraint {
        self.live.gate.restraint(now)
    }

    /// What keeps requests away from it, or made the last one fail, for people: `is down (…)`.
    pub fn complaint(&self) -> String {
        let (state, reason) = self.condition();
        let state = match state {
            _ if self.spec.drain => "draining",
            // It was up when it was chosen, and failed: its last error is what counts.
            State::Up if reason.is_some() => "failing",
            State::Up => "up",
            State::Down | State::Ejected => state.as_str(),
        };
        match reason {
            Some(reason) => format!("is {state} ({reason})"),
            None => format!("is {state}"),
        }
    }

    /// How long to wait before the next check.
    pub fn check_interval(&self) -> Duration {
        /// While a node is down it is asked more often, and at once again when it begins to answer.
        const DOWN: Duration = Duration::from_millis(500);
        const RECOVERING: Duration = Duration::from_millis(100);
        self.live.gate.read(|health| match health.state() {
            State::Up | State::Ejected => self.policy.interval,
            State::Down if health.is_recovering() => self.policy.interval.min(RECOVERING),
            State::Down => self.policy.interval.min(DOWN),
        })
    }

    /// How long one check may take.
    pub fn check_timeout(&self) -> Duration {
        self.policy.timeout
    }

    /// The models it has, or `None` while it has not been asked with success.
    pub fn inventory(&self) -> Option<Arc<Inventory>> {
        self.live.inventory.load_full()
    }

    pub(super) fn set_inventory(&self, inventory: Arc<Inventory>) {
        self.live.inventory.store(Some(inventory));
    }

    /// The models it has in memory, or `None` while it has not been asked with success.
    pub fn loaded(&self) -> Option<Arc<Loaded>> {
        self.live.loaded.load_full()
    }

    /// Notes what it has in memory; it was asked at `asked`, and the clock on the wall shows `today`.
    pub fn see(&self, loaded: Loaded, asked: Instant, now: Instant, today: Timestamp) {
        let seen = |it: &LoadedModel| {
            let models = &self.live.lore.models;
            let model = models.get(Models::id(&it.digest, it.key.hash64()));
            model.set_memory(it.size);
            model.set_name(&it.name);
            let expires = it
                .expires_in(today)
                .map(|left| clock::seconds(now) + left.as_secs_f64());
            Seen {
                model,
                memory: it.size,
                context: it.context_length,
                expires,
            }
        };
        self.live.node.sighted(Sighting {
            asked: clock::seconds(asked),
            models: loaded.models.iter().map(seen).collect(),
        });
        self.live.loaded.store(Some(Arc::new(loaded)));
    }

    /// Whether somebody should ask now what it holds: it is doubted, or nobody has asked for `age`. The answer counts as
    /// asked.
    pub fn begin_asking_tags(&self, age: Duration, now: Instant) -> bool {
        let events = u64::from(self.is_inventory_doubted());
        self.live
            .tags_asked
            .begin(events, self.since_epoch(now), age)
            || events > 0
    }

    /// Whether somebody should ask now what it has in memory: a request has begun or ended there since somebody asked, or
    /// nobody has asked for `age`. The answer counts as asked.
    pub fn begin_asking_loaded(&self, age: Duration, now: Instant) -> bool {
        let events = self
            .requests()
            .wrapping_add(self.live.released.load(Relaxed));
        self.live
            .loaded_asked
            .begin(events, self.since_epoch(now), age)
    }

    /// Whether a model is in memory as far as is known, under this name or as the same digest under another.
    pub fn is_resident(&self, model: &ModelKey) -> bool {
        let loaded = self.live.loaded.load();
        let Some(loaded) = &*loaded else {
            return false;
        };
        if loaded.holds(model) {
            return true;
        }
        let inventory = self.live.inventory.load();
        let digest = inventory
            .as_ref()
            .and_then(|inventory| inventory.digest(model));
        digest.is_some_and(|digest| loaded.models.iter().any(|loaded| loaded.digest == digest))
    }

    /// Whether it has said what it has in memory.
    pub fn tells_loaded(&self) -> bool {
        self.live.loaded.load().is_some()
    }

    /// Notes that a load of the model is kept alive for a client that left; false if one is already, or enough are.
    pub fn begin_guard(&self, model: &ModelKey) -> bool {
        let mut guarded = self.guarded();
        guarded.len() < GUARDS_LIMIT && guarded.insert(model.clone())
    }

    /// Notes that it is over.
    pub fn end_guard(&self, model: &ModelKey) {
        self.guarded().remove(model);
    }

    fn guarded(&self) -> std::sync::MutexGuard<'_, HashSet<ModelKey>> {
        self.live
            .guarded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The version it runs, as it says itself.
    pub fn version(&self) -> Option<Arc<String>> {
        self.live.version.load_full()
    }

    /// Notes the version it runs.
    pub fn set_version(&self, version: String) {
        if self.version().is_none_or(|known| *known != version) {
            self.live.version.store(Some(Arc::new(version)));
        }
    }

    /// Asks the prober to look again soon at what this backend holds.
    pub fn doubt_inventory(&self) {
        self.live.inventory_doubted.store(true, Relaxed);
    }

    /// Whether that was asked; the prober looks after it, so that the next doubt counts anew.
    pub fn is_inventory_doubted(&self) -> bool {
        self.live.inventory_doubted.load(Relaxed)
    }

    /// The prober is about to look.
    pub fn settle_doubt(&self) {
        self.live.inventory_doubted.store(false, Relaxed);
    }

    /// Its idle connections.
    pub fn links(&self) -> &Links {
        &self.live.links
    }

    fn since_epoch(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.live.epoch)
    }
}
