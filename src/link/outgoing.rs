//! A request on its way to a backend: its head, its body, and what frames the body.

use super::LinkError;
use crate::feed::Feed;
use crate::header::put_line;
use crate::tcp;
use crate::upload::{BodyError, Upload};
use bytes::{Buf, Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method};
use http_body::Body;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// Room for the first line of a head, `Host` and framing, in bytes.
const HEAD_BYTES: usize = 192;

/// How long a backend may read nothing of a request that is there whole.
const STALL: Duration = Duration::from_secs(10);

/// What a backend is sent.
#[derive(Debug)]
pub enum RequestBody {
    /// Bytes that were read whole; empty means no body.
    Kept(Bytes),
    /// A body that is passed on while it comes in.
    Upload(Upload),
    /// One backend's share of a body that goes to several.
    Feed(Feed),
}

impl RequestBody {
    /// The next piece; `None` at the end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let frame = match self {
                Self::Kept(bytes) if bytes.is_empty() => return Poll::Ready(None),
                Self::Kept(bytes) => return Poll::Ready(Some(Ok(std::mem::take(bytes)))),
                Self::Upload(upload) => {
                    ready!(Pin::new(upload).poll_frame(cx)).map(|it| it.map_err(BodyError::Upload))
                }
                Self::Feed(feed) => ready!(feed.poll(cx)),
            };
            match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                // An empty piece would end a body in chunks.
                Some(Ok(Ok(piece))) if !piece.is_empty() => return Poll::Ready(Some(Ok(piece))),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Its length, where that is known.
    fn length(&self) -> Option<u64> {
        match self {
            Self::Kept(bytes) => Some(bytes.len() as u64),
            Self::Upload(upload) => upload.size_hint().exact(),
            Self::Feed(feed) => feed.size_hint().exact(),
        }
    }
}

/// The head of a request, but for what frames its body.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// What the backend has before every path; may be empty.
    pub prefix: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The backend's own name.
    pub host: &'a HeaderValue,
    /// All other headers, each a whole line.
    pub lines: &'a [u8],
}

/// A request that is being written.
#[derive(Debug)]
pub struct Outgoing {
    /// What goes before the piece: the head, or the size of a chunk.
    lead: BytesMut,
    /// A piece of the body.
    piece: Bytes,
    /// What goes behind the piece.
    tail: &'static [u8],
    body: RequestBody,
    /// Bytes of the body that are still to be taken; `None` for a body in chunks.
    left: Option<u64>,
    phase: Phase,
    /// Whether a byte was written, or a piece taken of a body that cannot be had again.
    is_begun: bool,
    asks_head: bool,
    /// Whether the answer has begun: whether a backend that answers reads on is its own affair.
    is_answered: bool,
    /// An empty map for the fields of the answer, which may have room already.
    pub spare: HeaderMap,
    /// Ends what a backend does not read; set while it reads nothing.
    stall: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Writing,
    /// All of it is written.
    Written,
    /// The backend takes nothing more. It may have answered before, and the answer waits to be read.
    Refused,
}

