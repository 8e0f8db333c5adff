//! What changes several nodes at once, and what only one may be asked.

use crate::support::backend::{Backend, Call};
use crate::support::client::{Answer, Client, post};
use crate::support::gateway::{Proxy, config, until_called};
use crate::support::{PATIENCE, eventually, soon};
use llamero::config::Settings;
use llamero::mock::{Fault, Kind, Model, Node, Profile};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{Instant, timeout};

const NDJSON: &str = "application/x-ndjson";
/// How soon a backend must hear that its client is gone.
const PROMISE: Duration = Duration::from_millis(50);

async fn node(models: &[&str]) -> Node {
    let profile = Profile {
        models: models.iter().map(|name| Model::named(name)).collect(),
        time_scale: 1000.0,
        ..Profile::default()
    };
    Node::start("127.0.0.1:0".parse().unwrap(), profile)
        .await
        .unwrap()
}

/// A proxy over nodes named `a`, `b`, …, with more keys.
fn proxy(keys: &str, urls: &[String]) -> Proxy {
    Proxy::start(&format!("{keys}\n{}", config("round_robin", urls)))
}

fn over(keys: &str, nodes: &[Node]) -> Proxy {
    let urls: Vec<_> = nodes.iter().map(Node::url).collect();
    proxy(keys, &urls)
}

fn over_scripted(keys: &str, backends: &[&Backend]) -> Proxy {
    let urls: Vec<_> = backends.iter().map(|backend| backend.url()).collect();
    proxy(keys, &urls)
}

