//! Asks every backend, again and again, whether it lives and which models it has.
//!
//! One task keeps the agenda of all backends and starts each question as a task of its own, so that a node that hangs
//! delays no other.

use crate::health::{self, Signal};
use crate::pool::Backend;
use crate::state::State;
use crate::survey;
use crate::upstream::Failure;
use arc_swap::ArcSwap;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the agenda is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How far a backend's questions are moved about, so that many do not keep step: this share of the interval, both ways.
const JITTER: f64 = 0.2;
/// Between two looks at what a backend with requests has in memory; without any the models' refresh will do.
const LOADED_REST: Duration = Duration::from_secs(2);
/// The same per backend of the fleet, where it comes to more: that very many are asked is not to be felt by requests, and
/// how the memory of a node stands is reckoned between two looks.
const LOADED_REST_EACH: Duration = Duration::from_millis(10);
/// Between two looks at the models of a backend that somebody doubts.
const DOUBT_REST: Duration = Duration::from_secs(1);

/// When one question was asked last, and whether the answer is still out.
#[derive(Debug)]
struct Item {
    asked: Option<Instant>,
    out: bool,
    /// What the interval is multiplied by this time.
    jitter: f64,
}

/// The questions for one backend.
#[derive(Debug, Default)]
struct Agenda {
    check: Item,
    tags: Item,
    loaded: Item,
}

/// How long a backend that does well is left alone between two questions.
#[derive(Debug, Clone, Copy)]
struct Rests {
    models: Duration,
    /// If there were requests.
    loaded: Duration,
}

impl Rests {
    fn of(backends: usize, models: Duration) -> Self {
        let backends = u32::try_from(backends).unwrap_or(u32::MAX);
        Self {
            models,
            loaded: LOADED_REST.max(LOADED_REST_EACH * backends),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Question {
    Check,
    Tags,
    Loaded,
}

struct Finding {
    backend: Arc<Backend>,
    question: Question,
    outcome: Result<(), Failure>,
}

/// Probes the backends of whatever state is current, for ever, and says in `first_round` when each was asked once. All
/// chance comes from the seed. Dropping the future ends the questions that are under way.
pub async fn run(state: Arc<ArcSwap<State>>, seed: u64, first_round: watch::Sender<bool>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut agendas: HashMap<u64, Agenda> = HashMap::new();
    let mut asking: JoinSet<Finding> = JoinSet::new();
    let mut known = state.load_full();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let current = state.load_full();
                if !Arc::ptr_eq(&current, &known) {
                    let ids: HashSet<_> = current.pool.backends().iter().map(|backend| backend.id()).collect();
                    agendas.retain(|id, _| ids.contains(id));
                    // Built while the old one was still taught, it may have missed a lesson that will not come again.
                    current.pool.recall();
                    known = Arc::clone(&current);
                }
                let now = Instant::now();
                let rests = Rests::of(current.pool.backends().len(), current.settings.models_refresh);
                for backend in current.pool.backends() {
                    let agenda = agendas.entry(backend.id()).or_default();
                    for question in agenda.due(backend, rests, now) {
                        agenda.item(question).begin(now, &mut random);
                        asking.spawn(ask(Arc::clone(&state), Arc::clone(backend), question));
                    }
                }
            }
            Some(Ok(Finding { backend, question, outcome })) = asking.join_next() => {
                if let Some(agenda) = agendas.get_mut(&backend.id()) {
                    agenda.item(question).out = false;
                    if is_back(&backend, question, outcome) {
                        // It may have come back with other models.
                        agenda.tags.asked = None;
                        agenda.loaded.asked = None;
                    }
                }
                if asking.is_empty() {
                    first_round.send_replace(true);
                }
            }
        }
    }
}

async fn ask(state: Arc<ArcSwap<State>>, backend: Arc<Backend>, question: Question) -> Finding {
    let outcome = match question {
        Question::Check => survey::check(&backend).await,
        Question::Tags => survey::tags(&state, &backend).await,
        Question::Loaded => survey::loaded(&backend).await,
    };
    Finding {
        backend,
        question,
        outcome,
    }
}

