//! Lets a model load end although the client that set it off has left.
//!
//! Ollama sends nothing before a model is loaded, and throws the load away when its client leaves. A client that gives up
//! after thirty seconds and tries again so never gets a model that loads for a minute. Here the request of such a client
//! stays with its backend until the model is in memory, and is then dropped: the next try finds it loaded.

use crate::call::Call;
use crate::link::Link;
use crate::pool::{Backend, Lease};
use crate::relief::Relief;
use crate::state::State;
use crate::survey;
use crate::upstream::{self, Failure};
use crate::wire::ModelKey;
use http::Response;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often the backend is asked whether the load has ended.
const ASK: Duration = Duration::from_millis(500);

/// An answer, and the lease of the backend that gives it.
type Exchanged = Result<(Lease, Response<Link>), Failure>;

/// Sends a call as [`upstream::exchange_until_body`] does, under guard if its backend would have to load the model for
/// it. Dropping the future then does not drop the request at once.
///
/// With `relief`, the request is taken back if the backend goes down, and then at once, under guard or not: the next try
/// will not find the model there, since nothing is sent to a backend that is down.
///
/// # Errors
/// When no answer came.
pub async fn exchange(
    state: &State,
    call: &mut Call,
    lease: Lease,
    relief: Option<Relief<'_>>,
) -> Exchanged {
    let settings = &state.settings;
    if let Some((model, mut again)) = guarded(state, call, &lease) {
        let timeouts = settings.timeouts;
        let backend = Arc::clone(lease.backend());
        let exchange = Box::pin(async move {
            let outcome = upstream::exchange_until_body(&mut again, &lease, &timeouts).await;
            outcome.map(|response| (lease, response))
        });
        let mut guard = Guard {
            exchange: Some(exchange),
            backend,
            model,
            limit: settings.load_guard,
        };
        let outcome = Relief::unless_down(relief, &mut guard).await;
        guard.exchange = None;
        return outcome;
    }
    let response = {
        let exchange = pin!(upstream::exchange_until_body(
            call,
            &lease,
            &settings.timeouts
        ));
        Relief::unless_down(relief, exchange).await?
    };
    Ok((lease, response))
}

/// The model to be loaded and a call of its own for the guard, if there is anything to guard.
fn guarded(state: &State, call: &Call, lease: &Lease) -> Option<(ModelKey, Box<Call>)> {
    let model = call.demand.model.as_ref()?;
    let backend = lease.backend();
    let would_load =
        call.route.loads_models() && backend.tells_loaded() && !backend.is_resident(model);
    let on = !state.settings.load_guard.is_zero() && call.is_replayable();
    (would_load && on).then(|| (model.clone(), Box::new(call.again())))
}

/// An exchange that may be needed after its client has left.
struct Guard<F: Future<Output = Exchanged> + Send + 'static> {
    /// `None` once it is over.
    exchange: Option<Pin<Box<F>>>,
    backend: Arc<Backend>,
    model: ModelKey,
    limit: Duration,
}

impl<F: Future<Output = Exchanged> + Send> Future for Guard<F> {
    type Output = Exchanged;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exchanged> {
        let Some(exchange) = &mut self.exchange else {
            return Poll::Pending;
        };
        let polled = exchange.as_mut().poll(cx);
        if polled.is_ready() {
            self.exchange = None;
        }
        polled
    }
}

impl<F: Future<Output = Exchanged> + Send> Drop for Guard<F> {
    fn drop(&mut self) {
        let Some(exchange) = self.exchange.take() else {
            return;
        };
        // Without a runtime the process is over, and the load with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (backend, model, limit) = (Arc::clone(&self.backend), self.model.clone(), self.limit);
        if !backend.begin_guard(&model) {
            return; // another request keeps the same load alive
        }
        runtime.spawn(async move {
            tracing::info!(backend = backend.name(), %model, "the client left, its load goes on");
            let over = async {
                tokio::select! {
                    _ = exchange => {}
                    () = loaded(&backend, &model) => {}
                }
            };
            if timeout(limit, over).await.is_err() {
                tracing::warn!(backend = backend.name(), %model, "the load took longer than load_guard");
            }
            backend.end_guard(&model);
        });
    }
}

/// Waits until the backend says that the model is in memory. Asks first at once: it may be that the request waited for
/// its turn and not for a load, and then nobody needs it any more.
async fn loaded(backend: &Backend, model: &ModelKey) {
    loop {
        // A backend that cannot tell just now is asked again.
        let told = survey::loaded(backend).await;
        if told.is_ok() && backend.is_resident(model) {
            return;
        }
        sleep(ASK).await;
    }
}
