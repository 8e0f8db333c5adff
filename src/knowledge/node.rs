//! What is known of one node.

use super::flight::{Flight, Progress};
use super::job::Job;
use super::medians::{Measured, Medians, Typical};
use super::memo::{Memo, Question};
use super::memory::{Loading, Memory, Resident, Sighting};
use super::model::Model;
use super::outlook::{Fit, Outlook, Peer};
use super::shadow::Prompt;
use super::speed::{Estimate, LOAD_BASE, Speed};
use crate::wire::Counters;
use arc_swap::ArcSwapOption;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much two models at work on one node slow each other: with one other, each takes this much longer.
pub const SHARING: f64 = 0.7;
/// Seconds that putting a model out takes.
const UNLOAD: f64 = 0.9;
/// What it is worth that a model stays in memory, in times of what loading it would cost whoever asks for it within
/// [`WANTED_SPAN`] seconds, as far as [`WANTED_MOST`] of them.
const EVICTION: f64 = 2.0;
const WANTED_SPAN: f64 = 30.0;
const WANTED_MOST: f64 = 6.0;
/// Seconds after which a failure is worth 1/e of what it was.
const FAILURE_FADE: f64 = 10.0;
/// Seconds without any sign of life after which a node is stuck: while it writes an answer, and while it should begin to.
const STUCK_WRITING: f64 = 1.0;
const STUCK_STARTING: f64 = 4.0;
/// Tokens of a prompt that a node works on before it writes the next token of another answer.
const BATCH: f64 = 512.0;
/// A load shorter than this was none, in seconds.
const LEAST_LOAD: f64 = 0.3;
/// Models whose load times are remembered per node.
const LOADS_LIMIT: usize = 256;
/// Answers at a time that a runner may be seen to write; beyond that it makes no difference.
const SLOTS_LIMIT: usize = 64;
/// Room for requests that a node keeps, however few it has.
const FLIGHTS_KEPT: usize = 16;
/// Times the time between its tokens after which an answer no longer counts as coming in; one second at the least.
const PAUSE: f64 = 3.0;

/// One node. Choices read it, requests write it as they pass; who asks the node for its lists only leaves them to be
/// taken in by the next request, so that no request ever waits for them.
#[derive(Debug)]
pub struct Node {
    inner: Mutex<Inner>,
    sighting: ArcSwapOption<Sighting>,
    /// There is a sighting that was not taken in. Asked for each choice, which the sighting itself would cost more.
    is_sighted: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    flights: Vec<Flight>,
    memory: Memory,
    speed: Speed,
    /// Seconds that loading a model took, by its number.
    loads: HashMap<u64, f64>,
    /// Of the sighting that was taken in last.
    sighted: f64,
    next_id: u64,
    failures: f64,
    failed_at: f64,
    /// When something was last heard of a request here.
    sign_at: f64,
    /// Runners at work, summed over time.
    active_area: f64,
    active_at: f64,
    /// The most answers at a time that any runner was seen to write.
    slots: usize,
    /// `None` once anything has changed.
    memo: Option<Box<Memo>>,
}

/// What is known of a node, for people.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it is reckoned with.
    pub speed: Estimate,
    /// How much of what it should it gives just now, 0 to 1.
    pub live: f64,
    /// Whether its speed was ever measured.
    pub is_proven: bool,
    /// The most answers at a time that a runner was seen to write.
    pub slots: usize,
    /// The models that are believed to be in memory, and whether each is still being loaded.
    pub memory: Vec<(Arc<Model>, bool)>,
    /// Whether it has work and gives no sign of life.
    pub is_stuck: bool,
}