/// Takes in what a question found, and says whether it brought the backend back into rotation.
fn is_back(backend: &Backend, question: Question, outcome: Result<(), Failure>) -> bool {
    let now = Instant::now();
    match (question, outcome) {
        // What the proxy itself lacks says nothing of the backend.
        (Question::Check, Err(Failure::Exhausted(_)))
        | (Question::Tags | Question::Loaded, Ok(())) => false,
        (Question::Check, outcome) => {
            backend.links().prune(now);
            let failed = |failure: Failure| Signal::CheckFailed(failure.to_string());
            let signal = outcome.map_or_else(failed, |()| Signal::CheckPassed);
            backend.observe(signal, now) == Some(health::State::Up)
        }
        (Question::Tags | Question::Loaded, Err(reason)) => {
            tracing::debug!(backend = backend.name(), %reason, "cannot list models");
            false
        }
    }
}

impl Agenda {
    fn item(&mut self, question: Question) -> &mut Item {
        match question {
            Question::Check => &mut self.check,
            Question::Tags => &mut self.tags,
            Question::Loaded => &mut self.loaded,
        }
    }

    fn due(
        &self,
        backend: &Backend,
        rests: Rests,
        now: Instant,
    ) -> impl Iterator<Item = Question> + use<> {
        let reachable = !backend.is_down();
        let doubted = backend.is_inventory_doubted() && self.tags.is_due(DOUBT_REST, now);
        // The check's interval is asked for anew each time: one that requests have just found to be down is asked sooner.
        let check = self.check.is_due(backend.check_interval(), now);
        let tags = doubted || (reachable && self.tags.is_due(rests.models, now));
        let loaded = reachable
            && self.loaded.is_due(rests.loaded, now)
            && backend.begin_asking_loaded(rests.models, now);
        let all = [
            (check, Question::Check),
            (tags, Question::Tags),
            (loaded, Question::Loaded),
        ];
        all.into_iter()
            .filter_map(|(due, question)| due.then_some(question))
    }
}

impl Item {
    fn is_due(&self, interval: Duration, now: Instant) -> bool {
        !self.out
            && self
                .asked
                .is_none_or(|asked| now >= asked + interval.mul_f64(self.jitter))
    }

    fn begin(&mut self, now: Instant, random: &mut fastrand::Rng) {
        *self = Self {
            asked: Some(now),
            out: true,
            jitter: 1.0 + JITTER * (2.0 * random.f64() - 1.0),
        };
    }
}

impl Default for Item {
    fn default() -> Self {
        Self {
            asked: None,
            out: false,
            jitter: 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ContentHash, Settings};
    use crate::mock::{Model, Node, Profile};
    use crate::wire::ModelKey;

    #[test]
    fn what_is_in_memory_is_asked_of_at_most_a_hundred_a_second() {
        let loaded = |backends| Rests::of(backends, Duration::ZERO).loaded;
        assert_eq!([1, 200].map(loaded), [LOADED_REST; 2]);
        assert_eq!(loaded(1000), Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_pool_that_was_built_before_a_backend_spoke_learns_what_it_said() {
        let profile = Profile {
            models: vec![Model::named("m")],
            ..Profile::default()
        };
        let node = Node::start("127.0.0.1:0".parse().unwrap(), profile)
            .await
            .unwrap();
        let text = format!("[[backend]]\nurl = \"{}\"\n", node.url());
        let settings = || Settings::parse(&text, "test.toml").unwrap();
        let (hash, now) = (ContentHash::of(&text), Instant::now());
        let first = State::first(settings(), hash, 7, now);
        let next = Arc::new(first.next(settings(), hash, 7, now));
        let state = Arc::new(ArcSwap::from_pointee(first));
        let (asked, mut first_round) = watch::channel(false);
        let prober = tokio::spawn(run(Arc::clone(&state), 7, asked));
        first_round.wait_for(|done| *done).await.unwrap();
        let model = ModelKey::parse("m").unwrap();
        assert!(state.load().pool.is_held(&model));
        assert!(!next.pool.is_held(&model));
        state.store(Arc::clone(&next));
        let learning = async {
            while !next.pool.is_held(&model) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), learning)
            .await
            .expect("the new pool knows the model");
        prober.abort();
    }
}
