//! Connections to one backend: made, used for one exchange at a time, kept while idle.
//!
//! A link is not a task. Whoever uses it polls it, so that a chunk wakes the task that writes it to the client and nobody
//! else, and dropping a link closes its socket at once: that is how a generation is cancelled.

use crate::backend_socket::{BackendSocket, Look};
use crate::descriptors;
use crate::feed::Feed;
use crate::origin::Origin;
use crate::tcp;
use crate::upload::{BodyError, Upload};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Idle connections kept per backend.
const IDLE_LINKS: usize = 256;
/// How long an idle connection is kept. Servers in front of Ollama commonly close theirs after five seconds.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// Buffer for one answer's head and body, and so the most that a stopped reader holds on this side.
const READ_BUFFER_BYTES: usize = 16 << 10;

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

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Kept(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Kept(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Upload(upload) => Pin::new(upload).poll_frame(cx).map_err(BodyError::Upload),
            Self::Feed(feed) => feed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Kept(bytes) => bytes.is_empty(),
            Self::Upload(upload) => upload.is_end_stream(),
            Self::Feed(feed) => feed.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Kept(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Upload(upload) => upload.size_hint(),
            Self::Feed(feed) => feed.size_hint(),
        }
    }
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
    /// The connection broke before it could be used.
    #[error("{0}")]
    Handshake(#[from] hyper::Error),
}

/// Why an exchange failed before its answer began.
#[derive(Debug)]
pub struct SendError {
    /// The cause.
    pub error: hyper::Error,
    /// The request, if not a byte of it was written.
    pub unsent: Option<Request<RequestBody>>,
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

type Driver = Pin<Box<Connection<TokioIo<BackendSocket>, RequestBody>>>;

/// One connection.
#[derive(Debug)]
pub struct Link {
    sender: SendRequest<RequestBody>,
    /// `None` once the connection has ended.
    driver: Option<Driver>,
    look: Look,
    idle_since: Instant,
}

impl Link {
    /// Connects, trying every address of the name in turn.
    ///
    /// # Errors
    /// When no address takes the connection within `limit`, all tries together.
    pub async fn connect(origin: &Origin, limit: Duration) -> Result<Self, ConnectError> {
        let connecting = TcpStream::connect((origin.host(), origin.port()));
        let stream = timeout(limit, connecting)
            .await
            .map_err(|_| ConnectError::Timeout(limit))??;
        tcp::prepare(&stream)?;
        let (socket, look) = BackendSocket::new(stream);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER_BYTES)
            .handshake(TokioIo::new(socket))
            .await?;
        Ok(Self {
            sender,
            driver: Some(Box::pin(connection)),
            look,
            idle_since: Instant::now(),
        })
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// When the connection ends or the answer is no HTTP. Dropped before its end, the link must be dropped too.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        poll_fn(|cx| {
            drive(driver, cx);
            answer.as_mut().poll(cx)
        })
        .await
        .map_err(|mut error| SendError {
            unsent: error.take_message(),
            error: error.into_error(),
        })
    }

    /// Moves the connection's bytes on; to be called before a body that comes from it is polled.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, cx);
    }

    /// The same, as far as the kernel knows at this moment.
    fn is_reusable_now(&mut self) -> bool {
        self.look.set(true);
        let is_reusable = self.is_reusable();
        self.look.set(false);
        is_reusable
    }

    /// Whether the connection is open, has nothing under way and can take a request.
    fn is_reusable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }
}

fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    // How a connection ended is told to the exchange on it; an idle one's end is only worth forgetting it.
    if driver
        .as_mut()
        .is_some_and(|driver| driver.as_mut().poll(cx).is_ready())
    {
        *driver = None;
    }
}

/// The idle connections to one backend, last used first.
#[derive(Debug, Default)]
pub struct Links(Mutex<Vec<Link>>);

impl Links {
    /// An idle connection that is still good, if there is one.
    pub fn take(&self, now: Instant) -> Option<Link> {
        loop {
            let mut link = self.lock().pop()?;
            let is_fresh = now.saturating_duration_since(link.idle_since) < IDLE_FOR;
            if is_fresh && link.is_reusable_now() {
                return Some(link);
            }
        }
    }

    /// Keeps a connection whose exchange is over, unless it cannot be used again or enough are kept.
    pub fn put(&self, mut link: Link, now: Instant) {
        if !link.is_reusable() {
            return;
        }
        link.idle_since = now;
        let mut idle = self.lock();
        if idle.len() < IDLE_LINKS {
            idle.push(link);
        }
    }

    /// Closes what has been idle too long or was closed by the backend.
    pub fn prune(&self, now: Instant) {
        let kept = |link: &mut Link| {
            now.saturating_duration_since(link.idle_since) < IDLE_FOR && link.is_reusable()
        };
        self.lock().retain_mut(kept);
    }

    /// Closes all.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A link that has had an exchange, and the other end of it.
    async fn used() -> (Link, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = Origin::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let mut link = Link::connect(&origin, Duration::from_secs(5))
            .await
            .unwrap();
        let (mut other, _) = listener.accept().unwrap();
        other.set_nodelay(true).unwrap();
        other
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        // Written before it is asked, so that one thread can do both.
        let request = Request::get("/").header("host", "a");
        let request = request.body(RequestBody::Kept(Bytes::new())).unwrap();
        let _ = link.send(request).await;
        (link, other)
    }

    #[tokio::test]
    async fn a_link_on_which_something_came_this_moment_is_not_used_again() {
        for extra in [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), b""] {
            let links = Links::default();
            let (link, mut other) = used().await;
            links.put(link, Instant::now());
            let mut request = [0; 256];
            let _ = other.read(&mut request).unwrap();
            // The runtime has no chance to notice.
            if extra.is_empty() {
                drop(other);
            } else {
                other.write_all(extra).unwrap();
            }
            assert!(links.take(Instant::now()).is_none());
        }
    }

    #[tokio::test]
    async fn a_link_on_which_nothing_came_is_used_again() {
        let links = Links::default();
        let (link, mut other) = used().await;
        links.put(link, Instant::now());
        let mut request = [0; 256];
        let _ = other.read(&mut request).unwrap();
        assert!(links.take(Instant::now()).is_some());
    }
}
