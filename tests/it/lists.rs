//! What the fleet says of itself in one voice.

use crate::support::backend::{Backend, Call};
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Proxy, config};
use llamero::mock::{Model, Node, Profile};
use std::time::Duration;
use tokio::time::Instant;

async fn node(models: &[&str], version: &str) -> Node {
    let profile = Profile {
        models: models
            .iter()
            .map(|name| Model {
                name: (*name).to_owned(),
                size_bytes: 1000,
            })
            .collect(),
        version: version.to_owned(),
        ..Profile::default()
    };
    Node::start("127.0.0.1:0".parse().unwrap(), profile)
        .await
        .unwrap()
}

fn over(nodes: &[&Node]) -> Proxy {
    let urls: Vec<_> = nodes.iter().map(|node| node.url()).collect();
    Proxy::start(&config("round_robin", &urls))
}

async fn get(proxy: &Proxy, path: &str) -> Answer {
    crate::support::client::get(proxy.address(), path).await
}

fn names(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    json["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Statements 1, 2 and 53.
#[tokio::test]
async fn greeting_and_version_are_those_of_one_ollama() {
    let (a, b) = (
        node(&["m"], "0.33.0").await,
        node(&["m"], "0.9.6-rc1").await,
    );
    let proxy = over(&[&a, &b]);
    let hello = get(&proxy, "/").await;
    assert_eq!(
        (hello.status, hello.body.as_str()),
        (200, "Ollama is running")
    );
    assert_eq!(
        hello.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(
        get(&proxy, "/api/version").await.body,
        r#"{"version":"0.9.6"}"#,
        "the lowest, in plain numbers"
    );
    for (path, length) in [("/", "17"), ("/api/version", "19"), ("/api/tags", "")] {
        let mut client = Client::connect(proxy.address()).await;
        client
            .send(format!(
                "HEAD {path} HTTP/1.1\r\nhost: lb\r\n\r\nGET /livez HTTP/1.1\r\nhost: lb\r\n\r\n"
            ))
            .await;
        let head = client.read_to("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains(&format!("content-length: {length}")),
            "{head}"
        );
        assert!(
            client.read_to("\r\n").await.starts_with("HTTP/1.1 404"),
            "no body in between"
        );
    }
}

/// Statements 41 and 43.
#[tokio::test]
async fn every_model_is_listed_once() {
    let (a, b) = (
        node(&["both", "only-a"], "1").await,
        node(&["both", "only-b:7b"], "1").await,
    );
    let proxy = over(&[&a, &b]);
    let tags = get(&proxy, "/api/tags").await;
    assert_eq!(
        tags.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    let mut listed = names(&tags);
    listed.sort_unstable();
    assert_eq!(listed, ["both:latest", "only-a:latest", "only-b:7b"]);
    let openai = get(&proxy, "/v1/models").await;
    assert_eq!(openai.header("content-type"), Some("application/json"));
    let ids: Vec<_> = openai.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, names(&tags), "the same models in the same order");
    let one = get(&proxy, "/v1/models/only-b:7b").await;
    assert_eq!((one.status, one.backend()), (200, "b"));
}

/// Statement 43, empty.
#[tokio::test]
async fn no_models_are_null_to_openai_and_an_empty_list_to_ollama() {
    let a = node(&[], "1").await;
    let proxy = over(&[&a]);
    assert_eq!(get(&proxy, "/api/tags").await.body, r#"{"models":[]}"#);
    assert_eq!(
        get(&proxy, "/v1/models").await.json(),
        serde_json::json!({"object":"list","data":null})
    );
    assert_eq!(get(&proxy, "/api/ps").await.body, r#"{"models":[]}"#);
}

/// Statement 42.
#[tokio::test]
async fn a_model_is_listed_as_loaded_as_soon_as_its_load_has_returned() {
    let (a, b) = (node(&["m", "n"], "1").await, node(&["m"], "1").await);
    let proxy = over(&[&a, &b]);
    assert_eq!(names(&get(&proxy, "/api/ps").await), [""; 0]);
    for _ in 0..2 {
        assert_eq!(
            proxy.post("/api/generate", r#"{"model":"m"}"#).await.status,
            200
        );
    }
    assert_eq!(
        names(&get(&proxy, "/api/ps").await),
        ["m:latest"],
        "loaded on both, listed once"
    );
    proxy.post("/api/generate", r#"{"model":"n"}"#).await;
    let ps = get(&proxy, "/api/ps").await;
    let mut loaded = names(&ps);
    loaded.sort_unstable();
    assert_eq!(loaded, ["m:latest", "n:latest"]);
    assert!(ps.json()["models"][0]["context_length"].is_u64());
}

/// Statement 40: a node that hangs costs its own news, not the answer.
#[tokio::test]
async fn a_list_does_not_wait_for_a_backend_that_hangs() {
    let a = node(&["m"], "1").await;
    let hanging = Backend::start_with_ps(&["only-there"], |mut call: Call| async move {
        call.gone().await;
    })
    .await;
    let proxy = Proxy::start(&config("round_robin", &[a.url(), hanging.url()]));
    for path in ["/api/ps", "/api/tags", "/v1/models"] {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let asked = Instant::now();
            assert_eq!(get(&proxy, path).await.status, 200);
            best = best.min(asked.elapsed());
        }
        assert!(best < Duration::from_millis(50), "{path} took {best:?}");
    }
}

#[tokio::test]
async fn a_malformed_list_is_left_out() {
    let a = node(&["m"], "1").await;
    let odd = Backend::start_with_ps(&["x\":1},{\"name"], |mut call: Call| async move {
        call.answer("200 OK", "application/json", "{\"models\":[{\"name\":{}}]}")
            .await;
    })
    .await;
    let proxy = Proxy::start(&config("round_robin", &[a.url(), odd.url()]));
    assert_eq!(names(&get(&proxy, "/api/tags").await), ["m:latest"]);
    assert_eq!(names(&get(&proxy, "/api/ps").await), [""; 0]);
}

#[tokio::test]
async fn when_nobody_lives_even_the_greeting_says_so() {
    let proxy = Proxy::start(&config(
        "round_robin",
        &[format!(
            "http://{}",
            crate::support::backend::dead_address().await
        )],
    ));
    proxy.until_state("a", "down").await;
    for path in ["/", "/api/version"] {
        let answer = get(&proxy, path).await;
        assert_eq!(answer.status, 503);
        assert!(
            answer.json()["error"].as_str().unwrap().contains("refused"),
            "{}",
            answer.body
        );
    }
    assert_eq!(
        get(&proxy, "/api/tags").await.status,
        200,
        "what is known stays known"
    );
}
