//! Answers on their way out: written by a future that runs inside the body, so that it stops when the body is dropped.

use super::door::{Cut, How};
use super::fault::{Fault, Kind};
use super::seen::Seen;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Time between the bytes of a slow drip.
const DRIP: Duration = Duration::from_millis(1);

/// The answer is over, sooner than its writer thought.
#[derive(Debug)]
pub(super) struct Ended;

type Work = Pin<Box<dyn Future<Output = Result<(), Ended>> + Send>>;

/// A response body.
pub(super) struct Outgoing {
    content: Content,
    seen: Option<Seen>,
}

enum Content {
    Whole(Bytes),
    Flow {
        chunks: mpsc::Receiver<Bytes>,
        work: Option<Work>,
    },
}

impl Outgoing {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self {
            content: Content::Whole(bytes.into()),
            seen: None,
        }
    }

    /// A body written chunk by chunk by `write`.
    pub(super) fn flow<F>(fault: Midway, write: impl FnOnce(Sink) -> F) -> Self
    where
        F: Future<Output = Result<(), Ended>> + Send + 'static,
    {
        let (sender, chunks) = mpsc::channel(1);
        let sink = Sink {
            sender,
            fault,
            sent: 0,
        };
        Self {
            content: Content::Flow {
                chunks,
                work: Some(Box::pin(write(sink))),
            },
            seen: None,
        }
    }

    /// Ties the record of the request to this body.
    pub(super) fn watched(mut self, seen: Option<Seen>) -> Self {
        self.seen = seen;
        self
    }

    fn end(&mut self) {
        if let Some(seen) = self.seen.take() {
            seen.complete();
        }
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").finish_non_exhaustive()
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = match &mut self.content {
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.end();
                (!bytes.is_empty()).then_some(bytes)
            }
            Content::Flow { chunks, work } => loop {
                if let Poll::Ready(chunk) = chunks.poll_recv(cx) {
                    break chunk;
                }
                let Some(writing) = work else { break None };
                if writing.as_mut().poll(cx).is_ready() {
                    *work = None;
                } else {
                    // The writer may have sent before it began to wait.
                    match chunks.poll_recv(cx) {
                        Poll::Ready(chunk) => break chunk,
                        Poll::Pending => return Poll::Pending,
                    }
                }
            },
        };
        if chunk.is_none() {
            self.end();
        }
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Flow { .. } => SizeHint::default(),
        }
    }
}

/// What goes wrong in the middle of an answer, if anything does.
#[derive(Debug)]
pub(super) struct Midway {
    pub(super) fault: Option<Fault>,
    pub(super) cut: Arc<Cut>,
    /// What the API family writes when an answer fails after it began.
    pub(super) error_record: Option<Bytes>,
}

/// Where an answer is written to, one HTTP chunk at a time.
#[derive(Debug)]
pub(super) struct Sink {
    sender: mpsc::Sender<Bytes>,
    fault: Midway,
    sent: usize,
}

impl Sink {
    /// Sends one chunk; waits until the one before has been taken.
    pub(super) async fn send(&mut self, chunk: impl Into<Bytes>) -> Result<(), Ended> {
        if self
            .fault
            .fault
            .as_ref()
            .is_some_and(|fault| self.sent >= fault.after)
        {
            self.fail().await?;
        }
        self.pass(chunk.into()).await
    }

    /// Sends the first chunk of those that end the answer. A fault in the middle happens now at the latest.
    pub(super) async fn finish(&mut self, chunk: impl Into<Bytes>) -> Result<(), Ended> {
        self.fail().await?;
        self.pass(chunk.into()).await
    }

    async fn pass(&mut self, chunk: Bytes) -> Result<(), Ended> {
        self.sent += 1;
        if self.kind() != Some(Kind::SlowDrip) {
            return self.sender.send(chunk).await.map_err(|_| Ended);
        }
        for at in 0..chunk.len() {
            let byte = chunk.slice(at..=at);
            self.sender.send(byte).await.map_err(|_| Ended)?;
            tokio::time::sleep(DRIP).await;
        }
        Ok(())
    }

    fn kind(&self) -> Option<Kind> {
        self.fault.fault.as_ref().map(|fault| fault.kind)
    }

    async fn fail(&mut self) -> Result<(), Ended> {
        let Some(fault) = &self.fault.fault else {
            return Ok(());
        };
        match fault.kind {
            Kind::ResetMidStream => self.fault.cut.pull(How::Reset),
            Kind::FinMidStream => self.fault.cut.pull(How::Fin),
            Kind::StallMidStream => {}
            Kind::CleanEndWithoutDone => return Err(Ended),
            Kind::ErrorInStream => {
                if let Some(record) = self.fault.error_record.take() {
                    self.sender.send(record).await.map_err(|_| Ended)?;
                }
                return Err(Ended);
            }
            // These happen before the headers, or all the time.
            Kind::Refuse
            | Kind::HangBeforeHeaders
            | Kind::Error500
            | Kind::Busy503
            | Kind::LoadFailure
            | Kind::NotFound404
            | Kind::ResetBeforeHeaders
            | Kind::FinBeforeHeaders
            | Kind::Garbage
            | Kind::SlowDrip => return Ok(()),
        }
        pending().await
    }
}
