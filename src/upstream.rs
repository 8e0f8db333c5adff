//! One exchange with one backend: a connection, the request, the head of the answer, and who is to blame if there is
//! none.

use crate::call::{Call, TimeLimit};
use crate::config::{Timeouts, duration_text};
use crate::link::{ConnectError, Link, LinkError, Outgoing, RequestBody, RequestHead};
use crate::pool::{Lease, Origin};
use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long the head of an answer is kept back while nothing of its body comes. As long as the client has seen nothing,
/// another backend can still answer. Ollama's head comes with the first of its text; a server that sends it ahead of that,
/// and means it as a sign of life, has not long to wait.
const HOLD: Duration = Duration::from_secs(1);

/// Why an exchange brought no answer.
#[derive(Debug, Error)]
pub enum Failure {
    /// No connection: the backend has seen nothing of the request.
    #[error("{reason}")]
    Connect {
        /// What happened.
        reason: String,
        /// When it was begun.
        since: Instant,
    },
    /// No connection, by the proxy's own fault: no backend has seen anything, and none is to blame.
    #[error("{0}")]
    Exhausted(String),
    /// The connection broke, or what came was no HTTP: the backend may have worked on the request.
    #[error("{0}")]
    Lost(String),
    /// Nothing came in the time that its answer has, which is this long.
    #[error("no answer within {}", duration_text(*.0))]
    Late(Duration),
    /// The client's own body broke off.
    #[error("the request body broke off")]
    Client,
}

impl Failure {
    fn of_connect(error: &ConnectError, since: Instant) -> Self {
        if error.is_our_own() {
            Self::Exhausted(error.to_string())
        } else {
            let reason = error.to_string();
            Self::Connect { reason, since }
        }
    }

    /// Whether another backend may be asked.
    pub fn may_retry(&self, call: &Call) -> bool {
        match self {
            Self::Connect { .. } | Self::Exhausted(_) | Self::Lost(_) => call.may_be_sent(),
            Self::Client | Self::Late(_) => false,
        }
    }

