//! One request to several backends, and the one answer that is made of theirs.

use super::members::{Members, doubt, is_down};
use super::{Answer, Current};
use crate::call::Call;
use crate::config::duration_text;
use crate::error::Error;
use crate::header;
use crate::link::Link;
use crate::pool::{Backend, Lease};
use crate::reply::Source;
use crate::survey;
use crate::upstream::{self, Failure};
use bytes::Bytes;
use http::{Response, StatusCode};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Backends that are asked at one time.
const AT_ONCE: usize = 32;
/// The longest answer that is read whole, in bytes.
const ANSWER_BYTES: usize = 1 << 20;
/// How long a backend that has just changed may take to say what it holds now; else it is asked later.
const LOOK: Duration = Duration::from_secs(2);
/// How much of a backend's error text an error that names several backends shows, in characters.
const REASON_CHARS: usize = 300;
/// Failures that one error tells before it only counts the rest.
const REASONS: usize = 16;

/// How one backend took a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// With an answer.
    Answered(Response<Bytes>),
    /// Without one, and why.
    Lost(String),
    /// It did not answer in the time that there is for an answer.
    Late(Duration),
}

impl Outcome {
    /// That of a backend that gave no answer, to follow its name.
    pub(super) fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Connect { reason, .. } => Self::Lost(format!("cannot be reached: {reason}")),
            Failure::Lost(reason) => Self::Lost(format!("broke off: {reason}")),
            Failure::Late(limit) => Self::Late(*limit),
            Failure::Client | Failure::Exhausted(_) => Self::Lost(failure.to_string()),
        }
    }

    pub(super) fn is_success(&self) -> bool {
        matches!(self, Self::Answered(answer) if answer.status().is_success())
    }

    pub(super) fn is_missing(&self) -> bool {
        self.has_status(StatusCode::NOT_FOUND)
    }

    pub(super) fn has_status(&self, status: StatusCode) -> bool {
        matches!(self, Self::Answered(answer) if answer.status() == status)
    }

    /// The answer as it is, for the client.
    pub(super) fn into_answer(self) -> Option<Answer> {
        match self {
            Self::Answered(answer) => Some(answer.map(Source::Own)),
            Self::Lost(_) | Self::Late(_) => None,
        }
    }

    /// What went wrong, for people.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Lost(reason) => reason.clone(),
            Self::Late(limit) => format!("did not answer within {}", duration_text(*limit)),
            Self::Answered(answer) => {
                let status = answer.status().as_u16();
                match error_text(answer.body()) {
                    Some(text) => format!("answered {status}: {text}"),
                    None => format!("answered {status}"),
                }
            }
        }
    }
}

fn error_text(body: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(json.get("error")?.as_str()?.to_owned())
}

/// Opens an exchange with a member, unless its checks fail: a node that hangs would take the others' answer with it.
pub(super) async fn exchange(
    call: &mut Call,
    lease: &Lease,
    connect: Duration,
) -> Result<Response<Link>, Outcome> {
    let backend = lease.backend();
    if is_down(backend) {
        return Err(Outcome::Lost(backend.complaint()));
    }
    upstream::exchange(call, lease, connect)
        .await
        .map_err(|failure| Outcome::of(&failure))
}

/// Sends a request to one backend and reads its answer whole.
pub(super) async fn ask(mut call: Call, lease: Lease, connect: Duration) -> Outcome {
    match exchange(&mut call, &lease, connect).await {
        Ok(response) => read(&call, response, lease).await,
        Err(outcome) => outcome,
    }
}

/// Reads the answer of a backend whole.
pub(super) async fn read(call: &Call, response: Response<Link>, lease: Lease) -> Outcome {
    let (mut parts, mut link) = response.into_parts();
    header::for_client(&mut parts.headers, call.is_head());
    let limit = call.limit();
    let left = limit.map_or(Duration::MAX, |limit| {
        limit.end.saturating_duration_since(Instant::now())
    });
    match upstream::read_up_to(&mut link, ANSWER_BYTES, left).await {
        Ok((whole, true)) => {
            lease.backend().links().put(link, Instant::now());
            Outcome::Answered(Response::from_parts(parts, whole))
        }
        Ok((part, false)) if part.len() <= ANSWER_BYTES => {
            let late = Outcome::Late(limit.map_or(left, |limit| limit.time));
            lease.failed(late.reason(), Instant::now());
            late
        }
        Ok((_, false)) => Outcome::Lost(format!("answered more than {ANSWER_BYTES} bytes")),
        Err(error) => {
            let reason = format!("broke off in the middle of its answer: {error}");
            lease.failed(reason.clone(), Instant::now());
            Outcome::Lost(reason)
        }
    }
}

