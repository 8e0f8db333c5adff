//! Connections that one client makes dirty, and another one uses: nobody ever gets anybody else's bytes.

use crate::support::backend::{Backend, Call};
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Proxy, config, until_called};
use crate::support::soon;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

const ROUNDS: usize = 1000;
/// What nobody but a hostile client may ever be sent.
const EVIL: &str = "evil";

/// Answers every request on a connection with the body that it read, all that came behind it included.
async fn echoing() -> Backend {
    Backend::start(&["m"], |mut call: Call| async move {
        loop {
            let said = String::from_utf8_lossy(&call.body).into_owned();
            let length = said.len();
            call.write(&format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{said}"
            ))
            .await;
            match Call::read(call.stream).await {
                Some(next) => call = next,
                None => return,
            }
        }
    })
    .await
}

fn marked(marker: &str) -> String {
    format!(r#"{{"model":"m","marker":"{marker}"}}"#)
}

/// A whole request that a hostile client hides in another one.
fn hidden() -> String {
    let body = marked(EVIL);
    let length = body.len();
    format!("POST /api/chat HTTP/1.1\r\nhost: lb\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Ways to hide one request in another, or to leave a connection in the middle of something.
fn tricks() -> Vec<String> {
    let hidden = hidden();
    let length = hidden.len();
    let post = |headers: &str, body: &str| {
        format!("POST /api/chat HTTP/1.1\r\nhost: lb\r\n{headers}\r\n{body}")
    };
    let upload = |headers: &str, body: &str| {
        format!("POST /api/of-tomorrow HTTP/1.1\r\nhost: lb\r\n{headers}\r\n{body}")
    };
    let size = hidden.len();
    vec![
        // Refused, with a valid one behind it.
        post(
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            &format!("0\r\n\r\n{hidden}"),
        ),
        post(
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
            &format!("0\r\n\r\n{hidden}"),
        ),
        post(
            "content-length: 2\r\ncontent-length: 2\r\n",
            &format!("{{}}{hidden}"),
        ),
        // Longer than it says.
        post("content-length: 2\r\n", &format!("{{}}{hidden}")),
        upload("content-length: 2\r\n", &format!("{{}}{hidden}")),
        // A switch of protocols that nobody makes.
        post(
            "connection: upgrade\r\nupgrade: x\r\ncontent-length: 13\r\n",
            &format!("{{\"model\":\"m\"}}{hidden}"),
        ),
        // A body where none is read.
        format!("GET /x HTTP/1.1\r\nhost: lb\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        format!(
            "GET /api/version HTTP/1.1\r\nhost: lb\r\ncontent-length: {length}\r\n\r\n{hidden}"
        ),
        format!(
            "POST /api/version HTTP/1.1\r\nhost: lb\r\ncontent-length: {length}\r\n\r\n{hidden}"
        ),
        post(
            &format!("content-encoding: gzip\r\ncontent-length: {length}\r\n"),
            &hidden,
        ),
        // A body that is sent though the answer was no.
        post(
            &format!("expect: 100-continue\r\ncontent-length: {length}\r\n"),
            &hidden,
        ),
        // Bodies that break off.
        upload(
            "transfer-encoding: chunked\r\n",
            &format!("fff\r\n{hidden}"),
        ),
        upload(
            "transfer-encoding: chunked\r\n",
            &format!("{size:x}\r\n{hidden}\r\nno size\r\n"),
        ),
        upload("content-length: 4000\r\n", &hidden),
        post(
            "transfer-encoding: chunked\r\n",
            &format!("fff\r\n{hidden}"),
        ),
        post("content-length: 4000\r\n", &hidden),
        // In chunks that end where only a lenient reader sees an end.
        upload(
            "transfer-encoding: chunked\r\n",
            &format!("2\n{{}}\n0\n\n{hidden}"),
        ),
        upload(
            "transfer-encoding: chunked\r\n",
            &format!("0\r\n\n{hidden}"),
        ),
    ]
}

/// Asks again and again, and asserts that each answer is for it alone.
async fn ask_on_and_on(address: SocketAddr, name: usize, rounds: usize) {
    let mut client = Client::connect(address).await;
    for round in 0..rounds {
        let body = marked(&format!("{name} {round}"));
        client.post("/api/chat", &body).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body), (200, body));
    }
}

#[tokio::test]
async fn hostile_clients_leave_nothing_on_connections_that_others_use() {
    const CLIENTS: usize = 4;
    let backend = echoing().await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let address = proxy.address();
    let good: Vec<_> = (0..CLIENTS)
        .map(|name| tokio::spawn(ask_on_and_on(address, name, ROUNDS / CLIENTS)))
        .collect();
    let tricks = tricks();
    for trick in tricks.iter().cycle().take(ROUNDS) {
        let mut client = Client::connect(address).await;
        client.send(trick).await;
        // Leaves in the middle of whatever this is; that something came back makes sure that the proxy is at it.
        let _ = timeout(Duration::from_millis(2), client.stream.readable()).await;
    }
    for client in good {
        client.await.unwrap();
    }
    ask_on_and_on(address, CLIENTS, 100).await;
    proxy.until_idle().await;
    let state = proxy.backend("a").await;
    assert_eq!(
        (&state["state"], &state["failures"]),
        (&"up".into(), &0.into())
    );
}

#[tokio::test]
async fn a_request_behind_a_refused_one_is_never_handled() {
    let backend = echoing().await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    for (trick, status) in tricks().into_iter().zip([400, 400, 400]) {
        let mut client = Client::connect(proxy.address()).await;
        client.send(trick).await;
        let (text, _) = client.read_all().await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    }
    assert_eq!(backend.calls(), 0);
    // A good one first, then a refused one, then one that must not be handled: two answers.
    let mut client = Client::connect(proxy.address()).await;
    let refused = "GET /#x HTTP/1.1\r\nhost: lb\r\n\r\n";
    let first = hidden().replace(EVIL, "good");
    client.send(format!("{first}{refused}{}", hidden())).await;
    let (text, _) = client.read_all().await;
    assert!(text.contains("good") && !text.contains(EVIL), "{text}");
    let statuses: Vec<_> = text.matches("HTTP/1.1 ").collect();
    assert!(
        statuses.len() == 2 && text.contains("HTTP/1.1 400 "),
        "{text}"
    );
    assert_eq!(backend.calls(), 1);
}

/// Requests that get an error or an answer of the proxy's own, with a body that hides a request where there can be one.
fn answered_otherwise() -> Vec<(u16, String, String)> {
    let hidden = hidden();
    let length = hidden.len();
    let head = |line: &str, fields: &str| {
        format!("{line} HTTP/1.1\r\nhost: lb\r\n{fields}content-length: {length}\r\n\r\n")
    };
    let expecting = "expect: 100-continue\r\n";
    let large = "x".repeat(8 << 10);
    [
        (200, head("GET /api/version", "")),
        (200, head("GET /api/version", expecting)),
        (404, head("POST /api/../x", "")),
        (405, head("POST /api/version", "")),
        (405, head("POST /api/version", expecting)),
        (405, head("GET /api/chat", expecting)),
        (415, head("POST /api/chat", "content-encoding: gzip\r\n")),
        (
            403,
            head("POST /api/chat", "origin: http://evil.example\r\n"),
        ),
        (417, head("POST /api/chat", "expect: foo\r\n")),
        // Not JSON.
        (400, head("POST /api/chat", "")),
    ]
    .into_iter()
    .map(|(status, head)| (status, head, hidden.clone()))
    .chain([(
        413,
        head("POST /api/chat", expecting).replace(&length.to_string(), "8192"),
        large,
    )])
    .collect()
}

/// How a request comes behind another one on its connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Behind {
    AtOnce,
    AfterTheAnswer,
    Expecting,
}

