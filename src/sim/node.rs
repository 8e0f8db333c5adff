//! One Ollama node: runners that share a machine, and a scheduler that loads one model after the other.

use super::clock::date;
use super::gpu::Gpu;
use super::job::{Fault, Job, Sign};
use super::model::Model;
use super::runner::Runner;
use super::trouble::{FAIL_AFTER, Kind, Trouble};
use crate::pool::{Loaded, LoadedModel};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Requests that may wait for a model to be loaded; one more is refused.
pub const QUEUE_LIMIT: usize = 512;
/// How long an idle model stays in memory.
pub const KEEP_ALIVE: Duration = Duration::from_secs(300);
/// Models in memory at a time.
const LOADED_LIMIT: usize = 3;
/// Times are rounded to it; what is to be over at a time must not be planned for a little before.
const NANOSECOND: Duration = Duration::from_nanos(1);

/// What a node is.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Unique in its fleet.
    pub name: String,
    /// What it computes on.
    pub gpu: Gpu,
    /// Requests that a runner works on at a time: `OLLAMA_NUM_PARALLEL`.
    pub slots: usize,
    /// Whether replaced prompts are kept in main memory.
    pub has_attic: bool,
    /// What goes wrong with it; no two at a time.
    pub troubles: Vec<Trouble>,
}

/// A node at work. Time only goes forward: every call has a `now` that is no earlier than the last.
#[derive(Debug)]
pub struct Node {
    spec: Spec,
    models: Arc<[Model]>,
    now: Duration,
    trouble: Option<Kind>,
    runners: Vec<Runner>,
    pending: VecDeque<Job>,
    load: Option<Load>,
    /// Jobs that will be failed, and when; in order.
    failing: VecDeque<(Duration, usize)>,
    soonest: Option<Duration>,
    loads: u64,
}

/// What the scheduler is at. The job is what it does it for.
#[derive(Debug)]
struct Load {
    job: Job,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Waiting for a model with these options to have nothing more to do.
    Drain { model: usize, context: u32 },
    /// Waiting for its memory.
    Settle(Duration),
    /// Reading a model's file.
    Read(Duration),
}

impl Node {
    /// A node with nothing in memory.
    pub fn new(spec: Spec, models: Arc<[Model]>) -> Self {
        Self {
            spec,
            models,
            now: Duration::ZERO,
            trouble: None,
            runners: Vec::new(),
            pending: VecDeque::new(),
            load: None,
            failing: VecDeque::new(),
            soonest: None,
            loads: 0,
        }
    }

    /// What it is.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What is wrong with it now.
    pub fn trouble(&self) -> Option<Kind> {
        self.trouble
    }

    /// Whether nobody can reach it.
    pub fn is_gone(&self) -> bool {
        self.trouble == Some(Kind::Gone)
    }

    /// Models that it has loaded so far.
    pub fn loads(&self) -> u64 {
        self.loads
    }

    /// Whether the model could ever be loaded.
    pub fn fits(&self, model: &Model) -> bool {
        let slots = model.slots(self.spec.slots);
        model.memory_gb(super::model::CONTEXT, slots) <= self.spec.gpu.memory_gb
    }

    /// When something happens by itself next, unless something else happens before.
    pub fn soonest(&self) -> Option<Duration> {
        self.soonest
    }

    /// Takes a job.
    pub fn submit(&mut self, job: Job, signs: &mut Vec<Sign>) {
        self.advance(job.came, signs);
        let fails_at = match self.trouble {
            Some(Kind::Gone) => {
                signs.push(Sign::Failed(job.id, Fault::Unreachable));
                return;
            }
            Some(Kind::Failing) => Some(job.came + FAIL_AFTER),
            Some(Kind::Slow(_) | Kind::Frozen) | None => None,
        };
        if let Some(at) = fails_at {
            self.failing.push_back((at, job.id));
        } else if let Some(runner) = self.runner(job.model, job.context) {
            let now = job.came;
            runner.push(job, None, now);
        } else if self.pending.len() >= QUEUE_LIMIT {
            signs.push(Sign::Failed(job.id, Fault::Full));
            return;
        } else {
            self.pending.push_back(job);
            self.schedule();
        }
        self.plan();
    }