impl Node {
    /// A node of which nothing is known. The number tells it from all others.
    pub fn new(number: u64) -> Self {
        let inner = Inner {
            flights: Vec::new(),
            memory: Memory::of(number),
            speed: Speed::new(),
            loads: HashMap::new(),
            sighted: f64::NEG_INFINITY,
            next_id: 0,
            failures: 0.0,
            failed_at: 0.0,
            sign_at: 0.0,
            active_area: 0.0,
            active_at: 0.0,
            slots: 1,
            memo: None,
        };
        Self {
            inner: Mutex::new(inner),
            sighting: ArcSwapOption::empty(),
            is_sighted: AtomicBool::new(false),
        }
    }

    /// Notes what the node says it has in memory.
    pub fn sighted(&self, sighting: Sighting) {
        self.sighting.store(Some(Arc::new(sighting)));
        self.is_sighted.store(true, Release);
    }

    /// How the node stands for a request. `configured` is the operator's word on its slots.
    pub fn look<R>(
        &self,
        job: &Job<'_>,
        configured: Option<usize>,
        typical: &Typical,
        look: impl FnOnce(&Outlook) -> R,
    ) -> R {
        let mut inner = self.up_to_date();
        match &job.model {
            Some(model) => look(inner.outlook(job, model, configured, typical)),
            None => look(&Outlook::default()),
        }
    }

    /// Whether every slot that a request could use has one, and, where slots are learnt, one more waits: more than were
    /// ever seen at work must be tried for more to be seen. A node with answers that come whole, of which nothing can be
    /// seen, is only full by the operator's word.
    pub fn is_full(
        &self,
        model: &Model,
        is_embedding: bool,
        configured: Option<usize>,
        now: f64,
    ) -> bool {
        let mut inner = self.up_to_date();
        let Some(at) = inner.memory.place(model.id()) else {
            return false;
        };
        // While all are full nobody looks how they stand, which is when there is most to be learnt.
        inner.notice_slots(at, now);
        let users = inner
            .memory
            .residents
            .get(at)
            .map_or(0, |resident| resident.users);
        let slots = inner.slots_of(at, is_embedding, configured);
        if configured.is_some() {
            return users >= slots;
        }
        // How many answers are written at once can be seen of streams alone: what cannot be learnt must not bind.
        let mut flights = inner.flights.iter();
        let is_learnable = is_embedding
            || flights.all(|flight| flight.model_id != model.id() || flight.is_streamed);
        is_learnable && users > slots
    }

    /// Counts a request in: whatever it changes on the node is believed from now on. `None` if it names no model that
    /// anybody holds.
    pub fn begin(
        &self,
        job: &Job<'_>,
        configured: Option<usize>,
        typical: &Typical,
    ) -> Option<(u64, Arc<Progress>)> {
        let model = job.model.as_ref()?;
        let mut inner = self.up_to_date();
        inner.memo = None;
        Some(inner.begin(job, model, configured, typical))
    }

    /// The first byte of a request's answer came.
    pub fn first_byte(&self, id: u64, now: f64) {
        self.change().first_byte(id, now);
    }

    /// A request is over and its answer whole.
    pub fn finished(&self, id: u64, counters: &Counters, medians: &Medians, now: f64) {
        self.change().finished(id, counters, medians, now);
    }

    /// A request is over without a whole answer.
    pub fn left(&self, id: u64, now: f64) {
        self.change().left(id, now);
    }

    /// The node failed a request.
    pub fn failed(&self, now: f64) {
        let mut inner = self.change();
        inner.failures = inner.failures_at(now) + 1.0;
        inner.failed_at = now;
    }

    /// The node was away: whatever it had in memory is gone.
    pub fn restarted(&self) {
        let mut inner = self.change();
        inner.memory.residents.retain(|resident| resident.users > 0);
        for resident in &mut inner.memory.residents {
            resident.shadow.clear();
        }
    }

    /// What was measured.
    pub fn measured(&self) -> Measured {
        self.lock().speed.measured()
    }