impl Outgoing {
    /// A request of which nothing is written.
    pub fn new(head: &RequestHead<'_>, body: RequestBody) -> Self {
        let left = body.length();
        let mut lead = BytesMut::with_capacity(HEAD_BYTES + head.lines.len());
        let method = head.method.as_str();
        for part in [method, " ", head.prefix, head.target, " HTTP/1.1\r\n"] {
            lead.extend_from_slice(part.as_bytes());
        }
        put_line(&mut lead, &HOST, head.host);
        lead.extend_from_slice(head.lines);
        match left {
            Some(0) if !matches!(*head.method, Method::POST | Method::PUT | Method::PATCH) => {}
            Some(length) => {
                lead.extend_from_slice(b"content-length: ");
                lead.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                lead.extend_from_slice(b"\r\n");
            }
            None => lead.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        lead.extend_from_slice(b"\r\n");
        Self {
            lead,
            piece: Bytes::new(),
            tail: b"",
            body,
            left,
            phase: Phase::Writing,
            is_begun: false,
            asks_head: *head.method == Method::HEAD,
            is_answered: false,
            spare: HeaderMap::new(),
            stall: None,
        }
    }

    /// Writes as much as there is and the backend takes.
    ///
    /// # Errors
    /// When the body breaks off, or the connection in a way that leaves no answer to wait for.
    pub fn poll_write(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LinkError>> {
        while self.phase == Phase::Writing {
            if self.piece.is_empty() && self.tail.is_empty() {
                // A head does not wait for its body.
                let piece = self.poll_piece(cx)?;
                if piece.is_pending() && self.lead.is_empty() {
                    return Poll::Pending;
                }
            }
            if self.phase == Phase::Writing && !self.is_empty() {
                ready!(self.poll_some(stream, cx))?;
            }
            if self.is_empty() && self.left == Some(0) {
                self.phase = Phase::Written;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the next piece of the body, and frames it.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if self.left == Some(0) {
            return Poll::Ready(Ok(()));
        }
        let piece = ready!(self.body.poll_piece(cx)).transpose();
        let piece = piece.map_err(LinkError::Body)?;
        self.is_begun |= piece.is_some() && !matches!(self.body, RequestBody::Kept(_));
        match (&mut self.left, piece) {
            (Some(left), Some(piece)) => {
                *left = left
                    .checked_sub(piece.len() as u64)
                    .ok_or(LinkError::Body(BodyError::Length))?;
                self.piece = piece;
            }
            (Some(_), None) => return Poll::Ready(Err(LinkError::Body(BodyError::Length))),
            (None, Some(piece)) => {
                // Writing to memory does not fail.
                let _ = write!(
                    bytes::BufMut::writer(&mut self.lead),
                    "{:x}\r\n",
                    piece.len()
                );
                self.piece = piece;
                self.tail = b"\r\n";
            }
            (left @ None, None) => {
                self.lead.extend_from_slice(b"0\r\n\r\n");
                *left = Some(0);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_some(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LinkError>> {
        let slices = [&self.lead[..], &self.piece, self.tail].map(IoSlice::new);
        let joined = tcp::join(&slices, |bytes| {
            Pin::new(&mut *stream).poll_write(cx, bytes)
        });
        let wrote = joined.unwrap_or_else(|| Pin::new(stream).poll_write_vectored(cx, &slices));
        let Poll::Ready(wrote) = wrote else {
            // Uploads may wait for a disk; what is held whole is for a backend that reads it at once.
            if matches!(self.body, RequestBody::Kept(_)) && !self.is_answered {
                let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL)));
                ready!(stall.as_mut().poll(cx));
                return Poll::Ready(Err(LinkError::Stalled(STALL)));
            }
            return Poll::Pending;
        };
        self.stall = None;
        match wrote {
            Ok(0) => Poll::Ready(Err(LinkError::Io(io::ErrorKind::WriteZero.into()))),
            Ok(written) => {
                self.is_begun = true;
                self.advance(written);
                Poll::Ready(Ok(()))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.phase = Phase::Refused;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(LinkError::Io(error))),
        }
    }

    fn advance(&mut self, written: usize) {
        let lead = written.min(self.lead.len());
        self.lead.advance(lead);
        let piece = (written - lead).min(self.piece.len());
        self.piece.advance(piece);
        self.tail = self.tail.get(written - lead - piece..).unwrap_or_default();
    }

    fn is_empty(&self) -> bool {
        self.lead.is_empty() && self.piece.is_empty() && self.tail.is_empty()
    }

    /// Takes note that the answer has begun.
    pub fn answered(&mut self) {
        (self.is_answered, self.stall) = (true, None);
    }

    /// Whether its answer is a head alone.
    pub fn asks_head(&self) -> bool {
        self.asks_head
    }

    /// Whether the backend has all of it.
    pub fn is_written(&self) -> bool {
        self.phase == Phase::Written
    }

    /// The body, if not a byte of the request was written and nothing is missing from it.
    pub fn unsent(self) -> Option<RequestBody> {
        (!self.is_begun).then_some(self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;
    use crate::origin::Origin;
    use std::net::TcpListener;

    #[tokio::test]
    async fn a_backend_that_reads_nothing_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = Origin::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let link = Link::connect(&origin, Duration::from_secs(5))
            .await
            .unwrap();
        // From now on time passes when nothing else happens.
        tokio::time::pause();
        let head = RequestHead {
            method: &Method::POST,
            prefix: "",
            target: "/api/chat",
            host: origin.authority(),
            lines: b"",
        };
        // More than the kernel holds.
        let body = RequestBody::Kept(vec![b' '; 64 << 20].into());
        let failed = link.send(Outgoing::new(&head, body)).await.unwrap_err();
        assert!(matches!(failed.error, LinkError::Stalled(STALL)));
        assert!(failed.unsent.is_none());
    }
}
