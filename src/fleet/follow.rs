//! One backend's part of a pull or a create: its progress, line by line, as it comes.

use super::Current;
use super::outcome::{self, Outcome};
use super::progress::{Report, Station};
use crate::call::{Call, PROGRESS_IDLE};
use crate::link::Link;
use crate::pool::Lease;
use bytes::BytesMut;
use std::future::poll_fn;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, timeout};

/// The longest line that is read, in bytes: what Ollama's own client reads at most.
const LINE_BYTES: usize = 8_000_000;

/// What is said of a member that says nothing any more.
const SILENT: &str = "fell silent";

/// What a member has to say.
#[derive(Debug)]
pub(super) enum News {
    /// It goes on.
    At(Station),
    /// It has done its part.
    Done,
    /// It refused before it began, or gave no answer at all.
    Refused(Outcome),
    /// It said itself that it has failed.
    Failed(String),
    /// It was lost.
    Lost(String),
}

/// Has a backend do its part, and tells the news under its number. The last news is how it ended.
pub(super) async fn follow(
    number: usize,
    mut call: Call,
    lease: Lease,
    connect: Duration,
    current: Current,
    news: Sender<(usize, News)>,
) {
    let exchange = outcome::exchange(&mut call, &lease, connect);
    let last = match timeout(PROGRESS_IDLE, exchange).await {
        Err(_) => News::Lost(SILENT.to_owned()),
        Ok(Err(outcome)) => News::Refused(outcome),
        Ok(Ok(response)) if !response.status().is_success() => {
            News::Refused(outcome::read(&call, response, lease).await)
        }
        Ok(Ok(response)) => {
            let told = Told {
                number,
                news: &news,
            };
            match told.lines(response.into_body(), &lease).await {
                Ok(()) => {
                    outcome::look(&current, lease.backend()).await;
                    News::Done
                }
                Err(failure) => failure,
            }
        }
    };
    // Nobody listens if the client has left.
    let _ = news.send((number, last)).await;
}

struct Told<'a> {
    number: usize,
    news: &'a Sender<(usize, News)>,
}

impl Told<'_> {
    /// Reads lines to the end of the body, which is to follow `success`.
    async fn lines(&self, mut link: Link, lease: &Lease) -> Result<(), News> {
        let mut buffer = BytesMut::new();
        let mut succeeded = false;
        // What was searched for the end of a line already.
        let mut searched = 0;
        loop {
            while let Some(found) = memchr::memchr(b'\n', buffer.get(searched..).unwrap_or(&[])) {
                let whole = buffer.split_to(searched + found + 1);
                searched = 0;
                self.line(&whole, &mut succeeded).await?;
            }
            searched = buffer.len();
            if buffer.len() > LINE_BYTES {
                return Err(News::Lost(format!("wrote a line over {LINE_BYTES} bytes")));
            }
            let piece = poll_fn(|cx| link.poll_piece(cx));
            let Ok(piece) = timeout(PROGRESS_IDLE, piece).await else {
                lease.failed(SILENT.to_owned(), Instant::now());
                return Err(News::Lost(SILENT.to_owned()));
            };
            match piece {
                Some(Ok(piece)) => buffer.extend_from_slice(&piece),
                Some(Err(error)) => {
                    let reason = format!("broke off in the middle: {error}");
                    lease.failed(reason.clone(), Instant::now());
                    return Err(News::Lost(reason));
                }
                None => break,
            }
        }
        if !buffer.is_empty() {
            self.line(&buffer, &mut succeeded).await?;
        }
        lease.backend().links().put(link, Instant::now());
        if succeeded {
            Ok(())
        } else {
            Err(News::Lost("ended without success".to_owned()))
        }
    }

    async fn line(&self, line: &[u8], succeeded: &mut bool) -> Result<(), News> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        match Report::read(line) {
            None => Err(News::Lost("wrote a line that is no progress".to_owned())),
            Some(Report::Error(text)) => Err(News::Failed(text)),
            Some(Report::Success) => {
                *succeeded = true;
                Ok(())
            }
            Some(Report::At(station)) => {
                *succeeded = false;
                // If nobody listens any more, this task is about to be dropped.
                let _ = self.news.send((self.number, News::At(station))).await;
                Ok(())
            }
        }
    }
}