#[tokio::test]
async fn behind_an_error_comes_its_own_answer_or_the_end_of_the_connection() {
    let backend = echoing().await;
    let text = config("round_robin", &[backend.url()]);
    let proxy = Proxy::start(&format!("limits.body = \"4KiB\"\n{text}"));
    let good = marked("good");
    for (status, head, body) in answered_otherwise() {
        for behind in [Behind::AtOnce, Behind::AfterTheAnswer, Behind::Expecting] {
            let mut client = Client::connect(proxy.address()).await;
            let mut text = String::new();
            client.send(&head).await;
            let asks_first = head.contains("100-continue");
            if asks_first && behind != Behind::AtOnce {
                // The answer is there without the body, which is sent all the same.
                text += &client.read_to("\r\n\r\n").await;
            }
            // The proxy may have closed.
            let _ = client.stream.write_all(body.as_bytes()).await;
            if !asks_first && behind == Behind::AfterTheAnswer {
                text += &client.read_to("\r\n\r\n").await;
            }
            let expecting = match behind {
                Behind::Expecting => "expect: 100-continue\r\n",
                Behind::AtOnce | Behind::AfterTheAnswer => "",
            };
            let next = hidden().replace(EVIL, "good").replace(
                "host: lb\r\n",
                &format!("host: lb\r\nconnection: close\r\n{expecting}"),
            );
            let _ = client.stream.write_all(next.as_bytes()).await;
            text += &client.read_all().await.0;
            let first = format!("HTTP/1.1 {status} ");
            assert!(text.starts_with(&first), "{behind:?} {head}: {text}");
            let served = text.ends_with(&good)
                && text.matches("HTTP/1.1 200 ").count() == 1 + usize::from(status == 200);
            let ended = text.matches("HTTP/1.1 ").count() == 1;
            let (said, _) = text.split_once("\r\n\r\n").unwrap();
            let fine = if said.contains("\r\nconnection: close") {
                ended
            } else {
                served
            };
            assert!(fine && !text.contains(EVIL), "{behind:?} {head}: {text}");
        }
    }
}

