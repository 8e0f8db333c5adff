//! The choice of someone who knows all: the true speeds, the lengths of answers to come, what every cache holds.
//!
//! It is greedy, so a strategy may be better now and then; but a strategy that comes near it knows what matters.

use super::fleet::Setup;
use super::model::{CONTEXT, Model};
use super::node::Node;
use super::request::Request;
use super::runner::Runner;
use super::trouble::Kind;
use crate::balance::score;
use crate::knowledge::{Fit, Outlook, Peer, Work};
use smallvec::SmallVec;
use std::time::Duration;

/// What it is called in results.
pub const NAME: &str = "clairvoyant";

/// What a model that must go costs, in loads of it at the rate at which it is wanted.
const EVICTION: f64 = 10.0;
/// Seconds within which a request for an evicted model counts, and how many of them do at most.
const EVICTION_WINDOW: f64 = 30.0;
const EVICTION_REQUESTS: f64 = 6.0;

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
        (at, score(&view.work(), &view.outlook(), 0.0).total())
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
    fn work(&self) -> Work {
        Work {
            prompt: f64::from(self.request.prompt.tokens()),
            output: f64::from(self.request.output),
        }
    }

    fn outlook(&self) -> Outlook {
        let context = self.request.context.unwrap_or(CONTEXT);
        let gpu = &self.node.spec().gpu;
        let is_own =
            |runner: &&Runner| runner.model == self.request.model && runner.context == context;
        let runner = self.node.runners().iter().find(is_own);
        let mut peers: SmallVec<[Peer; 8]> = runner.into_iter().flat_map(Runner::rests).collect();
        let waiting = self
            .node
            .waiting()
            .filter(|job| job.model == self.request.model && job.context == context);
        peers.extend(waiting.map(|job| Peer {
            prefill: f64::from(job.prompt.tokens()),
            output: f64::from(job.output),
            is_decoding: false,
        }));
        let others = self
            .node
            .runners()
            .iter()
            .filter(|runner| !is_own(runner) && runner.is_active());
        let seconds = |runner: &Runner| {
            let effort = self.models.get(runner.model).map_or(1.0, Model::effort);
            runner.rests().map(|rest| rest.prefill).sum::<f64>() * effort / gpu.prefill
        };
        let slowdown = match self.node.trouble() {
            Some(Kind::Slow(times)) => times,
            Some(Kind::Failing | Kind::Frozen | Kind::Gone) | None => 1.0,
        };
        let effort = self.model.effort() * slowdown;
        let (load, eviction) = match runner {
            Some(_) => (0.0, 0.0),
            None => self.load(context),
        };
        Outlook {
            prefill: gpu.prefill / effort,
            decode: gpu.decode / effort,
            slope: gpu.slope,
            slots: self.model.slots(self.node.spec().slots),
            peers,
            others: others.clone().count(),
            others_prefill: others.map(seconds).sum(),
            cached: f64::from(runner.map_or(0, |runner| runner.cached(&self.request.prompt))),
            load,
            fit: if runner.is_some() {
                Fit::Hot
            } else {
                Fit::Cold
            },
            eviction,
            is_stuck: is_hopeless(self.node.trouble()),
            ..Outlook::default()
        }
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

/// Whether nothing that the node is given now would be answered.
fn is_hopeless(trouble: Option<Kind>) -> bool {
    match trouble {
        Some(Kind::Failing | Kind::Frozen | Kind::Gone) => true,
        Some(Kind::Slow(_)) | None => false,
    }
}
