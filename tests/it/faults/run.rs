//! One fault in one fleet, and everything that must hold whatever the fault is.

use super::node::{MARK, Node};
use super::row::{Ask, Expected, Row};
use super::watched::{PAUSE, Place, Watched};
use crate::support::client::{Answer, Client};
use crate::support::soon;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

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

/// Requests until one must have met the fault.
const TRIES: usize = 20;
/// The fewest requests of the good traffic.
const GOOD: usize = 5;
const UPLOAD_BYTES: usize = 8 << 20;

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
    let mut run = Watched::start(&config, place).await;
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
