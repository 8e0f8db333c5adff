//! Pull and create: work of minutes that several backends do side by side, told to the client as that of one.

use super::members::{self, Members};
use super::merged::merge;
use super::outcome::{Rule, combine, gather};
use super::{Answer, Current, ask};
use crate::access::{Access, Ended};
use crate::call::Call;
use crate::error::Error;
use crate::reply::Source;
use crate::state::State;
use tokio::time::Instant;

/// Brings a model to all backends that are up, or to as many as are wanted.
///
/// # Errors
/// When nobody is up, or before the first line: all failed, or with `stream` off any did.
pub async fn pull(
    state: &State,
    current: &Current,
    call: &Call,
    access: &mut Access,
) -> Result<Answer, Error> {
    let members = members::pullers(state, call.demand.model.as_ref())?;
    grow(state, current, call, members, access).await
}

/// Makes a model on all backends that are up, or, if it is made of uploaded files, on those that were given them.
///
/// # Errors
/// As for [`pull`].
pub async fn create(
    state: &State,
    current: &Current,
    call: &Call,
    access: &mut Access,
) -> Result<Answer, Error> {
    let sets = &state.create_sets;
    let fixed = if ask::needs_blobs(call.body()) {
        sets.get(access.client.ip, &state.pool, Instant::now())
    } else {
        None
    };
    let members = match fixed {
        Some(members) => {
            // Whatever comes of it, the next model is made by those that are up then.
            sets.forget(access.client.ip);
            members
        }
        None => members::up(state)?,
    };
    grow(state, current, call, members, access).await
}

async fn grow(
    state: &State,
    current: &Current,
    call: &Call,
    members: Members,
    access: &mut Access,
) -> Result<Answer, Error> {
    members::note(access, &members);
    let connect = state.settings.timeouts.connect;
    let answer = if ask::wants_stream(call.body()) {
        merge(call, members, connect, current).await?
    } else {
        let outcomes = gather(call, &members, connect, Some(current)).await;
        combine(Rule::All, &members, outcomes)?
    };
    if matches!(answer.body(), Source::Own(_)) {
        access.ended = Ended::Complete;
    }
    Ok(answer)
}
