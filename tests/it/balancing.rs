//! Who gets which request, seen from outside; the strategies have tests of their own.

use crate::support::backend::Backend;
use crate::support::client::Client;
use crate::support::gateway::{Proxy, config};

const BODY: &str = r#"{"model":"m"}"#;

async fn three() -> [Backend; 3] {
    [
        Backend::saying(&["m"], "{}").await,
        Backend::saying(&["m"], "{}").await,
        Backend::saying(&["m"], "{}").await,
    ]
}

/// Who answered each of so many requests.
async fn answered_by(proxy: &Proxy, requests: usize) -> Vec<String> {
    let mut client = Client::connect(proxy.address()).await;
    let mut names = Vec::new();
    for _ in 0..requests {
        client.post("/api/chat", BODY).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        names.push(answer.backend().to_owned());
    }
    names
}

fn count(names: &[String], name: &str) -> usize {
    names.iter().filter(|found| *found == name).count()
}

#[tokio::test]
async fn round_robin_gives_900_requests_to_three_equal_backends_300_each_without_a_repeat() {
    let [a, b, c] = three().await;
    let proxy = Proxy::over("round_robin", &[&a, &b, &c]);
    let names = answered_by(&proxy, 900).await;
    assert_eq!(
        [count(&names, "a"), count(&names, "b"), count(&names, "c")],
        [300; 3]
    );
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
}

#[tokio::test]
async fn round_robin_keeps_weights_3_2_1_exactly_in_every_cycle() {
    let [a, b, c] = three().await;
    let mut text = config("round_robin", &[a.url(), b.url(), c.url()]);
    for (name, weight) in [("a", 3), ("b", 2)] {
        text = text.replace(
            &format!("name = \"{name}\""),
            &format!("name = \"{name}\"\nweight = {weight}"),
        );
    }
    let proxy = Proxy::start(&text);
    let names = answered_by(&proxy, 120).await;
    for cycle in names.chunks(6) {
        assert_eq!(
            [count(cycle, "a"), count(cycle, "b"), count(cycle, "c")],
            [3, 2, 1],
            "{cycle:?}"
        );
    }
}

#[tokio::test]
async fn ip_hash_keeps_a_client_where_it_was_and_believes_trusted_proxies() {
    let [a, b, c] = three().await;
    let text = format!(
        "trusted_proxies = [\"127.0.0.0/8\"]\n{}",
        config("ip_hash", &[a.url(), b.url(), c.url()])
    );
    let proxy = Proxy::start(&text);
    let mut seen = std::collections::HashSet::new();
    for client in 0..40 {
        let mut names = std::collections::HashSet::new();
        for _ in 0..3 {
            let mut connection = Client::connect(proxy.address()).await;
            let length = BODY.len();
            connection
                .send(format!("POST /api/chat HTTP/1.1\r\nhost: lb\r\nx-forwarded-for: 9.9.9.9, 203.0.113.{client}\r\ncontent-length: {length}\r\n\r\n{BODY}"))
                .await;
            names.insert(connection.answer().await.backend().to_owned());
        }
        assert_eq!(names.len(), 1, "client {client} moved about: {names:?}");
        seen.extend(names);
    }
    assert_eq!(seen.len(), 3, "forty clients reach every backend");
}

#[tokio::test]
async fn a_model_is_asked_of_its_holders_whatever_its_spelling() {
    let [a, _, c] = three().await;
    let holder = Backend::saying(&["Only:latest"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&a, &holder, &c]);
    for name in [
        "only",
        "ONLY:latest",
        "library/only",
        "registry.ollama.ai/library/only:latest",
    ] {
        for path in [
            "/api/generate",
            "/api/show",
            "/v1/chat/completions",
            "/v1/messages",
        ] {
            let answer = proxy.post(path, &format!(r#"{{"model":"{name}"}}"#)).await;
            assert_eq!(
                (answer.status, answer.backend()),
                (200, "b"),
                "{name} on {path}"
            );
        }
    }
    let answer = proxy
        .post("/api/show", r#"{"model":"","name":"only"}"#)
        .await;
    assert_eq!(answer.backend(), "b");
}

#[tokio::test]
async fn a_draining_backend_gets_nothing_new() {
    let [a, b, c] = three().await;
    let text = config("least_connections", &[a.url(), b.url(), c.url()])
        .replace("name = \"b\"", "name = \"b\"\ndrain = true");
    let proxy = Proxy::start(&text);
    let names = answered_by(&proxy, 30).await;
    assert_eq!(count(&names, "b"), 0);
    assert_eq!(proxy.backend("b").await["state"], "draining");
}
