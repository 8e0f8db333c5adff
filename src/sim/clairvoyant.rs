//! The choice of someone who knows all: the true speeds, the lengths of answers to come, what every cache holds.
//!
//! It is greedy, so a strategy may be better now and then; but a strategy that comes near it knows what matters.

use super::fleet::Setup;
use super::model::{CONTEXT, Model};
use super::node::Node;
use super::request::Request;
use super::runner::{Rest, Runner};
use super::trouble::Kind;
use std::time::Duration;

/// What it is called in results.
pub const NAME: &str = "clairvoyant";

/// With one other model at work on a node, each takes this much longer.
const SHARING: f64 = 0.7;
/// What answers in the same runner lose while a prompt is read, as a share of that time.
const STALL: f64 = 0.9;
/// What other models at work lose, as a share of the request's own time.
const OTHERS_LOSS: f64 = 0.4;
/// What those lose who come later, for each one that waits already.
const QUEUE_LOSS: f64 = 0.15;
/// What a model that must go costs, in loads of it at the rate at which it is wanted.
const EVICTION: f64 = 10.0;
/// Seconds within which a request for an evicted model counts, and how many of them do at most.
const EVICTION_WINDOW: f64 = 30.0;
const EVICTION_REQUESTS: f64 = 6.0;
/// Seconds that stand for a node in trouble.
const TROUBLE: f64 = 1e6;

/// How often each model is asked for, in requests per second over the whole run.
pub fn popularity(setup: &Setup) -> Vec<f64> {
    let times = setup
        .requests
        .iter()
        .filter_map(|request| match request.start {
            super::request::Start::At(at) => Some(at),
            super::request::Start::After(..) => None,
        });
    let span = times.max().unwrap_or_default().as_secs_f64().max(1.0);
    let of = |model| {
        setup
            .requests
            .iter()
            .filter(|request| request.model == model)
            .count()
    };
    (0..setup.models.len())
        .map(|model| of(model) as f64 / span)
        .collect()
}

/// The best node for a request, by its place. `None` if every one was tried, or none could hold the model.
pub fn choose(
    nodes: &[Node],
    request: &Request,
    models: &[Model],
    popularity: &[f64],
    tried: &[usize],
    now: Duration,
) -> Option<usize> {
    let model = models.get(request.model)?;
    let costs = nodes
        .iter()
        .enumerate()
        .filter(|(at, node)| !tried.contains(at) && node.fits(model));
    let costs = costs.map(|(at, node)| {
        let view = View {
            nodes,
            node,
            model,
            models,
            request,
            popularity,
            now,
        };
        (at, view.cost())
    });
    costs
        .min_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(at, _)| at)
}

/// One node, seen for one request.
struct View<'a> {
    nodes: &'a [Node],
    node: &'a Node,
    model: &'a Model,
    models: &'a [Model],
    request: &'a Request,
    popularity: &'a [f64],
    now: Duration,
}

