//! Every fault as its victim sees it.

use super::client::{Client, Reply, ask, post, quick, soon, start};
use crate::mock::{Fault, Kind, Node, Profile};
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::time::Duration;

fn chat() -> Value {
    json!({"model": "llama3.2", "messages": [{"role": "user", "content": "x"}], "stream": true, "options": {"num_predict": 6}, "max_tokens": 50})
}

async fn faulty(kind: Kind) -> Node {
    let node = start(quick()).await;
    node.faults().set(Fault::new(kind));
    node
}

/// What a chat is answered, or how its connection ended before that.
async fn chat_with(node: &Node) -> Result<Reply, ErrorKind> {
    let mut client = Client::connect(node).await.map_err(|error| error.kind())?;
    let reply = client.ask("POST", "/api/chat", &chat().to_string()).await;
    reply.map_err(|error| error.kind())
}

#[tokio::test]
async fn errors_at_once() {
    for (kind, status, text) in [
        (
            Kind::Error500,
            500,
            "llama runner process no longer running",
        ),
        (
            Kind::Busy503,
            503,
            "server busy, please try again.  maximum pending requests exceeded",
        ),
        (
            Kind::LoadFailure,
            500,
            "llama-server process has terminated: signal: killed",
        ),
        (Kind::NotFound404, 404, "model 'llama3.2' not found"),
    ] {
        let reply = chat_with(&faulty(kind).await).await.unwrap();
        assert_eq!(
            (reply.status, reply.json()),
            (status, json!({"error": text})),
            "{kind:?}"
        );
    }
    let node = start(quick()).await;
    node.faults().set(Fault::new(Kind::Error500).text("boom"));
    let reply = post(&node, "/v1/chat/completions", &chat()).await.json();
    assert_eq!(
        (&reply["error"]["message"], &reply["error"]["type"]),
        (&json!("boom"), &json!("api_error"))
    );
}

#[tokio::test]
async fn connections_cut_before_headers() {
    for (kind, expected) in [
        (Kind::ResetBeforeHeaders, ErrorKind::ConnectionReset),
        (Kind::FinBeforeHeaders, ErrorKind::UnexpectedEof),
    ] {
        let node = faulty(kind).await;
        assert_eq!(chat_with(&node).await.unwrap_err(), expected, "{kind:?}");
        soon(node.until(|log| !log.is_empty())).await;
        assert_eq!(node.log()[0].client_gone, None, "the client did not leave");
    }
    let garbage = chat_with(&faulty(Kind::Garbage).await).await;
    assert!(
        matches!(garbage, Err(ErrorKind::InvalidData)),
        "{garbage:?}"
    );
}

#[tokio::test]
async fn streams_cut_in_the_middle() {
    for (kind, expected) in [
        (Kind::ResetMidStream, Some(ErrorKind::ConnectionReset)),
        (Kind::FinMidStream, Some(ErrorKind::UnexpectedEof)),
        (Kind::CleanEndWithoutDone, None),
    ] {
        let reply = chat_with(&faulty(kind).await).await.unwrap();
        assert_eq!(
            (reply.status, reply.chunks.len(), reply.broken),
            (200, 2, expected),
            "{kind:?}"
        );
        assert!(reply.lines().iter().all(|line| line["done"] == false));
    }
    let node = start(quick()).await;
    node.faults()
        .set(Fault::new(Kind::FinMidStream).after(1000));
    let reply = chat_with(&node).await.unwrap();
    assert_eq!(
        (reply.chunks.len(), reply.broken),
        (6, Some(ErrorKind::UnexpectedEof)),
        "before the last record"
    );
}

#[tokio::test]
async fn answers_in_one_piece_are_cut_too() {
    let node = faulty(Kind::FinMidStream).await;
    let mut request = chat();
    request["stream"] = json!(false);
    let reply = post(&node, "/api/chat", &request).await;
    assert_eq!(
        (reply.chunks.len(), reply.broken),
        (1, Some(ErrorKind::UnexpectedEof))
    );
}

#[tokio::test]
async fn errors_in_the_stream_have_their_familys_shape() {
    let node = faulty(Kind::ErrorInStream).await;
    let lines = chat_with(&node).await.unwrap().lines();
    assert_eq!(lines.len(), 3);
    assert!(lines[2]["error"].is_string(), "{lines:?}");
    let reply = post(&node, "/v1/chat/completions", &chat()).await;
    assert_eq!((reply.chunks.len(), reply.broken), (3, None));
    assert!(reply.text().contains("\"model\":\"\"") && !reply.text().contains("[DONE]"));
    let reply = post(&node, "/v1/messages", &chat()).await;
    assert_eq!((reply.chunks.len(), reply.broken), (2, None));
}

