//! Connections to one backend: made, used for one exchange at a time, kept while idle.
//!
//! The client's half of HTTP/1.1 is our own here, since what a general client has for any use (a task, channels between
//! tasks, buffers that stay) is most of what an open stream would cost. A link is not a task: whoever uses it polls it,
//! so that a chunk wakes the task that writes it to the client and nobody else. It has no buffer while nothing comes. And
//! dropping it closes its socket at once: that is how a generation is cancelled.

mod connect;
pub(crate) mod framing;
pub(crate) mod head;
mod idle;
mod outgoing;

pub use idle::Links;
pub use outgoing::{Outgoing, RequestBody, RequestHead};

use crate::descriptors;
use crate::origin::Origin;
use crate::tcp;
use crate::upload::BodyError;
use bytes::{Buf, Bytes, BytesMut};
use framing::Framing;
use head::Head;
use http::{HeaderMap, Response, StatusCode};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

/// The most that is read at a time, in bytes.
const READ_BYTES: usize = 16 << 10;
/// Interim answers (1xx) that are passed over before the one that counts.
const INTERIM_LIMIT: u32 = 64;

thread_local! {
    /// What is read comes here first, and only the body of it is kept: so a stream has no buffer of its own.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Why no connection could be made.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The name has no address, or no address took the connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Nothing answered in time.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

impl ConnectError {
    /// Whether this side has run out of descriptors, ports or memory, which says nothing of the backend.
    pub fn is_our_own(&self) -> bool {
        let Self::Io(error) = self else {
            return false;
        };
        descriptors::is_exhausted(error)
            || matches!(
                error.kind(),
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory
            )
    }
}

/// Why an exchange broke off.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The connection ended before the answer was whole.
    #[error("connection closed before the answer was whole")]
    Closed,
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It reads nothing of the request, for this long.
    #[error("it read nothing of the request for {} s", .0.as_secs())]
    Stalled(Duration),
    /// What came was no HTTP.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The body of the request broke off, which is not the backend's fault.
    #[error("{0}")]
    Body(BodyError),
}