/// Whether each node has the model, asked without the proxy.
async fn holding(nodes: &[Node], model: &str) -> Vec<bool> {
    let mut holding = Vec::new();
    for node in nodes {
        let answer = post(
            node.addr(),
            "/api/show",
            &format!(r#"{{"model":"{model}"}}"#),
        )
        .await;
        holding.push(answer.status == 200);
    }
    holding
}

async fn delete(proxy: &Proxy, model: &str) -> Answer {
    let body = format!(r#"{{"model":"","name":"{model}"}}"#);
    let length = body.len();
    let mut client = Client::connect(proxy.address()).await;
    client
        .send(format!(
            "DELETE /api/delete HTTP/1.1\r\nhost: lb\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
    client.answer().await
}

fn lines(answer: &Answer) -> Vec<Value> {
    assert!(answer.whole, "{answer:?}");
    let line = |line| serde_json::from_str(line).unwrap();
    answer.body.lines().map(line).collect()
}

/// Checks that lines end with one success, come in the order of one server, and never go back.
#[track_caller]
fn check_story(lines: &[Value]) {
    let status = |line: &Value| line["status"].as_str().unwrap_or_default().to_owned();
    let mut kinds: Vec<_> = lines.iter().map(status).collect();
    kinds.dedup();
    let digest = lines
        .iter()
        .find_map(|line| line["digest"].as_str())
        .expect("a digest");
    let pulling = format!("pulling {}", &digest[7..19]);
    let wanted = [
        "pulling manifest",
        &*pulling,
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ];
    assert_eq!(kinds, wanted);
    let completed: Vec<_> = lines
        .iter()
        .filter_map(|line| line["completed"].as_u64())
        .collect();
    assert!(completed.is_sorted(), "{completed:?}");
    let total = lines.iter().find_map(|line| line["total"].as_u64());
    assert_eq!(completed.last().copied(), total);
}

#[tokio::test]
async fn a_model_is_deleted_wherever_it_is() {
    let nodes = [node(&["m"]).await, node(&["m"]).await, node(&["n"]).await];
    let proxy = over("", &nodes);
    let answer = delete(&proxy, "m").await;
    assert_eq!((answer.status, &*answer.body), (200, ""));
    assert_eq!(answer.header("content-length"), Some("0"));
    assert_eq!(answer.backend(), "a+b");
    assert_eq!(answer.header("x-llamero-attempts"), Some("2"));
    assert_eq!(holding(&nodes, "m").await, [false; 3]);
    let again = delete(&proxy, "m").await;
    assert_eq!(again.status, 404);
    assert_eq!(again.body, r#"{"error":"model 'm' not found"}"#);
    proxy.until_idle().await;
}

#[tokio::test]
async fn a_copy_is_made_wherever_its_source_is_and_answers_at_once() {
    let nodes = [node(&["m"]).await, node(&["n"]).await, node(&["m"]).await];
    let proxy = over("", &nodes);
    let answer = proxy
        .post("/api/copy", r#"{"source":"m","destination":"copy"}"#)
        .await;
    assert_eq!((answer.status, &*answer.body), (200, ""));
    assert_eq!(holding(&nodes, "copy").await, [true, false, true]);
    for _ in 0..4 {
        let show = proxy.post("/api/show", r#"{"model":"copy"}"#).await;
        assert_eq!(show.status, 200);
    }
    let unknown = proxy
        .post("/api/copy", r#"{"source":"x","destination":"y"}"#)
        .await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("not found"), "{}", unknown.body);
}

#[tokio::test]
async fn a_model_is_unloaded_wherever_it_is_loaded() {
    let nodes = [node(&["m"]).await, node(&["m"]).await];
    for node in &nodes {
        post(node.addr(), "/api/generate", r#"{"model":"m"}"#).await;
        assert_eq!(node.loaded().len(), 1);
    }
    let proxy = over("", &nodes);
    let body = r#"{"model":"m","prompt":"","keep_alive":"0s"}"#;
    let answer = proxy.post("/api/generate", body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["done_reason"], "unload");
    for node in &nodes {
        eventually("it is unloaded", || node.loaded().is_empty()).await;
    }
    nodes[1]
        .faults()
        .set(Fault::new(Kind::Error500).on("/api/chat"));
    let body = r#"{"model":"m","messages":[],"keep_alive":0}"#;
    assert_eq!(proxy.post("/api/chat", body).await.status, 200);
}

/// Two holders answer a delete like this; so does the proxy then.
async fn change_case(first: &'static str, second: &'static str, status: u16, text: &str) {
    let a = Backend::failing(&["m"], first, "said a").await;
    let b = Backend::failing(&["m"], second, "said b").await;
    let proxy = over_scripted("", &[&a, &b]);
    let answer = delete(&proxy, "m").await;
    assert_eq!(answer.status, status, "{first} {second}: {}", answer.body);
    assert_eq!(answer.body, text, "{first} {second}");
    assert_eq!((a.calls(), b.calls()), (1, 1));
}

#[tokio::test]
async fn one_answer_is_made_of_all() {
    let (good, gone, bad) = ("200 OK", "404 Not Found", "500 Internal Server Error");
    change_case(good, gone, 200, r#"{"error":"said a"}"#).await;
    change_case(gone, good, 200, r#"{"error":"said b"}"#).await;
    change_case(gone, gone, 404, r#"{"error":"said a"}"#).await;
    change_case(gone, bad, 500, r#"{"error":"said b"}"#).await;
    change_case(bad, bad, 500, r#"{"error":"said a"}"#).await;
    let partial = r#"{"error":"backend b answered 500: said b"}"#;
    change_case(good, bad, 502, partial).await;
}

#[tokio::test]
async fn a_holder_that_is_down_is_named_after_the_others_have_done_it() {
    let a = Backend::saying(&["m"], "").await;
    let b = Backend::saying(&["m"], "").await;
    let proxy = over_scripted("", &[&a, &b]);
    b.set_healthy(false);
    proxy.until_state("b", "down").await;
    let answer = delete(&proxy, "m").await;
    assert_eq!(answer.status, 502);
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("backend b is down ("), "{error}");
    assert_eq!((a.calls(), b.calls()), (1, 0));
    a.set_healthy(false);
    proxy.until_state("a", "down").await;
    assert_eq!(delete(&proxy, "m").await.status, 503);
}

/// Takes requests, and says nothing.
async fn silent() -> Backend {
    Backend::start(&["m"], async |mut call: Call| {
        call.gone().await;
    })
    .await
}

#[tokio::test]
async fn a_holder_that_hangs_is_named_after_the_others_have_done_it() {
    let good = Backend::saying(&["m"], r#"{"done":true}"#).await;
    let hung = silent().await;
    let limit = "timeouts.control = \"300ms\"";
    let proxy = over_scripted(limit, &[&good, &hung]);
    for calls in 1..=2 {
        let answer = match calls {
            1 => delete(&proxy, "m").await,
            _ => upload(&proxy, &digest(1), "weights").await,
        };
        assert_eq!(answer.status, 502);
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert_eq!(error, "backend b did not answer within 300ms");
        assert_eq!((good.calls(), hung.calls()), (calls, calls));
        assert_eq!(proxy.backend("b").await["failures"], calls);
    }
    assert_eq!(head(&proxy, &digest(1)).await, 502);
    // Where one is enough, it is.
    let unload = r#"{"model":"m","keep_alive":0}"#;
    let answer = proxy.post("/api/generate", unload).await;
    assert_eq!((answer.status, &*answer.body), (200, r#"{"done":true}"#));
    proxy.until_idle().await;
    // If it is the only one, the answer is late.
    let proxy = over_scripted(limit, &[&hung]);
    assert_eq!(delete(&proxy, "m").await.status, 504);
    assert_eq!(proxy.post("/api/generate", unload).await.status, 504);
    proxy.until_idle().await;
}

#[tokio::test]
async fn a_pull_brings_the_model_to_every_node_and_tells_one_story() {
    let nodes = [node(&["n"]).await, node(&["m"]).await, node(&[]).await];
    let proxy = over("", &nodes);
    let answer = proxy.post("/api/pull", r#"{"model":"","name":"m"}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some(NDJSON));
    assert_eq!(answer.backend(), "a+b+c");
    check_story(&lines(&answer));
    assert_eq!(holding(&nodes, "m").await, [true; 3]);
    let whole = proxy
        .post("/api/pull", r#"{"model":"w","stream":false}"#)
        .await;
    assert_eq!(
        (whole.status, &*whole.body),
        (200, r#"{"status":"success"}"#)
    );
    assert_eq!(holding(&nodes, "w").await, [true; 3]);
    proxy.until_idle().await;
}

#[tokio::test]
async fn as_many_nodes_as_wanted_pull_and_the_model_is_found_at_once() {
    let nodes = [
        node(&["x", "y"]).await,
        node(&["x"]).await,
        node(&["x", "y", "m"]).await,
    ];
    let proxy = over("models.replicas = 1", &nodes);
    let pull = async |model: &str| {
        let answer = proxy
            .post("/api/pull", &format!(r#"{{"model":"{model}"}}"#))
            .await;
        answer.backend().to_owned()
    };
    assert_eq!(pull("m").await, "c", "it has it");
    assert_eq!(pull("new").await, "b", "it has the fewest");
    for _ in 0..4 {
        let show = proxy.post("/api/show", r#"{"model":"new"}"#).await;
        assert_eq!((show.status, show.backend()), (200, "b"));
    }
    assert_eq!(holding(&nodes, "new").await, [false, true, false]);
}

#[tokio::test]
async fn an_unknown_model_is_told_in_the_registrys_words() {
    let nodes = [node(&[]).await, node(&[]).await];
    let proxy = over("", &nodes);
    let text = "pull model manifest: file does not exist";
    let answer = proxy.post("/api/pull", r#"{"model":"missing"}"#).await;
    assert_eq!(answer.status, 200);
    let lines = lines(&answer);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["status"], "pulling manifest");
    assert_eq!(lines[1]["error"], text);
    let whole = proxy
        .post("/api/pull", r#"{"model":"missing","stream":false}"#)
        .await;
    assert_eq!(whole.status, 500);
    assert_eq!(whole.json()["error"], text);
}

/// What a scripted backend does with a pull.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Success,
    Refusal,
    Line(&'static str),
    CleanEnd,
    Reset,
}

async fn puller(ending: Ending) -> Backend {
    Backend::start(&["m"], move |mut call: Call| async move {
        if let Ending::Refusal = ending {
            let body = r#"{"error":"invalid model name"}"#;
            return call
                .answer("400 Bad Request", "application/json", body)
                .await;
        }
        call.begin(NDJSON).await;
        call.chunk("{\"status\":\"pulling manifest\"}\n").await;
        match ending {
            Ending::Success => call.chunk("{\"status\":\"success\"}\n").await,
            Ending::Line(line) => call.chunk(line).await,
            Ending::Reset => return call.reset(),
            Ending::CleanEnd | Ending::Refusal => {}
        }
        call.end().await;
    })
    .await
}

async fn pull_case(first: Ending, second: Ending, status: u16, error: &str) {
    let (a, b) = (puller(first).await, puller(second).await);
    let proxy = over_scripted("", &[&a, &b]);
    let answer = proxy.post("/api/pull", r#"{"model":"m"}"#).await;
    assert_eq!(answer.status, status, "{first:?} {second:?}");
    let lines = lines(&answer);
    let last = lines.last().unwrap();
    let told = last["error"].as_str().unwrap_or_default();
    assert!(told.starts_with(error), "{first:?} {second:?}: {lines:?}");
    assert_eq!(told.is_empty(), error.is_empty(), "{lines:?}");
    assert!(
        lines
            .iter()
            .filter(|line| line["error"].is_string())
            .count()
            <= 1
    );
    let successes = lines.iter().filter(|line| line["status"] == "success");
    assert_eq!(successes.count(), usize::from(error.is_empty()));
    proxy.until_idle().await;
}

#[tokio::test]
async fn a_pull_that_fails_somewhere_says_where() {
    use Ending::{CleanEnd, Line, Refusal, Reset, Success};
    let full = Line("{\"error\":\"disk full\"}\n");
    pull_case(Success, Success, 200, "").await;
    pull_case(Success, Line("{\"status\":\"success\"}"), 200, "").await;
    pull_case(Success, full, 200, "backend b says: disk full").await;
    pull_case(full, Success, 200, "backend a says: disk full").await;
    pull_case(full, full, 200, "disk full").await;
    pull_case(Success, Reset, 200, "backend b broke off").await;
    pull_case(Success, CleanEnd, 200, "backend b ended without success").await;
    pull_case(Success, Line("<html>\n"), 200, "backend b wrote a line").await;
    let refused = "backend b answered 400: invalid model name";
    pull_case(Success, Refusal, 200, refused).await;
    pull_case(Refusal, Refusal, 400, "invalid model name").await;
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_named_and_the_others_pull() {
    let nodes = [node(&[]).await, node(&[]).await];
    let proxy = over("", &nodes);
    nodes[1].faults().set(Fault::new(Kind::Refuse));
    let answer = proxy.post("/api/pull", r#"{"model":"m"}"#).await;
    assert_eq!(answer.status, 200);
    let lines = lines(&answer);
    let error = lines.last().unwrap()["error"].as_str().unwrap();
    assert!(error.starts_with("backend b "), "{error}");
    assert!(holding(&nodes[..1], "m").await[0]);
}

/// A backend whose lines the test sends one by one.
async fn told() -> (Backend, mpsc::Sender<String>) {
    let (say, said) = mpsc::channel::<String>(1);
    let said = Arc::new(Mutex::new(said));
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let said = Arc::clone(&said);
        async move {
            call.begin(NDJSON).await;
            while let Some(line) = said.lock().await.recv().await {
                call.chunk(&format!("{line}\n")).await;
            }
            call.end().await;
        }
    })
    .await;
    (backend, say)
}

fn at(completed: u64) -> String {
    let digest = "sha256:0123456789abcdef";
    format!(
        r#"{{"status":"pulling 0123456789ab","digest":"{digest}","total":100,"completed":{completed}}}"#
    )
}

#[tokio::test]
async fn the_slowest_node_sets_the_progress() {
    let ((a, fast), (b, slow)) = (told().await, told().await);
    let proxy = over_scripted("", &[&a, &b]);
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/pull", r#"{"model":"m"}"#).await;
    let manifest = r#"{"status":"pulling manifest"}"#.to_owned();
    fast.send(manifest.clone()).await.unwrap();
    client.read_to("pulling manifest\"}\n").await;
    for line in [
        at(10),
        at(100),
        r#"{"status":"verifying sha256 digest"}"#.to_owned(),
    ] {
        fast.send(line).await.unwrap();
    }
    slow.send(manifest).await.unwrap();
    for (says, tells) in [(5, "\"completed\":5,"), (60, "\"completed\":60,")] {
        slow.send(at(says)).await.unwrap();
        let read = client.read_to("\n\r\n").await;
        assert!(read.contains(tells), "{read}");
    }
    // Going back is not told; going on is.
    slow.send(at(20)).await.unwrap();
    slow.send(at(100)).await.unwrap();
    let read = client.read_to("\n\r\n").await;
    assert!(read.contains("\"completed\":100,"), "{read}");
    fast.send(r#"{"status":"success"}"#.to_owned())
        .await
        .unwrap();
    drop(fast);
    slow.send(r#"{"status":"success"}"#.to_owned())
        .await
        .unwrap();
    drop(slow);
    let rest = client.read_to("0\r\n\r\n").await;
    assert!(!rest.contains("completed"), "{rest}");
    assert_eq!(rest.matches("success").count(), 1, "{rest}");
}

/// One pull whose client leaves; one node hangs from the first byte on. How long the nodes took to hear of it.
async fn leave() -> Duration {
    const LINES: usize = 2000;
    let (report, mut gone) = mpsc::channel::<Instant>(2);
    let read_all = Arc::new(Notify::new());
    let (all, hung) = (Arc::clone(&read_all), report.clone());
    let a = Backend::start(&["m"], move |mut call: Call| {
        let (report, all) = (report.clone(), Arc::clone(&all));
        async move {
            call.begin(NDJSON).await;
            for line in 0..LINES {
                let padding = "x".repeat(4096);
                call.chunk(&format!("{{\"status\":\"{line} {padding}\"}}\n"))
                    .await;
            }
            all.notify_one();
            report.send(call.gone().await).await.unwrap();
        }
    })
    .await;
    let b = Backend::start(&["m"], move |mut call: Call| {
        let report = hung.clone();
        async move { report.send(call.gone().await).await.unwrap() }
    })
    .await;
    let proxy = over_scripted("", &[&a, &b]);
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/pull", r#"{"model":"m"}"#).await;
    client.read_to("\n\r\n").await;
    soon("all that a says is read", read_all.notified()).await;
    until_called(&b, 1).await;
    let left = Instant::now();
    drop(client);
    let mut last = left;
    for _ in 0..2 {
        last = last.max(soon("a node hears of it", gone.recv()).await.unwrap());
    }
    proxy.until_idle().await;
    for name in ["a", "b"] {
        let state = proxy.backend(name).await;
        assert_eq!(state["failures"], 0, "a client that leaves is no failure");
    }
    last.saturating_duration_since(left)
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_pull_on_all_nodes() {
    let mut took = Vec::new();
    for _ in 0..3 {
        took.push(leave().await);
    }
    // The machine may stall any one run; the promise is about the proxy.
    assert!(*took.iter().min().unwrap() < PROMISE, "{took:?}");
}

fn digest(of: u8) -> String {
    format!("sha256:{}", format!("{of:02x}").repeat(32))
}

async fn upload(proxy: &Proxy, digest: &str, bytes: &str) -> Answer {
    proxy.post(&format!("/api/blobs/{digest}"), bytes).await
}

async fn head(proxy: &Proxy, digest: &str) -> u16 {
    let mut client = Client::connect(proxy.address()).await;
    client
        .send(format!(
            "HEAD /api/blobs/{digest} HTTP/1.1\r\nhost: lb\r\nconnection: close\r\n\r\n"
        ))
        .await;
    let (answer, _) = client.read_all().await;
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_model_is_made_of_its_blobs_on_all_nodes() {
    let nodes = [node(&[]).await, node(&[]).await, node(&[]).await];
    let proxy = over("", &nodes);
    let (one, two) = (digest(1), digest(2));
    assert_eq!(head(&proxy, &one).await, 404);
    let (first, second) = tokio::join!(upload(&proxy, &one, "weights"), upload(&proxy, &two, ""));
    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.backend(), "a+b+c");
    assert_eq!(head(&proxy, &one).await, 200);
    let body = format!(r#"{{"model":"made","files":{{"f":"{one}","g":"{two}"}}}}"#);
    let answer = proxy.post("/api/create", &body).await;
    let lines = lines(&answer);
    assert_eq!(lines.last().unwrap()["status"], "success");
    let successes = lines.iter().filter(|line| line["status"] == "success");
    assert_eq!(successes.count(), 1);
    assert_eq!(holding(&nodes, "made").await, [true; 3]);
    let whole = proxy
        .post(
            "/api/create",
            r#"{"model":"b","from":"made","stream":false}"#,
        )
        .await;
    assert_eq!(
        (whole.status, &*whole.body),
        (200, r#"{"status":"success"}"#)
    );
    assert_eq!(holding(&nodes, "b").await, [true; 3]);
    let bad = upload(&proxy, "nonsense", "x").await;
    assert_eq!(bad.status, 400);
    assert_eq!(bad.body, r#"{"error":"invalid digest format"}"#);
}

#[tokio::test]
async fn a_node_that_has_the_blob_already_drops_out_and_the_others_get_all_of_it() {
    let nodes = [node(&[]).await, node(&[]).await];
    let proxy = over("", &nodes);
    // Much more than buffers hold, so that the node answers, and closes, in the middle of it.
    let weights = "w".repeat(16 << 20);
    for (at, status) in [(0, 201), (1, 201), (2, 200)] {
        let digest = digest(at);
        let path = format!("/api/blobs/{digest}");
        for node in nodes.iter().take(usize::from(at)) {
            assert_eq!(post(node.addr(), &path, "w").await.status, 201);
        }
        assert_eq!(head(&proxy, &digest).await, if at == 2 { 200 } else { 404 });
        let answer = upload(&proxy, &digest, &weights).await;
        assert_eq!(answer.status, status, "on {at} nodes: {}", answer.body);
        assert_eq!(head(&proxy, &digest).await, 200);
        let body = format!(r#"{{"model":"m{at}","files":{{"f":"{digest}"}},"stream":false}}"#);
        assert_eq!(proxy.post("/api/create", &body).await.status, 200);
    }
    for name in ["a", "b"] {
        assert_eq!(proxy.backend(name).await["failures"], 0);
    }
    proxy.until_idle().await;
}

#[tokio::test]
async fn a_node_that_loses_a_blob_is_named_after_the_others_have_it() {
    let a = Backend::start(&[], async |mut call: Call| {
        assert_eq!(call.body.len(), 7);
        call.answer("201 Created", "application/json", "").await;
    })
    .await;
    let b = Backend::start(&[], async |mut call: Call| {
        if call.head.starts_with("HEAD") {
            call.answer("404 Not Found", "application/json", "").await;
        } else {
            call.reset();
        }
    })
    .await;
    let proxy = over_scripted("", &[&a, &b]);
    let answer = upload(&proxy, &digest(1), "weights").await;
    assert_eq!(answer.status, 502);
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("backend b broke off"), "{error}");
}

#[tokio::test]
async fn a_node_that_comes_up_between_blob_and_create_takes_no_part() {
    let script = async |mut call: Call| {
        let status = if call.head.contains("/api/blobs/") {
            "201 Created"
        } else {
            "200 OK"
        };
        let body = r#"{"status":"success"}"#;
        call.answer(status, "application/json", body).await;
    };
    let a = Backend::start(&[], script).await;
    let b = Backend::start(&[], script).await;
    let proxy = over_scripted("health.rise = 1", &[&a, &b]);
    b.set_healthy(false);
    proxy.until_state("b", "down").await;
    assert_eq!(upload(&proxy, &digest(1), "weights").await.status, 201);
    b.set_healthy(true);
    proxy.until_state("b", "up").await;
    assert_eq!(upload(&proxy, &digest(2), "weights").await.backend(), "a");
    let made = format!(r#"{{"model":"m","files":{{"f":"{}"}}}}"#, digest(1));
    let answer = proxy.post("/api/create", &made).await;
    assert_eq!((answer.status, answer.backend()), (200, "a"));
    assert_eq!(lines(&answer).last().unwrap()["status"], "success");
    assert_eq!(b.calls(), 0);
    // The next model is made by all.
    assert_eq!(upload(&proxy, &digest(1), "weights").await.backend(), "a+b");
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_whole_nowhere_and_nobodys_fault() {
    let nodes = [node(&[]).await, node(&[]).await];
    let proxy = over("", &nodes);
    for head in [
        "content-length: 100\r\n\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let mut client = Client::connect(proxy.address()).await;
        let path = digest(1);
        client
            .send(format!(
                "POST /api/blobs/{path} HTTP/1.1\r\nhost: lb\r\n{head}"
            ))
            .await;
        while proxy.backend("b").await["in_flight"] != 1 {
            tokio::task::yield_now().await;
        }
        drop(client);
        proxy.until_idle().await;
    }
    assert_eq!(head(&proxy, &digest(1)).await, 404);
    for name in ["a", "b"] {
        assert_eq!(proxy.backend(name).await["failures"], 0);
    }
}

/// A node that counts the bytes of an upload, and reads the most of it only when it may.
async fn counting(may_read: Arc<Notify>, wait: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let counted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&counted);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (may_read, count) = (Arc::clone(&may_read), Arc::clone(&count));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let answer = if head.starts_with("GET") {
                    "HTTP/1.1 200 OK\r\ncontent-length: 13\r\nconnection: close\r\n\r\n{\"models\":[]}"
                } else {
                    if wait {
                        may_read.notified().await;
                    }
                    let mut buffer = vec![0; 64 << 10];
                    while count.load(SeqCst) < BLOB {
                        let read = stream.read(&mut buffer).await?;
                        assert!(read > 0, "the upload broke off");
                        count.fetch_add(read, SeqCst);
                    }
                    "HTTP/1.1 201 Created\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                };
                stream.write_all(answer.as_bytes()).await
            });
        }
    });
    (url, counted)
}

const BLOB: usize = 64 << 20;

#[tokio::test]
async fn a_large_blob_goes_at_the_pace_of_the_slowest_and_is_not_kept() {
    /// The kernel's buffers of all three hops together, and a little of our own.
    const IN_FLIGHT: usize = 32 << 20;
    /// Nothing moves any more if nothing moved for so long; were it wrong, the test would only see less than there is.
    const STILL: Duration = Duration::from_millis(300);
    let may_read = Arc::new(Notify::new());
    let mut urls = Vec::new();
    let mut counts = Vec::new();
    for wait in [false, false, true] {
        let (url, count) = counting(Arc::clone(&may_read), wait).await;
        urls.push(url);
        counts.push(count);
    }
    let proxy = proxy("", &urls);
    let mut client = Client::connect(proxy.address()).await;
    client
        .send(format!(
            "POST /api/blobs/{} HTTP/1.1\r\nhost: lb\r\ncontent-length: {BLOB}\r\n\r\n",
            digest(1)
        ))
        .await;
    let piece = vec![b'w'; 64 << 10];
    let mut sent = 0;
    while sent < BLOB {
        let rest = piece.len().min(BLOB - sent);
        match timeout(STILL, client.stream.write(&piece[..rest])).await {
            Ok(written) => sent += written.unwrap(),
            Err(_) if sent > IN_FLIGHT => break,
            Err(_) => {
                may_read.notify_one();
                break;
            }
        }
    }
    assert!(
        sent <= IN_FLIGHT,
        "{sent} bytes were taken that a node did not read"
    );
    while sent < BLOB {
        let rest = piece.len().min(BLOB - sent);
        sent += timeout(PATIENCE, client.stream.write(&piece[..rest]))
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(client.answer().await.status, 201);
    for count in counts {
        assert_eq!(count.load(SeqCst), BLOB);
    }
}

#[tokio::test]
async fn what_needs_an_account_goes_to_the_pinned_node() {
    let a = Backend::saying(&["m"], r#"{"who":"a"}"#).await;
    let b = Backend::saying(&["x:cloud"], r#"{"who":"b"}"#).await;
    let first = over_scripted("", &[&a, &b]);
    let second = over_scripted("models.pin = \"b\"", &[&a, &b]);
    let requests = [
        ("/api/me", ""),
        ("/api/signout", ""),
        ("/api/push", r#"{"model":"m"}"#),
        ("/api/experimental/web_search", r#"{"query":"q"}"#),
        ("/api/chat", r#"{"model":"x:cloud","messages":[{}]}"#),
        ("/v1/chat/completions", r#"{"model":"x:cloud"}"#),
    ];
    for (path, body) in requests {
        for _ in 0..2 {
            assert_eq!(first.post(path, body).await.json()["who"], "a", "{path}");
            assert_eq!(second.post(path, body).await.json()["who"], "b", "{path}");
        }
    }
    a.set_healthy(false);
    first.until_state("a", "down").await;
    let answer = first.post("/api/me", "").await;
    assert_eq!(answer.status, 503);
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(
        error.contains("backend a") && error.contains("models.pin"),
        "{error}"
    );
}

#[tokio::test]
async fn a_request_for_the_pinned_node_is_not_tried_elsewhere() {
    let a = Backend::failing(&[], "503 Service Unavailable", "busy").await;
    let b = Backend::saying(&[], "{}").await;
    let proxy = over_scripted("", &[&a, &b]);
    assert_eq!(proxy.post("/api/me", "").await.status, 503);
    let cloud = r#"{"model":"x:cloud"}"#;
    assert_eq!(proxy.post("/api/chat", cloud).await.status, 503);
    assert_eq!((a.calls(), b.calls()), (2, 0));
}

#[tokio::test]
async fn with_one_directory_for_all_a_change_is_made_once() {
    let script = async |mut call: Call| {
        let body = r#"{"status":"success"}"#;
        call.answer("200 OK", "application/json", body).await;
    };
    let a = Backend::start(&["m"], script).await;
    let b = Backend::start(&["m"], script).await;
    let keys = "models.shared_storage = true\nmodels.pin = \"b\"";
    let proxy = over_scripted(keys, &[&a, &b]);
    let made = r#"{"model":"n","from":"m"}"#;
    for (path, body) in [("/api/pull", r#"{"model":"n"}"#), ("/api/create", made)] {
        let answer = proxy.post(path, body).await;
        assert_eq!((answer.status, answer.backend()), (200, "b"), "{path}");
    }
    assert_eq!(upload(&proxy, &digest(1), "weights").await.backend(), "b");
    assert_eq!(delete(&proxy, "m").await.status, 200);
    assert_eq!(a.calls() + b.calls(), 4);
}

#[test]
fn only_a_backend_can_be_pinned() {
    let backends = "\n[[backend]]\nurl = 'gpu1'\n[[backend]]\nname = 'b'\nurl = 'gpu2'";
    let pinned = |keys: &str| Settings::parse(&format!("{keys}{backends}"), "f");
    assert_eq!(pinned("").unwrap().models.pin, "gpu1:11434");
    assert_eq!(pinned("models.pin = 'b'").unwrap().models.pin, "b");
    for wrong in ["models.pin = 'c'", "models.pin = ''", "models.pin = 1"] {
        let faults = pinned(wrong).unwrap_err().to_string();
        assert!(faults.contains("`models.pin`"), "{faults}");
    }
    let faults = pinned("models.pin = 'c'").unwrap_err().to_string();
    assert!(
        faults.contains("the backends are: gpu1:11434, b"),
        "{faults}"
    );
}

#[tokio::test]
async fn a_node_that_drains_gets_no_new_models_but_loses_its_old_ones() {
    let nodes = [node(&["m"]).await, node(&["m"]).await];
    let text = config("round_robin", &[nodes[0].url(), nodes[1].url()]) + "drain = true\n";
    let proxy = Proxy::start(&text);
    let pull = proxy.post("/api/pull", r#"{"model":"n"}"#).await;
    assert_eq!(pull.backend(), "a");
    assert_eq!(upload(&proxy, &digest(1), "weights").await.backend(), "a");
    assert_eq!(delete(&proxy, "m").await.backend(), "a+b");
    assert_eq!(holding(&nodes, "n").await, [true, false]);
    assert_eq!(holding(&nodes, "m").await, [false, false]);
}

#[tokio::test]
async fn a_line_without_an_end_is_not_read_for_ever() {
    let a = puller(Ending::Success).await;
    let b = Backend::start(&["m"], async |mut call: Call| {
        call.begin(NDJSON).await;
        let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while call.stream.write_all(piece.as_bytes()).await.is_ok() {}
    })
    .await;
    let proxy = over_scripted("", &[&a, &b]);
    let answer = proxy.post("/api/pull", r#"{"model":"m"}"#).await;
    let lines = lines(&answer);
    let error = lines.last().unwrap()["error"].as_str().unwrap();
    assert_eq!(error, "backend b wrote a line over 8000000 bytes");
    proxy.until_idle().await;
}
