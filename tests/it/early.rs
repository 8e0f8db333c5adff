//! Streams that get their head before their backend answers (`early_response`).

use crate::support::backend::{Backend, Call};
use crate::support::client::Client;
use crate::support::gateway::{Proxy, config};
use std::sync::Arc;
use tokio::sync::Notify;

/// A backend that answers as scripted once it is told to, in front of a proxy that has no patience at all.
async fn waiting<F, R>(script: F) -> (Backend, Proxy, Arc<Notify>)
where
    F: Fn(Call) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let go = Arc::new(Notify::new());
    let told = Arc::clone(&go);
    let backend = Backend::start(&["m"], move |call: Call| {
        let (told, script) = (Arc::clone(&told), script.clone());
        async move {
            told.notified().await;
            script(call).await;
        }
    })
    .await;
    let text = format!(
        "early_response = \"1ms\"\n{}",
        config("round_robin", &[backend.url()])
    );
    let proxy = Proxy::start(&text);
    (backend, proxy, go)
}

/// The head and the first record come while the backend is still silent; then its own stream, whole.
async fn check(path: &str, kind: &'static str, beat: &str, chunk: &'static str) {
    let (_backend, proxy, go) = waiting(move |mut call: Call| async move {
        call.begin(kind).await;
        call.chunk(chunk).await;
        call.end().await;
    })
    .await;
    let mut client = Client::connect(proxy.address()).await;
    client.post(path, r#"{"model":"m","stream":true}"#).await;
    let head = client.read_to("\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 200 OK") && head.contains(&format!("content-type: {kind}\r\n")),
        "{head}"
    );
    let first = String::from_utf8(client.chunk().await.unwrap()).unwrap();
    assert!(
        first.contains(beat) && !first.contains("\n\n\n"),
        "{first:?}"
    );
    go.notify_one();
    assert_eq!(client.chunk().await.unwrap(), chunk.as_bytes());
    assert_eq!(client.chunk().await.unwrap(), b"");
    proxy.until_idle().await;
}

#[tokio::test]
async fn every_family_has_a_record_that_says_nothing() {
    const EVENTS: &str = "text/event-stream";
    let lines = "application/x-ndjson";
    check(
        "/api/chat",
        lines,
        "\"message\":{\"content\":\"\",\"role\":\"assistant\"}",
        "{\"done\":true}\n",
    )
    .await;
    check(
        "/api/generate",
        lines,
        "\"response\":\"\"",
        "{\"done\":true}\n",
    )
    .await;
    check(
        "/v1/chat/completions",
        EVENTS,
        ": keep-alive\n\n",
        "data: [DONE]\n\n",
    )
    .await;
    check(
        "/v1/responses",
        EVENTS,
        ": keep-alive\n\n",
        "data: {\"type\":\"response.completed\"}\n\n",
    )
    .await;
    check(
        "/v1/messages",
        EVENTS,
        "event: ping\n",
        "event: message_stop\ndata: {}\n\n",
    )
    .await;
}

#[tokio::test]
async fn a_refusal_that_comes_late_is_an_error_in_the_stream_and_a_cut() {
    let (_backend, proxy, go) = waiting(|mut call: Call| async move {
        call.answer(
            "400 Bad Request",
            "application/json",
            "{\"error\":\"no such option\"}",
        )
        .await;
    })
    .await;
    for (path, record) in [
        ("/api/chat", "{\"error\":\"no such option\"}\n"),
        (
            "/v1/chat/completions",
            "data: {\"error\":\"no such option\"}\n\n",
        ),
        (
            "/v1/messages",
            "event: error\ndata: {\"error\":\"no such option\"}\n\n",
        ),
    ] {
        let mut client = Client::connect(proxy.address()).await;
        client.post(path, r#"{"model":"m","stream":true}"#).await;
        client.read_to("\r\n\r\n").await;
        client.chunk().await.unwrap();
        go.notify_one();
        assert_eq!(client.chunk().await.unwrap(), record.as_bytes());
        assert_eq!(client.chunk().await, None, "cut");
    }
    proxy.until_idle().await;
}

#[tokio::test]
async fn a_load_that_ends_late_is_one_record_and_a_clean_end() {
    let (_backend, proxy, go) = waiting(|mut call: Call| async move {
        call.answer(
            "200 OK",
            "application/json; charset=utf-8",
            "{\"done_reason\":\"load\",\"done\":true}",
        )
        .await;
    })
    .await;
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/generate", r#"{"model":"m"}"#).await;
    client.read_to("\r\n\r\n").await;
    client.chunk().await.unwrap();
    go.notify_one();
    assert_eq!(
        client.chunk().await.unwrap(),
        b"{\"done_reason\":\"load\",\"done\":true}\n"
    );
    assert_eq!(client.chunk().await.unwrap(), b"");
}

#[tokio::test]
async fn a_client_that_leaves_an_early_stream_is_noticed_and_no_stream_is_answered_early() {
    let (backend, proxy, go) = waiting(|mut call: Call| async move {
        call.answer("200 OK", "application/json", "{}").await;
    })
    .await;
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/chat", r#"{"model":"m"}"#).await;
    client.read_to("\r\n\r\n").await;
    drop(client);
    proxy.until_idle().await;
    let mut client = Client::connect(proxy.address()).await;
    client
        .post("/api/chat", r#"{"model":"m","stream":false}"#)
        .await;
    crate::support::gateway::until_called(&backend, 2).await;
    go.notify_one();
    go.notify_waiters();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
}
