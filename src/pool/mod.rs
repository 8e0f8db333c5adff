//! The backends: an immutable list per configuration, each with a live part that outlives it.

mod backend;
mod bell;
mod catalogue;
#[cfg(test)]
pub(crate) mod fixture;
mod gate;
mod inventory;
mod lease;
mod places;
mod sample;

pub use crate::health::Admit;
pub use crate::origin::{Origin, OriginError};
pub use backend::{Backend, Spec};
pub use bell::Bell;
pub use gate::Restraint;
pub use inventory::{Inventory, Loaded, LoadedModel};
pub use lease::Lease;

use crate::balance::{Candidates, Strategy};
use crate::clock;
use crate::demand::Demand;
use crate::health::{self, Quorum};
use crate::knowledge::{Homes, Job, Medians, Models};
use crate::wire::ModelKey;
use arc_swap::ArcSwap;
use bytes::Bytes;
use catalogue::Catalogue;
use places::Places;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// Backends that may be chosen; lists of up to 16 need no allocation.
pub type Eligible<'a> = SmallVec<[&'a Arc<Backend>; 16]>;

/// The backends of one configuration, in its order.
#[derive(Debug)]
pub struct Pool {
    backends: Vec<Arc<Backend>>,
    /// Their numbers and places, in the order of the numbers.
    by_id: Vec<(u64, usize)>,
    catalogue: ArcSwap<Catalogue>,
    lore: Arc<Lore>,
}

/// What is known of the fleet as a whole, whatever backends it has.
#[derive(Debug, Default)]
pub(crate) struct Lore {
    pub(crate) models: Models,
    pub(crate) homes: Homes,
    pub(crate) medians: Medians,
    pub(crate) bell: Arc<Bell>,
    /// Requests that went to where their model was loaded as they need it, past a backend with less to do that would
    /// have had to load it again.
    pub(crate) reloads_avoided: AtomicU64,
    /// Who may be ejected. Its lock is taken after that of a backend's health, if both are.
    pub(crate) quorum: Mutex<Quorum>,
}

impl Pool {
    /// Builds the list. A backend whose name and URL are in `before` keeps what is known of it: requests in flight,
    /// health, averages, models and connections.
    pub fn build(
        specs: &[Spec],
        policy: health::Policy,
        before: Option<&Self>,
        now: Instant,
    ) -> Self {
        let known = |spec: &Spec| {
            let same = |old: &&Arc<Backend>| {
                old.spec().name == spec.name && old.spec().origin == spec.origin
            };
            before.and_then(|before| before.backends.iter().find(same))
        };
        let lore = before.map_or_else(Arc::default, |before| Arc::clone(&before.lore));
        let backend = |spec: &Spec| match known(spec) {
            Some(old) => old.renewed(spec.clone(), policy),
            None => Backend::new(spec.clone(), policy, Arc::clone(&lore), now),
        };
        let backends: Vec<_> = specs.iter().map(|spec| Arc::new(backend(spec))).collect();
        let ids = backends.iter().map(|backend| backend.id());
        let mut by_id: Vec<_> = ids.zip(0..).collect();
        by_id.sort_unstable();
        let pool = Self {
            backends,
            by_id,
            catalogue: ArcSwap::from_pointee(Catalogue::default()),
            lore: Arc::clone(&lore),
        };
        let serving = pool.backends.iter().filter(|it| !it.spec().drain);
        let members: Vec<_> = serving.map(|it| (it.id(), it.condition().0)).collect();
        let mut quorum = lore.quorum.lock().unwrap_or_else(PoisonError::into_inner);
        quorum.set_members(members);
        drop(quorum);
        pool.recall();
        pool
    }