    /// What is known, for people.
    pub fn report(&self, typical: &Typical, now: f64) -> Report {
        let mut inner = self.up_to_date();
        let speed = inner.speed.estimate(typical, now);
        Report {
            live: inner.speed.live(),
            is_proven: inner.speed.is_proven(),
            slots: inner.slots,
            memory: inner
                .memory
                .residents
                .iter()
                .map(|resident| (Arc::clone(&resident.model), resident.loading.is_some()))
                .collect(),
            is_stuck: inner.is_stuck(&speed, now),
            speed,
        }
    }

    fn up_to_date(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        if self.is_sighted.load(Relaxed)
            && self.is_sighted.swap(false, Acquire)
            && let Some(sighting) = &*self.sighting.load()
            && sighting.asked > inner.sighted
        {
            let slots = inner.slots;
            inner.memory.reconcile(sighting, slots);
            inner.sighted = sighting.asked;
            inner.memo = None;
        }
        inner
    }

    /// Locks it for what changes how the node stands.
    fn change(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        inner.memo = None;
        inner
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn outlook(
        &mut self,
        job: &Job<'_>,
        model: &Model,
        configured: Option<usize>,
        typical: &Typical,
    ) -> &Outlook {
        let question = Question {
            model: model.id(),
            runner: job.demand.runner,
            is_embedding: job.demand.is_embedding,
            configured,
        };
        let is_known = |memo: &Memo| memo.answers(&question, job.now);
        let mut memo = match self.memo.take() {
            Some(memo) if is_known(&memo) => memo,
            _ => {
                let mut outlook = self.reckon(job, model, configured, typical);
                outlook.wait = Some(outlook.wait());
                Box::new(Memo::new(question, outlook, job.now))
            }
        };
        memo.outlook.cached = match self.memory.get_mut(model.id()) {
            Some(resident) if memo.outlook.fit == Fit::Hot && !job.demand.is_embedding => {
                resident.shadow.cached(prompt_of(job)) * job.reuse
            }
            _ => 0.0,
        };
        &self.memo.insert(memo).outlook
    }

    /// How the node stands, but for what of the request's prompt is computed already.
    fn reckon(
        &mut self,
        job: &Job<'_>,
        model: &Model,
        configured: Option<usize>,
        typical: &Typical,
    ) -> Outlook {
        let now = job.now;
        self.look_at_streams(typical, now);
        let speed = self.speed.estimate(typical, now);
        let place = self.memory.place(model.id());
        if let Some(at) = place {
            self.notice_slots(at, now);
        }
        let (work, id) = (model.work(), model.id());
        let (prefill, decode) = (speed.prefill / work, speed.decode / work);
        let mut peers = SmallVec::new();
        let mut others_prefill = 0.0;
        for flight in &self.flights {
            if flight.model_id == id {
                peers.push(Peer {
                    prefill: flight.prefill_left(prefill, now),
                    output: flight.output_left(prefill, decode, now),
                    is_decoding: flight.is_decoding(prefill, now),
                });
            } else {
                let rate = speed.prefill / flight.model.work();
                others_prefill += flight.prefill_left(rate, now) / rate;
            }
        }
        let is_at_work = |it: &&Resident| it.users > 0 && it.loading.is_none() && it.id != id;
        let others = self.memory.residents.iter().filter(is_at_work).count();
        let resident = place.and_then(|at| self.memory.residents.get(at));
        let fit = match resident {
            None => Fit::Cold,
            Some(resident) if !resident.serves(&job.demand.runner) => Fit::OtherShape,
            Some(resident) if resident.loading.is_some() => Fit::Loading,
            Some(_) => Fit::Hot,
        };
        let (load, eviction) = self.load(fit, place, model, &speed, now);
        Outlook {
            prefill,
            decode,
            slope: speed.slope,
            slots: place.map_or_else(
                || {
                    if job.demand.is_embedding {
                        1
                    } else {
                        configured.unwrap_or(self.slots)
                    }
                },
                |at| self.slots_of(at, job.demand.is_embedding, configured),
            ),
            peers,
            wait: None,
            others,
            others_prefill,
            cached: 0.0,
            load,
            fit,
            eviction,
            failures: self.failures_at(now),
            unproven: if self.speed.is_proven() {
                0
            } else {
                self.flights.len()
            },
            idle: if self.flights.is_empty() {
                now - self.sign_at
            } else {
                0.0
            },
            is_stuck: self.is_stuck(&speed, now),
        }
    }

    /// Seconds until the model is there, and what that costs those who want others.
    fn load(
        &self,
        fit: Fit,
        place: Option<usize>,
        model: &Model,
        speed: &Estimate,
        now: f64,
    ) -> (f64, f64) {
        let resident = place.and_then(|at| self.memory.residents.get(at));
        let wanted = |it: &Resident| {
            let wanted = (WANTED_SPAN * it.model.rate(now)).min(WANTED_MOST);
            EVICTION * self.load_time(&it.model, speed) * wanted / it.model.copies().max(1) as f64
        };
        if fit == Fit::Hot && resident.is_some_and(|resident| resident.risk == 0.0) {
            return (0.0, 0.0); // most of the time, and what follows is no small matter
        }
        let others: f64 = self
            .memory
            .residents
            .iter()
            .filter(|it| it.id != model.id())
            .filter_map(|it| Some(it.loading?.left(now)))
            .sum();
        let base = self.load_time(model, speed);
        match (fit, resident) {
            (Fit::Hot, Some(resident)) => (resident.risk * (base + others), 0.0),
            (Fit::Loading, Some(resident)) => (
                resident.loading.map_or(0.0, |loading| loading.left(now)),
                0.0,
            ),
            (Fit::OtherShape, Some(resident)) => {
                // Only some of those who ask for the model want it as it is.
                (
                    base + UNLOAD + others + self.drain(resident, speed, now),
                    0.5 * wanted(resident),
                )
            }
            _ => {
                let plan = self.memory.plan(model);
                let candidates = || {
                    plan.candidates
                        .iter()
                        .filter_map(|at| self.memory.residents.get(*at))
                };
                let share = plan.count as f64 / plan.candidates.len().max(1) as f64;
                let eviction = candidates().map(wanted).sum::<f64>() * share;
                let drain = if plan.waits {
                    let drains = candidates().map(|it| self.drain(it, speed, now));
                    drains
                        .filter(|drain| *drain > 0.0)
                        .fold(f64::INFINITY, f64::min)
                } else {
                    0.0
                };
                let unload = if plan.count > 0 { UNLOAD } else { 0.0 };
                (
                    base + unload + others + if drain.is_finite() { drain } else { 0.0 },
                    eviction,
                )
            }
        }
    }

    /// Seconds until everybody has left a runner.
    fn drain(&self, resident: &Resident, speed: &Estimate, now: f64) -> f64 {
        let work = resident.model.work();
        let (prefill, decode) = (speed.prefill / work, speed.decode / work);
        let (mut sum, mut longest) = (0.0, 0.0f64);
        for flight in self
            .flights
            .iter()
            .filter(|flight| flight.model_id == resident.id)
        {
            let left = flight.prefill_left(prefill, now) / prefill
                + flight.output_left(prefill, decode, now) / decode;
            sum += left;
            longest = longest.max(left);
        }
        (sum / resident.slots as f64).max(longest)
    }

    fn load_time(&self, model: &Model, speed: &Estimate) -> f64 {
        let learnt = self.loads.get(&model.id()).copied();
        learnt.unwrap_or_else(|| LOAD_BASE + model.bytes() / speed.bandwidth)
    }

    fn slots_of(&self, at: usize, is_embedding: bool, configured: Option<usize>) -> usize {
        if is_embedding {
            return 1;
        }
        let learnt = self
            .memory
            .residents
            .get(at)
            .map_or(1, |resident| resident.slots);
        configured.unwrap_or(learnt).max(1)
    }

    fn begin(
        &mut self,
        job: &Job<'_>,
        model: &Arc<Model>,
        configured: Option<usize>,
        typical: &Typical,
    ) -> (u64, Arc<Progress>) {
        let now = job.now;
        let speed = self.speed.estimate(typical, now);
        self.advance(now);
        let fit = match self.memory.get_mut(model.id()) {
            None => Fit::Cold,
            Some(resident) if !resident.serves(&job.demand.runner) => Fit::OtherShape,
            Some(resident) if resident.loading.is_some() => Fit::Loading,
            Some(_) => Fit::Hot,
        };
        let place = self.memory.place(model.id());
        let (takes, _) = self.load(fit, place, model, &speed, now);
        if matches!(fit, Fit::Cold | Fit::OtherShape) {
            if fit == Fit::Cold {
                self.make_room(model);
                let (node, model) = (self.memory.node, Arc::clone(model));
                let resident = Resident::new(node, model, self.slots, now);
                self.memory.residents.push(resident);
            }
            if let Some(resident) = self.memory.get_mut(model.id()) {
                resident.shape = Some(job.demand.runner);
                resident.context = None;
                resident.loading = Some(Loading { since: now, takes });
                resident.shadow.clear();
                resident.risk = 0.0;
            }
        }
        self.next_id += 1;
        let prompt = prompt_of(job);
        let mut cached = 0.0;
        let mut has_slot = false;
        if let Some(resident) = self.memory.get_mut(model.id()) {
            if fit == Fit::Hot && !job.demand.is_embedding {
                cached = resident.shadow.cached(prompt) * job.reuse;
                resident.shadow.begin(prompt);
            }
            let slots = if job.demand.is_embedding {
                1
            } else {
                configured.unwrap_or(resident.slots)
            };
            has_slot = resident.users < slots && resident.loading.is_none();
            resident.users += 1;
        }
        let mut flight = Flight::new(self.next_id, job, Arc::clone(model), cached);
        flight.was_cold = fit != Fit::Hot;
        flight.loads = matches!(fit, Fit::Cold | Fit::OtherShape);
        flight.started = has_slot.then_some(now);
        let work = model.work();
        let ahead: f64 = self
            .flights
            .iter()
            .filter(|other| other.model_id == model.id() && other.first_byte.is_none())
            .map(|other| other.prompt + other.output * speed.prefill / speed.decode)
            .sum();
        flight.expected_first = takes + (flight.prompt - cached + ahead) * work / speed.prefill;
        let handle = (flight.id, Arc::clone(&flight.progress));
        if self.flights.is_empty() {
            self.sign_at = now;
            self.speed.skip_live(now);
        }
        self.flights.push(flight);
        handle
    }

    /// Believes gone whoever has to go for a model.
    fn make_room(&mut self, model: &Model) {
        let mut plan = self.memory.plan(model);
        if plan.count == 0 {
            return;
        }
        if plan.waits || plan.count == plan.candidates.len() {
            plan.candidates.truncate(plan.count);
            plan.candidates.sort_unstable();
            for at in plan.candidates.iter().rev() {
                // Those who still run there are heard of when they end.
                self.memory.residents.remove(*at);
            }
            return;
        }
        let share = plan.count as f64 / plan.candidates.len() as f64;
        for at in plan.candidates {
            if let Some(resident) = self.memory.residents.get_mut(at) {
                resident.risk = resident.risk.max(share);
            }
        }
    }

    fn first_byte(&mut self, id: u64, now: f64) {
        self.advance(now);
        self.sign_at = now;
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.id == id) else {
            return;
        };
        if flight.first_byte.is_some() {
            return;
        }
        flight.first_byte = Some(now);
        flight.started.get_or_insert(now);
        let (model, is_embedding) = (flight.model_id, flight.is_embedding);
        if let Some(resident) = self.memory.get_mut(model) {
            resident.loading = None;
            resident.known_at = now;
            resident.advance(now);
            if !is_embedding {
                resident.decoding += 1;
            }
            let area = resident.area;
            if let Some(flight) = self.flights.iter_mut().find(|flight| flight.id == id) {
                (flight.area, flight.active_area) = (area, self.active_area);
            }
        }
        // The model is there now, for all who waited for it.
        for other in self
            .flights
            .iter_mut()
            .filter(|other| other.model_id == model && other.was_cold)
        {
            other.started.get_or_insert(now);
        }
    }

