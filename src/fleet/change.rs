//! Delete, copy and unload: done on every backend that holds the model, or it would still be there afterwards.

use super::outcome::{Rule, combine, gather};
use super::{Answer, Current, ask, members};
use crate::access::{Access, Ended};
use crate::call::Call;
use crate::demand::Intent;
use crate::error::Error;
use crate::state::State;
use crate::wire::ModelKey;
use std::sync::Arc;
use tokio::time::Instant;

/// Has a change done by all that hold the model. Where nobody does, one backend says so in its own words.
///
/// # Errors
/// When some could not do it, or nobody can be asked.
pub async fn change(
    state: &State,
    current: &Current,
    call: &mut Call,
    access: &mut Access,
) -> Result<Answer, Error> {
    let unload = call.demand.intent == Intent::Unload;
    if call.route.label == "/api/copy"
        && let Some(source) = ask::source(call.body())
    {
        call.demand.model = ModelKey::parse(&source);
        access.set_model(source);
    }
    let mut members = members::holders(state, call.demand.model.as_ref());
    if members.is_empty() {
        let lease = state.choose(&call.demand, &[], Instant::now());
        let lease = lease
            .ok_or_else(|| Error::NoBackend(state.explain_refusal(call.demand.model.as_ref())))?;
        members.push(Arc::clone(lease.backend()));
    }
    if members.iter().all(|backend| members::is_down(backend)) {
        return Err(Error::NoBackend(
            state.explain_refusal(call.demand.model.as_ref()),
        ));
    }
    members::note(access, &members);
    let look = (!unload).then_some(current);
    let outcomes = gather(call, &members, state.settings.timeouts.connect, look).await;
    if outcomes.iter().any(super::outcome::Outcome::is_success) {
        members::doubt(state, &members);
    }
    let rule = if unload { Rule::Any } else { Rule::Holders };
    let answer = combine(rule, &members, outcomes)?;
    access.ended = Ended::Complete;
    Ok(answer)
}
