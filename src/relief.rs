//! Takes a request back from a backend that goes down before the head of its answer has come, if another can do the work.

use crate::call::Call;
use crate::pool::{Backend, Pool};
use crate::upstream::Failure;
use crate::wire::ModelKey;
use std::future::pending;
use std::sync::Arc;
use tokio::time::Instant;

/// A request that waits for a backend, and who else may be asked.
pub struct Relief<'a> {
    pool: &'a Pool,
    backend: Arc<Backend>,
    model: Option<ModelKey>,
    /// Where it was sent before, this backend included.
    tried: &'a [u64],
}

impl<'a> Relief<'a> {
    /// `None` for what must not be sent twice: the backend may have begun with it.
    pub fn of(
        call: &Call,
        pool: &'a Pool,
        backend: &Arc<Backend>,
        tried: &'a [u64],
    ) -> Option<Self> {
        call.is_replayable().then(|| Self {
            pool,
            backend: Arc::clone(backend),
            model: call.demand.model.clone(),
            tried,
        })
    }

    /// Gives a future's outcome, unless the backend is down and another one that holds the model does well: then that
    /// failure, which counts against the backend, and drops the future.
    ///
    /// Looks again at each further check that fails. Where nobody else can do the work it goes on waiting: a node may fail
    /// checks while it loads a large model, and answer all the same.
    pub async fn unless_down<T>(
        relief: Option<Self>,
        exchange: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let needed = async {
            match &relief {
                Some(relief) => relief.needed().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = exchange => outcome,
            failure = needed => Err(failure),
        }
    }

    async fn needed(&self) -> Failure {
        self.backend
            .until_troubled(|| {
                self.backend.is_down()
                    && (self.pool).has_stand_in(self.model.as_ref(), self.tried, Instant::now())
            })
            .await;
        self.backend.blame(Instant::now());
        Failure::Lost("it went down".to_owned())
    }
}