    fn finished(&mut self, id: u64, counters: &Counters, medians: &Medians, now: f64) {
        self.advance(now);
        let Some(flight) = self.take(id, now) else {
            return;
        };
        let model = &flight.model;
        let (work, seconds) = (model.work(), |time: Option<std::time::Duration>| {
            time.map(|it| it.as_secs_f64())
        });
        if let Some(tokens) = counters.prompt_tokens {
            model.counted_prompt(flight.prompt_bytes, tokens);
        }
        let relayed = flight.progress.tokens();
        let tokens = counters
            .output_tokens
            .unwrap_or(if flight.is_streamed { relayed } else { 0 });
        if tokens > 0 && !flight.is_embedding {
            model.counted_answer(flight.limit, tokens);
            self.learn_decoding(&flight, tokens, seconds(counters.output_time), now);
        }
        let prompt = counters.prompt_tokens.map_or(flight.prompt, f64::from);
        if let Some(time) = seconds(counters.prompt_time) {
            self.learn_prefill(&flight, prompt, time, medians, now);
        }
        if let Some(time) = seconds(counters.load_time)
            && time > LEAST_LOAD
            && flight.loads
            && (self.loads.len() < LOADS_LIMIT || self.loads.contains_key(&model.id()))
        {
            let learnt = self.loads.entry(model.id()).or_insert(time);
            // What was waited for other loads is in it too.
            *learnt += if time < *learnt { 0.5 } else { 0.15 } * (time - *learnt);
            self.speed.loaded(model.bytes(), time);
        }
        if !flight.is_embedding && flight.prompt > 0.0 {
            medians.observe_cached(flight.cached / flight.prompt);
        }
        let slots = self.slots;
        let used = Prompt {
            prefixes: &flight.prefixes,
            bytes: flight.prompt_bytes,
            tokens: prompt,
        };
        if let Some(resident) = self.memory.get_mut(model.id()) {
            resident.known_at = now;
            if !flight.is_embedding {
                resident.shadow.end(used, f64::from(tokens), work, slots);
            }
        }
    }

