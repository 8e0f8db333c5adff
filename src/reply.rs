//! The body of an answer on its way to the client, and everything that must happen when it is over.

use crate::access::{Access, Ended};
use crate::early::{Early, Step};
use crate::fleet::Merged;
use crate::link::{Link, LinkError};
use crate::pool::Lease;
use crate::silence::Silence;
use crate::upload::UploadWatch;
use crate::wire::Meter;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use thiserror::Error;
use tokio::time::Instant;

/// Tells hyper to cut the connection without ending the body.
#[derive(Debug, Error)]
#[error("the backend broke off")]
pub struct Cut;

/// The body that the server sends. Its drop settles the request: the lease, the connection and the log line.
#[derive(Debug)]
pub struct ReplyBody {
    source: Source,
    /// `None` while an early answer has it.
    access: Option<Access>,
}

/// Where an answer comes from.
#[derive(Debug)]
pub enum Source {
    /// Bytes of our own, or of an answer that was read whole; empty when sent.
    Own(Bytes),
    /// A backend that is still writing.
    Relay(Box<Relay>),
    /// Several backends that report how they get on.
    Merged(Box<Merged>),
    /// A stream that has begun before its backend answered.
    Early(Box<Early>),
    /// A last record, and then a cut.
    Cut(Last),
}

/// A last record before a connection is cut.
#[derive(Debug)]
pub struct Last {
    record: Bytes,
    flushed: bool,
}

/// An answer that is passed on as it comes: no buffer and no task in between, so a slow reader slows its own backend.
#[derive(Debug)]
pub struct Relay {
    /// What was read of the body before it was decided to pass it on.
    head: Bytes,
    /// Gone once it broke; taken when the answer is over, so that another request can use it.
    link: Option<Link>,
    lease: Lease,
    meter: Meter,
    /// Of a request body that may still be coming in.
    upload: Option<UploadWatch>,
    silence: Silence,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Flowing,
    /// The backend broke off; the error record was handed out and must be written before the connection is cut.
    Cutting,
    Cut,
    /// The client's own body broke off while the answer came, which breaks the exchange and is nobody else's fault.
    ClientBroke,
    Ended,
}

