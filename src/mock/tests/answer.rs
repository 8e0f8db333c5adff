//! Answers that are no streams: vectors, errors, odd paths.

use super::client::{Client, Reply, ask, post, quick, start};
use crate::mock::Profile;
use serde_json::{Value, json};

#[tokio::test]
async fn vectors_are_of_length_one_and_the_same_everywhere() {
    let vectors = async |seed| {
        let node = start(Profile { seed, ..quick() }).await;
        let request = json!({"model": "nomic-embed-text", "input": ["a", "b"]});
        post(&node, "/api/embed", &request).await.json()["embeddings"].clone()
    };
    let made = vectors(1).await;
    assert_eq!(made, vectors(2).await);
    assert_ne!(made[0], made[1]);
    let length: f64 = made[0]
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap().powi(2))
        .sum();
    assert!((length - 1.0).abs() < 1e-4, "{length}");
    assert_eq!(made[0].as_array().unwrap().len(), 16);

    let node = start(quick()).await;
    let old = post(
        &node,
        "/api/embeddings",
        &json!({"model": "nomic-embed-text", "prompt": "a"}),
    )
    .await;
    assert_eq!(old.json()["embedding"], made[0]);
    let float = post(
        &node,
        "/v1/embeddings",
        &json!({"model": "nomic-embed-text", "input": "a"}),
    )
    .await;
    assert_eq!(float.json()["data"][0]["embedding"], made[0]);
    let base64 = json!({"model": "nomic-embed-text", "input": "a", "encoding_format": "base64"});
    let base64 = post(&node, "/v1/embeddings", &base64).await.json();
    assert_eq!(base64["data"][0]["embedding"].as_str().unwrap().len(), 88);
}

#[tokio::test]
async fn errors_have_their_familys_shape() {
    #[track_caller]
    fn check(reply: &Reply, status: u16, expected: &Value) {
        assert_eq!((reply.status, &reply.json()), (status, expected));
    }
    let node = start(quick()).await;
    let request = json!({
        "model": "nope",
        "messages": [{"role": "user", "content": "hola"}],
        "max_tokens": 100,
    });
    let native = json!({"error": "model 'nope' not found"});
    check(&post(&node, "/api/chat", &request).await, 404, &native);
    let openai = json!({"error": {"message": "model 'nope' not found", "type": "not_found_error", "param": null, "code": null}});
    check(
        &post(&node, "/v1/chat/completions", &request).await,
        404,
        &openai,
    );
    let reply = post(&node, "/v1/messages", &request).await.json();
    assert_eq!(reply["error"]["type"], "not_found_error");
    assert_eq!(reply["type"], "error");
    let missing = json!({"error": "missing request body"});
    check(&ask(&node, "POST", "/api/chat", "").await, 400, &missing);
    let embedding = json!({"model": "nomic-embed-text", "prompt": "x"});
    let cannot = json!({"error": "\"nomic-embed-text\" does not support generate"});
    check(
        &post(&node, "/api/generate", &embedding).await,
        400,
        &cannot,
    );
    assert_eq!(node.log().len(), 5);
    assert_eq!(node.log()[0].model, "nope");
}

#[tokio::test]
async fn paths_and_methods_are_judged_as_by_ollama() {
    let node = start(quick()).await;
    let mut client = Client::connect(&node).await.unwrap();
    let reply = client.ask("GET", "/", "").await.unwrap();
    assert_eq!(reply.text(), "Ollama is running");
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    let reply = client.ask("HEAD", "/", "").await.unwrap();
    assert_eq!(
        (reply.status, reply.header("content-length")),
        (200, Some("17"))
    );
    let reply = client.ask("HEAD", "/api/ps", "").await.unwrap();
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET")));
    let reply = client.ask("POST", "/api/tags", "").await.unwrap();
    assert_eq!(
        (reply.status, reply.header("allow")),
        (405, Some("HEAD, GET"))
    );
    assert_eq!(reply.text(), "405 method not allowed");
    let reply = client.ask("GET", "/nope", "").await.unwrap();
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (404, "404 page not found")
    );
    let reply = client.ask("GET", "/api/tags/?a=b", "").await.unwrap();
    assert_eq!(
        (reply.status, reply.header("location")),
        (301, Some("/api/tags?a=b"))
    );
    let reply = client.ask("GET", "/v1/models/a%2Fb", "").await.unwrap();
    assert_eq!(reply.status, 404);
    assert_eq!(node.open_connections(), 1);
}
