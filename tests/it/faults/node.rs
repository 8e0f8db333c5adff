//! A node that is well until it is told to turn, and then does one thing wrong.

use crate::support::PATIENCE;
use crate::support::backend::Call;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Marks the requests that get the fault. All others are answered well, on the same node at the same time.
pub const MARK: &str = "?fault";
/// How long a connection is kept for another request, by nodes that keep any.
const KEPT: Duration = Duration::from_millis(300);
/// The pause between two bytes that drip.
const DRIP: Duration = Duration::from_millis(5);
/// Bodies up to this length are sent back as they came; for longer ones the answer is short.
const ECHOED_BYTES: usize = 1024;

/// What is done with a connection when all was said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    Close,
    Reset,
    /// It is left open until the proxy leaves.
    Hold,
}

/// What is wrong with a node.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nobody listens.
    Refuses,
    /// Its name has no address.
    Nameless,
    /// Connections are taken and nothing is read.
    Deaf,
    /// This is the answer, and then it ends so.
    Says(Vec<u8>, End),
    /// The same, but not a byte of the body is read before.
    Early(&'static str, End),
    /// This is the answer, and it comes a byte at a time.
    Drips(&'static str),
    /// A connection ends so when its second request has come; its first is answered well.
    OnReuse(End),
}

/// One node.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Keeps the port while nobody listens.
    _port: TcpSocket,
    /// Listens while nobody takes what comes.
    deaf: Option<TcpListener>,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    fault: Option<Fault>,
    tags: String,
    turned: AtomicBool,
    wrongs: AtomicUsize,
    /// Told when the node recovers.
    released: Notify,
}

impl Node {
    /// Starts one that holds `models`.
    pub fn start(fault: Option<Fault>, models: &[&str]) -> Self {
        let port = socket("127.0.0.1:0".parse().unwrap());
        let listed: Vec<_> = models
            .iter()
            .map(|name| format!(r#"{{"name":"{name}"}}"#))
            .collect();
        let mut node = Self {
            address: port.local_addr().unwrap(),
            shared: Arc::new(Shared {
                fault,
                tags: format!(r#"{{"models":[{}]}}"#, listed.join(",")),
                turned: AtomicBool::new(false),
                wrongs: AtomicUsize::new(0),
                released: Notify::new(),
            }),
            _port: port,
            deaf: None,
            task: None,
        };
        node.serve();
        node
    }

    fn serve(&mut self) {
        let listener = socket(self.address).listen(1024).unwrap();
        let shared = Arc::clone(&self.shared);
        self.task = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { shared.serve(stream).await });
            }
        }));
    }

    /// How the configuration names it.
    pub fn url(&self) -> String {
        match self.shared.fault {
            // A label longer than any name has: nobody on the network need be asked, which may take its time.
            Some(Fault::Nameless) => format!("http://{}.invalid:1", "x".repeat(64)),
            _ => format!("http://{}", self.address),
        }
    }

    /// From now on it is faulty.
    pub async fn turn(&mut self) {
        self.shared.turned.store(true, SeqCst);
        let deaf = matches!(self.shared.fault, Some(Fault::Deaf));
        if !deaf && !matches!(self.shared.fault, Some(Fault::Refuses)) {
            return;
        }
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        self.deaf = deaf.then(|| socket(self.address).listen(1024).unwrap());
    }

    /// From now on it is well.
    pub fn recover(&mut self) {
        self.shared.turned.store(false, SeqCst);
        self.shared.released.notify_waiters();
        self.deaf = None;
        if self.task.is_none() {
            self.serve();
        }
    }

    /// How often it has done wrong.
    pub fn wrongs(&self) -> usize {
        self.shared.wrongs.load(SeqCst)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A socket with this address, which others may have too as long as one alone listens.
fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

impl Shared {
    async fn serve(&self, mut stream: TcpStream) {
        let keeps = matches!(self.fault, Some(Fault::OnReuse(_)));
        let mut limit = PATIENCE;
        for used in 0.. {
            let Ok(Some(mut call)) = timeout(limit, Call::read_head(stream)).await else {
                return;
            };
            let answer = match call.head.split(' ').nth(1).unwrap_or_default() {
                "/api/version" => r#"{"version":"0.33.0"}"#.to_owned(),
                "/api/tags" | "/api/ps" => self.tags.clone(),
                path => {
                    if path.ends_with(MARK) && self.turned.load(SeqCst) {
                        call = match self.wrong(call, used).await {
                            Some(well) => well,
                            None => return,
                        };
                    }
                    if call.read_body().await.is_none() {
                        return;
                    }
                    match String::from_utf8(call.body.clone()) {
                        Ok(body) if body.len() <= ECHOED_BYTES => body,
                        _ => "{}".to_owned(),
                    }
                }
            };
            if !keeps {
                call.answer("200 OK", "application/json", &answer).await;
                return;
            }
            let length = answer.len();
            call.write(&format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{answer}")).await;
            stream = call.stream;
            limit = KEPT;
        }
    }

    /// Does what is wrong, or gives the call back.
    async fn wrong(&self, mut call: Call, used: usize) -> Option<Call> {
        let end = match &self.fault {
            Some(Fault::Says(text, end)) => {
                call.read_body().await?;
                self.wrongs.fetch_add(1, SeqCst);
                // The proxy need not listen to all of it.
                let _ = timeout(PATIENCE, call.stream.write_all(text)).await;
                *end
            }
            Some(Fault::Early(text, end)) => {
                self.wrongs.fetch_add(1, SeqCst);
                call.write(text).await;
                if *end == End::Close {
                    // With bytes unread a close would be a reset.
                    let _ = call.stream.shutdown().await;
                    call.gone().await;
                }
                *end
            }
            Some(Fault::Drips(text)) => {
                call.read_body().await?;
                self.wrongs.fetch_add(1, SeqCst);
                for byte in text.as_bytes() {
                    if call.stream.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                    sleep(DRIP).await;
                }
                End::Close
            }
            Some(Fault::OnReuse(end)) if used > 0 => {
                call.read_body().await?;
                self.wrongs.fetch_add(1, SeqCst);
                *end
            }
            Some(Fault::OnReuse(_) | Fault::Refuses | Fault::Nameless | Fault::Deaf) | None => {
                return Some(call);
            }
        };
        match end {
            End::Close => drop(call),
            End::Reset => call.reset(),
            // Not read, so that a body that nobody wants stays where it is.
            End::Hold if matches!(self.fault, Some(Fault::Early(..))) => {
                self.released.notified().await;
            }
            End::Hold => {
                call.gone().await;
            }
        }
        None
    }
}
