//! Clients and backends that stop, and what is shared out among all.

use crate::support::backend::{Backend, Call};
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Proxy, config};
use crate::support::process::Process;
use crate::support::{eventually, soon};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::Instant;

const CHAT: &str = r#"{"model":"m"}"#;

fn proxy(keys: &str, backends: &[&Backend]) -> Proxy {
    let urls: Vec<_> = backends.iter().map(|backend| backend.url()).collect();
    Proxy::start(&format!("{keys}\n{}", config("round_robin", &urls)))
}

/// All that comes until the proxy closes, as an answer.
async fn last_answer(client: &mut Client) -> Answer {
    let answer = client.answer().await;
    assert_eq!(answer.header("connection"), Some("close"));
    let (rest, _) = client.read_all().await;
    assert_eq!(rest, "");
    answer
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_gets_408() {
    let backend = Backend::saying(&["m"], "{}").await;
    let proxy = proxy("timeouts.request_head = \"200ms\"", &[&backend]);
    for begun in [
        "G",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nhost: lb\r\nx: 1\r\n",
    ] {
        let mut client = Client::connect(proxy.address()).await;
        client.send(begun).await;
        let answer = last_answer(&mut client).await;
        assert_eq!(answer.status, 408, "{begun:?}");
        assert!(answer.json()["error"].is_string());
    }
    // The second of a connection is no different, but its time begins when it is its turn.
    let mut client = Client::connect(proxy.address()).await;
    client.get("/").await;
    assert_eq!(client.answer().await.status, 200);
    client.send("GET").await;
    assert_eq!(last_answer(&mut client).await.status, 408);
}

#[tokio::test]
async fn a_head_that_drips_gets_408() {
    let backend = Backend::saying(&["m"], "{}").await;
    let proxy = proxy("timeouts.request_head = \"300ms\"", &[&backend]);
    let started = Instant::now();
    let text = drip(proxy.address(), "GET / HTTP/1.1\r\nhost: lb\r\nx: ").await;
    assert!(text.starts_with("HTTP/1.1 408 "), "{text:?}");
    assert!(started.elapsed() >= Duration::from_millis(300));
}

/// Sends this and then a byte at a time, until the proxy has enough; returns all that it said.
async fn drip(address: std::net::SocketAddr, begun: &'static str) -> String {
    let client = Client::connect(address).await;
    let (mut read, mut write) = client.stream.into_split();
    let drip = tokio::spawn(async move {
        let _ = write.write_all(begun.as_bytes()).await;
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut said = Vec::new();
    soon("the proxy closes", async {
        // Bytes that crossed with the end make it a reset.
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut said).await;
    })
    .await;
    drip.abort();
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_hundred_slow_clients_are_let_go_and_hinder_nobody() {
    const SLOW: usize = 50;
    let backend = Backend::saying(&["m"], "{}").await;
    let keys = "timeouts.request_head = \"1s\"\ntimeouts.request_body = \"1s\"";
    let proxy = proxy(keys, &[&backend]);
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..SLOW {
        for begun in [
            "GET / HTTP/1.1\r\nhost: lb\r\nx: ",
            "POST /api/chat HTTP/1.1\r\nhost: lb\r\ncontent-length: 9000\r\n\r\n{",
        ] {
            slow.spawn(drip(proxy.address(), begun));
        }
    }
    let mut good = Client::connect(proxy.address()).await;
    let mut served = 0;
    while !slow.is_empty() {
        good.post("/api/chat", CHAT).await;
        assert_eq!(good.answer().await.status, 200);
        served += 1;
        while let Some(said) = slow.try_join_next() {
            let said = said.unwrap();
            assert!(said.starts_with("HTTP/1.1 408 "), "{said:?}");
        }
    }
    assert_eq!(backend.calls(), served, "it sees whole requests only");
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let backend = Backend::saying(&["m"], "{}").await;
    let keys = "timeouts.keep_alive = \"200ms\"\ntimeouts.request_head = \"60s\"";
    let proxy = proxy(keys, &[&backend]);
    for requests in [0, 1] {
        let mut client = Client::connect(proxy.address()).await;
        for _ in 0..requests {
            client.get("/").await;
            assert_eq!(client.answer().await.status, 200);
        }
        assert_eq!(client.read_all().await, (String::new(), false));
    }
}

#[tokio::test]
async fn a_body_that_stops_gets_408_and_no_backend_hears_of_it() {
    let backend = Backend::saying(&["m"], "{}").await;
    let proxy = proxy("timeouts.request_body = \"200ms\"", &[&backend]);
    for framing in [
        "content-length: 13\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nd\r\n",
    ] {
        let mut client = Client::connect(proxy.address()).await;
        client
            .send(format!(
                "POST /api/chat HTTP/1.1\r\nhost: lb\r\n{framing}{{"
            ))
            .await;
        assert_eq!(last_answer(&mut client).await.status, 408, "{framing}");
    }
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn an_upload_that_stops_gets_408_and_the_backend_is_not_to_blame() {
    let backend = Backend::saying(&["m"], "{}").await;
    let proxy = proxy("timeouts.request_body = \"200ms\"", &[&backend]);
    for path in ["/api/of-tomorrow", "/api/blobs/sha256:00"] {
        let mut client = Client::connect(proxy.address()).await;
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: lb\r\ncontent-length: 100\r\n\r\nhalf"
            ))
            .await;
        assert_eq!(last_answer(&mut client).await.status, 408, "{path}");
    }
    proxy.until_idle().await;
    assert_eq!(proxy.backend("a").await["failures"], 0);
}

#[tokio::test]
async fn nobody_is_hurried_while_a_backend_thinks() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            call.answer("200 OK", "application/json", "{}").await;
        }
    })
    .await;
    let keys = "timeouts.request_head = \"50ms\"\ntimeouts.request_body = \"50ms\"\ntimeouts.keep_alive = \"50ms\"\ntimeouts.stream_idle = \"50ms\"\ntimeouts.control = \"50ms\"";
    let proxy = proxy(keys, &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/chat", CHAT).await;
    client.send("GET").await; // the next head has begun meanwhile
    // What is looked at is that nothing happens in the time of several limits.
    tokio::time::sleep(Duration::from_millis(500)).await;
    go.notify_one();
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(last_answer(&mut client).await.status, 408);
}

