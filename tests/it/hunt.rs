//! Faults that were found by attack, each with what a user would have noticed.

use crate::support::backend::{Backend, Call, dead_address};
use crate::support::client::{Client, post};
use crate::support::gateway::Proxy;
use crate::support::process::Process;
use crate::support::soon;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::Notify;

#[tokio::test]
async fn what_changes_a_backend_is_not_asked_of_a_second_one() {
    let lost = || Backend::start(&["m"], |call: Call| async move { drop(call) });
    let (a, b) = (lost().await, lost().await);
    let proxy = Proxy::over("round_robin", &[&a, &b]);
    let requests = [
        ("POST", "/api/push"),
        ("POST", "/api/of-tomorrow"),
        ("DELETE", "/api/of-tomorrow"),
    ];
    for (count, (method, path)) in (1..).zip(requests) {
        let mut client = Client::connect(proxy.address()).await;
        client
            .send(format!(
                "{method} {path} HTTP/1.1\r\nhost: lb\r\ncontent-length: 13\r\n\r\n{{\"model\":\"m\"}}"
            ))
            .await;
        assert_eq!(client.answer().await.status, 502, "{method} {path}");
        assert_eq!(a.calls() + b.calls(), count, "{method} {path}");
    }
}

#[tokio::test]
async fn what_changes_a_backend_is_sent_once_on_a_connection_that_breaks() {
    // Keeps its connection after a first answer, and breaks it when it has read a second request.
    let deletes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&deletes);
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let count = Arc::clone(&count);
        async move {
            if !call.head.starts_with("DELETE") {
                call.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    .await;
                match Call::read(call.stream).await {
                    Some(second) => call = second,
                    None => return,
                }
            }
            count.fetch_add(1, SeqCst);
            drop(call);
        }
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    assert_eq!(
        proxy.post("/api/chat", r#"{"model":"m"}"#).await.status,
        200
    );
    let mut client = Client::connect(proxy.address()).await;
    client
        .send("DELETE /api/delete HTTP/1.1\r\nhost: lb\r\ncontent-length: 13\r\n\r\n{\"model\":\"m\"}")
        .await;
    assert_eq!(client.answer().await.status, 502);
    assert_eq!(deletes.load(SeqCst), 1);
}

#[tokio::test]
async fn a_client_whose_upload_breaks_during_the_answer_is_no_failure_of_the_backend() {
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        call.begin("application/x-ndjson").await;
        call.chunk("{}\n").await;
        call.gone().await;
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    for broken in [true, false] {
        let mut client = Client::connect(proxy.address()).await;
        client
            .send("POST /api/of-tomorrow HTTP/1.1\r\nhost: lb\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await;
        client.read_to("{}\n").await;
        if broken {
            client.send("no chunk size\r\n").await;
            let (rest, _) = client.read_all().await;
            assert!(!rest.contains("broke off"), "{rest}");
        }
        drop(client);
        proxy.until_idle().await;
        let state = proxy.backend("a").await;
        assert_eq!(state["failures"], 0, "{state}");
    }
}

#[tokio::test]
async fn an_old_backend_that_breaks_off_leaves_no_answer_that_looks_whole() {
    let seen = Arc::new(Notify::new());
    let wait = Arc::clone(&seen);
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let wait = Arc::clone(&wait);
        async move {
            call.write("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"half\":")
                .await;
            wait.notified().await;
            if String::from_utf8_lossy(&call.body).contains("break") {
                call.reset();
            }
        }
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    for (body, whole) in [
        (r#"{"model":"m"}"#, true),
        (r#"{"model":"m","break":1}"#, false),
    ] {
        let mut client = Client::connect(proxy.address()).await;
        client.post("/api/chat", body).await;
        let begun = client.read_to("{\"half\":").await;
        seen.notify_one();
        assert!(begun.starts_with("HTTP/1.1 200"), "{begun}");
        assert!(begun.contains("transfer-encoding: chunked"), "{begun}");
        if whole {
            client.read_to("\r\n0\r\n\r\n").await;
        } else {
            let (rest, _) = client.read_all().await;
            assert_eq!(rest.trim(), "", "no end of the body");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_gone_is_told_once_and_not_once_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamero.toml");
    let text = format!("[[backend]]\nurl = \"{}\"\n", dead_address().await);
    std::fs::write(&file, &text).unwrap();
    let (mut proxy, _) = Process::serve(&["--config", file.to_str().unwrap()]).await;
    std::fs::remove_file(&file).unwrap();
    proxy.line_with("configuration not reloaded").await;
    // What is looked at is that nothing happens in the time of more than two polls.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(proxy.lines_with("configuration not reloaded"), 1);
    std::fs::create_dir(&file).unwrap();
    proxy.line_with("must be a file").await;
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, text + "\n").unwrap();
    proxy.line_with("configuration reloaded").await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_proxy_out_of_descriptors_blames_no_backend() {
    const DESCRIPTORS: usize = 64;
    let backend = Backend::saying(&["m"], "{}").await;
    let url = backend.url();
    let (proxy, address) = Process::serve(&["--backend", &url]).await;
    // It counted on more when it began.
    proxy.allow_descriptors(DESCRIPTORS);
    let mut clients = Vec::new();
    let refused = loop {
        let mut client = Client::connect(address).await;
        client.post("/api/chat", r#"{"model":"m"}"#).await;
        let answer = client.answer().await;
        if answer.status != 200 {
            break answer;
        }
        clients.push(client);
    };
    assert_eq!(refused.status, 503);
    // Which of the two it is depends on when the proxy last looked.
    let words = ["the proxy cannot make more", "server overloaded"];
    assert!(
        words.iter().any(|words| refused.body.contains(words)),
        "{refused:?}"
    );
    drop(clients);
    soon("it recovers", async {
        while post(address, "/api/chat", r#"{"model":"m"}"#).await.status != 200 {}
    })
    .await;
    assert_eq!(proxy.lines_with("backend is out"), 0);
}

#[tokio::test]
async fn a_proxy_takes_no_more_clients_than_it_has_descriptors_for() {
    // A quarter of them are for clients, where the usual reserve is not to be had.
    const DESCRIPTORS: usize = 64;
    let backend = Backend::saying(&["m"], "{}").await;
    let url = backend.url();
    let (proxy, address) = Process::serve_within(DESCRIPTORS, &["--backend", &url]).await;
    let mut clients = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        clients.push(Client::connect(address).await);
    }
    for mut client in clients {
        client.post("/api/chat", r#"{"model":"m"}"#).await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(proxy.lines_with("cannot accept connections"), 0);
}