#[tokio::test]
async fn silence_lasts_until_the_client_leaves() {
    for (kind, chunks) in [(Kind::HangBeforeHeaders, 0), (Kind::StallMidStream, 2)] {
        let node = faulty(kind).await;
        let mut client = Client::connect(&node).await.unwrap();
        client.send("POST", "/api/chat", &chat().to_string()).await;
        soon(node.until(|log| log.len() == 1)).await;
        if chunks > 0 {
            soon(client.head()).await.unwrap();
        }
        for _ in 0..chunks {
            soon(client.chunk()).await.unwrap();
        }
        assert_eq!(node.in_flight(), 1, "{kind:?}");
        drop(client);
        soon(node.until(|log| log[0].client_gone.is_some())).await;
        assert_eq!(node.in_flight(), 0);
    }
}

#[tokio::test]
async fn a_slow_drip_is_whole_in_the_end() {
    let node = faulty(Kind::SlowDrip).await;
    let mut short = chat();
    short["options"] = json!({"num_predict": 1});
    let reply = post(&node, "/api/chat", &short).await;
    assert!(reply.chunks.iter().all(|chunk| chunk.len() == 1));
    assert_eq!(reply.lines().last().unwrap()["done"], true);
}

#[tokio::test]
async fn a_refusing_node_cuts_everything_and_comes_back_on_its_port() {
    let node = start(Profile {
        decode_tokens_per_second: 1e-6,
        ..quick()
    })
    .await;
    let mut client = Client::connect(&node).await.unwrap();
    client.send("POST", "/api/chat", &chat().to_string()).await;
    soon(client.head()).await.unwrap();
    soon(client.chunk()).await.unwrap();
    node.faults().set(Fault::new(Kind::Refuse));
    assert_eq!(
        Client::connect(&node).await.unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    assert_eq!(
        soon(client.chunk()).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    node.faults().clear();
    assert_eq!(ask(&node, "GET", "/", "").await.status, 200);
}

#[tokio::test]
async fn faults_are_set_over_http() {
    let node = start(quick()).await;
    let set = async |body: Value| post(&node, "/mock/fault", &body).await;
    assert_eq!(
        set(json!({"kind": "error_500", "count": 2, "path": "/api/tags"}))
            .await
            .status,
        204
    );
    let tags = async || ask(&node, "GET", "/api/tags", "").await.status;
    assert_eq!(chat_with(&node).await.unwrap().status, 200);
    assert_eq!([tags().await, tags().await, tags().await], [500, 500, 200]);

    set(json!({"kind": "busy_503"})).await;
    assert_eq!(tags().await, 200);
    assert_eq!(chat_with(&node).await.unwrap().status, 503);
    assert_eq!(ask(&node, "DELETE", "/mock/fault", "").await.status, 204);
    assert_eq!(chat_with(&node).await.unwrap().status, 200);

    let unknown = set(json!({"kind": "fire"})).await;
    assert_eq!(unknown.status, 400);
    assert!(
        unknown.text().contains("`error_in_stream`"),
        "{}",
        unknown.text()
    );
    assert_eq!(set(json!({"kind": "refuse"})).await.status, 400);
    assert_eq!(
        set(json!({"kind": "refuse", "for": "30ms"})).await.status,
        204
    );
    let back = async {
        while Client::connect(&node).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(back).await;
}

#[tokio::test]
async fn a_fault_can_run_out() {
    let node = start(quick()).await;
    node.faults()
        .set(Fault::new(Kind::Busy503).lasting(Duration::ZERO));
    node.faults().set(Fault::new(Kind::Error500).times(1));
    assert_eq!(chat_with(&node).await.unwrap().status, 500);
    assert_eq!(chat_with(&node).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_dropped_node_is_gone() {
    let node = start(Profile {
        decode_tokens_per_second: 1e-6,
        ..quick()
    })
    .await;
    let mut client = Client::connect(&node).await.unwrap();
    client.send("POST", "/api/chat", &chat().to_string()).await;
    soon(client.head()).await.unwrap();
    soon(client.chunk()).await.unwrap();
    let addr = node.addr();
    drop(node);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    assert!(soon(client.chunk()).await.is_err());
}
