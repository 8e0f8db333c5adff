//! Too few descriptors, too little memory, too many from one address.

use crate::support::backend::{Backend, Call};
use crate::support::client::{Client, get};
use crate::support::gateway::{Proxy, config};
use crate::support::soon;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpSocket;

#[tokio::test]
async fn an_address_has_so_many_connections_and_others_theirs() {
    let backend = Backend::saying(&["m"], "{}").await;
    let limit = "limits.connections_per_address = 2\n";
    let proxy = Proxy::start(&format!(
        "{limit}{}",
        config("round_robin", &[backend.url()])
    ));
    let from = |address: &str| {
        let address = SocketAddr::new(address.parse().unwrap(), 0);
        let to = proxy.address();
        async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(address).unwrap();
            Client::over(socket.connect(to).await.unwrap())
        }
    };
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = from("127.0.0.1").await;
        client.get("/").await;
        assert_eq!(client.answer().await.status, 200);
        held.push(client);
    }
    let mut third = from("127.0.0.1").await;
    third.get("/").await;
    let refused = third.answer().await;
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (429, Some("2"))
    );
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(refused.body.contains("limits.connections_per_address"));
    #[cfg(target_os = "linux")]
    {
        let mut other = from("127.0.0.2").await;
        other.get("/").await;
        assert_eq!(other.answer().await.status, 200);
    }
    drop(held.pop());
    soon("a place comes free", async {
        loop {
            let mut client = from("127.0.0.1").await;
            client.get("/").await;
            if client.answer().await.status == 200 {
                return;
            }
        }
    })
    .await;
}

#[cfg(target_os = "linux")]
mod process {
    use super::*;
    use crate::support::eventually;
    use crate::support::process::Process;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use tokio::sync::{Notify, Semaphore};
    use tokio::task::JoinSet;
    use tokio::time::{Instant, timeout};

    const CHAT: &str = r#"{"model":"m"}"#;

    /// What the status says of overload.
    async fn overload(admin: SocketAddr) -> serde_json::Value {
        get(admin, "/api/v1/status").await.json()["overload"].clone()
    }