/// What is wrong with what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("it sent {0}")]
pub struct Malformed(&'static str);

/// Why an exchange failed before its answer began.
#[derive(Debug)]
pub struct SendError {
    /// The cause.
    pub error: LinkError,
    /// The body of the request, if not a byte of it was written.
    pub unsent: Option<RequestBody>,
}

/// One connection, and the exchange on it.
#[derive(Debug)]
pub struct Link(Box<Exchange>);

#[derive(Debug)]
struct Exchange {
    stream: TcpStream,
    /// The request, while any of it is to be written.
    outgoing: Option<Outgoing>,
    /// For the fields of the answer.
    spare: HeaderMap,
    /// What came and was not used yet.
    come: BytesMut,
    /// What the answer's body is, or what is left of it.
    framing: Framing,
    /// Whether the connection may be used again after this exchange.
    keeps_alive: bool,
    made: Instant,
    idle_since: Instant,
}

impl Link {
    /// Connects to whichever address of the name takes it.
    ///
    /// # Errors
    /// When no address takes the connection within `limit`, all tries together.
    pub async fn connect(origin: &Origin, limit: Duration) -> Result<Self, ConnectError> {
        let connecting = async {
            let addresses = lookup_host((origin.host(), origin.port())).await?;
            connect::connect(addresses).await
        };
        let stream = timeout(limit, connecting)
            .await
            .map_err(|_| ConnectError::Timeout(limit))??;
        tcp::prepare(&stream)?;
        let now = Instant::now();
        Ok(Self(Box::new(Exchange {
            stream,
            outgoing: None,
            spare: HeaderMap::new(),
            come: BytesMut::new(),
            framing: Framing::Length(0),
            keeps_alive: true,
            made: now,
            idle_since: now,
        })))
    }

    /// Sends a request and waits for the head of the answer; its body is then polled on the link. What is left of the
    /// request's body goes out while the answer comes in.
    ///
    /// # Errors
    /// When the connection ends, or the answer is no HTTP. Dropping the future closes the connection.
    pub async fn send(mut self, mut request: Outgoing) -> Result<Response<Self>, SendError> {
        let answers_head = request.asks_head();
        self.0.spare = std::mem::take(&mut request.spare);
        self.0.outgoing = Some(request);
        let mut interim = 0;
        match poll_fn(|cx| self.0.poll_head(answers_head, &mut interim, cx)).await {
            Ok(response) => Ok(response.map(|()| self)),
            Err(error) => Err(SendError {
                error,
                unsent: self.0.outgoing.and_then(Outgoing::unsent),
            }),
        }
    }

    /// Ready when something of the answer's body has come, or its end. Takes nothing of it.
    pub fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.0.poll_begun(cx)
    }

    /// The next piece of the answer's body; `None` at its end.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, LinkError>>> {
        self.0.poll_piece(cx).map(Result::transpose)
    }

    /// Bytes of the answer's body that are still to come, where that was announced.
    pub fn left(&self) -> Option<u64> {
        self.0.framing.left()
    }

    /// Whether its exchange is over and leaves nothing behind.
    fn is_reusable(&self) -> bool {
        let Exchange {
            outgoing,
            come,
            framing,
            keeps_alive,
            ..
        } = &*self.0;
        outgoing.is_none() && come.is_empty() && framing.is_over() && *keeps_alive
    }

    /// Whether the kernel holds nothing for an idle connection: no bytes, no end and no error. The runtime would tell a
    /// moment later, and a backend that wrote behind its last answer, or closed, would in that moment be given the next
    /// request, and what it wrote before be taken for the answer.
    fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = socket2::SockRef::from(&self.0.stream).peek(&mut byte);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Exchange {
    fn poll_head(
        &mut self,
        answers_head: bool,
        interim: &mut u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, LinkError>> {
        self.write(cx)?;
        loop {
            while let Some(head) = head::take(&mut self.come, &mut self.spare, answers_head)? {
                let status = head.response.status();
                if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(self.begin(head)));
                }
                *interim += 1;
                if *interim > INTERIM_LIMIT {
                    return Poll::Ready(Err(Malformed("too many interim answers").into()));
                }
            }
            if ready!(self.poll_more(cx))? == 0 {
                return Poll::Ready(Err(LinkError::Closed));
            }
        }
    }

    /// Reads once, behind what has come before, and says how much.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let come = &mut self.come;
        read(&mut self.stream, cx, |bytes| {
            come.extend_from_slice(bytes);
            bytes.len()
        })
    }

    fn begin(&mut self, head: Head) -> Response<()> {
        self.framing = head.framing;
        self.keeps_alive = head.keeps_alive;
        if self.come.is_empty() {
            // Or it would hold on to what the head came in.
            self.come = BytesMut::new();
        }
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.answered();
        }
        head.response
    }

    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        while !self.has_begun()? {
            self.write(cx)?;
            if ready!(self.poll_more(cx))? == 0 {
                if self.framing != Framing::UntilClose {
                    return Poll::Ready(Err(LinkError::Closed));
                }
                self.framing = Framing::ended();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether a byte of the body has come, or its end: what frames it does not count.
    fn has_begun(&self) -> Result<bool, Malformed> {
        let mut framing = self.framing;
        let piece = framing.decode(&mut &self.come[..])?;
        Ok(piece.is_some() || framing.is_over())
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, LinkError>> {
        // A whole answer stays one, whatever becomes of the rest of the request.
        if self.framing.is_over() {
            return Poll::Ready(Ok(None));
        }
        self.write(cx)?;
        loop {
            // Even of nothing there may be something wrong: that which was found behind the last piece.
            if (!self.come.is_empty() || self.framing.is_broken())
                && let Some(piece) = self.decode_come()?
            {
                return Poll::Ready(Ok(Some(piece)));
            }
            if self.framing.is_over() {
                return Poll::Ready(Ok(None));
            }
            let (framing, come) = (&mut self.framing, &mut self.come);
            let piece = ready!(read(&mut self.stream, cx, |mut bytes| {
                if bytes.is_empty() {
                    return Err(LinkError::Closed);
                }
                let piece = framing.decode(&mut bytes)?.map(Bytes::copy_from_slice);
                come.extend_from_slice(bytes);
                Ok(piece)
            }))?;
            match piece {
                Ok(Some(piece)) => return Poll::Ready(Ok(Some(piece))),
                Ok(None) => {}
                Err(LinkError::Closed) if self.framing == Framing::UntilClose => {
                    self.framing = Framing::ended();
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// The next piece out of what has come already.
    fn decode_come(&mut self) -> Result<Option<Bytes>, LinkError> {
        let mut rest = &self.come[..];
        let piece = self.framing.decode(&mut rest)?;
        let piece = piece.map(|piece| {
            let start = piece.as_ptr().addr() - self.come.as_ptr().addr();
            start..start + piece.len()
        });
        let behind = rest.len();
        let mut taken = self.come.split_to(self.come.len() - behind);
        if behind == 0 {
            // Nothing of the buffer stays behind.
            self.come = BytesMut::new();
        }
        Ok(piece.map(|piece| {
            taken.truncate(piece.end);
            taken.advance(piece.start);
            taken.freeze()
        }))
    }

    /// Writes what is left of the request, as far as the backend takes it.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), LinkError> {
        if let Some(outgoing) = &mut self.outgoing
            && let Poll::Ready(written) = outgoing.poll_write(&mut self.stream, cx)
        {
            written?;
            if outgoing.is_written() {
                self.outgoing = None;
            }
        }
        Ok(())
    }
}

/// Reads once and shows what came; nothing at the end of the connection.
fn read<R>(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    show: impl FnOnce(&[u8]) -> R,
) -> Poll<io::Result<R>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(show(buffer.filled())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, Method};
    use std::io::Write;
    use std::net::TcpListener;

    /// A link that was given an answer, and the other end if the connection stays open.
    async fn answered(answer: &[u8], stays: bool) -> (Link, Option<std::net::TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = Origin::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let link = Link::connect(&origin, Duration::from_secs(5))
            .await
            .unwrap();
        let (mut other, _) = listener.accept().unwrap();
        other.write_all(answer).unwrap();
        if !stays {
            other.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let head = RequestHead {
            method: &Method::GET,
            prefix: "",
            target: "/",
            host: &HeaderValue::from_static("a"),
            lines: b"",
        };
        let request = Outgoing::new(&head, RequestBody::Kept(Bytes::new()));
        let link = link.send(request).await.unwrap().into_body();
        (link, stays.then_some(other))
    }

    /// What a link makes of an answer after which the connection stays open or ends: pieces, and how the last one was.
    async fn read(answer: &[u8], stays: bool) -> (Vec<Bytes>, Result<Option<u64>, String>) {
        let (mut link, _other) = answered(answer, stays).await;
        let mut pieces = Vec::new();
        loop {
            match poll_fn(|cx| link.poll_piece(cx)).await {
                Some(Ok(piece)) => pieces.push(piece),
                Some(Err(error)) => return (pieces, Err(error.to_string())),
                None => return (pieces, Ok(link.left())),
            }
        }
    }

    #[tokio::test]
    async fn a_broken_chunk_is_told_though_nothing_follows() {
        let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcX";
        let (pieces, end) = read(answer, true).await;
        assert_eq!(pieces, ["abc"]);
        let wrong = "it sent a chunk that does not end where it says";
        assert_eq!(end, Err(wrong.to_owned()));
    }

    /// How the beginning of a body is, for which nobody need wait.
    async fn begun(body: &str, stays: bool) -> Result<(), String> {
        let answer = format!("HTTP/1.1 200 OK\r\n{body}");
        let (mut link, _other) = answered(answer.as_bytes(), stays).await;
        let begun = poll_fn(|cx| link.poll_begun(cx)).await;
        begun.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_body_begins_with_its_first_byte_or_its_end() {
        const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";
        let chunked = |body: &str| format!("{CHUNKED}{body}");
        for (body, stays) in [
            (chunked("3\r\na"), true),
            (chunked("0\r\n\r\n"), true),
            ("content-length: 3\r\n\r\na".to_owned(), true),
            ("content-length: 0\r\n\r\n".to_owned(), true),
            ("\r\na".to_owned(), true),
            ("\r\n".to_owned(), false),
        ] {
            assert_eq!(begun(&body, stays).await, Ok(()), "{body}");
        }
        let closed = Err("connection closed before the answer was whole".to_owned());
        for body in [
            chunked(""),
            chunked("3\r\n"),
            "content-length: 3\r\n\r\n".to_owned(),
        ] {
            assert_eq!(begun(&body, false).await, closed, "{body}");
        }
        let wrong = Err("it sent a chunk whose size is no number".to_owned());
        assert_eq!(begun(&chunked("x"), true).await, wrong);
    }

    #[tokio::test]
    async fn a_body_that_begins_late_is_all_there() {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r";
        let (mut link, other) = answered(head, true).await;
        let mut other = other.expect("it stays");
        poll_fn(|cx| {
            let polled = link.poll_begun(cx);
            assert!(polled.is_pending(), "nothing has come: {polled:?}");
            Poll::Ready(())
        })
        .await;
        other.write_all(b"\nabc\r\n0\r\n\r\n").unwrap();
        poll_fn(|cx| link.poll_begun(cx)).await.unwrap();
        let piece = poll_fn(|cx| link.poll_piece(cx)).await;
        assert_eq!(piece.unwrap().unwrap(), "abc");
        assert!(poll_fn(|cx| link.poll_piece(cx)).await.is_none());
        assert!(link.is_reusable());
    }

    #[tokio::test]
    async fn only_what_was_announced_has_a_length() {
        #[track_caller]
        fn check(read: &(Vec<Bytes>, Result<Option<u64>, String>), left: Option<u64>) {
            assert_eq!(*read, (vec![Bytes::from_static(b"abc")], Ok(left)));
        }
        let until_close = b"HTTP/1.1 200 OK\r\n\r\nabc";
        check(&read(until_close, false).await, None);
        let measured = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        check(&read(measured, true).await, Some(0));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        check(&read(chunked, true).await, None);
    }
}
