//! One request: sent, answered, or not.

use super::answer::{Answer, error_text};
use super::drive::Progress;
use super::target::{Target, piece};
use crate::bench::Failure;
use crate::header;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use tokio::time::Instant;

/// Bytes of an answer with an error status that are read.
const ERROR_BYTES: usize = 64 << 10;

/// One request on its way. What is known of it survives its being given up.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    target: &'a Target,
    progress: &'a Progress,
    pub(super) sent: Option<Instant>,
    pub(super) node: Option<String>,
    pub(super) was_answered: bool,
    pub(super) attempts: u16,
    pub(super) first_token: Option<Instant>,
    pub(super) answer: Answer,
}

impl<'a> Exchange<'a> {
    /// A request of which nothing is known.
    pub(super) fn new(target: &'a Target, progress: &'a Progress, streams: bool) -> Self {
        Self {
            target,
            progress,
            sent: None,
            node: None,
            was_answered: false,
            attempts: 1,
            first_token: None,
            answer: Answer::new(target.api, streams),
        }
    }

    /// Sends it and reads its answer to the end.
    ///
    /// # Errors
    /// What went wrong, and what was said of it.
    pub(super) async fn run(
        &mut self,
        client: Option<IpAddr>,
        path: &str,
        body: Bytes,
    ) -> Result<(), (Failure, String)> {
        let broken = |error: anyhow::Error| (Failure::Broken, format!("{error:#}"));
        let target = self.target;
        let socket = target.sockets.acquire().await;
        let _socket = socket.map_err(|closed| broken(closed.into()))?;
        self.sent = Some(Instant::now());
        self.progress.sent.fetch_add(1, Relaxed);
        let response = target.send(path, client, body).await.map_err(broken)?;
        let (head, mut link) = response.into_parts();
        self.was_answered = true;
        self.node = named(&head.headers, &header::BACKEND);
        let attempts = named(&head.headers, &header::ATTEMPTS);
        self.attempts = attempts.and_then(|text| text.parse().ok()).unwrap_or(1);
        if !head.status.is_success() {
            let mut text = Vec::new();
            while text.len() < ERROR_BYTES
                && let Some(Ok(piece)) = piece(&mut link).await
            {
                text.extend_from_slice(&piece);
            }
            let text = format!("{}: {}", head.status.as_u16(), error_text(&text));
            let kind = match head.status {
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Failure::Refused,
                _ => Failure::Answered,
            };
            target.keep(link);
            return Err((kind, text));
        }
        while let Some(piece) = piece(&mut link).await {
            // A cut that was announced is told in the words of the announcement.
            let mut announced =
                |error| (Failure::Broken, self.answer.error.take().unwrap_or(error));
            let piece = piece.map_err(|error| announced(format!("{error:#}")))?;
            self.answer.read(&piece).map_err(broken)?;
            if self.first_token.is_none() && self.answer.has_begun() {
                self.first_token = Some(Instant::now());
            }
        }
        target.keep(link);
        self.answer.end().map_err(broken)?;
        match self.answer.error.take() {
            Some(error) if self.answer.has_begun() => Err((Failure::Broken, error)),
            Some(error) => Err((Failure::Answered, error)),
            None if self.answer.is_done => Ok(()),
            None => Err((Failure::Broken, "the answer has no end".to_owned())),
        }
    }
}

fn named(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}