    async fn until_level(admin: SocketAddr, levels: &[&str]) {
        soon(&format!("{levels:?}"), async {
            while !levels.contains(&overload(admin).await["level"].as_str().unwrap()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// So many clients that have been answered and stay.
    async fn idle(address: SocketAddr, clients: usize) -> Vec<Client> {
        let mut idle = Vec::new();
        for _ in 0..clients {
            let mut client = Client::connect(address).await;
            client.get("/").await;
            assert_eq!(client.answer().await.status, 200);
            idle.push(client);
        }
        idle
    }

    /// Lets this process, which has all the clients, have as many descriptors as it may.
    fn raise_own_limit() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let whole = Rlimit {
            current: maximum,
            maximum,
        };
        setrlimit(Resource::Nofile, whole).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_clients_of_a_proxy_with_few_descriptors_all_get_their_turn() {
        const DESCRIPTORS: usize = 256;
        const CLIENTS: usize = 1000;
        raise_own_limit();
        let backend = Backend::saying(&["m"], "{}").await;
        let url = backend.url();
        let (mut proxy, address) = Process::serve_within(DESCRIPTORS, &["--backend", &url]).await;
        let admin = proxy.admin().await;
        let go = Arc::new(Semaphore::new(0));
        let answered = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (go, answered) = (Arc::clone(&go), Arc::clone(&answered));
            clients.spawn(async move {
                let mut client = Client::connect(address).await;
                client.post("/api/chat", CHAT).await;
                let answer = client.answer().await;
                answered.fetch_add(1, SeqCst);
                let _ = go.acquire().await;
                answer.status
            });
        }
        eventually("as many as fit are answered", || {
            answered.load(SeqCst) >= DESCRIPTORS / 4
        })
        .await;
        let (worked, began) = (proxy.processor_time(), Instant::now());
        // What is looked at is that nothing happens in this time, but for operators.
        while began.elapsed() < Duration::from_secs(1) {
            assert_eq!(get(admin, "/livez").await.status, 200);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let busy = proxy.processor_time().saturating_sub(worked);
        assert!(busy < Duration::from_millis(300), "{busy:?} in a second");
        go.close();
        while let Some(status) = clients.join_next().await {
            assert_eq!(status.unwrap(), 200);
        }
        until_level(admin, &["calm"]).await;
        assert_eq!(proxy.lines_with("panicked"), 0);
    }

    #[tokio::test]
    async fn the_last_descriptor_tells_that_it_is_the_last_and_operators_have_their_own() {
        let backend = Backend::saying(&["m"], "{}").await;
        let (mut proxy, address) = Process::serve(&["--backend", &backend.url()]).await;
        let admin = proxy.admin().await;
        let held = idle(address, 40).await;
        // Not one more than it has.
        proxy.allow_descriptors(proxy.descriptors());
        let mut late = Client::connect(address).await;
        let early = late.stream.readable();
        // If it looked in the moment between, it has stopped accepting and leaves the client in the backlog.
        if timeout(Duration::from_secs(1), early).await.is_ok() {
            let answer = late.answer().await;
            assert_eq!(
                (answer.status, answer.header("retry-after")),
                (503, Some("2"))
            );
            assert!(answer.body.contains("server overloaded"), "{answer:?}");
        }
        until_level(admin, &["paused"]).await;
        let worked = proxy.processor_time();
        let mut waiting = Client::connect(address).await;
        waiting.get("/").await;
        let early = timeout(Duration::from_millis(500), waiting.stream.readable());
        assert!(early.await.is_err(), "it waits");
        for _ in 0..20 {
            assert_eq!(get(admin, "/readyz").await.status, 200);
        }
        let busy = proxy.processor_time().saturating_sub(worked);
        assert!(busy < Duration::from_millis(300), "{busy:?}");
        drop(held);
        assert_eq!(waiting.answer().await.status, 200);
        until_level(admin, &["calm"]).await;
        assert_eq!(proxy.lines_with("panicked"), 0);
        assert!(proxy.lines_with("overload rises") >= 1);
        proxy.line_with("overload falls").await;
    }

    #[tokio::test]
    async fn idle_clients_are_let_go_before_anything_else_is() {
        let backend = Backend::saying(&["m"], "{}").await;
        let (mut proxy, address) = Process::serve(&["--backend", &backend.url()]).await;
        let admin = proxy.admin().await;
        // So many that a check more or less makes no difference.
        let mut held = idle(address, 200).await;
        let used = proxy.descriptors();
        proxy.allow_descriptors(used * 1000 / 935);
        until_level(admin, &["closing"]).await;
        let mut last = held.pop().unwrap();
        last.get("/").await;
        let answer = last.answer().await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (200, Some("close"))
        );
        // The first to look are let go; as soon as that is enough, the others may stay.
        until_level(admin, &["calm"]).await;
        assert!(proxy.descriptors() < used * 9 / 10);
        let mut gone = 0;
        for client in &mut held {
            gone += usize::from(
                timeout(Duration::ZERO, client.stream.readable())
                    .await
                    .is_ok(),
            );
        }
        assert!(gone >= used / 10, "{gone}");
        let mut client = Client::connect(address).await;
        client.get("/").await;
        assert_eq!(client.answer().await.header("connection"), None);
    }

    #[tokio::test]
    async fn a_proxy_short_of_memory_refuses_what_is_new_and_goes_on_with_what_runs() {
        const MOST: usize = 200;
        let go = Arc::new(Notify::new());
        let wait = Arc::clone(&go);
        let backend = Backend::start(&["m"], move |mut call: Call| {
            let wait = Arc::clone(&wait);
            async move {
                let stream = call.head.contains("stream");
                if stream {
                    call.begin("application/x-ndjson").await;
                    call.chunk("{\"done\":false}\n").await;
                }
                if stream || call.body.len() > 1000 {
                    wait.notified().await;
                }
                if stream {
                    call.chunk("{\"done\":true}\n").await;
                    call.end().await;
                } else {
                    call.answer("200 OK", "application/json", "{}").await;
                }
            }
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("llamero.toml");
        let text = format!(
            "limits.memory = \"96MiB\"\n[[backend]]\nslots = 1000\nurl = \"{}\"\n",
            backend.url()
        );
        std::fs::write(&file, text).unwrap();
        let (mut proxy, address) = Process::serve(&["--config", file.to_str().unwrap()]).await;
        let admin = proxy.admin().await;
        let mut stream = Client::connect(address).await;
        stream.post("/api/chat?stream", CHAT).await;
        stream.read_to("false").await;
        let mut spare = idle(address, 2).await;
        let body = format!(r#"{{"model":"m","prompt":"{}"}}"#, "x".repeat(1 << 20));
        let mut held = Vec::new();
        while ["calm", "short_idle", "closing"]
            .contains(&overload(admin).await["level"].as_str().unwrap())
        {
            assert!(held.len() < MOST, "it never has enough");
            let mut client = Client::connect(address).await;
            client.post("/api/generate", &body).await;
            held.push(client);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (path, start) in [
            ("/api/chat", "{\"error\":\"server overloaded"),
            (
                "/v1/messages",
                "{\"error\":{\"message\":\"server overloaded",
            ),
        ] {
            let mut client = spare.pop().unwrap();
            client.post(path, CHAT).await;
            let refused = client.answer().await;
            assert_eq!(
                (refused.status, refused.header("retry-after")),
                (503, Some("2"))
            );
            assert_eq!(refused.header("connection"), Some("close"));
            assert!(refused.body.starts_with(start), "{refused:?}");
        }
        for _ in 0..=held.len() {
            go.notify_one();
            tokio::task::yield_now().await;
        }
        go.notify_waiters();
        let rest = stream.read_to("\r\n0\r\n\r\n").await;
        assert!(rest.contains("true"), "{rest:?}");
        drop(held);
        until_level(admin, &["calm"]).await;
        let mut client = Client::connect(address).await;
        client.post("/api/chat", CHAT).await;
        assert_eq!(client.answer().await.status, 200);
    }
}