    /// The client of a job is gone. A load that was begun for it is broken off.
    pub fn cancel(&mut self, id: usize, now: Duration, signs: &mut Vec<Sign>) {
        self.advance(now, signs);
        self.pending.retain(|job| job.id != id);
        self.failing.retain(|(_, failing)| *failing != id);
        if self.load.as_ref().is_some_and(|load| load.job.id == id) {
            self.load = None;
        }
        for runner in &mut self.runners {
            runner.cancel(id, now);
        }
        self.schedule();
        self.plan();
    }

    /// From now on this is wrong with it, or nothing.
    pub fn set_trouble(&mut self, trouble: Option<Kind>, now: Duration, signs: &mut Vec<Sign>) {
        self.advance(now, signs);
        self.trouble = trouble;
        if trouble == Some(Kind::Gone) {
            let ids: Vec<_> = self.ids().collect();
            signs.extend(ids.into_iter().map(|id| Sign::Failed(id, Fault::Broken)));
            self.runners.clear();
            self.pending.clear();
            self.failing.clear();
            self.load = None;
        }
        self.plan();
    }

    /// Lets time pass. It must not skip [`Node::soonest`].
    pub fn advance(&mut self, now: Duration, signs: &mut Vec<Sign>) {
        let seconds = now.saturating_sub(self.now).as_secs_f64();
        self.now = now;
        if seconds > 0.0 {
            for runner in &mut self.runners {
                runner.pass(seconds);
            }
        }
        if self.soonest.is_none_or(|soonest| soonest > now) {
            return;
        }
        while self.failing.front().is_some_and(|(at, _)| *at <= now) {
            let failed = self.failing.pop_front();
            signs.extend(failed.map(|(_, id)| Sign::Failed(id, Fault::Error)));
        }
        for runner in &mut self.runners {
            // A job may end in the moment it begins.
            while runner.settle(now, signs) {}
        }
        self.schedule();
        self.plan();
    }

    /// Goes on with loading as far as it can now.
    fn schedule(&mut self) {
        loop {
            let Some(load) = &mut self.load else {
                let Some(job) = self.pending.pop_front() else {
                    return;
                };
                let now = self.now;
                if let Some(runner) = self.runner(job.model, job.context) {
                    runner.push(job, Some(now), now);
                } else {
                    let step = self.next_step(&job);
                    self.load = Some(Load { job, step });
                }
                continue;
            };
            match load.step {
                Step::Drain { model, context } => {
                    let is_victim =
                        |runner: &Runner| runner.model == model && runner.context == context;
                    if self
                        .runners
                        .iter()
                        .any(|runner| is_victim(runner) && runner.is_busy())
                    {
                        return;
                    }
                    self.runners.retain(|runner| !is_victim(runner));
                    load.step = Step::Settle(self.now + self.spec.gpu.settle);
                }
                Step::Settle(until) | Step::Read(until) if until > self.now => return,
                Step::Settle(_) => {
                    let job = load.job.clone();
                    let step = self.next_step(&job);
                    self.load = Some(Load { job, step });
                }
                Step::Read(_) => {
                    let Some(Load { job, .. }) = self.load.take() else {
                        return;
                    };
                    let Some(model) = self.models.get(job.model) else {
                        return;
                    };
                    let mut runner = Runner::new(
                        job.model,
                        model,
                        job.context,
                        self.spec.slots,
                        self.spec.has_attic,
                        self.now,
                    );
                    runner.push(job, Some(self.now), self.now);
                    self.runners.push(runner);
                }
            }
        }
    }

    /// What must be done next to load the model that a job wants.
    fn next_step(&mut self, job: &Job) -> Step {
        self.expire();
        if let Some(victim) = self.victim(job.model, job.context) {
            return Step::Drain {
                model: victim.model,
                context: victim.context,
            };
        }
        self.loads += 1;
        let load_time = self
            .models
            .get(job.model)
            .map(|model| model.load_time(&self.spec.gpu));
        Step::Read(self.now + load_time.unwrap_or_default())
    }

