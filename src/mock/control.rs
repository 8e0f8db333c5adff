//! Faults over HTTP, and those that happen before an answer begins.

use super::door::{Cut, How};
use super::exchange::Shared;
use super::fault::{Fault, Kind};
use super::refusal::{BUSY, Refusal};
use super::route::{BODY_BYTES, PLAIN, plain, refuse};
use super::sink::Outgoing;
use crate::wire::Family;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use std::future::pending;
use std::sync::Arc;

/// `/mock/fault`: POST adds a fault, DELETE clears all.
pub(super) async fn control(
    shared: &Shared,
    cut: &Arc<Cut>,
    request: Request<Incoming>,
) -> Response<Outgoing> {
    if request.method() == Method::DELETE {
        shared.faults.clear();
        return plain(StatusCode::NO_CONTENT, PLAIN, "");
    }
    let body = match Limited::new(request.into_body(), BODY_BYTES)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(error) => return refuse(&Refusal::bad(error.to_string()), Family::Native),
    };
    let fault: Fault = match serde_json::from_slice(&body) {
        Ok(fault) => fault,
        Err(error) => return refuse(&Refusal::bad(error.to_string()), Family::Native),
    };
    if fault.kind == Kind::Refuse && fault.lasting.is_none() {
        let text = "refuse needs a duration in \"for\": nobody could clear it over HTTP";
        return refuse(&Refusal::bad(text), Family::Native);
    }
    let refuses = fault.kind == Kind::Refuse;
    shared.faults.set_from(fault, Some(cut));
    let mut response = plain(StatusCode::NO_CONTENT, PLAIN, "");
    if refuses {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Has the faults happen that come before any byte of an answer; the others pass, and need an answer with a body.
pub(super) async fn before_headers(fault: &Fault, cut: &Cut, model: &str) -> Result<(), Refusal> {
    let (status, text) = match fault.kind {
        Kind::HangBeforeHeaders => return pending().await,
        Kind::Error500 => (500, "llama runner process no longer running"),
        Kind::Busy503 => (503, BUSY),
        Kind::LoadFailure => (500, "llama-server process has terminated: signal: killed"),
        Kind::NotFound404 => (404, &*format!("model '{model}' not found")),
        Kind::ResetBeforeHeaders => return cut_off(cut, How::Reset).await,
        Kind::FinBeforeHeaders => return cut_off(cut, How::Fin).await,
        Kind::Garbage => return cut_off(cut, How::Garbage).await,
        Kind::Refuse
        | Kind::ResetMidStream
        | Kind::FinMidStream
        | Kind::StallMidStream
        | Kind::SlowDrip
        | Kind::CleanEndWithoutDone
        | Kind::ErrorInStream => return Ok(()),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Err(Refusal::new(status, fault.text.as_deref().unwrap_or(text)))
}

/// Has the connection cut, and waits for that.
async fn cut_off(cut: &Cut, how: How) -> Result<(), Refusal> {
    cut.pull(how);
    pending().await
}
