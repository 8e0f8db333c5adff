//! Listens, serves connections, and stops without cutting what runs.

mod client_socket;
mod door;
mod farewell;
mod framing;
mod turn;
mod waking;
#[cfg(test)]
mod waking_tests;

pub use door::{Crowd, Door};
pub use framing::{FIELDS, Fault, Framing, Refusal};
pub use turn::Patience;

use crate::address::Address;
use crate::overload::{Level, Overload};
use crate::tcp;
use client_socket::ClientSocket;
use door::{Guest, Place};
use turn::{Answering, Overdue, Turn};
use waking::{Eager, Lazy};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::tcp::ReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

/// Connections that the kernel may hold for us while we are busy accepting; it caps this at its own `somaxconn`.
const BACKLOG: i32 = 4096;
/// Connections that are told at one time why they are not served; what comes above that is closed without a word.
const REFUSALS: usize = 64;
/// How long accepting rests after the process ran out of descriptors, so that some can be given back.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// The most that is read at a time, which lets a chat of 100 KB come in one piece that need not be put together; and the
/// most that is buffered for a reader that has stopped, for whom it is 128 KiB with the piece at hand.
const BUFFER_BYTES: usize = 112 << 10;

/// How connections are served.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How long clients may take.
    pub patience: Patience,
    /// The largest head of a request, in bytes.
    pub head_bytes: usize,
}

/// How far the process is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not at all.
    Serving,
    /// No new connections; what runs may end.
    Draining,
    /// What still runs is cut.
    Cutting,
}

/// Answers requests. Cloned for each connection.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The body of its answers.
    type Body: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// Answers one request, as hard pressed as the process is. Dropped when the client leaves.
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: &Address,
        overload: Level,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// What a client is told whose request is not handled at all, for this path if it is known; heads may have so many
    /// bytes.
    fn refuse(&self, refusal: Refusal, path: Option<&str>, head_bytes: usize) -> Response<Bytes>;
}

/// Takes an address to listen on.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // "Every interface" means both kinds of addresses, whatever the system's default.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves connections until the phase changes, then waits for those that run. Returns when none is left, which the
/// phase [`Phase::Cutting`] brings about at once.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    policy: Policy,
    door: Door,
    handler: H,
    mut phase: watch::Receiver<Phase>,
) {
    let mut reserve = door.reserve();
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let mut is_exhausted = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = after(&mut phase, Phase::Serving) => break,
            accepted = door.next(&listener, &mut reserve) => accepted,
        };
        let mut cannot_accept = |reason: &dyn std::fmt::Display| {
            if !std::mem::replace(&mut is_exhausted, true) {
                tracing::warn!(error = %reason, "cannot accept connections, and tries again and again");
            }
        };
        match accepted {
            Ok(Guest::In(stream, peer, place)) => {
                is_exhausted = false;
                let overload = Arc::clone(&door.overload);
                let (handler, phase) = (handler.clone(), phase.clone());
                // Not within another future, which would hold it twice.
                tokio::spawn(serve_connection(
                    place,
                    stream,
                    peer.into(),
                    policy,
                    overload,
                    handler,
                    phase,
                ));
            }
            Ok(Guest::Out(stream, refusal)) => {
                let answer = handler.refuse(refusal, None, policy.head_bytes);
                if refusal == Refusal::Overloaded {
                    cannot_accept(&"no descriptor is left");
                    // It has the last one, which the next will need: so this is the rest, too.
                    let told = farewell::take(&stream, Some(answer));
                    let _ = tokio::join!(timeout(ACCEPT_REST, told), sleep(ACCEPT_REST));
                } else if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    tokio::spawn(async move {
                        farewell::take(&stream, Some(answer)).await;
                        drop(permit);
                    });
                }
            }
            // This client has left again; the next one has not.
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                cannot_accept(&error);
                sleep(ACCEPT_REST).await;
            }
        }
    }
    drop((listener, reserve));
    door.emptied().await;
}

/// Whether accepting failed for a connection that ended before it was accepted.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// What happens on a connection.
enum Event {
    /// hyper is done with it.
    Ended(hyper::Result<()>),
    /// The client has left.
    HungUp,
    /// The process is on its way out.
    Phase(Phase),
    /// The client takes too long.
    Overdue(Overdue),
}

/// How hyper's part of a connection ended.
enum End {
    /// It is over for both sides.
    Gone,
    /// The client may still be sending.
    Unread,
    /// The client is to be told why nothing more is read.
    Refused(Refusal, Option<Box<str>>),
}

