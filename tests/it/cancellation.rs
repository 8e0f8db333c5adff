//! What goes on after a client has left, and what does not.

use crate::support::backend::{Backend, Call};
use crate::support::client::Client;
use crate::support::gateway::{Proxy, config};
use crate::support::soon;
use llamero::mock::{Model, Node, Profile};
use std::time::Duration;
use tokio::time::Instant;

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