#[tokio::test]
async fn a_reader_that_stops_is_cut_off_and_its_backend_freed() {
    let freed = Arc::new(Notify::new());
    let told = Arc::clone(&freed);
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let told = Arc::clone(&told);
        async move {
            call.begin("application/x-ndjson").await;
            let chunk = format!("{:x}\r\n{}\n\r\n", 60_001, "x".repeat(60_000));
            while call.stream.write_all(chunk.as_bytes()).await.is_ok() {}
            told.notify_one();
        }
    })
    .await;
    let proxy = proxy("timeouts.client_write = \"300ms\"", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/chat", CHAT).await;
    soon("the backend is freed", freed.notified()).await;
    let (_, reset) = client.read_all().await;
    assert!(reset, "what it did not read is thrown away");
    assert_eq!(proxy.backend("a").await["failures"], 0);
}

#[tokio::test]
async fn a_backend_that_falls_silent_in_a_stream_is_told_in_the_familys_words() {
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        let sse = call.head.starts_with("POST /v1");
        call.begin(if sse {
            "text/event-stream"
        } else {
            "application/x-ndjson"
        })
        .await;
        call.chunk(if sse { "data: {}\n\n" } else { "{}\n" }).await;
        call.gone().await;
    })
    .await;
    let keys = "timeouts.stream_idle = \"200ms\"\nhealth.fall = 100";
    let proxy = proxy(keys, &[&backend]);
    for (failures, (path, start)) in (1..).zip([
        ("/api/chat", "{\"error\":"),
        ("/v1/chat/completions", "data: {\"error\":"),
    ]) {
        let mut client = Client::connect(proxy.address()).await;
        client.post(path, CHAT).await;
        let answer = client.answer().await;
        assert!(!answer.whole && answer.body.contains(start), "{answer:?}");
        assert!(answer.body.contains("fell silent"), "{answer:?}");
        assert_eq!(proxy.backend("a").await["failures"], failures);
    }
}

#[tokio::test]
async fn a_question_that_takes_no_thought_is_not_waited_for_forever() {
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        if call.head.contains("drip") {
            call.begin("application/json").await;
            // Longer than the limit, with a byte now and again.
            while call.stream.write_all(b"1\r\n \r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        call.gone().await;
    })
    .await;
    let proxy = proxy("timeouts.control = \"300ms\"", &[&backend]);
    let copy = r#"{"source":"m","destination":"n"}"#;
    let paths = [("/api/show", CHAT), ("/api/copy", copy), ("/api/me", "{}")];
    for (failures, (path, body)) in (1..).zip(paths) {
        let answer = proxy.post(path, body).await;
        assert_eq!(answer.status, 504, "{path}");
        assert!(answer.body.contains("timeouts.control"), "{}", answer.body);
        assert_eq!(proxy.backend("a").await["failures"], failures, "{path}");
    }
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/show?drip", CHAT).await;
    assert!(!client.answer().await.whole);
    proxy.until_idle().await;
}