#[tokio::test]
async fn two_requests_at_once_are_answered_in_their_order() {
    let backend = echoing().await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    for upgrade in ["", "connection: upgrade\r\nupgrade: x\r\n"] {
        let mut client = Client::connect(proxy.address()).await;
        let (first, second) = (marked("first"), marked("second"));
        let one = |headers: &str, body: &str| {
            let length = body.len();
            format!(
                "POST /api/chat HTTP/1.1\r\nhost: lb\r\n{headers}content-length: {length}\r\n\r\n{body}"
            )
        };
        client
            .send(format!("{}\r\n{}", one(upgrade, &first), one("", &second)))
            .await;
        assert_eq!(client.answer().await.body, first);
        assert_eq!(client.answer().await.body, second);
    }
}

#[tokio::test]
async fn what_a_backend_writes_behind_an_answer_is_nobodys() {
    const EXTRA: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        // Else the kernel would hold back what is late until the next request is there, and nobody could tell.
        call.stream.set_nodelay(true).unwrap();
        loop {
            let said = String::from_utf8_lossy(&call.body).into_owned();
            let (status, length) = ("HTTP/1.1 200 OK\r\ncontent-length:", said.len());
            if call.head.starts_with("HEAD") {
                call.write(&format!("{status} 4\r\n\r\n{EVIL}")).await;
            } else if said.contains("behind") {
                call.write(&format!("{status} {length}\r\n\r\n{said}{EXTRA}"))
                    .await;
            } else if said.contains("late") {
                call.write(&format!("{status} {length}\r\n\r\n{said}"))
                    .await;
                tokio::task::yield_now().await;
                call.write(EXTRA).await;
            } else {
                call.write(&format!("{status} {length}\r\n\r\n{said}"))
                    .await;
            }
            match Call::read(call.stream).await {
                Some(next) => call = next,
                None => return,
            }
        }
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut good = Client::connect(proxy.address()).await;
    let mut hostile = Client::connect(proxy.address()).await;
    for round in 0..ROUNDS {
        match round % 3 {
            0 => {
                hostile.send("HEAD /x HTTP/1.1\r\nhost: lb\r\n\r\n").await;
                let head = hostile.read_to("\r\n\r\n").await;
                assert!(head.contains("content-length: 4\r\n"), "{head}");
            }
            way => {
                let body = marked(if way == 1 { "behind" } else { "late" });
                hostile.post("/api/chat", &body).await;
                assert_eq!(hostile.answer().await.body, body);
            }
        }
        let body = marked(&round.to_string());
        good.post("/api/chat", &body).await;
        let Answer {
            status, body: told, ..
        } = good.answer().await;
        assert_eq!((status, told), (200, body));
    }
}

