//! Requests that no backend should see.

use crate::support::backend::Backend;
use crate::support::client::{Answer, Client};
use crate::support::gateway::Proxy;

async fn backend_and_proxy() -> (Backend, Proxy) {
    let backend = Backend::saying(&["m"], "{}").await;
    let text = format!(
        "limits.body = \"64KiB\"\n{}",
        crate::support::gateway::config("round_robin", &[backend.url()])
    );
    let proxy = Proxy::start(&text);
    (backend, proxy)
}

/// Sends raw bytes on a connection of its own.
async fn raw(proxy: &Proxy, bytes: &[u8]) -> Answer {
    let mut client = Client::connect(proxy.address()).await;
    client.send(bytes).await;
    client.answer().await
}

#[tokio::test]
async fn bad_bodies_are_refused_in_the_shape_of_their_family() {
    let (backend, proxy) = backend_and_proxy().await;
    let bodies = [
        "",
        "{",
        "[]",
        "\"x\"",
        "{\"model\":7}",
        "{\"model\":\"m\",}",
        "\u{feff}{\"model\":\"m\"}",
        "{\0\"\0m\0o\0d\0e\0l\0\"\0:\0\"\0m\0\"\0}\0",
        "model=m",
    ];
    for body in bodies {
        for (path, pointer, kind) in [
            ("/api/chat", "/error", None),
            (
                "/v1/chat/completions",
                "/error/message",
                Some("invalid_request_error"),
            ),
            (
                "/v1/responses",
                "/error/message",
                Some("invalid_request_error"),
            ),
            (
                "/v1/messages",
                "/error/message",
                Some("invalid_request_error"),
            ),
        ] {
            let answer = proxy.post(path, body).await;
            let json = answer.json();
            assert_eq!(answer.status, 400, "{body:?}");
            assert!(
                json.pointer(pointer)
                    .is_some_and(serde_json::Value::is_string),
                "{json}"
            );
            assert_eq!(
                json.pointer("/error/type").and_then(|kind| kind.as_str()),
                kind
            );
            assert!(!answer.body.contains('\n'), "one line: {:?}", answer.body);
        }
    }
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_also_to_a_client_that_writes_before_it_reads() {
    let (backend, proxy) = backend_and_proxy().await;
    let body = format!("{{\"model\":\"m\",\"prompt\":\"{}\"}}", "x".repeat(5 << 20));
    for framing in [
        format!("content-length: {}", body.len()),
        "transfer-encoding: chunked".to_owned(),
    ] {
        let mut client = Client::connect(proxy.address()).await;
        client
            .send(format!(
                "POST /api/chat HTTP/1.1\r\nhost: lb\r\n{framing}\r\n\r\n"
            ))
            .await;
        if framing.starts_with('t') {
            client
                .send(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()))
                .await;
        } else {
            client.send(&body).await;
        }
        let answer = client.answer().await;
        assert_eq!(answer.status, 413);
        assert!(
            answer.json()["error"]
                .as_str()
                .unwrap()
                .contains("limits.body"),
            "{}",
            answer.body
        );
    }
    assert_eq!(backend.calls(), 0);
    assert_eq!(
        proxy.post("/api/chat", r#"{"model":"m"}"#).await.status,
        200
    );
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    let (backend, proxy) = backend_and_proxy().await;
    for (line, allow) in [
        ("GET /api/chat", "POST"),
        ("PUT /v1/messages", "POST"),
        ("POST /api/tags", "GET, HEAD"),
        ("DELETE /", "GET, HEAD"),
        ("HEAD /api/ps", "GET"),
    ] {
        if line.starts_with("HEAD") {
            let mut client = Client::connect(proxy.address()).await;
            client
                .send(format!("{line} HTTP/1.1\r\nhost: lb\r\n\r\n"))
                .await;
            let head = client.read_to("\r\n\r\n").await;
            assert!(head.contains(&format!("allow: {allow}\r\n")), "{head}");
            continue;
        }
        let request = format!("{line} HTTP/1.1\r\nhost: lb\r\ncontent-length: 0\r\n\r\n");
        let answer = raw(&proxy, request.as_bytes()).await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some(allow)),
            "{line}"
        );
        assert!(answer.json().get("error").is_some());
    }
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn a_host_that_cannot_be_is_refused() {
    let (backend, proxy) = backend_and_proxy().await;
    for host in [
        "",
        "host: \r\n",
        "host: a/b@c\r\n",
        "host: a, b\r\n",
        "host: a b\r\n",
        "host: a:99999\r\n",
        "host: a\r\nhost: a\r\n",
    ] {
        let answer = raw(
            &proxy,
            format!("GET /api/tags HTTP/1.1\r\n{host}\r\n").as_bytes(),
        )
        .await;
        assert_eq!(answer.status, 400, "{host:?}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    for host in ["anything.example", "127.0.0.1:11434", "[::1]:80"] {
        let answer = raw(
            &proxy,
            format!("GET /api/version HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes(),
        )
        .await;
        assert_eq!(answer.status, 200, "{host:?}");
    }
    assert_eq!(
        backend.calls(),
        0,
        "checks aside, which the backend answers by itself"
    );
}

#[tokio::test]
async fn odd_and_endless_targets_are_refused() {
    let (backend, proxy) = backend_and_proxy().await;
    for path in [
        "//api/chat",
        "/api/../admin",
        "/api/%2e%2e/x",
        "/api%2fchat",
        "/x%00",
    ] {
        let answer = raw(
            &proxy,
            format!("GET {path} HTTP/1.1\r\nhost: lb\r\n\r\n").as_bytes(),
        )
        .await;
        assert_eq!(answer.status, 404, "{path}");
    }
    let endless = "x".repeat(16 << 10);
    let answer = raw(
        &proxy,
        format!("GET /{endless} HTTP/1.1\r\nhost: lb\r\n\r\n").as_bytes(),
    )
    .await;
    assert_eq!(answer.status, 414);
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn heads_over_the_limits_are_refused() {
    let (backend, proxy) = backend_and_proxy().await;
    let many = "x-field: 1\r\n".repeat(200);
    let large = format!("x: {}\r\n", "x".repeat(80 << 10));
    for fields in [many, large] {
        let answer = raw(
            &proxy,
            format!("GET /x HTTP/1.1\r\nhost: lb\r\n{fields}\r\n").as_bytes(),
        )
        .await;
        assert_eq!(answer.status, 431);
    }
    let fits = format!("x: {}\r\n", "x".repeat(48 << 10));
    let answer = raw(
        &proxy,
        format!("GET /api/version HTTP/1.1\r\nhost: lb\r\n{fits}\r\n").as_bytes(),
    )
    .await;
    assert_eq!(answer.status, 200);
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn names_that_cannot_be_build_nothing_and_still_get_a_backends_own_answer() {
    let backend = Backend::failing(&["m"], "400 Bad Request", "invalid model name").await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let long = "x".repeat(1 << 20);
    for name in ["../../etc/passwd", "a%2fb", "a\\u0000b", "", long.as_str()] {
        let answer = proxy
            .post("/api/chat", &format!("{{\"model\":\"{name}\"}}"))
            .await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (400, r#"{"error":"invalid model name"}"#)
        );
    }
}