#[tokio::test]
async fn bodies_that_find_no_room_get_503_and_room_comes_back() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let wait = Arc::clone(&wait);
        async move {
            if call.body.len() > 1000 {
                wait.notified().await;
            }
            call.answer("200 OK", "application/json", "{}").await;
        }
    })
    .await;
    let proxy = proxy("limits.bodies = \"64KiB\"", &[&backend]);
    let large = format!(
        "{{\"model\":\"m\",\"prompt\":\"{}\"}}",
        "x".repeat(40 << 10)
    );
    let mut first = Client::connect(proxy.address()).await;
    first.post("/api/chat", &large).await;
    crate::support::gateway::until_called(&backend, 1).await;
    let mut second = Client::connect(proxy.address()).await;
    second.post("/api/chat", &large).await;
    let refused = last_answer(&mut second).await;
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("2"))
    );
    assert_eq!(
        proxy.post("/api/chat", CHAT).await.status,
        200,
        "a small one fits"
    );
    go.notify_one();
    assert_eq!(first.answer().await.status, 200);
    go.notify_one();
    assert_eq!(proxy.post("/api/chat", &large).await.status, 200);
}

#[tokio::test]
async fn listeners_share_one_number_of_connections() {
    let backend = Backend::saying(&["m"], "{}").await;
    let text = format!(
        "listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\nadmin.listen = \"127.0.0.1:0\"\nlimits.connections = 2\n{}",
        config("round_robin", &[backend.url()])
    );
    let settings = llamero::config::Settings::parse(&text, "test.toml").unwrap();
    let hash = llamero::config::ContentHash::of(&text);
    let gateway = llamero::Gateway::start(settings, None, hash, 7).unwrap();
    let [one, two] = gateway.addresses() else {
        panic!("two listeners")
    };
    let mut clients = Vec::new();
    for address in [one, one, two] {
        let mut client = Client::connect(*address).await;
        client.get("/").await;
        clients.push(client);
        if clients.len() < 3 {
            assert_eq!(clients.last_mut().unwrap().answer().await.status, 200);
        }
    }
    // One place was in the second listener's hand; the next client of either waits for somebody to leave.
    assert_eq!(clients[2].answer().await.status, 200);
    for address in [one, two] {
        let mut late = Client::connect(*address).await;
        late.get("/").await;
        let early = tokio::time::timeout(Duration::from_millis(100), late.answer());
        assert!(early.await.is_err(), "there is no room");
        drop(clients.remove(0));
        assert_eq!(late.answer().await.status, 200);
        clients.push(late);
    }
}

#[tokio::test]
async fn a_request_that_comes_back_is_stopped_at_its_first_return() {
    let (address, listener) = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener.local_addr().unwrap(), listener)
    };
    // A wire from the backend's address to the proxy itself.
    let proxy = Proxy::start(&config("round_robin", &[format!("http://{address}")]));
    let back = proxy.address();
    let wire = tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = tokio::net::TcpStream::connect(back).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    let answer = proxy.post("/api/of-tomorrow", "{}").await;
    assert_eq!(answer.status, 508);
    wire.abort();
}

/// Bytes in this process for each client that has stopped reading, the kernel's buffers aside.
#[cfg(target_os = "linux")]
const STOPPED_BYTES: usize = 128 << 10;

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_reader_that_stops_holds_little_memory() {
    const FIRST: usize = 4;
    const READERS: usize = 16;
    let stuck = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&stuck);
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let count = Arc::clone(&count);
        async move {
            call.begin("application/x-ndjson").await;
            let chunk = format!("{:x}\r\n{}\n\r\n", 4000, "x".repeat(3999));
            // Nothing has been taken for so long: everything between here and the reader is full.
            let full = Duration::from_millis(500);
            while let Ok(Ok(())) =
                tokio::time::timeout(full, call.stream.write_all(chunk.as_bytes())).await
            {
            }
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            call.gone().await;
        }
    })
    .await;
    // Room for all at once, or they would wait before they are stuck.
    let slots = FIRST + READERS;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamero.toml");
    let text = format!(
        "[[backend]]\nurl = \"{}\"\nslots = {slots}\n",
        backend.url()
    );
    std::fs::write(&file, text).unwrap();
    let (proxy, address) = Process::serve(&["--config", file.to_str().unwrap()]).await;
    let mut readers = Vec::new();
    // The first show what the proxy needs for any at all.
    let mut before = 0;
    for number in 0..FIRST + READERS {
        if number == FIRST {
            eventually("the first are stuck", || {
                stuck.load(std::sync::atomic::Ordering::SeqCst) == FIRST
            })
            .await;
            before = proxy.resident_bytes();
        }
        let mut client = Client::connect(address).await;
        client.post("/api/chat", CHAT).await;
        readers.push(client);
    }
    eventually("all are stuck", || {
        stuck.load(std::sync::atomic::Ordering::SeqCst) == FIRST + READERS
    })
    .await;
    let each = proxy.peak_bytes().saturating_sub(before) / READERS;
    assert!(each <= STOPPED_BYTES, "{each} bytes for each reader");
}