    fn learn_decoding(&mut self, flight: &Flight, tokens: u32, time: Option<f64>, now: f64) {
        let work = flight.model.work();
        let Some(first) = flight.first_byte else {
            return;
        };
        let span = now - first;
        let last = flight.progress.last();
        let time = match time {
            Some(time) => time / f64::from(tokens),
            None if tokens > 8 && last > first => (last - first) / f64::from(tokens - 1),
            None => return,
        };
        // What other models took is no slowness of the node.
        let active = if span > 0.0 {
            (self.active_area - flight.active_area) / span
        } else {
            1.0
        };
        let time = time / (1.0 + SHARING * (active - 1.0).max(0.0));
        let others = match self.memory.get_mut(flight.model_id) {
            Some(resident) if span > 0.0 => (resident.area - flight.area) / span - 1.0,
            _ => 0.0,
        };
        self.speed.decoded(others, time / work, now);
    }

    fn learn_prefill(
        &mut self,
        flight: &Flight,
        prompt: f64,
        time: f64,
        medians: &Medians,
        now: f64,
    ) {
        let work = flight.model.work();
        let cached = flight.cached * prompt / flight.prompt.max(1.0);
        if cached > 0.3 * prompt && self.speed.is_proven() {
            let rate = self.speed.steady(&medians.read(), now).prefill / work;
            // Contention makes either take longer, so the two are told apart halfway between, in proportion.
            let (hit, miss) = ((prompt - cached).max(1.0) / rate, prompt / rate);
            flight.model.reused(time < 1.5 * (hit * miss).sqrt());
        }
        let uncached = prompt - cached;
        if cached > 0.5 * prompt && self.speed.is_proven() {
            return; // what is left is too little to measure by
        }
        self.speed.prefilled(uncached * work, uncached, time, now);
    }