#[tokio::test]
async fn a_connection_whose_upload_was_answered_early_is_not_used_again() {
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        loop {
            call.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                .await;
            match Call::read(call.stream).await {
                Some(next) => {
                    assert!(next.head.starts_with("POST /api/chat "), "{}", next.head);
                    call = next;
                }
                None => return,
            }
        }
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    for _ in 0..50 {
        let mut early = Client::connect(proxy.address()).await;
        let head = "POST /api/of-tomorrow HTTP/1.1\r\nhost: lb\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n";
        early.send(head).await;
        let answer = early.read_to("{}").await;
        assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
        // The rest comes too late to be of use.
        let _ = early.stream.write_all(hidden().as_bytes()).await;
        let answer = proxy.post("/api/chat", &marked("good")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    }
}

#[tokio::test]
async fn an_old_client_gets_no_chunks() {
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        call.begin("application/x-ndjson").await;
        call.chunk("{}\n").await;
        call.end().await;
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    let body = marked("old");
    let length = body.len();
    client
        .send(format!(
            "POST /api/chat HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
    let (text, _) = client.read_all().await;
    assert!(text.ends_with("\r\n\r\n{}\n"), "{text:?}");
    assert!(
        !text.to_ascii_lowercase().contains("transfer-encoding"),
        "{text:?}"
    );
}

#[tokio::test]
async fn clients_that_hang_up_early_eject_nobody() {
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        if call.body.ends_with(b"wait\"}") {
            call.gone().await;
        } else {
            call.answer("200 OK", "application/json", "{}").await;
        }
    })
    .await;
    let other = Backend::saying(&["m"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&backend, &other]);
    for _ in 0..18 {
        let mut client = Client::connect(proxy.address()).await;
        client.post("/api/chat", &marked("wait")).await;
        drop(client);
    }
    proxy.until_idle().await;
    for _ in 0..60 {
        let answer = proxy.post("/api/chat", &marked("x")).await;
        assert_eq!(answer.status, 200);
    }
    for name in ["a", "b"] {
        let state = proxy.backend(name).await;
        assert_eq!(
            (&state["state"], &state["failures"]),
            (&"up".into(), &0.into())
        );
    }
    until_called(&backend, 30).await;
}

/// Closes connections that have been idle for about as long as clients pause.
async fn impatient(accepted: Arc<AtomicUsize>) -> Backend {
    const IDLE: Duration = Duration::from_millis(50);
    Backend::start(&["m"], move |mut call: Call| {
        accepted.fetch_add(1, SeqCst);
        async move {
            loop {
                call.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    .await;
                match timeout(IDLE, Call::read(call.stream)).await {
                    Ok(Some(next)) => call = next,
                    _ => return,
                }
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_close_as_their_client_comes_back_fail_nobody() {
    const CLIENTS: usize = 48;
    const REQUESTS: usize = 2400;
    let accepted = Arc::new(AtomicUsize::new(0));
    let backend = impatient(Arc::clone(&accepted)).await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let address = proxy.address();
    for method in ["GET", "POST"] {
        let clients = (0..CLIENTS).map(|number| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for round in 0..REQUESTS / CLIENTS {
                    match method {
                        "GET" => client.get("/x").await,
                        _ => client.post("/api/chat", &marked("x")).await,
                    }
                    let answer = client.answer().await;
                    assert_eq!((answer.status, &*answer.body), (200, "{}"), "{method}");
                    // Not to wait for something, but to come back just as the backend closes.
                    let pause = 49_500 + (number * 61 + round * 7) % 3000;
                    tokio::time::sleep(Duration::from_micros(pause as u64)).await;
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            soon("a client", client).await.unwrap();
        }
    }
    let connections = accepted.load(SeqCst);
    assert!(
        connections > 2 * CLIENTS,
        "connections did close: {connections}"
    );
    assert_eq!(proxy.backend("a").await["failures"], 0);
}
