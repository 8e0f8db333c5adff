//! Where connections come in, and how they are cut.

use socket2::{Domain, SockRef, Socket, Type};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// How a connection is cut in the middle of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// The client reads the end of the stream.
    Fin,
    /// The client reads `connection reset by peer`.
    Reset,
    /// Bytes that are not HTTP, then the end of the stream.
    Garbage,
}

/// One connection's rope to pull. The task that owns the socket waits at the other end.
#[derive(Debug, Default)]
pub(super) struct Cut {
    how: OnceLock<How>,
    pulled: Notify,
}

impl Cut {
    /// Asks for the connection to be cut. Only the first way asked for counts.
    pub(super) fn pull(&self, how: How) {
        let _ = self.how.set(how);
        self.pulled.notify_one();
    }

    pub(super) fn is_pulled(&self) -> bool {
        self.how.get().is_some()
    }

    pub(super) async fn asked(&self) -> How {
        loop {
            if let Some(how) = self.how.get() {
                return *how;
            }
            self.pulled.notified().await;
        }
    }
}

/// Closes a socket so that its peer sees a reset.
pub(super) fn reset(socket: TcpStream) {
    // Closing with unsent data thrown away is what makes the kernel send RST; without it the peer sees an ordinary end.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    drop(socket);
}

/// A listening socket that can be closed and opened again, with the connections that came through it.
#[derive(Debug)]
pub(super) struct Door {
    addr: SocketAddr,
    runtime: Handle,
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    state: State,
    /// Counts the times the door was shut, so that an old timer does not open it.
    shut: u64,
    acceptor: Option<Waker>,
    next: u64,
    connections: HashMap<u64, Arc<Cut>>,
}

#[derive(Debug)]
enum State {
    Open(TcpListener),
    /// The port stays taken by a socket that does not listen: connecting is refused, and nobody else gets the port.
    Shut(Option<Socket>),
    Gone,
}

impl Door {
    /// Listens. Port 0 takes any.
    pub(super) fn open(addr: SocketAddr) -> io::Result<Self> {
        let socket = bind(addr)?;
        let listener = listen(socket)?;
        Ok(Self {
            addr: listener.local_addr()?,
            runtime: Handle::current(),
            inside: Mutex::new(Inside {
                state: State::Open(listener),
                shut: 0,
                acceptor: None,
                next: 0,
                connections: HashMap::new(),
            }),
        })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn connections(&self) -> usize {
        self.inside().connections.len()
    }

    /// The next connection; waits while the door is shut.
    pub(super) async fn accept(&self) -> io::Result<TcpStream> {
        poll_fn(|cx| {
            let mut inside = self.inside();
            inside.acceptor = Some(cx.waker().clone());
            match &inside.state {
                State::Open(listener) => listener
                    .poll_accept(cx)
                    .map(|accepted| accepted.map(|(socket, _)| socket)),
                State::Shut(_) | State::Gone => Poll::Pending,
            }
        })
        .await
    }

    /// Puts a connection on the list of those that shutting cuts.
    pub(super) fn admit(self: &Arc<Self>) -> Admitted {
        let cut = Arc::new(Cut::default());
        let mut inside = self.inside();
        let id = inside.next;
        inside.next += 1;
        inside.connections.insert(id, Arc::clone(&cut));
        drop(inside);
        Admitted {
            door: Arc::clone(self),
            id,
            cut,
        }
    }

    /// Stops listening and resets every connection, but for one that still has an answer to bring out. After `lasting`
    /// the door opens by itself; without it, only [`reopen`](Self::reopen) does.
    pub(super) fn shut(self: &Arc<Self>, spare: Option<&Arc<Cut>>, lasting: Option<Duration>) {
        let mut inside = self.inside();
        if let State::Open(_) = inside.state {
            // The listener has to be gone before its port can be bound again.
            inside.state = State::Shut(None);
            inside.state = State::Shut(bind(self.addr).ok());
        }
        inside.shut += 1;
        let shut = inside.shut;
        for cut in inside.connections.values() {
            if !spare.is_some_and(|spare| Arc::ptr_eq(spare, cut)) {
                cut.pull(How::Reset);
            }
        }
        drop(inside);
        if let Some(lasting) = lasting {
            let door = Arc::clone(self);
            self.runtime.spawn(async move {
                tokio::time::sleep(lasting).await;
                if door.inside().shut == shut {
                    door.reopen();
                }
            });
        }
    }

    /// Listens again on the same port. Nothing happens if the door is open.
    pub(super) fn reopen(&self) {
        let _runtime = self.runtime.enter();
        let mut inside = self.inside();
        let State::Shut(kept) = &mut inside.state else {
            return;
        };
        let socket = kept.take().map_or_else(|| bind(self.addr), Ok);
        match socket.and_then(listen) {
            Ok(listener) => {
                inside.state = State::Open(listener);
                if let Some(acceptor) = inside.acceptor.take() {
                    acceptor.wake();
                }
            }
            Err(error) => tracing::error!(addr = %self.addr, %error, "cannot listen again"),
        }
    }

    /// Stops listening for good.
    pub(super) fn close(&self) {
        self.inside().state = State::Gone;
    }
}

/// A connection on the list of its door.
#[derive(Debug)]
pub(super) struct Admitted {
    door: Arc<Door>,
    id: u64,
    pub(super) cut: Arc<Cut>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.door.inside().connections.remove(&self.id);
    }
}

fn bind(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    // Connections of an earlier listener may still be winding down on this port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}
