//! Requests that only one backend can answer: an account belongs to a node's own key.

use crate::call::Call;
use crate::pool::{Admit, Backend, Lease};
use crate::route::Action;
use crate::state::State;
use crate::wire::ModelKey;
use std::sync::Arc;
use tokio::time::Instant;

/// Whether a request goes to the pinned backend and nowhere else.
pub fn is_pinned(call: &Call) -> bool {
    match call.route.action {
        Action::Pin => true,
        Action::Pick => call.demand.model.as_ref().is_some_and(ModelKey::is_cloud),
        Action::Hello
        | Action::Version
        | Action::List(_)
        | Action::Any
        | Action::Change
        | Action::Pull
        | Action::Create
        | Action::Blob => false,
    }
}

/// Counts a request in on the pinned backend, unless it is in `tried` or cannot take any.
pub fn lease(state: &State, tried: &[u64], now: Instant) -> Option<Lease> {
    let pinned = find(state)?;
    let free = pinned.admits(Admit::Ejected, now) && !tried.contains(&pinned.id());
    free.then(|| pinned.lease(now))
}

/// Why the pinned backend cannot take a request.
pub fn explain(state: &State) -> String {
    let pin = &state.settings.models.pin;
    let why = find(state).map_or_else(|| "is not there".to_owned(), |pinned| pinned.complaint());
    format!("backend {pin}, which alone takes this request (models.pin), {why}")
}

pub(super) fn is_pin(state: &State, backend: &Backend) -> bool {
    backend.name() == state.settings.models.pin
}

fn find(state: &State) -> Option<&Arc<Backend>> {
    let mut backends = state.pool.backends().iter();
    backends.find(|backend| is_pin(state, backend))
}
