//! Clients that leave: in every way, at every time, with anything unread. Whatever the case, the backend hears of it within
//! 50 ms or never saw the request, its place is free, and the log says who went.

use crate::support::backend::{Backend, Call};
use crate::support::client::{Client, get};
use crate::support::process::Process;
use crate::support::{eventually, soon};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How soon all must be free again.
const PROMISE: Duration = Duration::from_millis(50);
/// Runs of each case: the machine may stall any one of them, and the promise is about the proxy.
const RUNS: usize = 3;
const BODY: &str = r#"{"model":"m"}"#;

#[derive(Debug, Clone, Copy)]
enum Leave {
    Fin,
    Reset,
    HalfClose,
}

/// What the client has sent besides its request, or has not read.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Unread {
    Nothing,
    StrayCrlf,
    Pipelined,
}

/// How far the request is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    HalfHead,
    HalfBody,
    Queued,
    Connecting,
    Waiting,
    Held,
    Streaming,
}

/// A proxy in front of a backend that tells when the proxy leaves it.
struct Stage {
    when: When,
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    backend: Backend,
    gone: mpsc::Receiver<Instant>,
    /// Has the one place that there is, so that all others queue.
    occupant: Option<Client>,
    /// Takes no more connections, and those that fill it.
    _full: Option<(TcpListener, Vec<JoinHandle<std::io::Result<TcpStream>>>)>,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn set(when: When) -> Self {
        let (report, gone) = mpsc::channel::<Instant>(1);
        let backend = Backend::start(&["m"], move |mut call: Call| {
            let report = report.clone();
            async move {
                if matches!(when, When::Held | When::Streaming | When::Queued) {
                    call.begin("application/x-ndjson").await;
                }
                if when == When::Streaming || when == When::Queued {
                    call.chunk("{\"done\":false}\n").await;
                }
                let at = call.gone().await;
                // The last one has nobody to tell.
                let _ = report.send(at).await;
            }
        })
        .await;
        let full = (when == When::Connecting).then(full);
        let url = match &full {
            Some((listener, _)) => format!("http://{}", listener.local_addr().unwrap()),
            None => backend.url(),
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("llamero.toml");
        let config = format!(
            "health.interval = \"600s\"\nhealth.timeout = \"600s\"\ntimeouts.connect = \"600s\"\n[[backend]]\nname = \"a\"\nurl = \"{url}\"\nslots = 1\n"
        );
        std::fs::write(&file, config).unwrap();
        let (mut process, address) = Process::serve(&["--config", file.to_str().unwrap()]).await;
        let line = process.line_with("listening for operators").await;
        let line: Value = serde_json::from_str(&line).unwrap();
        let admin = line["address"].as_str().unwrap().parse().unwrap();
        let mut occupant = None;
        if when == When::Queued {
            let mut client = Client::connect(address).await;
            client.post("/api/chat", BODY).await;
            client.read_to("}\n").await;
            occupant = Some(client);
        }
        Self {
            when,
            process,
            address,
            admin,
            backend,
            gone,
            occupant,
            _full: full,
            _folder: folder,
        }
    }

    /// Requests that a backend has, and those that wait for one.
    async fn under_way(&self) -> (u64, u64) {
        let status = get(self.admin, "/api/v1/status").await.json();
        let in_flight = status["backends"][0]["in_flight"].as_u64().unwrap();
        let waiting = status["queue"]["waiting"].as_u64().unwrap();
        (in_flight, waiting)
    }

    /// The same while nobody of this test asks for anything.
    fn rest(&self) -> (u64, u64) {
        (u64::from(self.occupant.is_some()), 0)
    }

    async fn until_under_way(&self, wanted: (u64, u64)) {
        soon("the request is where it shall be", async {
            while self.under_way().await != wanted {}
        })
        .await;
    }

    /// Sends so much of a request as this is about, and waits until it is there.
    async fn ask(&self, client: &mut Client, unread: Unread, id: &str) {
        let extra = match unread {
            Unread::Nothing => String::new(),
            Unread::StrayCrlf => "\r\n".to_owned(),
            Unread::Pipelined => "GET /api/version HTTP/1.1\r\nhost: lb\r\n\r\n".to_owned(),
        };
        let length = BODY.len();
        let head = format!(
            "POST /api/chat HTTP/1.1\r\nhost: lb\r\nx-request-id: {id}\r\ncontent-length: {length}\r\n"
        );
        match self.when {
            // What is sent behind a half would be more of it, so it is sent before.
            When::HalfHead => client.send(format!("{extra}{head}")).await,
            When::HalfBody => client.send(format!("{extra}{head}\r\n{{\"mo")).await,
            When::Queued | When::Connecting | When::Waiting | When::Held | When::Streaming => {
                client.send(format!("{head}\r\n{BODY}")).await;
            }
        }
        match self.when {
            When::HalfHead | When::HalfBody => {
                if unread == Unread::Pipelined {
                    // Its answer is there, so that the proxy is at what comes behind it.
                    soon("an answer", client.stream.readable()).await.unwrap();
                }
                return;
            }
            When::Queued => self.until_under_way((1, 1)).await,
            When::Connecting | When::Waiting | When::Held => self.until_under_way((1, 0)).await,
            When::Streaming => {
                client.read_to("}\n").await;
            }
        }
        client.send(extra).await;
    }

    /// Runs one case, and says how long it took until all was free.
    async fn run(&mut self, leave: Leave, unread: Unread, id: &str) -> Duration {
        let calls = self.backend.calls();
        let versions = self.process.lines_with("\"route\":\"/api/version\"");
        let mut client = Client::connect(self.address).await;
        self.ask(&mut client, unread, id).await;
        if matches!(self.when, When::Waiting | When::Held) {
            eventually("the backend has it", || self.backend.calls() > calls).await;
        }
        let left = Instant::now();
        let mut kept = None;
        match leave {
            Leave::Fin => drop(client),
            Leave::Reset => client.reset(),
            Leave::HalfClose => {
                client.stream.shutdown().await.unwrap();
                kept = Some(client);
            }
        }
        let took = match self.when {
            When::Waiting | When::Held | When::Streaming => {
                let heard = soon("the backend hears of it", self.gone.recv()).await;
                heard.unwrap().saturating_duration_since(left)
            }
            // Without a whole head there is no request that a line could be about.
            When::HalfHead => {
                if let Some(client) = &mut kept {
                    client.read_all().await;
                }
                left.elapsed()
            }
            When::HalfBody => {
                self.process.line_with(&format!("\"id\":\"{id}\"")).await;
                left.elapsed()
            }
            When::Queued | When::Connecting => {
                self.until_under_way(self.rest()).await;
                left.elapsed()
            }
        };
        drop(kept);
        self.until_under_way(self.rest()).await;
        let reaches = matches!(self.when, When::Waiting | When::Held | When::Streaming);
        let seen = usize::from(reaches);
        assert_eq!(self.backend.calls() - calls, seen, "calls of the backend");
        let key = format!("\"id\":\"{id}\"");
        if self.when == When::HalfHead {
            assert_eq!(self.process.lines_with(&key), 0);
        } else {
            let line = self.process.line_with(&key).await;
            assert!(line.contains("\"ended\":\"client_gone\""), "{line}");
            assert_eq!(self.process.lines_with(&key), 1);
            // What was sent behind it went with it.
            let before = self.when == When::HalfBody && unread == Unread::Pipelined;
            let answered = self.process.lines_with("\"route\":\"/api/version\"") - versions;
            assert_eq!(answered, usize::from(before));
        }
        took
    }
}

/// A listener whose backlog is full: the kernel neither takes nor refuses a further connection.
fn full() -> (TcpListener, Vec<JoinHandle<std::io::Result<TcpStream>>>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let fill = || {
        let socket = TcpSocket::new_v4().unwrap();
        tokio::spawn(async move { socket.connect(address).await })
    };
    (listener, (0..8).map(|_| fill()).collect())
}

async fn check(when: When) {
    let mut stage = Stage::set(when).await;
    for leave in [Leave::Fin, Leave::Reset, Leave::HalfClose] {
        for unread in [Unread::Nothing, Unread::StrayCrlf, Unread::Pipelined] {
            let mut took = Vec::new();
            for run in 0..RUNS {
                let id = format!("{leave:?}-{unread:?}-{run}");
                took.push(stage.run(leave, unread, &id).await);
            }
            let best = took.iter().min().unwrap();
            assert!(*best < PROMISE, "{when:?} {leave:?} {unread:?}: {took:?}");
        }
    }
    let status = get(stage.admin, "/api/v1/status").await.json();
    let backend = &status["backends"][0];
    assert_eq!(
        (&backend["failures"], &backend["state"]),
        (&0.into(), &"up".into()),
        "a client that leaves is no failure"
    );
}

#[tokio::test]
async fn with_half_a_head_sent() {
    check(When::HalfHead).await;
}

#[tokio::test]
async fn with_half_a_body_sent() {
    check(When::HalfBody).await;
}

#[tokio::test]
async fn while_they_wait_in_the_line() {
    check(When::Queued).await;
}

#[tokio::test]
async fn while_the_proxy_connects() {
    check(When::Connecting).await;
}

#[tokio::test]
async fn while_the_backend_thinks() {
    check(When::Waiting).await;
}

/// Its head is kept back until the first of its body comes.
#[tokio::test]
async fn while_the_answer_has_only_a_head() {
    check(When::Held).await;
}

#[tokio::test]
async fn while_the_answer_streams() {
    check(When::Streaming).await;
}
