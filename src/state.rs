//! All that one configuration decides, swapped whole by a reload and read once by each request.

use crate::balance::Strategy;
use crate::config::{ContentHash, Settings};
use crate::demand::Demand;
use crate::fleet::CreateSets;
use crate::pool::{Choice, Lease, Pool};
use crate::queue::Queue;
use crate::retries::Retries;
use crate::wire::ModelKey;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

/// One configuration at work.
#[derive(Debug)]
pub struct State {
    /// The backends.
    pub pool: Pool,
    /// What was configured.
    pub settings: Settings,
    /// A hash of the configuration's text, to tell one from another.
    pub config_hash: ContentHash,
    /// When it came into force.
    pub loaded_at: SystemTime,
    /// Which backends a model is being made on, for each client that makes one.
    pub create_sets: Arc<CreateSets>,
    /// Requests that wait for a backend.
    pub queue: Arc<Queue>,
    /// Requests that are sent once more.
    pub retries: Arc<Retries>,
    strategy: Arc<dyn Strategy>,
}

/// Backends that an error names before it only counts the rest.
const NAMED_BACKENDS: usize = 16;

impl State {
    /// The state of a first configuration. All chance comes from the seed.
    pub fn first(settings: Settings, config_hash: ContentHash, seed: u64, now: Instant) -> Self {
        let strategy = (settings.strategy.build)(seed).into();
        Self::build(settings, config_hash, strategy, None, seed, now)
    }

    /// The state after a reload. What is known of backends that stay is kept, and so is the strategy with its turns and
    /// all it has learnt, unless another one was configured.
    pub fn next(
        &self,
        settings: Settings,
        config_hash: ContentHash,
        seed: u64,
        now: Instant,
    ) -> Self {
        let strategy = if settings.strategy == self.settings.strategy {
            Arc::clone(&self.strategy)
        } else {
            (settings.strategy.build)(seed).into()
        };
        Self::build(settings, config_hash, strategy, Some(self), seed, now)
    }

    fn build(
        settings: Settings,
        config_hash: ContentHash,
        strategy: Arc<dyn Strategy>,
        before: Option<&Self>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let known = before.map(|before| &before.pool);
        let pool = Pool::build(&settings.backends, settings.health, known, now);
        let limit = settings.queue.limit;
        let queue = if let Some(before) = before {
            before.queue.set_limit(limit);
            Arc::clone(&before.queue)
        } else {
            Arc::new(Queue::new(limit, Arc::clone(pool.bell()), seed))
        };
        Self {
            pool,
            settings,
            config_hash,
            loaded_at: SystemTime::now(),
            create_sets: before.map_or_else(Arc::default, |before| Arc::clone(&before.create_sets)),
            queue,
            retries: before.map_or_else(Arc::default, |before| Arc::clone(&before.retries)),
            strategy,
        }
    }

    /// Chooses a backend that is not in `tried` and counts the request in. `None` if nobody can take it.
    pub fn choose(&self, demand: &Demand, tried: &[u64], now: Instant) -> Option<Lease> {
        self.pool.choose(&*self.strategy, demand, tried, now)
    }

    /// The same for a request that nobody waits before, unless all backends are full.
    pub fn choose_unless_full(&self, demand: &Demand, tried: &[u64], now: Instant) -> Choice {
        self.pool
            .choose_unless_full(&*self.strategy, demand, tried, now)
    }

    /// The same among the backends that are not full.
    pub fn choose_with_room(&self, demand: &Demand, tried: &[u64], now: Instant) -> Choice {
        self.pool
            .choose_with_room(&*self.strategy, demand, tried, now)
    }

    /// Why nobody can take a request, naming each backend that might have: for a model its holders, else all.
    pub fn explain_refusal(&self, model: Option<&ModelKey>) -> String {
        let might = |backend: &&Arc<crate::pool::Backend>| match model {
            Some(model) if self.pool.is_held(model) => backend
                .inventory()
                .is_some_and(|inventory| inventory.holds(model)),
            _ => true,
        };
        let suspects: Vec<_> = self.pool.backends().iter().filter(might).collect();
        let mut text = match model {
            Some(model) if self.pool.is_held(model) => {
                format!("no backend that has model {model} can take this request")
            }
            _ => "no backend can take this request".to_owned(),
        };
        for (at, backend) in suspects.iter().take(NAMED_BACKENDS).enumerate() {
            let separator = if at == 0 { ": " } else { "; " };
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "{separator}{} at {} {}",
                backend.name(),
                backend.spec().origin,
                backend.complaint()
            );
        }
        if let Some(rest) = suspects
            .len()
            .checked_sub(NAMED_BACKENDS)
            .filter(|rest| *rest > 0)
        {
            let _ = write!(text, "; and {rest} more");
        }
        text
    }
}