    fn left(&mut self, id: u64, now: f64) {
        self.advance(now);
        let Some(flight) = self.take(id, now) else {
            return;
        };
        let slots = self.slots;
        let Some(at) = self.memory.place(flight.model_id) else {
            return;
        };
        let Some(resident) = self.memory.residents.get_mut(at) else {
            return;
        };
        if flight.first_byte.is_some() && !flight.is_embedding {
            let used = Prompt {
                prefixes: &flight.prefixes,
                bytes: flight.prompt_bytes,
                tokens: flight.prompt,
            };
            let tokens = f64::from(flight.progress.tokens());
            resident
                .shadow
                .end(used, tokens, flight.model.work(), slots);
        }
        // A load ends with the last who waits for it.
        if resident.loading.is_some() && resident.users == 0 {
            self.memory.residents.remove(at);
        }
    }

    /// Takes a request off the node and lets the next in line have its slot.
    fn take(&mut self, id: u64, now: f64) -> Option<Flight> {
        let at = self.flights.iter().position(|flight| flight.id == id)?;
        let flight = self.flights.remove(at);
        // What a burst took is given back.
        if self.flights.len() < self.flights.capacity() / 4 {
            self.flights
                .shrink_to(FLIGHTS_KEPT.max(2 * self.flights.len()));
        }
        self.sign_at = now;
        let model = flight.model_id;
        if let Some(resident) = self.memory.get_mut(model) {
            resident.users = resident.users.saturating_sub(1);
            if flight.first_byte.is_some() && !flight.is_embedding {
                resident.advance(now);
                resident.decoding = resident.decoding.saturating_sub(1);
            }
            let waits = |other: &&mut Flight| other.model_id == model && other.started.is_none();
            if resident.loading.is_none()
                && let Some(next) = self.flights.iter_mut().find(waits)
            {
                next.started = Some(now);
            }
        }
        Some(flight)
    }