impl Relay {
    /// Begins to pass on a body, `head` first.
    pub fn new(
        head: Bytes,
        link: Link,
        lease: Lease,
        meter: Meter,
        upload: Option<UploadWatch>,
        silence: Silence,
    ) -> Self {
        Self {
            head,
            link: Some(link),
            lease,
            meter,
            upload,
            silence,
            phase: Phase::Flowing,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.phase {
            Phase::Ended => return Poll::Ready(None),
            Phase::Cut | Phase::ClientBroke => return Poll::Ready(Some(Err(Cut))),
            Phase::Cutting => return self.cut_after_flush(cx),
            Phase::Flowing => {}
        }
        if !self.head.is_empty() {
            let head = std::mem::take(&mut self.head);
            self.came(&head);
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        let Some(link) = &mut self.link else {
            return Poll::Ready(None);
        };
        let Poll::Ready(piece) = link.poll_piece(cx) else {
            ready!(self.silence.poll(cx));
            return self.fell_silent(cx);
        };
        match piece {
            Some(Ok(piece)) => {
                self.silence.hear();
                self.came(&piece);
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Some(Err(error)) => self.broke(&error, cx),
            None if self.meter.is_cut_off() => self.cut_off(cx),
            None => {
                self.phase = Phase::Ended;
                Poll::Ready(None)
            }
        }
    }

    /// Takes note of a piece of the answer, which for a stream is about a token.
    fn came(&mut self, chunk: &[u8]) {
        let now = Instant::now();
        if self.meter.bytes() == 0 {
            self.lease.first_byte(now);
        }
        self.meter.watch(chunk);
        self.lease.progressed(1, now);
    }

    fn broke(
        &mut self,
        error: &LinkError,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.upload.as_ref().is_some_and(UploadWatch::is_broken) {
            self.link = None;
            self.phase = Phase::ClientBroke;
            return Poll::Ready(Some(Err(Cut)));
        }
        let reason = format!("broke off in the middle of an answer: {error}");
        let answer = self.tell(&reason, cx);
        self.lease.failed(reason, Instant::now());
        answer
    }

    fn fell_silent(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let reason = "fell silent in the middle of an answer";
        let answer = self.tell(reason, cx);
        self.lease.failed(reason.to_owned(), Instant::now());
        answer
    }

    /// A stream that ended as if it were whole, and is not: Ollama's layer for the other APIs ends so when it fails.
    fn cut_off(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.tell("ended its stream before the answer was done", cx)
    }

    /// Lets go of the backend, hands out the record of an error, if there is room for one, and cuts.
    fn tell(
        &mut self,
        reason: &str,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let name = self.lease.backend().name();
        tracing::warn!(backend = name, reason, "an answer was cut");
        // Within a length that was announced a record would pass for the bytes that are missing.
        let is_measured = self.link.take().is_some_and(|link| link.left().is_some());
        let record = (!is_measured)
            .then(|| self.meter.error_record(&format!("backend {name} {reason}")))
            .flatten();
        match record {
            Some(record) => {
                self.phase = Phase::Cutting;
                Poll::Ready(Some(Ok(Frame::data(record.into()))))
            }
            None => self.cut_after_flush(cx),
        }
    }

    /// hyper flushes what it has when a body has nothing ready, and only then may be told to cut.
    fn cut_after_flush(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.phase = Phase::Cut;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Keeps the connection if the answer was whole, and says how it ended.
    fn settle(&mut self) -> (Ended, u64) {
        let (ended, now) = (self.ended(), Instant::now());
        if matches!(ended, Ended::Complete | Ended::Truncated)
            && let Some(link) = self.link.take()
        {
            self.lease.backend().links().put(link, now);
        }
        if ended == Ended::Complete {
            self.lease.finished(&self.meter.counters(), now);
        }
        (ended, self.meter.bytes())
    }

    /// Whether all of an answer of known length was handed out: nobody then asks for its end. The end of any other is to be
    /// asked for, since it may come too early.
    fn is_handed_out(&self) -> bool {
        self.head.is_empty() && self.link.as_ref().and_then(Link::left) == Some(0)
    }

    /// How the answer stands if nothing more happens to it.
    fn ended(&self) -> Ended {
        match self.phase {
            Phase::Cutting | Phase::Cut => Ended::BackendBroke,
            Phase::Ended if self.meter.is_whole() => Ended::Complete,
            Phase::Ended => Ended::Truncated,
            Phase::Flowing if self.is_handed_out() => Ended::Complete,
            Phase::Flowing | Phase::ClientBroke => Ended::ClientGone,
        }
    }
}

impl Source {
    /// A record, and then a cut.
    pub fn cut_after(record: Bytes) -> Self {
        Self::Cut(Last {
            record,
            flushed: false,
        })
    }

    /// Reads what is left, up to a number of bytes; what comes after a break is not there.
    pub async fn read_whole(self, limit: usize) -> Bytes {
        let mut body = match self {
            Self::Own(bytes) => return bytes,
            source @ (Self::Relay(_) | Self::Merged(_) | Self::Early(_) | Self::Cut(_)) => {
                ReplyBody {
                    source,
                    access: None,
                }
            }
        };
        let mut read = BytesMut::new();
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            read.extend_from_slice(&frame.into_data().unwrap_or_default());
            if read.len() > limit {
                break;
            }
        }
        read.freeze()
    }
}

impl Last {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if !self.record.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.record)))));
        }
        if !self.flushed {
            self.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(Cut)))
    }
}

impl ReplyBody {
    /// Joins an answer with the record of its request, unless an early one has it already.
    pub fn new(source: Source, access: Option<Access>) -> Self {
        Self { source, access }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        loop {
            return match &mut self.source {
                Source::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
                Source::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
                Source::Relay(relay) => relay.poll_frame(cx),
                Source::Merged(merged) => merged
                    .poll_line(cx)
                    .map(|line| Some(Ok(Frame::data(line?)))),
                Source::Cut(last) => last.poll_frame(cx),
                Source::Early(early) => match ready!(early.poll_step(cx)) {
                    Step::Beat(beat) => Poll::Ready(Some(Ok(Frame::data(beat)))),
                    Step::Settled(source, access) => {
                        self.source = source;
                        self.access = Some(*access);
                        continue;
                    }
                },
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_empty(),
            Source::Relay(relay) => match relay.phase {
                Phase::Flowing => relay.is_handed_out(),
                Phase::Ended => true,
                Phase::Cutting | Phase::Cut | Phase::ClientBroke => false,
            },
            Source::Merged(merged) => merged.is_over(),
            Source::Early(_) | Source::Cut(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Relay(relay) => {
                let left = relay.link.as_ref().and_then(Link::left);
                left.map_or_else(SizeHint::default, |left| {
                    SizeHint::with_exact(left + relay.head.len() as u64)
                })
            }
            Source::Merged(_) | Source::Early(_) | Source::Cut(_) => SizeHint::default(),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        let (ended, bytes) = match &mut self.source {
            // How these ended was known before; an early answer's record goes with what it waits for.
            Source::Own(_) | Source::Cut(_) | Source::Early(_) => return,
            Source::Merged(merged) if merged.is_over() => (Ended::Complete, merged.bytes()),
            Source::Merged(merged) => (Ended::ClientGone, merged.bytes()),
            Source::Relay(relay) => relay.settle(),
        };
        if let Some(access) = &mut self.access {
            (access.ended, access.bytes_out) = (ended, bytes);
        }
    }
}
