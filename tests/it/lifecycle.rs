//! Starting, reloading, stopping, and nodes that are killed under load.

use crate::support::PATIENCE;
use crate::support::client::{Client, get, post};
use crate::support::process::{Process, command};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

const SHORT: &str = r#"{"model":"m","prompt":"hello","stream":false,"options":{"num_predict":2}}"#;

/// A simulated node that answers fast; port 0 for any.
async fn node(port: u16, speed: &str) -> (Process, SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.toml");
    let text = format!(
        "[[node]]\nport = {port}\nmodels = [{{ name = \"m\", size_bytes = 1000 }}]\nslots = 1000\nprefill_tokens_per_second = 1e6\n{speed}\n"
    );
    std::fs::write(&file, text).unwrap();
    // The file has been read when the node says where it is.
    Process::mock(0, &["--fleet", file.to_str().unwrap()]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_under_load_costs_no_request_that_had_not_begun_to_answer() {
    const FAST: &str = "decode_tokens_per_second = 2000";
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(node(0, FAST).await);
    }
    let urls: Vec<_> = nodes
        .iter()
        .map(|(_, address)| format!("--backend=http://{address}"))
        .collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let (mut proxy, address) = Process::serve(&urls).await;
    let (stop, done, failed) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut load = JoinSet::new();
    for _ in 0..8 {
        let (stop, done, failed) = (stop.clone(), done.clone(), failed.clone());
        load.spawn(async move {
            let mut client = Client::connect(address).await;
            while !stop.load(SeqCst) {
                client.post("/api/generate", SHORT).await;
                let answer = client.answer().await;
                if answer.status != 200 {
                    eprintln!("{answer:?}");
                    failed.fetch_add(1, SeqCst);
                }
                done.fetch_add(1, SeqCst);
            }
        });
    }
    let served = |count: usize| {
        let done = done.clone();
        async move {
            let until = done.load(SeqCst) + count;
            crate::support::eventually("requests are served", || done.load(SeqCst) >= until).await;
        }
    };
    served(200).await;
    let (mut victim, victim_address) = nodes.remove(0);
    victim.signal("-KILL");
    victim.ended().await;
    served(400).await;
    proxy.line_with("backend is out").await;
    let (back, _) = node(victim_address.port(), FAST).await;
    let returned = Instant::now();
    proxy.line_with("backend is up").await;
    let took = returned.elapsed();
    served(200).await;
    stop.store(true, SeqCst);
    while let Some(client) = load.join_next().await {
        client.unwrap();
    }
    assert_eq!(failed.load(SeqCst), 0, "of {}", done.load(SeqCst));
    assert!(
        took < Duration::from_secs(2),
        "back in rotation after {took:?}"
    );
    drop(back);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_reloads_under_load_fail_nothing_and_cut_nothing() {
    const SLOW: &str = "decode_tokens_per_second = 20";
    const RELOADS: usize = 200;
    let (_a, a) = node(0, SLOW).await;
    let (_b, b) = node(0, SLOW).await;
    let (_c, c) = node(0, SLOW).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamero.toml");
    let write = |at: usize| {
        // Another weight each time, and the third backend now there, now not.
        let third = if at.is_multiple_of(2) {
            format!("[[backend]]\nname = \"c\"\nurl = \"{c}\"\n")
        } else {
            String::new()
        };
        let weight = at % 5 + 1;
        let text = format!(
            "[[backend]]\nname = \"a\"\nurl = \"{a}\"\nweight = {weight}\n[[backend]]\nname = \"b\"\nurl = \"{b}\"\n{third}"
        );
        let next = folder.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &file).unwrap();
    };
    write(0);
    let (mut proxy, address) = Process::serve(&["--config", file.to_str().unwrap()]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for _ in 0..100 {
        let stop = stop.clone();
        load.spawn(async move {
            let mut streams = 0;
            while !stop.load(SeqCst) {
                let answer = post(
                    address,
                    "/api/generate",
                    r#"{"model":"m","prompt":"x","options":{"num_predict":40}}"#,
                )
                .await;
                assert!(
                    answer.status == 200 && answer.whole && answer.body.contains("\"done\":true"),
                    "{answer:?}"
                );
                streams += 1;
            }
            streams
        });
    }
    for _ in 0..4 {
        let stop = stop.clone();
        load.spawn(async move {
            let mut client = Client::connect(address).await;
            let mut tick = interval(Duration::from_millis(20));
            let mut requests = 0;
            while !stop.load(SeqCst) {
                tick.tick().await;
                client.get("/api/version").await;
                assert_eq!(client.answer().await.status, 200);
                requests += 1;
            }
            requests
        });
    }
    let mut tick = interval(Duration::from_millis(50));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for at in 1..=RELOADS {
        tick.tick().await;
        write(at);
        proxy.signal("-HUP");
    }
    stop.store(true, SeqCst);
    let mut requests = 0;
    while let Some(client) = load.join_next().await {
        requests += client.expect("nothing failed and nothing was cut");
    }
    // Signals that come while one is handled are one to the kernel.
    let reloads = proxy.lines_with("configuration reloaded");
    assert!(reloads >= RELOADS / 2, "{reloads} reloads");
    assert!(requests > 1000, "{requests} requests");
    proxy.signal("-TERM");
    assert_eq!(proxy.ended().await, Some(0));
}

#[tokio::test]
async fn a_faulty_file_keeps_the_old_configuration_and_a_change_is_seen_without_a_signal() {
    let (_node, address) = node(0, "").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamero.toml");
    let good = format!("[[backend]]\nurl = \"{address}\"\n");
    std::fs::write(&file, &good).unwrap();
    let (mut proxy, listen) = Process::serve(&["--config", file.to_str().unwrap()]).await;
    std::fs::write(&file, good.replace("url", "ulr")).unwrap();
    proxy.line_with("configuration not reloaded").await;
    assert_eq!(post(listen, "/api/generate", SHORT).await.status, 200);
    std::fs::write(&file, format!("limits.head = \"32KiB\"\n{good}")).unwrap();
    proxy.line_with("configuration reloaded").await;
    let warning = proxy.line_with("need a restart").await;
    assert!(warning.contains("limits.head"), "{warning}");
    assert_eq!(post(listen, "/api/generate", SHORT).await.status, 200);
}

#[tokio::test]
async fn a_stop_lets_streams_end_and_a_second_one_cuts_them() {
    let (_node, address) = node(0, "decode_tokens_per_second = 20").await;
    let backend = format!("--backend=http://{address}");
    for second_signal in [false, true] {
        let (mut proxy, listen) = Process::serve(&[&backend]).await;
        // Neither a connection that has said nothing nor an idle one may hold it up.
        let silent = Client::connect(listen).await;
        let mut idle = Client::connect(listen).await;
        idle.get("/api/version").await;
        assert_eq!(idle.answer().await.status, 200);
        let mut stream = Client::connect(listen).await;
        let tokens = if second_signal { 10_000 } else { 20 };
        stream
            .post(
                "/api/generate",
                &format!(r#"{{"model":"m","prompt":"x","options":{{"num_predict":{tokens}}}}}"#),
            )
            .await;
        stream.read_to("\"done\":false").await;
        proxy.signal("-TERM");
        proxy.line_with("shutting down").await;
        let refused = async { while tokio::net::TcpStream::connect(listen).await.is_ok() {} };
        tokio::time::timeout(PATIENCE, refused)
            .await
            .expect("no new connections");
        if second_signal {
            proxy.signal("-TERM");
            assert_eq!(proxy.ended().await, Some(3), "streams were cut");
            let (rest, _) = stream.read_all().await;
            assert!(
                !rest.ends_with("0\r\n\r\n"),
                "a cut stream must not end cleanly"
            );
        } else {
            let (rest, _) = stream.read_all().await;
            assert!(
                rest.contains("\"done\":true") && rest.ends_with("0\r\n\r\n"),
                "{rest}"
            );
            assert_eq!(proxy.ended().await, Some(0));
        }
        drop((silent, idle));
    }
}

#[tokio::test]
async fn one_access_line_per_request_says_how_it_ended_and_holds_no_prompt() {
    let (_node, address) = node(0, "").await;
    let (mut proxy, listen) = Process::serve(&[&format!("--backend=gpu=http://{address}")]).await;
    let mut client = Client::connect(listen).await;
    let body =
        r#"{"model":"m","prompt":"a secret of mine","stream":false,"options":{"num_predict":2}}"#;
    let length = body.len();
    client.send(format!("POST /api/generate HTTP/1.1\r\nhost: lb\r\nx-request-id: my-id.1\r\ncontent-length: {length}\r\n\r\n{body}")).await;
    let answer = client.answer().await;
    assert_eq!(answer.header("x-request-id"), Some("my-id.1"));
    let line: serde_json::Value = serde_json::from_str(&proxy.line_with("my-id.1").await).unwrap();
    for (field, value) in [
        ("route", "/api/generate".into()),
        ("method", "POST".into()),
        ("model", "m".into()),
        ("backend", "gpu".into()),
        ("client", "127.0.0.1".into()),
        ("ended", "complete".into()),
        ("attempts", 1.into()),
        ("status", 200.into()),
        ("bytes_in", length.into()),
        ("bytes_out", serde_json::Value::from(answer.body.len())),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert!(line["first_byte_ms"].as_f64().unwrap() <= line["total_ms"].as_f64().unwrap());
    assert_eq!(get(listen, "//odd").await.status, 404);
    let line: serde_json::Value =
        serde_json::from_str(&proxy.line_with("\"refused\"").await).unwrap();
    assert_eq!(line["status"], 404);
    assert_eq!(proxy.lines_with("a secret of mine"), 0);
}

/// Runs the program to its end: exit code, what it printed, what it complained of.
async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = tokio::time::timeout(PATIENCE, command(arguments).output())
        .await
        .expect("it ends")
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn the_exit_code_and_the_words_say_what_is_wrong() {
    let (code, _, complaint) = run(&[]).await;
    assert_eq!(code, Some(78));
    assert!(
        complaint.contains("--backend") && complaint.contains("llamero demo"),
        "{complaint}"
    );

    let (code, _, complaint) = run(&["--backend", "gpu1", "--strategy", "rond_robin"]).await;
    assert_eq!(code, Some(78));
    assert!(complaint.contains("round_robin"), "{complaint}");

    assert_eq!(run(&["--no-such-flag"]).await.0, Some(2));
    assert_eq!(run(&["--version"]).await.0, Some(0));

    let (code, meaning, _) = run(&["check", "--backend", "big=gpu1,gpu2:1234"]).await;
    assert_eq!(code, Some(0));
    assert!(
        meaning.contains("big") && meaning.contains("http://gpu2:1234"),
        "{meaning}"
    );

    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, complaint) = run(&[
        "--backend",
        "gpu1",
        "--listen",
        &address,
        "--admin",
        "127.0.0.1:0",
    ])
    .await;
    assert_eq!(code, Some(1));
    assert!(
        complaint.contains("already in use") && complaint.contains("--listen"),
        "{complaint}"
    );

    let (_node, node) = node(0, "").await;
    let (code, _, complaint) = run(&[
        "--backend",
        "gpu1",
        "--listen",
        &node.to_string(),
        "--admin",
        "127.0.0.1:0",
    ])
    .await;
    assert_eq!(code, Some(1));
    assert!(complaint.contains("by Ollama"), "{complaint}");
}