/// Sends a request to all members, some at a time, and returns how each took it, in their order. Dropping the future ends
/// them all. A backend that has done it is asked at once what it holds now, if `current` is given.
pub(super) async fn gather(
    call: &Call,
    members: &Members,
    connect: Duration,
    current: Option<&Current>,
) -> Vec<Outcome> {
    let mut waiting = members.iter().enumerate();
    let mut outcomes: Vec<_> = members.iter().map(|_| None).collect();
    let mut asking = JoinSet::new();
    loop {
        while asking.len() < AT_ONCE
            && let Some((at, backend)) = waiting.next()
        {
            let (call, lease) = (call.again(), backend.lease(Instant::now()));
            let (backend, current) = (Arc::clone(backend), current.cloned());
            asking.spawn(async move {
                let outcome = ask(call, lease, connect).await;
                if let Some(current) = current.filter(|_| outcome.is_success()) {
                    look(&current, &backend).await;
                }
                (at, outcome)
            });
        }
        let Some(ended) = asking.join_next().await else {
            break;
        };
        if let Ok((at, outcome)) = ended
            && let Some(slot) = outcomes.get_mut(at)
        {
            *slot = Some(outcome);
        }
    }
    let given_up = || Outcome::Lost("was given up".to_owned());
    outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(given_up))
        .collect()
}

/// Learns what a backend holds now, so that the client's next request finds its model; later, if it takes long to say.
pub(super) async fn look(current: &Current, backend: &Arc<Backend>) {
    // Whatever comes of this, the prober shall look once more: a list that was asked for before the change may still
    // come in.
    let _ = timeout(LOOK, survey::tags(current, backend)).await;
    doubt(&current.load(), std::slice::from_ref(backend));
}

/// What counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Everybody who has the model: where it is not found, nothing is left to do.
    Holders,
    /// Anybody: what the others say does not matter.
    Any,
    /// Everybody.
    All,
}

/// Makes one answer of all.
///
/// # Errors
/// When some have done it and others failed, naming those, or when nobody who might know was reached.
pub(super) fn combine(
    rule: Rule,
    members: &Members,
    outcomes: Vec<Outcome>,
) -> Result<Answer, Error> {
    let forgiven = |outcome: &Outcome| rule == Rule::Holders && outcome.is_missing();
    let failed = |outcome: &Outcome| !outcome.is_success() && !forgiven(outcome);
    let done = outcomes.iter().any(Outcome::is_success);
    let failures: Vec<_> = members
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| failed(outcome))
        .map(|(backend, outcome)| (backend.name(), outcome.reason()))
        .collect();
    let text = blame(&failures);
    let nobody_failed = failures.is_empty();
    drop(failures);
    let wanted: &dyn Fn(&Outcome) -> bool = if done && (nobody_failed || rule == Rule::Any) {
        &Outcome::is_success
    } else if done {
        return Err(Error::Partial(text));
    } else if nobody_failed {
        &|_| true // all of them say that it is not there
    } else {
        &failed
    };
    let late = match outcomes.first() {
        Some(Outcome::Late(limit)) => Some(*limit),
        _ => None,
    };
    let all_late = outcomes.iter().all(|one| matches!(one, Outcome::Late(_)));
    let mut answers = outcomes.into_iter().filter(wanted);
    answers
        .find_map(Outcome::into_answer)
        .ok_or(match late.filter(|_| all_late) {
            Some(limit) => Error::ControlLate(limit),
            None => Error::Partial(text),
        })
}

/// Who failed, and why.
pub(super) fn blame(failures: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (at, (name, reason)) in failures.iter().take(REASONS).enumerate() {
        let separator = if at == 0 { "" } else { "; " };
        let reason: String = reason.chars().take(REASON_CHARS).collect();
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}backend {name} {reason}");
    }
    if failures.len() > REASONS {
        let _ = write!(text, "; and {} more", failures.len() - REASONS);
    }
    text
}