    /// The runner that has to go before the model can be loaded, if one has to: the same model with other options; else,
    /// where there is no room, one that is idle, or if there is none a busy one; of several the first by name, since all
    /// are kept equally long.
    pub fn victim(&self, model: usize, context: u32) -> Option<&Runner> {
        if let Some(same) = self.runners.iter().find(|runner| runner.model == model) {
            return (same.context != context).then_some(same);
        }
        let spec = self.models.get(model)?;
        let need = spec.memory_gb(context, spec.slots(self.spec.slots));
        let used: f64 = self.runners.iter().map(|runner| runner.memory_gb).sum();
        if used + need <= self.spec.gpu.memory_gb && self.runners.len() < LOADED_LIMIT {
            return None;
        }
        let name = |runner: &Runner| self.models.get(runner.model).map(|model| &model.name);
        self.runners
            .iter()
            .min_by_key(|runner| (runner.is_busy(), name(runner)))
    }

    fn runner(&mut self, model: usize, context: u32) -> Option<&mut Runner> {
        self.expire();
        self.runners
            .iter_mut()
            .find(|runner| runner.model == model && runner.context == context)
    }

    /// Unloads what was idle for too long.
    fn expire(&mut self) {
        let now = self.now;
        self.runners
            .retain(|runner| runner.is_busy() || runner.used + KEEP_ALIVE > now);
    }

    /// Sets all rates anew and finds out what happens next.
    fn plan(&mut self) {
        let slowdown = self.trouble.map_or(1.0, Kind::slowdown);
        let active = self
            .runners
            .iter()
            .filter(|runner| runner.is_active())
            .count();
        let mut seconds = f64::INFINITY;
        for runner in &mut self.runners {
            seconds = seconds.min(runner.set_rates(&self.spec.gpu, active, slowdown));
        }
        let work = Duration::try_from_secs_f64(seconds).ok();
        let work = work.map(|rest| self.now + rest + NANOSECOND);
        let load = self.load.as_ref().and_then(|load| match load.step {
            Step::Drain { .. } => None,
            Step::Settle(until) | Step::Read(until) => Some(until),
        });
        let failure = self.failing.front().map(|(at, _)| *at);
        self.soonest = [work, load, failure].into_iter().flatten().min();
    }

    /// Everything that was given to it and is not over.
    pub fn ids(&self) -> impl Iterator<Item = usize> {
        let running = self.runners.iter().flat_map(Runner::ids);
        let waiting = self.load.iter().map(|load| &load.job).chain(&self.pending);
        let failing = self.failing.iter().map(|(_, id)| *id);
        running.chain(waiting.map(|job| job.id)).chain(failing)
    }

    /// Models in memory, with what they do.
    pub fn runners(&self) -> &[Runner] {
        &self.runners
    }

    /// Jobs that wait for a model to be loaded, the one that it is loaded for first.
    pub fn waiting(&self) -> impl Iterator<Item = &Job> {
        self.load.iter().map(|load| &load.job).chain(&self.pending)
    }

    /// When the model that is being loaded will be in memory, as far as that depends on time alone.
    pub fn loaded_at(&self) -> Option<Duration> {
        let load = self.load.as_ref()?;
        match load.step {
            Step::Read(until) => Some(until),
            Step::Settle(until) => {
                let model = self.models.get(load.job.model)?;
                Some(until + model.load_time(&self.spec.gpu))
            }
            Step::Drain { .. } => None,
        }
    }

    /// What its `/api/ps` says.
    pub fn ps(&self) -> Loaded {
        let kept = self
            .runners
            .iter()
            .filter(|runner| runner.is_busy() || runner.used + KEEP_ALIVE > self.now);
        let models = kept.filter_map(|runner| {
            let model = self.models.get(runner.model)?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "positive, and some gigabytes"
            )]
            let size = (runner.memory_gb * 1e9) as u64;
            Some(LoadedModel {
                key: model.key.clone(),
                name: model.name.clone(),
                digest: model.digest(),
                expires_at: date(runner.used + KEEP_ALIVE),
                size,
                context_length: Some(u64::from(runner.context)),
                entry: serde_json::Map::new(),
            })
        });
        Loaded {
            models: models.collect(),
        }
    }

    /// What its `/api/tags` says: every model that fits.
    pub fn tags(&self) -> String {
        let models = self.models.iter().filter(|model| self.fits(model));
        let entries = models.map(|model| {
            serde_json::json!({
                "name": model.name,
                "model": model.name,
                "modified_at": "2026-01-01T00:00:00Z",
                "size": (model.size_gb * 1e9).round(),
                "digest": model.digest(),
            })
        });
        serde_json::json!({ "models": entries.collect::<Vec<_>>() }).to_string()
    }
}