    /// Whether it cost the backend nothing, so that another one's work for the request is the first.
    pub fn is_free(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}

/// Sends a call to the backend of a lease and waits for the head of the answer, for as long as that takes or the call has
/// time.
///
/// An idle connection may have been closed by the backend just now. A request that was never written, or may be sent
/// twice, then goes out once more on a fresh connection, and nobody is blamed.
///
/// # Errors
/// When no answer came; the lease's backend has been told what is its fault. Dropping the future closes the connection.
pub async fn exchange(
    call: &mut Call,
    lease: &Lease,
    connect_limit: Duration,
) -> Result<Response<Link>, Failure> {
    let limit = call.limit();
    let attempt = pin!(attempt(call, lease, connect_limit));
    settled(limit, lease, attempt).await
}

/// An [`exchange`] that has brought an answer only once its body begins, if the call may be sent again until then. A head
/// of which nothing follows counts for a while as none.
///
/// # Errors
/// As those of an [`exchange`].
pub async fn exchange_until_body(
    call: &mut Call,
    lease: &Lease,
    timeouts: &Timeouts,
) -> Result<Response<Link>, Failure> {
    let (limit, is_held) = (call.limit(), call.is_replayable());
    let exchange = async {
        let response = attempt(call, lease, timeouts.connect).await?;
        if is_held {
            hold(response, HOLD.min(timeouts.stream_idle)).await
        } else {
            Ok(response)
        }
    };
    settled(limit, lease, pin!(exchange)).await
}

/// Keeps an answer until its body begins or the time is up.
async fn hold(mut response: Response<Link>, time: Duration) -> Result<Response<Link>, Failure> {
    let mut begun = pin!(poll_fn(|cx| response.body_mut().poll_begun(cx)));
    // Most bodies begin in what the head came in: those need no timer.
    let outcome = match poll_fn(|cx| Poll::Ready(begun.as_mut().poll(cx))).await {
        Poll::Ready(outcome) => Ok(outcome),
        Poll::Pending => timeout(time, begun).await,
    };
    match outcome {
        Ok(Err(error)) => Err(Failure::Lost(error.to_string())),
        Ok(Ok(())) | Err(_) => Ok(response),
    }
}

/// Runs an attempt, for no longer than its call has time, and tells the backend what came of it.
async fn settled(
    limit: Option<TimeLimit>,
    lease: &Lease,
    attempt: Pin<&mut impl Future<Output = Result<Response<Link>, Failure>>>,
) -> Result<Response<Link>, Failure> {
    let outcome = match limit {
        None => attempt.await,
        Some(limit) => timeout_at(limit.end, attempt)
            .await
            .unwrap_or(Err(Failure::Late(limit.time))),
    };
    settle(&outcome, lease);
    outcome
}

/// Tells a lease's backend what came of an attempt.
pub fn settle(outcome: &Result<Response<Link>, Failure>, lease: &Lease) {
    let now = Instant::now();
    match outcome {
        Ok(response) => lease.answered(response.status(), now),
        Err(Failure::Connect { reason, since }) => lease.unreachable(reason.clone(), *since, now),
        Err(Failure::Lost(reason)) => lease.failed(reason.clone(), now),
        Err(late @ Failure::Late(_)) => lease.failed(late.to_string(), now),
        Err(Failure::Client | Failure::Exhausted(_)) => {}
    }
}

/// An [`exchange`] that nobody is blamed for until [`settle`] is called.
///
/// # Errors
/// When no answer came.
pub async fn attempt(
    call: &mut Call,
    lease: &Lease,
    connect_limit: Duration,
) -> Result<Response<Link>, Failure> {
    let backend = lease.backend();
    // What may not be sent twice gets a fresh connection, since an idle one may be closed under it.
    let mut idle = call
        .is_replayable()
        .then(|| backend.links().take(lease.started()))
        .flatten();
    loop {
        let reused = idle.is_some();
        let link = if let Some(link) = idle.take() {
            link
        } else {
            let since = Instant::now();
            Link::connect(&backend.spec().origin, connect_limit)
                .await
                .map_err(|error| Failure::of_connect(&error, since))?
        };
        let request = call.request_for(backend);
        let request =
            request.ok_or_else(|| Failure::Lost("the request body was sent before".to_owned()))?;
        let failed = match link.send(request).await {
            Ok(response) => return checked(response),
            Err(failed) => failed,
        };
        if call.is_broken_by_client() || matches!(failed.error, LinkError::Body(_)) {
            return Err(Failure::Client);
        }
        if let Some(unsent) = failed.unsent {
            call.take_back(unsent);
        }
        // One that reads nothing would read no more on another connection.
        let is_stalled = matches!(failed.error, LinkError::Stalled(_));
        if !reused || is_stalled || !call.may_be_sent() {
            return Err(Failure::Lost(failed.error.to_string()));
        }
    }
}

/// Refuses answers that are no answers: a switch of protocols that nobody asked for, and statuses outside the range.
fn checked(response: Response<Link>) -> Result<Response<Link>, Failure> {
    match response.status().as_u16() {
        200..=599 => Ok(response),
        odd => Err(Failure::Lost(format!("answered with status {odd}"))),
    }
}

/// Reads a body to its end, past a number of bytes, or until the time is up. The flag says whether the end was reached.
///
/// # Errors
/// When the body breaks off.
pub async fn read_up_to(
    link: &mut Link,
    bytes: usize,
    time: Duration,
) -> Result<(Bytes, bool), LinkError> {
    let mut read = BytesMut::new();
    let mut time_is_up = pin!(sleep(time));
    while read.len() <= bytes {
        let piece = poll_fn(|cx| match link.poll_piece(cx) {
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
            Poll::Pending => time_is_up.as_mut().poll(cx).map(|()| None),
        });
        match piece.await {
            None => break,
            Some(None) => return Ok((read.freeze(), true)),
            Some(Some(piece)) => read.extend_from_slice(&piece?),
        }
    }
    Ok((read.freeze(), false))
}

/// Asks a backend for a path on a connection of its own, for the proxy's own purposes.
///
/// # Errors
/// When there is no whole answer of at most `body_limit` bytes in time.
pub async fn get(
    origin: &Origin,
    path: &str,
    limit: Duration,
    body_limit: usize,
) -> Result<(StatusCode, Bytes), Failure> {
    let asking = async {
        let since = Instant::now();
        let link = Link::connect(origin, limit)
            .await
            .map_err(|error| Failure::of_connect(&error, since))?;
        let head = RequestHead {
            method: &Method::GET,
            prefix: origin.prefix(),
            target: path,
            host: origin.authority(),
            lines: b"",
        };
        let request = Outgoing::new(&head, RequestBody::Kept(Bytes::new()));
        let answer = link
            .send(request)
            .await
            .map_err(|failed| Failure::Lost(failed.error.to_string()))?;
        let (parts, mut link) = answer.into_parts();
        match read_up_to(&mut link, body_limit, limit).await {
            Ok((bytes, true)) => Ok((parts.status, bytes)),
            Ok((_, false)) => Err(Failure::Lost(format!(
                "its answer to {path} is longer than {body_limit} bytes"
            ))),
            Err(error) => Err(Failure::Lost(error.to_string())),
        }
    };
    timeout(limit, asking).await.unwrap_or_else(|_| {
        Err(Failure::Lost(format!(
            "no answer to {path} within {limit:?}"
        )))
    })
}
