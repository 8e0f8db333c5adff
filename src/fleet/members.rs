//! Who takes part.

use crate::access::Access;
use crate::error::Error;
use crate::fleet::pin;
use crate::health;
use crate::pool::{Admit, Backend};
use crate::state::State;
use crate::wire::ModelKey;
use http::HeaderValue;
use std::sync::Arc;
use tokio::time::Instant;

/// Names that the log and the headers show before they only count the rest.
const SHOWN: usize = 16;

/// Backends that take part in one request, in the configuration's order; at least one.
pub(super) type Members = Vec<Arc<Backend>>;

/// All that hold a model as far as is known, or whose models are not known; empty if nobody does.
///
/// Backends that drain are among them: they get no new work, but what they hold has to change with the rest. So are those
/// that are down and hold it, which cannot be done and has to be told.
pub(super) fn holders(state: &State, model: Option<&ModelKey>) -> Members {
    let Some(model) = model else {
        return Vec::new();
    };
    let holds = |backend: &&Arc<Backend>| match backend.inventory() {
        Some(inventory) => inventory.holds(model),
        None => !is_down(backend),
    };
    let holders: Members = state
        .pool
        .backends()
        .iter()
        .filter(holds)
        .cloned()
        .collect();
    match holders.iter().find(|backend| !is_down(backend)) {
        Some(first) if state.settings.models.shared_storage => vec![Arc::clone(first)],
        _ => holders,
    }
}

/// All that may be given new work. With one directory for all, one of them.
///
/// # Errors
/// When there is none.
pub(super) fn up(state: &State) -> Result<Members, Error> {
    let now = Instant::now();
    let admitted = |admit: Admit| -> Members {
        let backends = state.pool.backends().iter();
        backends
            .filter(|backend| backend.admits(admit, now))
            .cloned()
            .collect()
    };
    let mut up = admitted(Admit::Recovering);
    if up.is_empty() {
        up = admitted(Admit::Ejected);
    }
    if state.settings.models.shared_storage {
        let pinned = up.iter().find(|backend| pin::is_pin(state, backend));
        up = pinned.or(up.first()).cloned().into_iter().collect();
    }
    if up.is_empty() {
        return Err(Error::NoBackend(state.explain_refusal(None)));
    }
    Ok(up)
}

/// Those that a model is pulled to: all that are up, or as many as are wanted, those that hold it first, then those with
/// the fewest models.
///
/// # Errors
/// When nobody is up.
pub(super) fn pullers(state: &State, model: Option<&ModelKey>) -> Result<Members, Error> {
    let mut members = up(state)?;
    let wanted = state.settings.models.replicas;
    if wanted == 0 || wanted >= members.len() {
        return Ok(members);
    }
    members.sort_by_cached_key(|backend| match backend.inventory() {
        Some(inventory) if model.is_some_and(|model| inventory.holds(model)) => (0, 0),
        Some(inventory) => (1, inventory.names().len()),
        None => (2, 0),
    });
    members.truncate(wanted);
    Ok(members)
}

/// Notes in the record of the request who took part.
pub(super) fn note(access: &mut Access, members: &[Arc<Backend>]) {
    let mut names: Vec<_> = members.iter().take(SHOWN).map(|one| one.name()).collect();
    let rest = format!("{} more", members.len().saturating_sub(SHOWN));
    if members.len() > SHOWN {
        names.push(&rest);
    }
    access.backend = HeaderValue::try_from(names.join("+")).ok();
    access.attempts = u32::try_from(members.len()).unwrap_or(u32::MAX);
}

/// Whether checks fail.
pub(super) fn is_down(backend: &Backend) -> bool {
    backend.condition().0 == health::State::Down
}

/// Asks the prober to look again at all backends that may show what was changed on these.
pub(super) fn doubt(state: &State, members: &[Arc<Backend>]) {
    let touched = if state.settings.models.shared_storage {
        state.pool.backends()
    } else {
        members
    };
    for backend in touched {
        backend.doubt_inventory();
    }
}
