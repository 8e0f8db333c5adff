//! One fault in one fleet, and everything that must hold whatever the fault is.

use super::node::{MARK, Node};
use super::rows::{Ask, Expected, Row};
use crate::support::client::{Answer, Client, get};
use crate::support::process::Process;
use crate::support::{PATIENCE, soon};
use llamero::Gateway;
use llamero::config::{ContentHash, Settings};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// The fleet around the faulty node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fleet {
    /// There is no other node.
    Alone,
    /// A healthy one has the same models.
    WithSecond,
    /// There are two healthy ones, and neither has the model.
    OnlyHolder,
}

/// Where the proxy runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// As a process, whose descriptors, processor time and words can be looked at.
    Process,
    /// On a runtime of its own in this process, whose tasks can be counted.
    Here,
}

/// How soon all that a request took must be given back. Shorter than idle connections are kept, so that those which must
/// not be kept are told apart.
const GIVEN_BACK: Duration = Duration::from_secs(3);
/// How long the processor time is looked at, and the share of it that a proxy at rest may need: what spins needs all of
/// it. An unoptimised build takes most of this for its checks.
const WINDOW: Duration = Duration::from_millis(300);
const IDLE_SHARE: u32 = 33;
/// Looks at what is in use at rest: a check under way is not always there.
const LOOKS: u32 = 20;
/// Requests until one must have met the fault.
const TRIES: usize = 20;
/// The fewest requests of the good traffic.
const GOOD: usize = 5;
/// Between two of them, and between two looks at the proxy.
const PAUSE: Duration = Duration::from_millis(20);
const UPLOAD_BYTES: usize = 8 << 20;

/// What can be looked at.
enum Subject {
    Process(Process),
    Here(Option<Runtime>),
}

/// What must stay while the proxy runs: its configuration, or itself.
#[expect(dead_code, reason = "held for its drop")]
enum Held {
    Folder(tempfile::TempDir),
    Gateway(Gateway),
}

