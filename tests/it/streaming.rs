//! Bytes pass unchanged, and at once.

use crate::support::backend::{Backend, Call};
use crate::support::client::Client;
use crate::support::gateway::Proxy;
use crate::support::soon;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};

/// A backend that writes its next chunk only when the test says that the client has the one before.
async fn lockstep(kind: &'static str) -> (Backend, mpsc::Sender<String>) {
    let (go, next) = mpsc::channel::<String>(1);
    let next = Arc::new(Mutex::new(next));
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let next = Arc::clone(&next);
        async move {
            let mut next = next.lock().await;
            call.begin(kind).await;
            while let Some(chunk) = next.recv().await {
                if chunk.is_empty() {
                    break;
                }
                call.chunk(&chunk).await;
            }
            call.end().await;
        }
    })
    .await;
    (backend, go)
}

async fn check_lockstep(
    path: &str,
    kind: &'static str,
    record: impl Fn(usize) -> String,
    last: &str,
) {
    let (backend, go) = lockstep(kind).await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    client.post(path, r#"{"model":"m","stream":true}"#).await;
    for at in 0..50 {
        go.send(record(at)).await.unwrap();
        if at == 0 {
            let head = client.read_to("\r\n\r\n").await;
            assert!(
                head.contains(&format!("content-type: {kind}\r\n")),
                "{head}"
            );
        }
        // One chunk in, the same chunk out, before the next is written.
        assert_eq!(client.chunk().await.unwrap(), record(at).as_bytes());
    }
    go.send(last.to_owned()).await.unwrap();
    assert_eq!(client.chunk().await.unwrap(), last.as_bytes());
    go.send(String::new()).await.unwrap();
    assert_eq!(
        client.chunk().await.unwrap(),
        b"",
        "a clean end is passed on"
    );
    proxy.until_idle().await;
}

#[tokio::test]
async fn each_ndjson_chunk_arrives_before_the_next_is_written() {
    let record = |at| format!("{{\"response\":\"{at}\",\"done\":false}}\n");
    check_lockstep(
        "/api/chat",
        "application/x-ndjson",
        record,
        "{\"done\":true}\n",
    )
    .await;
}

#[tokio::test]
async fn each_event_arrives_before_the_next_is_written() {
    let record = |at| format!("data: {{\"n\":{at}}}\n\n");
    check_lockstep(
        "/v1/chat/completions",
        "text/event-stream",
        record,
        "data: [DONE]\n\n",
    )
    .await;
}

#[tokio::test]
async fn a_body_reaches_the_backend_byte_for_byte_in_one_piece_however_it_came() {
    const BODY: &str = "{ \"messages\" : [ {\"content\":\"1.50 \\u00e9\"} ],\r\n \"Model\":\"m\" , \"model\" :\"m\"}  trailing";
    let (seen, mut heard) = mpsc::channel(1);
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let seen = seen.clone();
        async move {
            call.answer("200 OK", "application/json", "{}").await;
            seen.send((call.head, call.body)).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    client.send("POST /api/chat?beta=true&x=%20 HTTP/1.1\r\nhost: lb\r\nauthorization: Bearer ollama\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for byte in BODY.as_bytes() {
        client.send(format!("1\r\n{}\r\n", char::from(*byte))).await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    let (fields, body) = soon("the backend's report", heard.recv()).await.unwrap();
    assert_eq!(String::from_utf8(body).unwrap(), BODY);
    assert!(
        fields.starts_with("POST /api/chat?beta=true&x=%20 HTTP/1.1\r\n"),
        "{fields}"
    );
    assert!(
        fields.contains(&format!("content-length: {}\r\n", BODY.len()))
            && !fields.contains("transfer-encoding"),
        "{fields}"
    );
    assert!(
        fields.contains("authorization: Bearer ollama\r\n") && fields.contains("via: 1.1 llamero-"),
        "{fields}"
    );
    assert!(
        fields.contains(&format!(
            "host: {}\r\n",
            backend.url().trim_start_matches("http://")
        )),
        "{fields}"
    );
}

#[tokio::test]
async fn a_blob_streams_to_the_backend_while_it_comes_in() {
    // Chunked on both sides, so read by hand: the backend says what has arrived while the client still writes.
    let (seen, mut heard) = mpsc::channel::<()>(1);
    let backend = Backend::start(&[], move |mut call: Call| {
        let seen = seen.clone();
        async move {
            assert_eq!(call.header("transfer-encoding"), Some("chunked"));
            let mut read = String::from_utf8(call.body.clone()).unwrap();
            while !read.contains("first") {
                read += &read_some(&mut call).await;
            }
            seen.send(()).await.unwrap();
            while !read.ends_with("0\r\n\r\n") {
                read += &read_some(&mut call).await;
            }
            call.answer("201 Created", "text/plain", "").await;
        }
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    client.send("POST /api/blobs/sha256:00 HTTP/1.1\r\nhost: lb\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    soon("the first part arrives", heard.recv()).await.unwrap();
    client.send("6\r\nsecond\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 201);
}

async fn read_some(call: &mut Call) -> String {
    use tokio::io::AsyncReadExt;
    let mut bytes = [0; 4096];
    let read = soon("more of the body", call.stream.read(&mut bytes))
        .await
        .unwrap();
    assert!(read > 0, "the upload ended early");
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

#[tokio::test]
async fn head_answers_keep_the_length_of_the_body_they_leave_out() {
    let backend = Backend::start(&[], |mut call: Call| async move {
        call.write("HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 17\r\n\r\n").await;
        call.gone().await;
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    client.send("HEAD / HTTP/1.1\r\nhost: lb\r\n\r\n").await;
    let head = client.read_to("\r\n\r\n").await;
    assert!(head.contains("content-length: 17\r\n"), "{head}");
}

#[tokio::test]
async fn a_stopped_reader_stops_its_own_backend_and_nobody_else() {
    // The backend writes as fast as it can and says how far it came.
    let written = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let flood = Backend::start(&["flood"], move |mut call: Call| {
        let count = Arc::clone(&count);
        async move {
            use tokio::io::AsyncWriteExt;
            call.begin("application/x-ndjson").await;
            let chunk = format!("{:x}\r\n{}\r\n", 16384, "x".repeat(16384));
            while call.stream.write_all(chunk.as_bytes()).await.is_ok() {
                count.fetch_add(16384, std::sync::atomic::Ordering::SeqCst);
            }
        }
    })
    .await;
    let quick = Backend::saying(&["quick"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&flood, &quick]);
    let mut stopped = Client::connect(proxy.address()).await;
    stopped.post("/api/chat", r#"{"model":"flood"}"#).await;
    stopped.read_to("\r\n\r\n").await;
    // It comes to a halt at what kernel buffers hold, and the proxy's own, which are small.
    let mut last = usize::MAX;
    loop {
        for _ in 0..20 {
            assert_eq!(
                proxy.post("/api/chat", r#"{"model":"quick"}"#).await.status,
                200
            );
        }
        let now = written.load(std::sync::atomic::Ordering::SeqCst);
        if now == last {
            break;
        }
        last = now;
    }
    assert!(
        last < 32 << 20,
        "{last} bytes went towards a reader that reads nothing"
    );
}