/// Serves one connection; its place is given back when all else is.
async fn serve_connection<H: Handler>(
    _place: Place,
    mut stream: TcpStream,
    peer: Address,
    policy: Policy,
    overload: Arc<Overload>,
    handler: H,
    mut phase: watch::Receiver<Phase>,
) {
    // A failure here shows again at the first read.
    let _ = tcp::prepare(&stream).and_then(|()| tcp::limit_unsent(&stream));
    let (reader, writer) = stream.split();
    let stream: &TcpStream = writer.as_ref();
    let end = exchange(
        reader, stream, &peer, policy, &overload, &handler, &mut phase,
    )
    .await;
    let answer = match end {
        End::Gone => return,
        End::Unread => None,
        End::Refused(refusal, path) => {
            tracing::info!(client = %peer, ?refusal, "a client was refused");
            Some(handler.refuse(refusal, path.as_deref(), policy.head_bytes))
        }
    };
    // Boxed since hardly a connection ends so.
    let leaving = Box::pin(farewell::take(stream, answer));
    tokio::select! {
        () = leaving => {}
        _ = after(&mut phase, Phase::Draining) => {}
    }
}

/// Lets hyper answer what comes, until one side has enough.
async fn exchange<H: Handler>(
    reader: ReadHalf<'_>,
    stream: &TcpStream,
    peer: &Address,
    policy: Policy,
    overload: &Arc<Overload>,
    handler: &H,
    phase: &mut watch::Receiver<Phase>,
) -> End {
    let turn = Turn::new(policy.patience, Arc::clone(overload));
    let service = service_fn(|request| {
        let (handler, turn) = (handler.clone(), Arc::clone(&turn));
        let level = overload.level();
        turn.begin();
        // Boxed, so that a stream does not hold for all its time what it took to begin it.
        Box::pin(async move {
            let mut answer = handler.handle(request, peer, level).await;
            if level >= Level::Closing {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(answer.map(|body| Answering::new(body, turn)))
        })
    });
    let socket = ClientSocket::new(reader, stream, Arc::clone(&turn), policy.head_bytes);
    let connection = http1::Builder::new()
        // For heads the socket's own limit comes first and has better words.
        .max_buf_size(BUFFER_BYTES.max(policy.head_bytes + 1))
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let mut eager = Eager::default();
    let mut alarm = turn.alarm();
    let mut seen = Phase::Serving;
    loop {
        let since = seen;
        let mut beside = pin!(async {
            tokio::select! {
                biased;
                () = client_socket::hung_up(stream) => Event::HungUp,
                next = after(phase, since) => Event::Phase(next),
            }
        });
        let mut lazy = Lazy::default();
        let event = poll_fn(|cx| {
            if let Poll::Ready(ended) = eager.poll(connection.as_mut(), cx) {
                return Poll::Ready(Event::Ended(ended));
            }
            if let Poll::Ready(event) = lazy.poll(beside.as_mut(), cx) {
                return Poll::Ready(event);
            }
            turn.poll_overdue(&mut alarm, cx).map(Event::Overdue)
        });
        match event.await {
            // Broken connections and cut answers are told by the access line of their request.
            Event::Ended(ended) => {
                return match (turn.refusal(), ended) {
                    (Some(refusal), _) if turn.is_clear() => End::Refused(refusal, turn.path()),
                    (None, Ok(())) if !turn.is_mid_request() => End::Gone,
                    _ => End::Unread,
                };
            }
            // Dropping the connection drops the request under way, and with it its connection to a backend.
            Event::HungUp | Event::Phase(Phase::Cutting) | Event::Overdue(Overdue::Request) => {
                return End::Gone;
            }
            Event::Phase(next) => {
                seen = next;
                connection.as_mut().graceful_shutdown();
            }
            Event::Overdue(Overdue::Head) => return End::Refused(Refusal::HeadLate, turn.path()),
            // The next look at the body tells whoever reads it.
            Event::Overdue(Overdue::Body) => {}
            Event::Overdue(Overdue::Reading) => {
                // What it has not read is not worth keeping.
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
                return End::Gone;
            }
        }
    }
}

/// Waits for a phase later than `seen`. A sender that is gone means that the process is over.
async fn after(phase: &mut watch::Receiver<Phase>, seen: Phase) -> Phase {
    phase
        .wait_for(|phase| *phase > seen)
        .await
        .map_or(Phase::Cutting, |phase| *phase)
}
