//! A running node: its listening socket, its connections, and what tests ask it.

use super::door::{Admitted, Door, How, reset};
use super::exchange::Shared;
use super::fault::Faults;
use super::library::Library;
use super::profile::Profile;
use super::route;
use super::runner::Runners;
use super::seen::{Log, Record};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

/// Open connections; more wait to be accepted.
const CONNECTIONS: usize = 4096;
/// Header fields of a request.
const HEADERS: usize = 1000;
/// Pause after a connection could not be accepted: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// An answer that no HTTP client understands.
const GARBAGE: &[u8] = b"\x16\x03\x01 this is not the llama you are looking for\r\n\r\n";

/// A simulated Ollama. Dropping it closes its socket and cuts its connections.
#[derive(Debug)]
pub struct Node {
    door: Arc<Door>,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

impl Node {
    /// Listens on `addr` (port 0 takes any) and answers in the background.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the profile has a speed or a limit of zero.
    #[expect(
        clippy::unused_async,
        reason = "it has to run inside a runtime, and a caller should see that"
    )]
    pub async fn start(addr: SocketAddr, profile: Profile) -> io::Result<Self> {
        profile.check()?;
        let door = Arc::new(Door::open(addr)?);
        let shared = Arc::new(Shared {
            library: Library::new(&profile.models),
            runners: Arc::new(Runners::new(profile.clone())),
            faults: Faults::new(Arc::clone(&door)),
            log: Arc::new(Log::new()),
            profile,
        });
        let acceptor = tokio::spawn(accept(Arc::clone(&door), Arc::clone(&shared)));
        Ok(Self {
            door,
            shared,
            acceptor,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.door.addr()
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// The faults it has.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The inference requests it saw, oldest first: the last few thousand.
    pub fn log(&self) -> Vec<Record> {
        self.shared.log.records()
    }

    /// Waits until the log is as wanted. Set a deadline around it.
    pub async fn until(&self, wanted: impl FnMut(&[Record]) -> bool) {
        self.shared.log.until(wanted).await;
    }

    /// Inference requests that are being worked on or wait.
    pub fn in_flight(&self) -> usize {
        self.shared.log.in_flight()
    }

    /// Connections that are open, idle ones too.
    pub fn open_connections(&self) -> usize {
        self.door.connections()
    }

    /// The names of the models in memory.
    pub fn loaded(&self) -> Vec<String> {
        let loaded = self.shared.runners.loaded();
        loaded
            .iter()
            .map(|loaded| loaded.entry.name.to_string())
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.door.close();
        self.acceptor.abort();
    }
}

/// Takes connections in. Its end is the end of them all.
async fn accept(door: Arc<Door>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = door.accept() => match accepted {
                Ok(socket) => {
                    connections.spawn(serve(socket, door.admit(), Arc::clone(&shared)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers the requests of one connection until it ends or is cut.
async fn serve(socket: TcpStream, admitted: Admitted, shared: Arc<Shared>) {
    // A chunk is a write: it must not wait for the next one.
    let _ = socket.set_nodelay(true);
    let cut = &admitted.cut;
    let service = service_fn(|request| {
        let answer = route::answer(Arc::clone(&shared), Arc::clone(cut), request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(socket), service);
    let how = tokio::select! {
        // First the connection, so that what was written before the cut is on its way.
        biased;
        _ = &mut connection => return,
        how = cut.asked() => how,
    };
    let mut socket = connection.into_parts().io.into_inner();
    match how {
        How::Reset => reset(socket),
        How::Fin => drop(socket),
        How::Garbage => {
            // A client that left first does not need it.
            let _ = socket.write_all(GARBAGE).await;
        }
    }
}