/// A proxy at work.
struct Run {
    subject: Subject,
    _held: Held,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Run {
    async fn start(config: &str, place: Place) -> Self {
        match place {
            Place::Process => {
                let folder = tempfile::tempdir().unwrap();
                let file = folder.path().join("llamero.toml");
                std::fs::write(&file, config).unwrap();
                let (mut process, address) =
                    Process::serve(&["--config", file.to_str().unwrap()]).await;
                let line = process.line_with("listening for operators").await;
                let line: Value = serde_json::from_str(&line).unwrap();
                let admin = line["address"].as_str().unwrap().parse().unwrap();
                Self {
                    subject: Subject::Process(process),
                    _held: Held::Folder(folder),
                    address,
                    admin,
                }
            }
            Place::Here => {
                let text =
                    format!("listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n{config}");
                let settings = Settings::parse(&text, "test.toml").unwrap();
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .unwrap();
                let started = runtime.spawn(async move {
                    Gateway::start(settings, None, ContentHash::of(&text), 7).unwrap()
                });
                let gateway = started.await.unwrap();
                Self {
                    address: gateway.addresses()[0],
                    admin: gateway.admin_address(),
                    subject: Subject::Here(Some(runtime)),
                    _held: Held::Gateway(gateway),
                }
            }
        }
    }

    /// What is in use now: descriptors, or tasks.
    fn in_use(&self) -> usize {
        match &self.subject {
            Subject::Process(process) => process.descriptors(),
            Subject::Here(runtime) => runtime.as_ref().unwrap().metrics().num_alive_tasks(),
        }
    }

    /// The least that is in use while nothing is asked.
    async fn at_rest(&self) -> usize {
        let mut least = usize::MAX;
        for _ in 0..LOOKS {
            least = least.min(self.in_use());
            sleep(Duration::from_millis(10)).await;
        }
        least
    }

    /// Waits until no more is in use than at rest, and nothing in flight.
    async fn given_back(&self, rest: usize) {
        let started = Instant::now();
        loop {
            let in_use = self.in_use();
            let backends = self.backends().await;
            let in_flight: u64 = backends
                .iter()
                .map(|backend| backend["in_flight"].as_u64().unwrap())
                .sum();
            if in_use <= rest && in_flight == 0 {
                return;
            }
            assert!(
                started.elapsed() < GIVEN_BACK,
                "{in_use} in use, {rest} before; {in_flight} in flight"
            );
            sleep(PAUSE).await;
        }
    }

    /// Waits for a time in which the processor has next to nothing to do.
    async fn quiet(&self) {
        let Subject::Process(process) = &self.subject else {
            return;
        };
        let started = Instant::now();
        loop {
            let (before, began) = (process.processor_time(), Instant::now());
            sleep(WINDOW).await;
            let spent = process.processor_time().saturating_sub(before);
            if spent < began.elapsed() / IDLE_SHARE {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "it never rests: {spent:?}");
        }
    }

    async fn backends(&self) -> Vec<Value> {
        let status = get(self.admin, "/api/v1/status").await.json();
        status["backends"].as_array().unwrap().clone()
    }

    /// Waits until the faulty node is in this state.
    async fn until_state(&self, state: &str) {
        soon(state, async {
            while self.backends().await[0]["state"] != state {
                sleep(PAUSE).await;
            }
        })
        .await;
    }

    /// Waits until all say which models they have, but for one that cannot.
    async fn until_known(&self, nameless: bool) {
        soon("the models are known", async {
            while self
                .backends()
                .await
                .iter()
                .skip(usize::from(nameless))
                .any(|backend| backend["models"].is_null())
            {
                sleep(PAUSE).await;
            }
        })
        .await;
    }

    /// Looks at the one line that the log has of a request.
    async fn check_line(&mut self, id: &str, expected: &Expected) {
        let Subject::Process(process) = &mut self.subject else {
            return;
        };
        let key = format!("\"id\":\"{id}\"");
        let line = process.line_with(&key).await;
        let line: Value = serde_json::from_str(&line).unwrap();
        let (status, ended) = expected.logged();
        assert_eq!(
            (line["status"].as_u64(), line["ended"].as_str()),
            (status, Some(ended)),
            "{line}"
        );
        assert_eq!(process.lines_with(&key), 1);
    }

    fn check_no_panic(&self) {
        if let Subject::Process(process) = &self.subject {
            assert_eq!(process.lines_with("panicked"), 0);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Subject::Here(runtime) = &mut self.subject
            && let Some(runtime) = runtime.take()
        {
            runtime.shutdown_background();
        }
    }
}

/// Asks for a model that no fault is about, again and again, each time for something else.
fn good_traffic(address: SocketAddr, enough: Arc<AtomicBool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        for round in 0.. {
            if round >= GOOD && enough.load(SeqCst) {
                return;
            }
            let body = format!(r#"{{"model":"good","n":{round}}}"#);
            client.post("/api/chat", &body).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, &answer.body), (200, &body), "good traffic");
            sleep(PAUSE).await;
        }
    })
}