    /// Brings the sum of runners at work up to a time.
    fn advance(&mut self, now: f64) {
        let active = self
            .memory
            .residents
            .iter()
            .filter(|it| it.users > 0 && it.loading.is_none())
            .count();
        self.active_area += active as f64 * (now - self.active_at).max(0.0);
        self.active_at = now;
    }

    fn failures_at(&self, now: f64) -> f64 {
        if self.failures == 0.0 {
            return 0.0;
        }
        self.failures * (-(now - self.failed_at).max(0.0) / FAILURE_FADE).exp()
    }

    /// Whether more answers come in at a time than were seen before.
    fn notice_slots(&mut self, at: usize, now: f64) {
        let Some(resident) = self.memory.residents.get_mut(at) else {
            return;
        };
        if resident.decoding as usize <= resident.slots {
            return;
        }
        let id = resident.id;
        let comes = |flight: &Flight| {
            let (first, last) = (flight.first_byte?, flight.progress.last());
            // A large model on a small node takes its time for each token: what is late is said by its own pace.
            let pace = (last - first) / f64::from(flight.progress.tokens().max(2) - 1);
            let is_due = now - last < (PAUSE * pace).max(1.0);
            // Read late, the last token of one may seem to come after the first of the one that got its slot.
            let last_but_one = last - pace;
            (flight.model_id == id && last_but_one > first && is_due)
                .then_some((first, last_but_one))
        };
        let seen = most_at_a_time(self.flights.iter().filter_map(comes)).min(SLOTS_LIMIT);
        resident.slots = resident.slots.max(seen);
        self.slots = self.slots.max(seen);
    }