    /// All backends, in the configuration's order.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// What rings when a request on any of the backends is over.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.lore.bell
    }

    /// The backends that a request for `model` may choose now, the ones in `tried` left out.
    ///
    /// Those that are known to hold the model come alone. Where none is known to, or none of them can take it, those come
    /// that have not said what they hold. Where nobody is known to hold it and nobody is left to say so, every backend
    /// comes, since one of them must give the client its own 404. Backends that have just come back and have as much to
    /// do as they should are among them only if nobody else of their kind is left, and ejected ones only if not even such
    /// are.
    pub fn eligible(&self, model: Option<&ModelKey>, tried: &[u64], now: Instant) -> Eligible<'_> {
        self.admitted(model, tried, now).0
    }

    /// The same, with how much had to be let through.
    fn admitted(
        &self,
        model: Option<&ModelKey>,
        tried: &[u64],
        now: Instant,
    ) -> (Eligible<'_>, Admit) {
        let catalogue = self.catalogue.load();
        let [first, second] = self.kinds(&catalogue, model);
        let found = self.admitted_of(first, tried, now);
        if found.0.is_empty() {
            return self.admitted_of(second, tried, now);
        }
        found
    }

    /// Who comes into question for a model, and who does if nobody of those can take a request.
    fn kinds<'a>(&self, catalogue: &'a Catalogue, model: Option<&ModelKey>) -> [Places<'a>; 2] {
        let all = Places::All(self.backends.len());
        let Some(model) = model else {
            return [all, Places::At(&[])];
        };
        let unknown = Places::At(catalogue.unknown());
        match catalogue.known_holders(model) {
            [] => [unknown, all],
            holders => [Places::At(holders), unknown],
        }
    }

    /// Of some backends those that can take a request: the healthy ones, or if there are none, the next best.
    ///
    /// So what holds a backend back is a filter, which moves requests on and fails none. Those that have just come back are
    /// no exception: if nobody else can take a request, it goes to one of them at once, for its own line is a better place
    /// to wait than ours, with slots idle until some long answer is whole.
    fn admitted_of(
        &self,
        places: Places<'_>,
        tried: &[u64],
        now: Instant,
    ) -> (Eligible<'_>, Admit) {
        for admit in [Admit::Healthy, Admit::Recovering] {
            // Room for all at once: growing step by step costs more than the filter.
            let mut eligible = Eligible::with_capacity(places.len());
            eligible.extend(self.let_in(places, admit, tried, now));
            if !eligible.is_empty() {
                return (eligible, admit);
            }
        }
        let rest = self.let_in(places, Admit::Ejected, tried, now);
        (rest.collect(), Admit::Ejected)
    }

    fn let_in(
        &self,
        places: Places<'_>,
        admit: Admit,
        tried: &[u64],
        now: Instant,
    ) -> impl Iterator<Item = &Arc<Backend>> {
        let at = move |nth| self.backends.get(places.get(nth)?);
        let is_let_in = move |backend: &&Arc<Backend>| {
            backend.admits(admit, now) && !tried.contains(&backend.id())
        };
        (0..places.len()).filter_map(at).filter(is_let_in)
    }

    /// Chooses a backend that is not in `tried` and counts the request in. `None` if nobody can take it.
    pub fn choose(
        &self,
        strategy: &dyn Strategy,
        demand: &Demand,
        tried: &[u64],
        now: Instant,
    ) -> Option<Lease> {
        let job = self.job(demand, now);
        if let Some(sample) = self.sample(strategy, &job, tried, now, |_| true)
            && let Some(lease) = self.lease(strategy, sample, Admit::Healthy, &job, tried, now)
        {
            return Some(lease);
        }
        loop {
            let (eligible, admit) = self.admitted(demand.model.as_ref(), tried, now);
            if eligible.is_empty() {
                return None;
            }
            // Else all the places there were have just been taken by others: those who are left now are other backends.
            if let Some(lease) = self.lease(strategy, eligible, admit, &job, tried, now) {
                return Some(lease);
            }
        }
    }

    /// The same for a request that nobody waits before, unless all are full. A strategy that reckons with the nodes' own
    /// lines may still choose one that is: its line may be the shorter wait.
    pub fn choose_unless_full(
        &self,
        strategy: &dyn Strategy,
        demand: &Demand,
        tried: &[u64],
        now: Instant,
    ) -> Choice {
        if !strategy.reckons_with_lines() {
            return self.choose_with_room(strategy, demand, tried, now);
        }
        let job = self.job(demand, now);
        let is_full = |backend: &Backend| is_full(backend, &job, now);
        if let Some(sample) = self.sample(strategy, &job, tried, now, |_| true) {
            if sample.iter().all(|backend| is_full(backend)) {
                // The rest of so many may not be, and those of them that are not are better.
                return self.choose_with_room(strategy, demand, tried, now);
            }
            if let Some(lease) = self.lease(strategy, sample, Admit::Healthy, &job, tried, now) {
                return Choice::Lease(lease);
            }
        }
        let (eligible, admit) = self.admitted(demand.model.as_ref(), tried, now);
        if eligible.is_empty() {
            return Choice::Nobody;
        }
        if eligible.iter().all(|backend| is_full(backend)) {
            return Choice::Full;
        }
        let lease = self.lease(strategy, eligible, admit, &job, tried, now);
        lease.map_or(Choice::Full, Choice::Lease)
    }

    /// The same among the backends that are not full.
    pub fn choose_with_room(
        &self,
        strategy: &dyn Strategy,
        demand: &Demand,
        tried: &[u64],
        now: Instant,
    ) -> Choice {
        let job = self.job(demand, now);
        let has_room = |backend: &Backend| !is_full(backend, &job, now);
        if let Some(sample) = self.sample(strategy, &job, tried, now, has_room)
            && let Some(lease) = self.lease(strategy, sample, Admit::Healthy, &job, tried, now)
        {
            return Choice::Lease(lease);
        }
        let (mut eligible, admit) = self.admitted(demand.model.as_ref(), tried, now);
        if eligible.is_empty() {
            return Choice::Nobody;
        }
        eligible.retain(|backend| has_room(backend));
        let lease = self.lease(strategy, eligible, admit, &job, tried, now);
        lease.map_or(Choice::Full, Choice::Lease)
    }

    /// Whether a request for a model need not wait: a backend has room, or none can take it anyway.
    pub fn has_room(
        &self,
        model: Option<&ModelKey>,
        is_embedding: bool,
        tried: &[u64],
        now: Instant,
    ) -> bool {
        let catalogue = self.catalogue.load();
        // Where nobody is known to hold a model, nobody is known to be full.
        let Some(known) = model.and_then(|model| catalogue.model(model)) else {
            return true;
        };
        // Mostly one of the first has room, so no list is made of the others.
        for places in self.kinds(&catalogue, model) {
            for admit in [Admit::Healthy, Admit::Recovering, Admit::Ejected] {
                let mut backends = self.let_in(places, admit, tried, now).peekable();
                if backends.peek().is_some() {
                    return backends.any(|it| !it.is_full(known, is_embedding, now));
                }
            }
        }
        true
    }

    /// Whether there is a backend, not in `tried`, that does well.
    pub fn has_sound(&self, tried: &[u64], now: Instant) -> bool {
        let is_sound = |backend: &Arc<Backend>| {
            backend.admits(Admit::Recovering, now)
                && backend.does_well()
                && !tried.contains(&backend.id())
        };
        self.backends.iter().any(is_sound)
    }

    /// Whether there is a backend, not in `tried`, that is known to hold the model, if one is asked for, and takes requests,
    /// and does well or has not been asked anything yet.
    pub fn has_stand_in(&self, model: Option<&ModelKey>, tried: &[u64], now: Instant) -> bool {
        let can_stand_in = |backend: &Arc<Backend>| {
            backend.admits(Admit::Recovering, now)
                && (backend.does_well() || backend.requests() == 0)
                && !tried.contains(&backend.id())
        };
        let Some(model) = model else {
            return self.backends.iter().any(can_stand_in);
        };
        let catalogue = self.catalogue.load();
        let mut holders = catalogue.known_holders(model).iter();
        holders.any(|at| self.backends.get(*at).is_some_and(can_stand_in))
    }

    /// Has a strategy choose, and counts the request in. `None` if there is nobody, or others took all the places there
    /// were.
    fn lease(
        &self,
        strategy: &dyn Strategy,
        mut backends: Eligible<'_>,
        admit: Admit,
        job: &Job<'_>,
        tried: &[u64],
        now: Instant,
    ) -> Option<Lease> {
        loop {
            let candidates = Candidates::new(&backends, job, now)?;
            let at = strategy.pick(&candidates);
            let backend = candidates.get(at)?;
            if let Some(lease) = backend.lease_for(job, admit, now) {
                self.note_home(strategy, job, backend);
                if tried.is_empty()
                    && let Some(model) = &job.model
                {
                    model.arrived(job.now);
                }
                return Some(lease);
            }
            backends.remove(at);
        }
    }

    /// A request, with what is known of its model.
    fn job<'a>(&self, demand: &'a Demand, now: Instant) -> Job<'a> {
        if self.lore.medians.begin(clock::seconds(now)) {
            let measured = self
                .backends
                .iter()
                .map(|backend| backend.node().measured());
            self.lore.medians.take(measured);
        }
        let catalogue = self.catalogue.load();
        let model = demand
            .model
            .as_ref()
            .and_then(|model| catalogue.model(model));
        Job::new(demand, model.cloned(), now)
    }

    /// Requests that a better choice kept from having their model loaded again with other options.
    pub fn reloads_avoided(&self) -> u64 {
        self.lore.reloads_avoided.load(Relaxed)
    }

    /// Whether some backend is known to hold the model.
    pub fn is_held(&self, model: &ModelKey) -> bool {
        self.catalogue.load().is_held(model)
    }

    /// Whether some backend holds the model as far as is known, or has not said yet what it holds.
    pub fn may_be_held(&self, model: &ModelKey) -> bool {
        self.catalogue.load().may_be_held(model)
    }

    /// Notes what a backend holds, for all pools that share its live part.
    pub fn learn(&self, backend: &Backend, inventory: Inventory) {
        if backend.inventory().is_none_or(|known| *known != inventory) {
            backend.set_inventory(Arc::new(inventory));
        }
        let (known, place) = (self.catalogue.load(), self.place_of(backend.id()));
        let is_known = |at| known.is_of_at(at, backend.inventory().as_ref());
        // Mostly nothing is new, and all the others need not be asked.
        if !place.is_some_and(is_known) {
            self.recall();
        }
    }

    /// The body of `/api/tags`: every model once, newest first.
    pub fn tags(&self) -> Bytes {
        self.catalogue.load().tags()
    }

    /// The body of `/v1/models`.
    pub fn openai_models(&self) -> Bytes {
        self.catalogue.load().openai()
    }

    /// Turns what the backends are known to hold by now into the catalogue that choices read.
    ///
    /// Several may do so at once. Each looks again after it has stored its own, since that may have replaced one that was
    /// made of more.
    pub fn recall(&self) {
        loop {
            let inventories: Vec<_> = self
                .backends
                .iter()
                .map(|backend| backend.inventory())
                .collect();
            let before = self.catalogue.load();
            if before.is_of(&inventories) {
                return;
            }
            let catalogue = Catalogue::of(inventories, &self.lore.models);
            for name in catalogue.conflicts().difference(before.conflicts()) {
                tracing::warn!(
                    model = name,
                    "backends have different models under one name; only those with the newest get requests for it"
                );
            }
            self.catalogue.store(Arc::new(catalogue));
        }
    }
}

/// What a choice among backends with room comes to.
#[derive(Debug)]
pub enum Choice {
    /// A backend, with the request counted in.
    Lease(Lease),
    /// Those that could take it are all full.
    Full,
    /// Nobody can take it.
    Nobody,
}

/// Whether a backend has no room for a request but in its own line.
fn is_full(backend: &Backend, job: &Job<'_>, now: Instant) -> bool {
    let model = job.model.as_ref();
    model.is_some_and(|model| backend.is_full(model, job.demand.is_embedding, now))
}

#[cfg(test)]
mod tests;
