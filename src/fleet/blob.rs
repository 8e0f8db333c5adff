//! Blobs: a file that goes to every backend of a create set while it comes in, and the question whether all have it.

use super::Answer;
use super::members::{self, Members};
use super::outcome::{self, Outcome, Rule, ask, combine, gather};
use crate::access::{Access, Ended};
use crate::call::Call;
use crate::config::Timeouts;
use crate::error::Error;
use crate::feed::{Feeder, feed};
use crate::health::Signal;
use crate::pool::{Backend, Lease};
use crate::state::State;
use crate::upstream::{self, Failure};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use std::pin::pin;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Answers whether all members have a blob, or gives it to all of them.
///
/// # Errors
/// When some failed, naming them, when the upload broke off, or when nobody is up.
pub async fn blob(state: &State, call: &mut Call, access: &mut Access) -> Result<Answer, Error> {
    let (sets, now) = (&state.create_sets, Instant::now());
    let members = sets.get_or_fix(access.client.ip, &state.pool, now, || members::up(state))?;
    members::note(access, &members);
    let connect = state.settings.timeouts.connect;
    let outcomes = if call.is_head() {
        gather(call, &members, connect, None).await
    } else {
        tee(call, &members, &state.settings.timeouts, access).await?
    };
    if outcomes.iter().all(Outcome::is_success) {
        // An upload may have taken longer than an idle set is kept.
        sets.fix(access.client.ip, &members, Instant::now());
    } else if !call.is_head() {
        sets.forget(access.client.ip);
    }
    let answer = if call.is_head() {
        all_or_none(&members, outcomes)
    } else {
        created_first(&members, outcomes)
    }?;
    access.ended = Ended::Complete;
    Ok(answer)
}

/// There is no blob if any member lacks it.
fn all_or_none(members: &Members, mut outcomes: Vec<Outcome>) -> Result<Answer, Error> {
    let lacking = outcomes.iter().position(Outcome::is_missing);
    match lacking.and_then(|at| outcomes.swap_remove(at).into_answer()) {
        Some(missing) => Ok(missing),
        None => combine(Rule::All, members, outcomes),
    }
}

/// The answer is that it is new if it was so for any member.
fn created_first(members: &Members, mut outcomes: Vec<Outcome>) -> Result<Answer, Error> {
    if outcomes.iter().all(Outcome::is_success) {
        outcomes.sort_by_key(|outcome| !outcome.has_status(StatusCode::CREATED));
    }
    combine(Rule::All, members, outcomes)
}

/// Gives an upload to all members at once.
///
/// A member that answers before the end drops out: it has the blob, or does not want it. One that is lost is asked
/// afterwards whether it has it, since a node that has it closes without reading, which may look like a loss. One that has
/// all of it and says nothing is given up when a call without thought would be.
async fn tee(
    call: &mut Call,
    members: &Members,
    timeouts: &Timeouts,
    access: &mut Access,
) -> Result<Vec<Outcome>, Error> {
    let (connect, control) = (timeouts.connect, timeouts.control);
    let Some(mut upload) = call.take_upload() else {
        return Err(Error::BodyBroken);
    };
    let mut feeders = Vec::new();
    // Dropped before the feeders, so that no backend is seen to fail because its feeder is gone.
    let mut sending = JoinSet::new();
    for (at, backend) in members.iter().enumerate() {
        let (feeder, feed) = feed(upload.size_hint());
        let (call, lease) = (call.fed(feed), backend.lease(Instant::now()));
        feeders.push(feeder);
        sending.spawn(async move { (at, send(call, lease, connect).await) });
    }
    let mut outcomes: Vec<_> = members.iter().map(|_| None).collect();
    let (mut ended, mut is_late) = (false, false);
    let mut late = pin!(sleep(Duration::MAX));
    loop {
        tokio::select! {
            frame = upload.frame(), if !ended => if let Some(frame) = frame {
                let frame = frame.map_err(|error| Error::of_body(&error))?;
                let chunk = frame.into_data().unwrap_or_default();
                access.bytes_in += chunk.len() as u64;
                feeders = pass(feeders, chunk).await;
            } else {
                ended = true;
                late.as_mut().reset(Instant::now() + control);
                for feeder in feeders.drain(..) {
                    feeder.end().await;
                }
            },
            sent = sending.join_next() => match sent {
                Some(Ok((at, outcome))) => {
                    if let Some(slot) = outcomes.get_mut(at) {
                        *slot = Some(outcome);
                    }
                }
                Some(Err(_)) => {}
                None => break,
            },
            () = &mut late, if ended => {
                is_late = true;
                break;
            }
        }
    }
    let missing = |backend: &Backend| {
        if !is_late {
            return Outcome::Lost("was given up".to_owned());
        }
        let late = Outcome::Late(control);
        backend.observe(Signal::Failed(late.reason()), Instant::now());
        late
    };
    let told = outcomes.into_iter().zip(members);
    Ok(told
        .map(|(outcome, backend)| outcome.unwrap_or_else(|| missing(backend)))
        .collect())
}

/// Passes a chunk to all that still take any, and returns those.
async fn pass(feeders: Vec<Feeder>, chunk: Bytes) -> Vec<Feeder> {
    let mut taking = Vec::with_capacity(feeders.len());
    for feeder in feeders {
        if chunk.is_empty() || feeder.chunk(chunk.clone()).await {
            taking.push(feeder);
        }
    }
    taking
}

/// Sends one member its share, and asks it for the blob if it was lost on the way.
async fn send(mut call: Call, lease: Lease, connect: Duration) -> Outcome {
    let backend = lease.backend();
    if members::is_down(backend) {
        return Outcome::Lost(backend.complaint());
    }
    let question = call.as_head();
    let sent = upstream::attempt(&mut call, &lease, connect).await;
    let mut blamed = false;
    if let Err(Failure::Lost(_)) = &sent {
        match ask(question, backend.lease(Instant::now()), connect).await {
            there if there.is_success() => return Outcome::Answered(Response::default()),
            Outcome::Answered(_) => {}
            Outcome::Lost(_) | Outcome::Late(_) => blamed = true,
        }
    }
    if !blamed {
        upstream::settle(&sent, &lease);
    }
    match sent {
        Ok(response) => outcome::read(&call, response, lease).await,
        Err(failure) => Outcome::of(&failure),
    }
}
