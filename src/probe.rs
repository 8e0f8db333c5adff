//! Asks every backend whether it lives and which models it has.
//!
//! One task keeps the agenda of all backends and starts each question as a task of its own, so that a node that hangs
//! delays no other. Questions use connections of their own: an exhausted pool says nothing of a node's health.

use crate::health::{self, Signal};
use crate::pool::{Backend, Inventory};
use crate::state::State;
use crate::upstream;
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
/// A list of models may take long: a busy Ollama answers when its scheduler lets it.
const TAGS_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at the models of a backend that somebody doubts.
const DOUBT_REST: Duration = Duration::from_secs(1);
/// The longest answers that are read, in bytes.
const VERSION_BYTES: usize = 64 << 10;
const TAGS_BYTES: usize = 16 << 20;

/// What is due for one backend, and what is under way.
#[derive(Debug)]
struct Agenda {
    last_check: Option<Instant>,
    /// What the interval is multiplied by this time.
    jitter: f64,
    next_tags: Instant,
    tags_allowed: Instant,
    checking: bool,
    listing: bool,
}

enum Finding {
    Check(Arc<Backend>, Result<(), String>),
    Tags(Arc<Backend>, Result<Inventory, String>),
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
                let now = Instant::now();
                let current = state.load_full();
                if !Arc::ptr_eq(&current, &known) {
                    let ids: HashSet<_> = current.pool.backends().iter().map(|backend| backend.id()).collect();
                    agendas.retain(|id, _| ids.contains(id));
                    known = Arc::clone(&current);
                }
                for backend in current.pool.backends() {
                    let agenda = agendas.entry(backend.id()).or_insert_with(|| Agenda::due(now));
                    ask_what_is_due(&mut asking, agenda, backend, now);
                }
            }
            Some(Ok(finding)) = asking.join_next() => {
                let now = Instant::now();
                let current = state.load_full();
                match finding {
                    Finding::Check(backend, outcome) => {
                        backend.links().prune(now);
                        let signal = outcome.map_or_else(Signal::CheckFailed, |()| Signal::CheckPassed);
                        let came_up = backend.observe(signal, now) == Some(health::State::Up);
                        let Some(agenda) = agendas.get_mut(&backend.id()) else {
                            continue;
                        };
                        agenda.checking = false;
                        agenda.last_check = Some(now);
                        agenda.jitter = jitter(&mut random);
                        if came_up {
                            // It may have come back with other models.
                            agenda.next_tags = now;
                        }
                    }
                    Finding::Tags(backend, outcome) => {
                        let Some(agenda) = agendas.get_mut(&backend.id()) else {
                            continue;
                        };
                        agenda.listing = false;
                        agenda.next_tags = now + current.settings.models_refresh.mul_f64(jitter(&mut random));
                        match outcome {
                            Ok(inventory) => current.pool.learn(&backend, inventory),
                            Err(reason) => tracing::debug!(backend = backend.name(), reason, "cannot list models"),
                        }
                    }
                }
                if asking.is_empty() {
                    first_round.send_replace(true);
                }
            }
        }
    }
}

impl Agenda {
    fn due(now: Instant) -> Self {
        Self {
            last_check: None,
            jitter: 1.0,
            next_tags: now,
            tags_allowed: now,
            checking: false,
            listing: false,
        }
    }
}

fn ask_what_is_due(
    asking: &mut JoinSet<Finding>,
    agenda: &mut Agenda,
    backend: &Arc<Backend>,
    now: Instant,
) {
    // Asked anew each time, since a backend that requests have just found to be down is asked sooner.
    let interval = || backend.check_interval().mul_f64(agenda.jitter);
    if !agenda.checking
        && agenda
            .last_check
            .is_none_or(|last| now >= last + interval())
    {
        agenda.checking = true;
        let backend = Arc::clone(backend);
        asking.spawn(async move {
            let outcome = check(&backend).await;
            Finding::Check(backend, outcome)
        });
    }
    let doubted = backend.is_inventory_doubted() && now >= agenda.tags_allowed;
    if !agenda.listing && (doubted || now >= agenda.next_tags) {
        agenda.listing = true;
        agenda.tags_allowed = now + DOUBT_REST;
        backend.settle_doubt();
        let backend = Arc::clone(backend);
        asking.spawn(async move {
            let outcome = list(&backend).await;
            Finding::Tags(backend, outcome)
        });
    }
}

async fn check(backend: &Backend) -> Result<(), String> {
    let origin = &backend.spec().origin;
    let (status, _) = upstream::get(
        origin,
        "/api/version",
        backend.check_timeout(),
        VERSION_BYTES,
    )
    .await?;
    if status.is_server_error() {
        Err(format!("answered {} to a check", status.as_u16()))
    } else {
        Ok(())
    }
}

/// Asks a backend which models it has.
///
/// # Errors
/// With a text for people.
pub async fn list(backend: &Backend) -> Result<Inventory, String> {
    let (status, body) = upstream::get(
        &backend.spec().origin,
        "/api/tags",
        TAGS_TIMEOUT,
        TAGS_BYTES,
    )
    .await?;
    if !status.is_success() {
        return Err(format!("answered {} to /api/tags", status.as_u16()));
    }
    Inventory::from_tags(&body)
        .map_err(|error| format!("its list of models cannot be read: {error}"))
}

fn jitter(random: &mut fastrand::Rng) -> f64 {
    1.0 + JITTER * (2.0 * random.f64() - 1.0)
}
