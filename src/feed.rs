//! One backend's share of a body that goes to several: chunk by chunk, the slowest taker sets the pace.

use crate::upload::{BodyError, UploadWatch};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// Chunks that wait for one backend, besides the one that is being written to it.
const CHUNKS: usize = 1;

/// A body that is fed by a [`Feeder`].
#[derive(Debug)]
pub struct Feed {
    pieces: mpsc::Receiver<Piece>,
    hint: SizeHint,
    over: bool,
    watch: UploadWatch,
}

/// The other end of a [`Feed`]. Dropped before its end was told, it breaks the body off.
#[derive(Debug)]
pub struct Feeder(mpsc::Sender<Piece>);

#[derive(Debug)]
enum Piece {
    Chunk(Bytes),
    End,
}

/// A body of a size that is known or not, and its feeder.
pub fn feed(hint: SizeHint) -> (Feeder, Feed) {
    let (sender, pieces) = mpsc::channel(CHUNKS);
    let over = hint.exact() == Some(0);
    let feed = Feed {
        pieces,
        hint,
        over,
        watch: UploadWatch::default(),
    };
    (Feeder(sender), feed)
}

impl Feeder {
    /// Passes a chunk on when there is room. `false` if nobody takes any more.
    pub async fn chunk(&self, chunk: Bytes) -> bool {
        self.0.send(Piece::Chunk(chunk)).await.is_ok()
    }

    /// Says that the body is whole.
    pub async fn end(self) {
        // Whoever does not listen any more has all that it wanted.
        let _ = self.0.send(Piece::End).await;
    }
}

impl Feed {
    /// Tells, also after the feed was given away, whether it broke off, which is never the backend's fault.
    pub fn watch(&self) -> UploadWatch {
        self.watch.clone()
    }

    /// The next chunk.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
            Some(Piece::Chunk(chunk)) => Some(Ok(Frame::data(chunk))),
            Some(Piece::End) => {
                self.over = true;
                None
            }
            None => {
                self.watch.set_broken();
                Some(Err(BodyError::Feed))
            }
        })
    }

    /// Whether all of it was taken.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// How long it is, as far as its client said.
    pub fn size_hint(&self) -> SizeHint {
        self.hint
    }
}