    /// Compares what has come in of the answers with what should have.
    fn look_at_streams(&mut self, typical: &Typical, now: f64) {
        let Some(span) = self.speed.live_due(now) else {
            return;
        };
        let steady = self.speed.steady(typical, now);
        let active = self
            .memory
            .residents
            .iter()
            .filter(|it| it.users > 0 && it.loading.is_none())
            .count();
        let (mut came, mut should) = (0.0, 0.0);
        let mut prefilling = false;
        for flight in &mut self.flights {
            let Some(first) = flight.first_byte else {
                prefilling |= flight.started.is_some();
                continue;
            };
            if flight.is_embedding || !flight.is_streamed {
                continue;
            }
            let tokens = flight.progress.tokens();
            came += f64::from(tokens.saturating_sub(flight.looked_at));
            flight.looked_at = tokens;
            let together = self
                .memory
                .residents
                .iter()
                .find(|it| it.id == flight.model_id)
                .map_or(1.0, |it| f64::from(it.decoding.max(1)));
            let rate = steady.decode
                / flight.model.work()
                / active.max(1) as f64
                / (1.0 + steady.slope * (together - 1.0));
            should += rate * span.min(now - first);
        }
        if prefilling && came < should {
            // Prompts slow answers down, by how much is hard to say.
            should = should.min(came.max(should * 0.3));
        }
        self.speed.observe_live(came, should, now);
    }

    fn is_stuck(&self, speed: &Estimate, now: f64) -> bool {
        let (mut writing, mut starting, mut sign) = (false, None::<&Flight>, self.sign_at);
        for flight in self
            .flights
            .iter()
            .filter(|flight| flight.is_streamed && !flight.is_embedding)
        {
            sign = sign.max(flight.progress.last());
            if flight.first_byte.is_some() {
                writing = true;
            } else if !flight.was_cold && starting.is_none() {
                starting = Some(flight);
            }
        }
        if writing {
            return now - sign > STUCK_WRITING.max(4.0 * BATCH / speed.prefill);
        }
        starting.is_some_and(|first| {
            let limit = STUCK_STARTING.max(3.0 * first.expected_first);
            now - sign.max(first.dispatched) > limit
        })
    }
}

/// How many of some spans of time there are at a time, at most. One that ends as another begins, as an answer does whose slot
/// the next one gets, is not there with it.
fn most_at_a_time(spans: impl Iterator<Item = (f64, f64)>) -> usize {
    let (mut begins, mut ends): (SmallVec<[_; 16]>, SmallVec<[_; 16]>) = spans.unzip();
    begins.sort_unstable_by(f64::total_cmp);
    ends.sort_unstable_by(f64::total_cmp);
    let mut ended = ends.iter().peekable();
    let mut over = 0;
    let at_a_time = |(before, begin): (usize, &f64)| {
        while ended.next_if(|end| *end <= begin).is_some() {
            over += 1;
        }
        before + 1 - over
    };
    begins.iter().enumerate().map(at_a_time).max().unwrap_or(0)
}

fn prompt_of<'a>(job: &'a Job<'_>) -> Prompt<'a> {
    Prompt {
        prefixes: &job.demand.prefixes,
        bytes: job.demand.prompt_bytes,
        tokens: job.work.prompt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spans: &[(f64, f64)], most: usize) {
        assert_eq!(most_at_a_time(spans.iter().copied()), most, "{spans:?}");
    }

    #[test]
    fn an_answer_that_has_ended_is_not_there_with_the_one_that_got_its_slot() {
        check(&[], 0);
        check(&[(0.0, 2.0), (1.0, 3.0)], 2);
        check(&[(0.0, 2.0), (1.0, 3.0), (2.0, 4.0), (2.5, 5.0)], 3);
        check(&[(0.0, 1.0), (0.0, 1.5), (1.0, 2.0), (1.5, 2.5)], 2);
    }
}