/// Sends what a row asks.
async fn send(client: &mut Client, ask: Ask, id: &str) -> String {
    let (path, body) = match ask {
        Ask::Chat => ("/api/chat", format!(r#"{{"model":"m","id":"{id}"}}"#)),
        Ask::Events => (
            "/v1/chat/completions",
            format!(r#"{{"model":"m","stream":true,"id":"{id}"}}"#),
        ),
        Ask::Once => ("/api/of-tomorrow", format!(r#"{{"id":"{id}"}}"#)),
        Ask::Upload => ("/api/of-tomorrow", "x".repeat(UPLOAD_BYTES)),
        Ask::Large => {
            let prompt = "x".repeat(UPLOAD_BYTES);
            (
                "/api/chat",
                format!(r#"{{"model":"m","prompt":"{prompt}"}}"#),
            )
        }
    };
    let length = body.len();
    client
        .send(format!(
            "POST {path}{MARK} HTTP/1.1\r\nhost: lb\r\nx-request-id: {id}\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
    body
}

/// Whether a healthy node, or the faulty one in a good moment, has answered as it should.
fn check_served(answer: &Answer, body: &str) {
    assert_eq!((answer.status, answer.whole), (200, true), "{answer:?}");
    if body.len() <= 1024 {
        assert_eq!(answer.body, body);
    }
}

/// Runs a row in a fleet.
pub async fn run(row: &Row, fleet: Fleet, place: Place) {
    let is_node = row.is_of_node();
    // A node that is wrong as a whole can have no good traffic.
    let models: &[&str] = if is_node { &["m"] } else { &["m", "good"] };
    let mut node = Node::start(Some(row.fault.clone()), models);
    let others = match fleet {
        Fleet::Alone => vec![],
        Fleet::WithSecond => vec![Node::start(None, &["m", "good"])],
        Fleet::OnlyHolder => vec![Node::start(None, &["good"]), Node::start(None, &["good"])],
    };
    let mut config = format!(
        "strategy = \"round_robin\"\nhealth.interval = \"1s\"\ntimeouts.connect = \"1s\"\n{}\n",
        row.keys
    );
    let urls = [node.url()].into_iter().chain(others.iter().map(Node::url));
    for (name, url) in ('a'..).zip(urls) {
        config += &format!("[[backend]]\nname = \"{name}\"\nurl = \"{url}\"\n");
    }
    let mut run = Run::start(&config, place).await;
    run.until_known(row.is_nameless()).await;
    let has_good = !(is_node && fleet == Fleet::Alone);
    if has_good {
        good_traffic(run.address, Arc::new(AtomicBool::new(true)))
            .await
            .unwrap();
    }
    let rest = run.at_rest().await;
    node.turn().await;
    let enough = Arc::new(AtomicBool::new(false));
    let traffic = has_good.then(|| good_traffic(run.address, Arc::clone(&enough)));

    let wanted = row.expected(fleet);
    for number in 0.. {
        assert!(
            number < TRIES,
            "the fault was never met: {:?}",
            run.backends().await
        );
        let id = format!("fault-{number}");
        let mut client = Client::connect(run.address).await;
        let body = send(&mut client, row.ask, &id).await;
        if *wanted == Expected::Hangs && is_silent(&mut client).await {
            drop(client);
            run.check_line(&id, wanted).await;
            break;
        }
        let answer = client.answer().await;
        drop(client);
        let by_other = !["", "a"].contains(&answer.backend());
        if by_other || *wanted == Expected::Served {
            check_served(&answer, &body);
            run.check_line(&id, &Expected::Served).await;
        } else {
            wanted.check(&answer);
            run.check_line(&id, wanted).await;
        }
        let failures = run.backends().await[0]["failures"].as_u64();
        if node.wrongs() > 0 || (is_node && failures > Some(0)) || row.is_nameless() {
            break;
        }
    }

    if is_node {
        run.until_state("down").await;
        if fleet == Fleet::WithSecond {
            let mut client = Client::connect(run.address).await;
            let body = send(&mut client, Ask::Chat, "while-down").await;
            let answer = client.answer().await;
            check_served(&answer, &body);
            assert_eq!(answer.header("x-llamero-attempts"), Some("1"));
        }
    }
    enough.store(true, SeqCst);
    if let Some(traffic) = traffic {
        soon("the good traffic ends", traffic).await.unwrap();
    }
    run.quiet().await;
    if !is_node {
        // Not only once the node is well: the proxy itself lets go of what is wrong.
        run.given_back(rest).await;
        let failures = run.backends().await[0]["failures"].as_u64().unwrap();
        assert_eq!(failures > 0, row.is_blamed, "{failures} failures");
    }
    node.recover();
    if !row.is_nameless() {
        run.until_state("up").await;
        let mut client = Client::connect(run.address).await;
        let body = send(&mut client, Ask::Chat, "after").await;
        check_served(&client.answer().await, &body);
    }
    run.given_back(rest).await;
    run.check_no_panic();
}

/// Whether no answer comes for a while, which is what is looked at.
async fn is_silent(client: &mut Client) -> bool {
    let moment = Duration::from_millis(200);
    tokio::time::timeout(moment, client.stream.readable())
        .await
        .is_err()
}
