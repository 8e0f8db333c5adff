//! Files uploaded to a node: `/api/blobs/{digest}`.

use super::exchange::{Answer, Shared};
use super::library::is_digest;
use super::manage::{full, nothing};
use super::refusal::Refusal;
use http::header::CONNECTION;
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// HEAD and POST `/api/blobs/{digest}`. A blob that is there already is answered without reading the body.
pub(super) async fn answer(shared: &Shared, digest: &str, upload: Option<Incoming>) -> Answer {
    if !is_digest(digest) {
        return Err(Refusal::bad("invalid digest format"));
    }
    let mut response = nothing();
    let known = shared.library.blob(digest).is_some();
    match upload {
        None if !known => {
            let text = format!("blob {digest:?} not found");
            return Err(Refusal::new(StatusCode::NOT_FOUND, text));
        }
        Some(mut body) if !known => {
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| Refusal::bad(error.to_string()))?;
                bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            if !shared.library.add_blob(digest, bytes) {
                return Err(full());
            }
            *response.status_mut() = StatusCode::CREATED;
        }
        // The body is dropped unread, and so the connection is closed after the answer.
        Some(_) => {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        None => {}
    }
    Ok(response)
}