impl View<'_> {
    /// Seconds until the request would be done, and those that others would lose by it.
    fn cost(&self) -> f64 {
        let context = self.request.context.unwrap_or(CONTEXT);
        let gpu = &self.node.spec().gpu;
        let is_own =
            |runner: &&Runner| runner.model == self.request.model && runner.context == context;
        let runner = self.node.runners().iter().find(is_own);
        let mut peers: Vec<Rest> = runner.into_iter().flat_map(Runner::rests).collect();
        let waiting = self
            .node
            .waiting()
            .filter(|job| job.model == self.request.model && job.context == context);
        peers.extend(waiting.map(|job| Rest {
            prefill: f64::from(job.prompt.tokens()),
            output: f64::from(job.output),
            is_decoding: false,
        }));
        let others = self
            .node
            .runners()
            .iter()
            .filter(|runner| !is_own(runner) && runner.is_active());
        let others_prefill: f64 = others
            .clone()
            .map(|runner| {
                let effort = self.models.get(runner.model).map_or(1.0, Model::effort);
                runner.rests().map(|rest| rest.prefill).sum::<f64>() * effort / gpu.prefill
            })
            .sum();
        let others = others.count() as f64;

        let slowdown = match self.node.trouble() {
            Some(Kind::Slow(times)) => times,
            Some(Kind::Failing | Kind::Frozen | Kind::Gone) | None => 1.0,
        };
        let slots = self.model.slots(self.node.spec().slots);
        let count = peers.len();
        let together = (count + 1).min(slots) as f64;
        let share = (1.0 + SHARING * others) * self.model.effort() * slowdown;
        let prefill_rate = gpu.prefill / share;
        let decode_rate = gpu.decode / share / (1.0 + gpu.slope * (together - 1.0));
        let cached = runner.map_or(0, |runner| runner.cached(&self.request.prompt));
        let prefill = f64::from(self.request.prompt.tokens().saturating_sub(cached)) / prefill_rate;
        let decode = f64::from(self.request.output) / decode_rate;
        let own = prefill + decode;

        let slowing = gpu.slope / (1.0 + gpu.slope * together);
        let decoding = peers.iter().filter(|peer| peer.is_decoding);
        let lost =
            decoding.map(|peer| STALL * prefill + decode.min(peer.output / decode_rate) * slowing);
        let contention = lost.sum::<f64>() + OTHERS_LOSS * own * others;
        let queue = QUEUE_LOSS * own * (count + 1).saturating_sub(slots) as f64;

        let busy =
            peers.iter().map(|peer| peer.prefill).sum::<f64>() / prefill_rate + others_prefill;
        let wait = if count < slots {
            busy
        } else {
            line(&peers, slots, prefill_rate, decode_rate).max(busy)
        };
        let (load, eviction) = if runner.is_some() {
            (0.0, 0.0)
        } else {
            self.load(context)
        };
        let trouble = match self.node.trouble() {
            Some(Kind::Failing | Kind::Frozen | Kind::Gone) => TROUBLE,
            Some(Kind::Slow(_)) | None => 0.0,
        };
        load.max(wait) + own + contention + queue + eviction + trouble
    }

    /// Seconds until the model would be in memory, and what that costs those who want the models that must go.
    fn load(&self, context: u32) -> (f64, f64) {
        let gpu = &self.node.spec().gpu;
        let load_time = |at: usize| {
            self.models
                .get(at)
                .map_or(0.0, |model| model.load_time(gpu).as_secs_f64())
        };
        let mut seconds = 0.0;
        let mut ahead: Vec<(usize, u32)> = Vec::new();
        for (at, job) in self.node.waiting().enumerate() {
            let wants = (job.model, job.context);
            let is_hot = self
                .node
                .runners()
                .iter()
                .any(|runner| (runner.model, runner.context) == wants);
            if is_hot || ahead.contains(&wants) {
                continue;
            }
            ahead.push(wants);
            let rest = self
                .node
                .loaded_at()
                .filter(|_| at == 0)
                .map(|loaded| loaded.saturating_sub(self.now));
            seconds += rest.map_or_else(
                || load_time(job.model) + gpu.settle.as_secs_f64(),
                |rest| rest.as_secs_f64(),
            );
            if wants == (self.request.model, context) {
                return (seconds, 0.0);
            }
        }
        seconds += load_time(self.request.model);
        let Some(victim) = self.node.victim(self.request.model, context) else {
            return (seconds, 0.0);
        };
        seconds += gpu.settle.as_secs_f64();
        let effort = self.models.get(victim.model).map_or(1.0, Model::effort);
        let (prefill, output) = victim.rests().fold((0.0, 0.0), |(prefill, output), rest| {
            (prefill + rest.prefill, output + rest.output)
        });
        let parallel = 1.0 + gpu.slope * (victim.slots() - 1) as f64;
        seconds += effort
            * (prefill / gpu.prefill + output * parallel / (gpu.decode * victim.slots() as f64));
        let holds = |node: &&Node| {
            node.runners()
                .iter()
                .any(|runner| runner.model == victim.model)
        };
        let copies = self.nodes.iter().filter(holds).count().max(1) as f64;
        let rate = self
            .popularity
            .get(victim.model)
            .copied()
            .unwrap_or_default();
        let wanted = (EVICTION_WINDOW * rate).min(EVICTION_REQUESTS);
        (
            seconds,
            EVICTION * load_time(victim.model) * wanted / copies,
        )
    }
}

/// Seconds until a slot is free, those in the runner served in order.
fn line(peers: &[Rest], slots: usize, prefill_rate: f64, decode_rate: f64) -> f64 {
    let mut free_at = vec![0.0; slots];
    for peer in peers {
        if let Some(first) = free_at.iter_mut().min_by(|a, b| f64::total_cmp(a, b)) {
            *first += peer.prefill / prefill_rate + peer.output / decode_rate;
        }
    }
    free_at.into_iter().fold(f64::INFINITY, f64::min)
}
