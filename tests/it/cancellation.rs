//! Clients that leave: the backend hears of it within 50 ms, whatever the request was waiting for.

use crate::support::backend::{Backend, Call};
use crate::support::client::Client;
use crate::support::gateway::{Proxy, config, until_called};
use crate::support::soon;
use llamero::mock::{Model, Node, Profile};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How soon a backend must hear that its client is gone.
const PROMISE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Leave {
    Fin,
    Reset,
    HalfClose,
}

#[derive(Debug, Clone, Copy)]
enum Unread {
    Nothing,
    StrayCrlf,
    Pipelined,
}

#[derive(Debug, Clone, Copy)]
enum When {
    Waiting,
    Streaming,
}

/// Runs one case and returns how long the backend took to hear of it.
async fn case(leave: Leave, unread: Unread, when: When) -> Duration {
    let (report, mut gone) = mpsc::channel::<Instant>(1);
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let report = report.clone();
        async move {
            if matches!(when, When::Streaming) {
                call.begin("application/x-ndjson").await;
                call.chunk("{\"done\":false}\n").await;
            }
            let at = call.gone().await;
            report.send(at).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/chat", r#"{"model":"m"}"#).await;
    match when {
        When::Waiting => until_called(&backend, 1).await,
        When::Streaming => drop(client.read_to("}\n").await),
    }
    match unread {
        Unread::Nothing => {}
        Unread::StrayCrlf => client.send("\r\n").await,
        Unread::Pipelined => client.post("/api/chat", r#"{"model":"m"}"#).await,
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
    let heard = soon("the backend hears of it", gone.recv()).await.unwrap();
    drop(kept);
    proxy.until_idle().await;
    assert_eq!(
        backend.calls(),
        1,
        "a pipelined request of a client that left goes nowhere"
    );
    let state = proxy.backend("a").await;
    assert_eq!(
        (&state["failures"], &state["state"]),
        (&0.into(), &"up".into()),
        "a client that leaves is no failure"
    );
    heard.saturating_duration_since(left)
}

#[tokio::test]
async fn the_backend_hears_of_a_client_that_leaves() {
    for when in [When::Waiting, When::Streaming] {
        for leave in [Leave::Fin, Leave::Reset, Leave::HalfClose] {
            for unread in [Unread::Nothing, Unread::StrayCrlf, Unread::Pipelined] {
                let mut took: Vec<_> = Vec::new();
                for _ in 0..3 {
                    took.push(case(leave, unread, when).await);
                }
                // The machine may stall any one run; the promise is about the proxy.
                let best = took.iter().min().unwrap();
                assert!(*best < PROMISE, "{when:?} {leave:?} {unread:?}: {took:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_its_body_is_whole_reaches_no_backend() {
    let backend = Backend::saying(&["m"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    for reset in [false, true] {
        let mut client = Client::connect(proxy.address()).await;
        client
            .send("POST /api/chat HTTP/1.1\r\nhost: lb\r\ncontent-length: 100\r\n\r\n{\"model\":")
            .await;
        if reset { client.reset() } else { drop(client) }
    }
    assert_eq!(
        proxy.post("/api/chat", r#"{"model":"m"}"#).await.status,
        200
    );
    assert_eq!(backend.calls(), 1);
    proxy.until_idle().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_queued_in_the_kernel_costs_nothing() {
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        call.begin("application/x-ndjson").await;
        call.chunk("{\"done\":false}\n").await;
        call.gone().await;
    })
    .await;
    // One connection is served at a time; the others wait in the listener's backlog.
    let text = config("round_robin", &[backend.url()]);
    let proxy = Proxy::start(&format!("limits.connections = 1\n{text}"));
    let mut first = Client::connect(proxy.address()).await;
    first.post("/api/chat", r#"{"model":"m"}"#).await;
    first.read_to("}\n").await;
    for reset in [false, true] {
        let mut queued = Client::connect(proxy.address()).await;
        queued.post("/api/chat", r#"{"model":"m"}"#).await;
        if reset { queued.reset() } else { drop(queued) }
    }
    drop(first);
    let left = Instant::now();
    let mut next = Client::connect(proxy.address()).await;
    next.post("/api/chat", r#"{"model":"m"}"#).await;
    next.read_to("}\n").await;
    assert!(
        left.elapsed() < Duration::from_secs(1),
        "{:?}",
        left.elapsed()
    );
    drop(next);
    proxy.until_idle().await;
    assert_eq!(proxy.backend("a").await["failures"], 0);
}

#[tokio::test]
async fn a_client_that_leaves_while_the_proxy_connects_frees_its_place() {
    // A listener whose backlog is full: the kernel neither takes nor refuses a further connection.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut fillers = Vec::new();
    for _ in 0..8 {
        let socket = TcpSocket::new_v4().unwrap();
        fillers.push(tokio::spawn(async move { socket.connect(address).await }));
    }
    let text = config("round_robin", &[format!("http://{address}")]).replace("1s", "600s")
        + "timeouts.connect = \"600s\"\nhealth.timeout = \"600s\"\n";
    let text = text.replacen("[[backend]]", "HOLD", 1);
    let (before, backends) = text.split_once("HOLD").unwrap();
    let (tables, dotted) = backends.split_at(backends.find("timeouts").unwrap());
    let proxy = Proxy::start(&format!("{before}{dotted}[[backend]]{tables}"));
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/chat", r#"{"model":"m"}"#).await;
    while proxy.backend("a").await["in_flight"] != 1 {
        tokio::task::yield_now().await;
    }
    drop(client);
    let left = Instant::now();
    proxy.until_idle().await;
    assert!(
        left.elapsed() < Duration::from_secs(1),
        "{:?}",
        left.elapsed()
    );
    assert_eq!(proxy.backend("a").await["failures"], 0);
    fillers.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A node on which a model takes a second to load.
async fn slow_to_load() -> Node {
    let profile = Profile {
        models: vec![
            Model {
                name: "big".to_owned(),
                size_bytes: 1_000_000,
            },
            Model {
                name: "other".to_owned(),
                size_bytes: 1,
            },
        ],
        load_bytes_per_second: 1e6,
        ..Profile::default()
    };
    Node::start("127.0.0.1:0".parse().unwrap(), profile)
        .await
        .unwrap()
}

/// Two clients that leave while their model loads; how far the node has come when nothing is left to do.
async fn leave_while_loading(load_guard: &str) -> Vec<String> {
    let node = slow_to_load().await;
    let proxy = Proxy::start(&format!(
        "load_guard = \"{load_guard}\"\n{}",
        config("round_robin", &[node.url()])
    ));
    for _ in 0..2 {
        let mut client = Client::connect(proxy.address()).await;
        client
            .post("/api/generate", r#"{"model":"big","prompt":"x"}"#)
            .await;
        soon("the node sees it", node.until(|log| log.len() == 1)).await;
        drop(client);
    }
    proxy.until_idle().await;
    node.loaded()
}

/// Statement 25, second half: Ollama throws a load away when its client leaves.
#[tokio::test]
async fn a_load_goes_on_after_its_client_has_left_and_only_for_one_of_them() {
    assert_eq!(leave_while_loading("5m").await, ["big:latest"]);
    assert_eq!(leave_while_loading("0s").await, [""; 0], "off");
}

#[tokio::test]
async fn a_guarded_load_that_takes_too_long_is_let_go() {
    let started = Instant::now();
    assert_eq!(leave_while_loading("100ms").await, [""; 0]);
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

/// A client that leaves a request for a model that is in memory, running or queued, cancels it at once.
#[tokio::test]
async fn a_queued_request_is_cancelled_whatever_the_guard() {
    let node = slow_to_load().await;
    let proxy = Proxy::start(&config("round_robin", &[node.url()]));
    assert_eq!(
        proxy
            .post("/api/generate", r#"{"model":"other"}"#)
            .await
            .status,
        200
    );
    let long = r#"{"model":"other","prompt":"x","options":{"num_predict":100000}}"#;
    let mut running = Client::connect(proxy.address()).await;
    running.post("/api/generate", long).await;
    running.read_to("\"done\":false").await;
    // The proxy has not been told yet that the model is in memory, and finds out.
    let mut queued = Client::connect(proxy.address()).await;
    queued.post("/api/generate", long).await;
    soon("both are there", node.until(|log| log.len() == 3)).await;
    drop(queued);
    soon(
        "it is gone",
        node.until(|log| {
            log.iter()
                .filter(|record| record.client_gone.is_some())
                .count()
                == 1
        }),
    )
    .await;
    drop(running);
    soon(
        "both are gone",
        node.until(|log| {
            log.iter()
                .filter(|record| record.client_gone.is_some())
                .count()
                == 2
        }),
    )
    .await;
    proxy.until_idle().await;
}
