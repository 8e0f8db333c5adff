//! Nodes that go and come back.

use super::node::{Fault, Node};
use crate::support::client::{Client, post};
use crate::support::gateway::{Proxy, config};
use crate::support::soon;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const BODY: &str = r#"{"model":"m"}"#;

async fn known(proxy: &Proxy, names: &[&str]) {
    for name in names {
        while proxy.backend(name).await["models"].is_null() {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_node_that_flaps_fails_nobody_and_is_tried_little() {
    const FLAPS: usize = 8;
    const REQUESTS: usize = 10;
    /// Failed connects that take a node out.
    const FALL: usize = 2;
    let mut flapping = Node::start(Some(Fault::Refuses), &["m"]);
    let steady = Node::start(None, &["m"]);
    let urls = [flapping.url(), steady.url()];
    let proxy = Proxy::start(&config("round_robin", &urls));
    soon("the models are known", known(&proxy, &["a", "b"])).await;
    let (mut retried, mut by_flapping) = (0, 0);
    for flap in 0..FLAPS {
        for is_out in [true, false] {
            if is_out {
                flapping.turn().await;
            } else {
                flapping.recover();
            }
            // Every other time it flaps faster than it is noticed.
            if flap % 2 == 0 {
                let state = if is_out { "down" } else { "up" };
                soon(state, proxy.until_state("a", state)).await;
            }
            for _ in 0..REQUESTS {
                let answer = post(proxy.address(), "/api/chat", BODY).await;
                assert_eq!((answer.status, answer.body.as_str()), (200, BODY));
                retried += usize::from(answer.header("x-llamero-attempts") == Some("2"));
                by_flapping += usize::from(answer.backend() == "a");
            }
        }
    }
    assert!(by_flapping > 0, "it was given something while it was there");
    assert!(retried <= FALL * FLAPS, "{retried} requests were retried");
}

#[tokio::test]
async fn when_all_come_back_the_first_is_served_soon() {
    /// How soon an answer must say that nobody is there.
    const AT_ONCE: Duration = Duration::from_millis(5);
    const SOON: Duration = Duration::from_secs(6);
    let mut nodes: Vec<_> = (0..2)
        .map(|_| Node::start(Some(Fault::Refuses), &["m"]))
        .collect();
    let urls: Vec<_> = nodes.iter().map(Node::url).collect();
    let proxy = Proxy::start(&config("round_robin", &urls));
    soon("the models are known", known(&proxy, &["a", "b"])).await;
    for (node, name) in nodes.iter_mut().zip(["a", "b"]) {
        node.turn().await;
        soon("it is down", proxy.until_state(name, "down")).await;
    }
    let mut client = Client::connect(proxy.address()).await;
    let mut best = Duration::MAX;
    for _ in 0..50 {
        let asked = Instant::now();
        client.post("/api/chat", BODY).await;
        let answer = client.answer().await;
        best = best.min(asked.elapsed());
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    assert!(best < AT_ONCE, "{best:?}");
    nodes.iter_mut().for_each(Node::recover);
    let back = Instant::now();
    let served = async {
        loop {
            client.post("/api/chat", BODY).await;
            let answer = client.answer().await;
            if answer.status == 200 {
                return;
            }
            assert_eq!(answer.status, 503);
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("somebody is served", served).await;
    assert!(back.elapsed() < SOON, "{:?}", back.elapsed());
    for name in ["a", "b"] {
        soon("it is up", proxy.until_state(name, "up")).await;
    }
    proxy.until_idle().await;
}
