//! Requests that find every node full: they wait in one line, for the first slot that comes free on any node.

use crate::support::backend::{Backend, Call};
use crate::support::client::{Answer, Client};
use crate::support::gateway::Proxy;
use crate::support::process::Process;
use crate::support::{PATIENCE, soon};
use llamero::config::{ContentHash, Settings};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

/// How soon a client that leaves gives up its place.
const PROMISE: Duration = Duration::from_millis(50);

/// A node that keeps every request until it is told to answer.
struct Node {
    backend: Backend,
    given: mpsc::Receiver<Work>,
}

/// A request that a node works on: what its client called it, and what ends it.
struct Work {
    name: String,
    end: oneshot::Sender<()>,
}

impl Node {
    async fn start(model: &str) -> Self {
        let (give, given) = mpsc::channel(16);
        let script = move |mut call: Call| {
            let give = give.clone();
            async move {
                let body: Value = serde_json::from_slice(&call.body).unwrap();
                let name = body["user"].as_str().unwrap_or_default().to_owned();
                let (end, ended) = oneshot::channel();
                give.send(Work { name, end }).await.unwrap();
                // The test may be over.
                if ended.await.is_ok() {
                    call.answer("200 OK", "application/json", "{}").await;
                }
            }
        };
        Self {
            backend: Backend::start(&[model], script).await,
            given,
        }
    }

    /// The next request that it is given.
    async fn next(&mut self) -> Work {
        soon("the node is given a request", self.given.recv())
            .await
            .unwrap()
    }

    /// Ends a request, and returns the next that comes, by name.
    async fn then(&mut self, work: Work) -> Work {
        work.end.send(()).unwrap();
        self.next().await
    }
}

/// A configuration with a node of one slot per URL, named `a`, `b`, …; `more` comes first.
fn config(more: &str, urls: &[String]) -> String {
    let mut text = format!("trusted_proxies = [\"127.0.0.0/8\"]\n{more}\n");
    for (name, url) in ('a'..='z').zip(urls) {
        text += &format!("[[backend]]\nname = \"{name}\"\nurl = \"{url}\"\nslots = 1\n");
    }
    text
}

fn over(more: &str, nodes: &[&Node]) -> Proxy {
    let urls: Vec<_> = nodes.iter().map(|node| node.backend.url()).collect();
    Proxy::start(&config(more, &urls))
}

/// A request of a client at this address.
struct Ask<'a> {
    path: &'a str,
    model: &'a str,
    name: &'a str,
    from: u8,
    headers: &'a str,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Self {
            path: "/api/chat",
            model: "m",
            name: "",
            from: 1,
            headers: "",
        }
    }
}

impl Ask<'_> {
    async fn send(&self, address: SocketAddr) -> Client {
        let Self {
            path,
            model,
            name,
            from,
            headers,
        } = self;
        let body = format!(
            r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}],"input":"hi","user":"{name}"}}"#
        );
        let length = body.len();
        let mut client = Client::connect(address).await;
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: lb\r\nx-forwarded-for: 192.0.2.{from}\r\n{headers}content-length: {length}\r\n\r\n{body}"
            ))
            .await;
        client
    }
}

async fn until_waiting(proxy: &Proxy, count: u64) -> Value {
    soon("so many wait", async {
        loop {
            let queue = proxy.status().await["queue"].clone();
            if queue["waiting"] == count {
                return queue;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Asks one after the other, each once the one before stands in the line.
async fn line_up(proxy: &Proxy, asks: &[Ask<'_>]) -> Vec<Client> {
    let before = proxy.status().await["queue"]["waiting"].as_u64().unwrap();
    let mut clients = Vec::new();
    for (at, ask) in asks.iter().enumerate() {
        clients.push(ask.send(proxy.address()).await);
        until_waiting(proxy, before + at as u64 + 1).await;
    }
    clients
}

/// Occupies the only slot of a node.
async fn occupy(proxy: &Proxy, node: &mut Node, model: &str) -> (Client, Work) {
    let ask = Ask {
        model,
        name: "first",
        from: 250,
        ..Ask::default()
    };
    let client = ask.send(proxy.address()).await;
    (client, node.next().await)
}

/// Has these wait for one slot, and checks in which order they get it.
async fn check_order(asks: &[Ask<'_>], order: &[&str]) {
    let mut node = Node::start("m").await;
    let proxy = over("", &[&node]);
    let (first, mut work) = occupy(&proxy, &mut node, "m").await;
    let clients = line_up(&proxy, asks).await;
    let mut served = Vec::new();
    for _ in asks {
        work = node.then(work).await;
        served.push(work.name.clone());
    }
    work.end.send(()).unwrap();
    assert_eq!(served, order);
    for mut client in clients.into_iter().chain([first]) {
        assert_eq!(client.answer().await.status, 200);
    }
    let queue = until_waiting(&proxy, 0).await;
    assert_eq!(queue["admitted"], asks.len());
    assert_eq!(queue["refused"], 0);
    proxy.until_idle().await;
}

fn named(name: &str, from: u8) -> Ask<'_> {
    Ask {
        name,
        from,
        ..Ask::default()
    }
}

#[tokio::test]
async fn clients_are_served_oldest_first() {
    let asks = [named("1", 4), named("2", 3), named("3", 2), named("4", 1)];
    check_order(&asks, &["1", "2", "3", "4"]).await;
}

#[tokio::test]
async fn clients_take_turns_however_many_requests_they_have() {
    let many = ["1", "2", "3", "4", "5"].map(|name| named(name, 1));
    let mut asks = Vec::from(many);
    asks.push(named("lone", 2));
    check_order(&asks, &["1", "lone", "2", "3", "4", "5"]).await;
}

#[tokio::test]
async fn batch_comes_after_what_somebody_waits_for() {
    let asks = [
        Ask {
            path: "/api/embed",
            ..named("embedding", 1)
        },
        Ask {
            headers: "x-llamero-priority: batch\r\n",
            ..named("batch", 2)
        },
        Ask {
            path: "/v1/embeddings",
            headers: "x-llamero-priority: interactive\r\n",
            ..named("search", 3)
        },
        Ask {
            headers: "x-llamero-priority: no-such-thing\r\n",
            ..named("chat", 4)
        },
    ];
    check_order(&asks, &["search", "chat", "embedding", "batch"]).await;
}

#[tokio::test]
async fn a_busy_model_holds_up_no_free_one() {
    let (mut busy, mut free) = (Node::start("busy").await, Node::start("free").await);
    let proxy = over("", &[&busy, &free]);
    let (_first, _work) = occupy(&proxy, &mut busy, "busy").await;
    let waits = |name| Ask {
        model: "busy",
        ..named(name, 1)
    };
    let _clients = line_up(&proxy, &[waits("1"), waits("2")]).await;
    // At once, and also when there was something to wait for.
    let free_one = |name| Ask {
        model: "free",
        ..named(name, 1)
    };
    let mut served = free_one("3").send(proxy.address()).await;
    let work = free.next().await;
    let mut waiting = line_up(&proxy, &[free_one("4")]).await;
    let work = free.then(work).await;
    work.end.send(()).unwrap();
    assert_eq!(served.answer().await.backend(), "b");
    assert_eq!(waiting[0].answer().await.backend(), "b");
    assert_eq!(until_waiting(&proxy, 2).await["admitted"], 1);
}

#[tokio::test]
async fn the_first_slot_on_any_node_goes_to_the_oldest() {
    let (mut a, mut b) = (Node::start("m").await, Node::start("m").await);
    let proxy = over("", &[&a, &b]);
    let _one = Ask::default().send(proxy.address()).await;
    let _two = Ask::default().send(proxy.address()).await;
    let (first, second) = (a.next().await, b.next().await);
    let mut clients = line_up(&proxy, &[named("1", 1), named("2", 2), named("3", 3)]).await;
    let first_b = b.then(second).await;
    assert_eq!(first_b.name, "1");
    let second_b = b.then(first_b).await;
    assert_eq!(second_b.name, "2");
    assert_eq!(a.then(first).await.name, "3");
    assert_eq!(clients[0].answer().await.backend(), "b");
}

#[tokio::test]
async fn who_asks_for_no_model_to_run_does_not_wait() {
    let mut node = Node::start("m").await;
    let proxy = over("", &[&node]);
    let (_client, _work) = occupy(&proxy, &mut node, "m").await;
    let show = Ask {
        path: "/api/show",
        ..named("show", 1)
    };
    let mut client = show.send(proxy.address()).await;
    let work = node.next().await;
    assert_eq!(work.name, "show");
    work.end.send(()).unwrap();
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn the_access_line_says_how_long_a_request_has_waited() {
    let mut node = Node::start("m").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("llamero.toml");
    std::fs::write(&file, config("", &[node.backend.url()])).unwrap();
    let (mut proxy, address) = Process::serve(&["--config", file.to_str().unwrap()]).await;
    let with_id = |id| Ask {
        headers: id,
        ..Ask::default()
    };
    let mut first = with_id("x-request-id: first\r\n").send(address).await;
    let work = node.next().await;
    let mut second = with_id("x-request-id: second\r\n").send(address).await;
    let gone = with_id("x-request-id: gone\r\nx-stainless-timeout: 0.1\r\n");
    // By the time that the third is refused, the second has stood in the line for a while.
    assert_eq!(gone.send(address).await.answer().await.status, 503);
    let work = node.then(work).await;
    work.end.send(()).unwrap();
    for client in [&mut first, &mut second] {
        assert_eq!(client.answer().await.status, 200);
    }
    for (id, least) in [("first", None), ("second", Some(0.0)), ("gone", Some(80.0))] {
        let line: Value =
            serde_json::from_str(&proxy.line_with(&format!("\"{id}\"")).await).unwrap();
        let queued = line["queued_ms"].as_f64();
        assert_eq!(queued.is_some(), least.is_some(), "{line}");
        assert!(
            queued >= least && queued <= line["total_ms"].as_f64(),
            "{line}"
        );
    }
}

#[tokio::test]
async fn where_slots_are_learnt_only_what_can_be_counted_waits() {
    let mut node = Node::start("m").await;
    let url = node.backend.url();
    let proxy = Proxy::start(&format!("[[backend]]\nurl = '{url}'"));
    // One more than the one slot that there surely is; these nodes send nothing before they are told to.
    let _a = Ask::default().send(proxy.address()).await;
    let _b = Ask::default().send(proxy.address()).await;
    let works = [node.next().await, node.next().await];
    let mut waiting = line_up(&proxy, &[named("third", 1)]).await;
    for work in works {
        work.end.send(()).unwrap();
    }
    let work = node.next().await;
    assert_eq!(work.name, "third");
    work.end.send(()).unwrap();
    assert_eq!(waiting[0].answer().await.status, 200);
    proxy.until_idle().await;
    let whole = Ask {
        path: "/v1/chat/completions",
        ..Ask::default()
    };
    let mut clients = Vec::new();
    let mut works = Vec::new();
    for _ in 0..5 {
        clients.push(whole.send(proxy.address()).await);
        works.push(node.next().await);
    }
    assert_eq!(proxy.status().await["queue"]["waiting"], 0);
}

/// Checks that an answer is a refusal in the shape of its family, and says when to come again.
#[track_caller]
fn check_refusal(path: &str, answer: &Answer, why: &str) {
    assert_eq!(answer.status, 503, "{path}: {}", answer.body);
    let json = answer.json();
    let (text, is_native) = match path {
        "/api/chat" => (&json["error"], true),
        "/v1/messages" => {
            assert_eq!(json["type"], "error");
            assert_eq!(json["error"]["type"], "overloaded_error");
            (&json["error"]["message"], false)
        }
        _ => {
            assert!(json["error"]["code"].is_null());
            (&json["error"]["message"], false)
        }
    };
    let text = text.as_str().unwrap();
    assert!(
        text.starts_with("server busy, please try again.  ") && text.contains(why),
        "{path}: {text}"
    );
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=72).contains(&seconds), "{path}: {seconds}");
    let millis = answer.header("retry-after-ms");
    assert_eq!(millis.is_none(), is_native, "{path}: {millis:?}");
    if let Some(millis) = millis {
        let millis: u64 = millis.parse().unwrap();
        assert_eq!(millis.div_ceil(1000), seconds, "{path}");
        assert_eq!(answer.header("x-should-retry"), Some("true"));
    }
    assert_eq!(answer.header("x-llamero-attempts"), None, "{path}");
}

const FAMILIES: [&str; 4] = [
    "/api/chat",
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/responses",
];

#[tokio::test]
async fn a_full_line_refuses_at_once_in_the_shape_of_the_family() {
    for limit in [0, 1] {
        let mut node = Node::start("m").await;
        let proxy = over(&format!("queue.limit = {limit}"), &[&node]);
        let (_client, _work) = occupy(&proxy, &mut node, "m").await;
        let asks: Vec<_> = (0..limit).map(|_| Ask::default()).collect();
        let _waiting = line_up(&proxy, &asks).await;
        for path in FAMILIES {
            let mut client = Ask {
                path,
                ..Ask::default()
            }
            .send(proxy.address())
            .await;
            let answer = client.answer().await;
            check_refusal(
                path,
                &answer,
                &format!("(queue {limit}/{limit}, waited 0.0 s)"),
            );
        }
        let queue = proxy.status().await["queue"].clone();
        assert_eq!(queue["interactive"]["full"], FAMILIES.len());
        assert_eq!(
            (&queue["waiting"], &queue["limit"]),
            (&limit.into(), &limit.into())
        );
        assert_eq!(node.backend.calls(), 1);
    }
}

#[tokio::test]
async fn in_a_full_line_batch_makes_room_and_is_told() {
    let mut node = Node::start("m").await;
    let proxy = over("queue.limit = 1", &[&node]);
    let (_client, work) = occupy(&proxy, &mut node, "m").await;
    let batch = Ask {
        headers: "x-llamero-priority: batch\r\n",
        ..named("batch", 2)
    };
    let mut displaced = line_up(&proxy, &[batch]).await;
    let mut kept = named("chat", 3).send(proxy.address()).await;
    let answer = displaced[0].answer().await;
    check_refusal("/api/chat", &answer, "needed for another");
    let work = node.then(work).await;
    assert_eq!(work.name, "chat");
    work.end.send(()).unwrap();
    assert_eq!(kept.answer().await.status, 200);
    assert_eq!(proxy.status().await["queue"]["batch"]["displaced"], 1);
}

#[tokio::test]
async fn nobody_waits_longer_than_the_queue_or_its_client_has_time() {
    let cases = [
        ("queue.timeout = '300ms'", ""),
        ("", "x-stainless-timeout: 0.3\r\n"),
        (
            "",
            "x-stainless-timeout: 600\r\nx-stainless-read-timeout: 0.3\r\n",
        ),
        ("queue.timeout = '300ms'", "x-stainless-timeout: 600\r\n"),
    ];
    for (more, headers) in cases {
        let mut node = Node::start("m").await;
        let proxy = over(more, &[&node]);
        let (_client, _work) = occupy(&proxy, &mut node, "m").await;
        for path in FAMILIES {
            let began = Instant::now();
            let mut client = Ask {
                path,
                headers,
                ..Ask::default()
            }
            .send(proxy.address())
            .await;
            let answer = client.answer().await;
            assert!(
                began.elapsed() >= Duration::from_millis(300),
                "{more} {headers}"
            );
            check_refusal(path, &answer, "(queue 0/512, waited 0.");
        }
        let queue = proxy.status().await["queue"].clone();
        assert_eq!(queue["interactive"]["expired"], FAMILIES.len());
        assert_eq!(node.backend.calls(), 1);
    }
}

#[tokio::test]
async fn who_would_wait_in_vain_is_told_at_once() {
    let mut node = Node::start("m").await;
    let proxy = over("", &[&node]);
    let (_client, mut work) = occupy(&proxy, &mut node, "m").await;
    let asks: Vec<_> = (0..10).map(|_| Ask::default()).collect();
    let mut clients = line_up(&proxy, &asks).await;
    // Five requests show that each takes a while.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        work = node.then(work).await;
    }
    until_waiting(&proxy, 5).await;
    let hurried = Ask {
        headers: "x-stainless-timeout: 0.3\r\n",
        ..Ask::default()
    };
    let answer = hurried.send(proxy.address()).await.answer().await;
    check_refusal("/api/chat", &answer, "waited 0.0 s)");
    let queue = proxy.status().await["queue"].clone();
    assert_eq!(queue["interactive"]["hopeless"], 1);
    // One with more time may wait.
    clients.extend(line_up(&proxy, &[Ask::default()]).await);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let mut node = Node::start("m").await;
    let proxy = over("queue.limit = 2", &[&node]);
    let (mut first, work) = occupy(&proxy, &mut node, "m").await;
    let mut took = Vec::new();
    for reset in [true, false, true] {
        let mut clients = line_up(&proxy, &[named("gone", 2), named("stays", 3)]).await;
        let (stays, gone) = (clients.pop().unwrap(), clients.pop().unwrap());
        let left = Instant::now();
        if reset {
            gone.reset();
        } else {
            drop(gone);
        }
        until_waiting(&proxy, 1).await;
        took.push(left.elapsed());
        drop(stays);
        until_waiting(&proxy, 0).await;
    }
    // The machine may stall any one run; the promise is about the proxy.
    assert!(*took.iter().min().unwrap() < PROMISE, "{took:?}");
    // Nobody is left to be given the slot, and it is free.
    work.end.send(()).unwrap();
    assert_eq!(first.answer().await.status, 200);
    proxy.until_idle().await;
    let (mut client, work) = occupy(&proxy, &mut node, "m").await;
    work.end.send(()).unwrap();
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(node.backend.calls(), 2);
}

#[tokio::test]
async fn a_reload_keeps_the_line_and_may_bring_room() {
    let (mut a, mut b) = (Node::start("m").await, Node::start("m").await);
    let proxy = over("", &[&a]);
    let (_first, _work) = occupy(&proxy, &mut a, "m").await;
    let mut clients = line_up(&proxy, &[named("1", 1), named("2", 2)]).await;
    let text = config(
        "listen = '127.0.0.1:0'\nadmin.listen = '127.0.0.1:0'\nqueue.limit = 1",
        &[a.backend.url(), b.backend.url()],
    );
    let settings = Settings::parse(&text, "new.toml").unwrap();
    proxy.gateway.reload(settings, ContentHash::of(&text), 1);
    let work = b.next().await;
    assert_eq!(work.name, "1");
    let queue = until_waiting(&proxy, 1).await;
    assert_eq!(queue["limit"], 1);
    let work = b.then(work).await;
    assert_eq!(work.name, "2");
    work.end.send(()).unwrap();
    for client in &mut clients {
        assert_eq!(client.answer().await.backend(), "b");
    }
}

#[tokio::test]
async fn who_waits_for_a_node_that_goes_away_is_told() {
    let mut node = Node::start("m").await;
    let proxy = over(
        "health.interval = '50ms'\nhealth.timeout = '50ms'",
        &[&node],
    );
    let (_client, _work) = occupy(&proxy, &mut node, "m").await;
    let mut clients = line_up(&proxy, &[Ask::default()]).await;
    node.backend.set_healthy(false);
    let answer = clients[0].answer().await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("a at http://"), "{}", answer.body);
}

#[tokio::test]
async fn a_shutdown_still_serves_those_who_wait() {
    let mut node = Node::start("m").await;
    let proxy = over("", &[&node]);
    let (mut first, work) = occupy(&proxy, &mut node, "m").await;
    let mut clients = line_up(&proxy, &[named("1", 1)]).await;
    let ended = tokio::spawn(proxy.gateway.shut_down(std::future::pending()));
    let work = node.then(work).await;
    work.end.send(()).unwrap();
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(clients[0].answer().await.status, 200);
    assert_eq!(soon("the end", ended).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_and_go_lose_no_slot_and_share_none() {
    const SLOTS: usize = 3;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&running), Arc::clone(&most));
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let (running, most) = counts.clone();
        async move {
            most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::task::yield_now().await;
            // It is over for the node before the proxy can know.
            running.fetch_sub(1, SeqCst);
            call.answer("200 OK", "application/json", "{}").await;
        }
    })
    .await;
    let proxy = Proxy::start(&format!(
        "trusted_proxies = ['127.0.0.0/8']\n[[backend]]\nurl = '{}'\nslots = {SLOTS}",
        backend.url()
    ));
    let address = proxy.address();
    let mut clients = tokio::task::JoinSet::new();
    for at in 0..300u32 {
        clients.spawn(async move {
            let mut random = fastrand::Rng::with_seed(u64::from(at));
            let ask = Ask {
                from: random.u8(1..20),
                headers: random
                    .choice(["", "x-llamero-priority: batch\r\n"])
                    .unwrap(),
                ..Ask::default()
            };
            let mut client = ask.send(address).await;
            if at % 3 == 0 {
                // Some leave somewhere on the way.
                let patience = Duration::from_micros(random.u64(0..20_000));
                if timeout(patience, client.answer()).await.is_err() {
                    return false;
                }
                return true;
            }
            assert_eq!(client.answer().await.status, 200);
            true
        });
    }
    let mut served = 0;
    while let Some(done) = timeout(PATIENCE, clients.join_next()).await.unwrap() {
        served += usize::from(done.unwrap());
    }
    assert!(served >= 200);
    until_waiting(&proxy, 0).await;
    proxy.until_idle().await;
    assert!(most.load(SeqCst) <= SLOTS, "{most:?} at one time");
}
