//! Bodies in every form that Ollama takes: each is routed by its model and passed on byte by byte.

use crate::support::backend::{Backend, Call};
use crate::support::client::{Answer, Client};
use crate::support::gateway::Proxy;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};

const CHAT: &str = "/api/chat";
const RESPONSES: &str = "/v1/responses";
const AUDIO: &str = "/v1/audio/transcriptions";

/// Two backends, `a` with the model `ma` and `b` with `mb`, which tell what they were given.
async fn two() -> (Backend, Backend, Proxy) {
    let (a, b) = (telling("ma").await, telling("mb").await);
    let proxy = Proxy::over("round_robin", &[&a, &b]);
    for name in ["a", "b"] {
        while !proxy.backend(name).await["models"].is_array() {
            tokio::task::yield_now().await;
        }
    }
    (a, b, proxy)
}

async fn telling(model: &str) -> Backend {
    Backend::start(&[model], |mut call: Call| async move {
        let told = json!({
            "body": call.body,
            "target": call.head.split(' ').nth(1),
            "encoding": call.header("content-encoding"),
            "type": call.header("content-type"),
        });
        let told = told.to_string();
        call.answer("200 OK", "application/json", &told).await;
    })
    .await
}

/// One POST with these header lines.
async fn post(proxy: &Proxy, target: &str, headers: &str, body: &[u8]) -> Answer {
    let mut client = Client::connect(proxy.address()).await;
    let length = body.len();
    let head =
        format!("POST {target} HTTP/1.1\r\nhost: lb\r\n{headers}content-length: {length}\r\n\r\n");
    client.send([head.as_bytes(), body].concat()).await;
    client.answer().await
}

/// Asserts that a backend got exactly this, on the first attempt, and returns what it tells.
#[track_caller]
fn arrived(answer: &Answer, backend: &str, body: &[u8]) -> Value {
    let attempts = answer.header("x-llamero-attempts");
    assert_eq!(
        (answer.status, answer.backend(), attempts),
        (200, backend, Some("1")),
        "{}",
        answer.body
    );
    let told = answer.json();
    assert_eq!(told["body"], json!(body));
    told
}

fn zstd(text: &str) -> Vec<u8> {
    compress_to_vec(text.as_bytes(), CompressionLevel::Fastest)
}

#[tokio::test]
async fn json_is_read_as_ollama_reads_it_and_passed_on_as_it_is() {
    let (_a, _b, proxy) = two().await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep = format!(r#"{{"messages":{deep},"model":"ma"}}"#);
    let bodies: [(&str, &[u8], &str); 11] = [
        (CHAT, b" {\"model\":\"mb\"} and more {", "b"),
        (CHAT, br#"{"model":"ma","MODEL":"mb"}"#, "b"),
        (CHAT, br#"{"Model":"ma","name":"mb"}"#, "a"),
        (CHAT, br#"{"model":"mb","name":7}"#, "b"),
        ("/api/show", br#"{"model":"","name":"mb"}"#, "b"),
        ("/api/generate", br#"{"prompt":1e999999,"model":"mb"}"#, "b"),
        (
            CHAT,
            br#"{"messages":[{"content":"\ud800"}],"model":"mb"}"#,
            "b",
        ),
        (
            CHAT,
            b"{\"messages\":[{\"content\":\"\xff\"}],\"model\":\"mb\"}",
            "b",
        ),
        (RESPONSES, br#"{"input":7,"\udfff":{},"model":"mb"}"#, "b"),
        (
            "/v1/embeddings",
            br#"{"input":[],"options":[],"model":"mb"}"#,
            "b",
        ),
        (CHAT, deep.as_bytes(), "a"),
    ];
    for (path, body, backend) in bodies {
        for content_type in ["", "content-type: application/x-www-form-urlencoded\r\n"] {
            arrived(&post(&proxy, path, content_type, body).await, backend, body);
        }
    }
}

#[tokio::test]
async fn zstd_is_read_and_stays_encoded() {
    let (_a, _b, proxy) = two().await;
    let long = format!(r#"{{"input":"{}","model":"mb"}}"#, "x".repeat(1 << 20));
    let body = zstd(&long);
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        RESPONSES,
        "/v1/messages",
    ] {
        let answer = post(&proxy, path, "content-encoding: zstd\r\n", &body).await;
        assert_eq!(arrived(&answer, "b", &body)["encoding"], "zstd");
    }
}

#[tokio::test]
async fn zstd_that_cannot_be_read_is_refused() {
    let (a, b, proxy) = two().await;
    // Blocks of 128 KiB of one byte: 21 MiB in 700 bytes.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    bomb.extend([0x02, 0x00, 0x10, b'x'].repeat(168));
    bomb.extend([0x0b, 0, 0, b'x']);
    let wide = [0x28, 0xb5, 0x2f, 0xfd, 0, 14 << 3, 0x0b, 0, 0, b'x'];
    let bodies: [(&[u8], &str); 6] = [
        (b"", "missing request body"),
        (br#"{"model":"ma"}"#, "invalid zstd body"),
        (&zstd(r#"{"model":7}"#), "invalid request body"),
        (&zstd(r#"{"model":"ma"}"#)[..12], "invalid zstd body"),
        (&bomb, "more than 20971520 bytes"),
        (&wide, "invalid zstd body"),
    ];
    for (body, message) in bodies {
        let answer = post(&proxy, RESPONSES, "content-encoding: zstd\r\n", body).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["type"]),
            (400, &json!("invalid_request_error"))
        );
        let said = error["message"].as_str().unwrap();
        assert!(said.contains(message), "{said}");
    }
    assert_eq!((a.calls(), b.calls()), (0, 0));
}

#[tokio::test]
async fn encodings_that_ollama_does_not_read_are_refused() {
    let (a, b, proxy) = two().await;
    for (path, encoding, pointer) in [
        (CHAT, "zstd", "/error"),
        (CHAT, "gzip", "/error"),
        ("/api/show", "br", "/error"),
        (RESPONSES, "gzip", "/error/message"),
        ("/v1/messages", "deflate", "/error/message"),
        (AUDIO, "zstd", "/error/message"),
    ] {
        let header = format!("content-encoding: {encoding}\r\n");
        let answer = post(&proxy, path, &header, br#"{"model":"ma"}"#).await;
        assert_eq!(answer.status, 415, "{path} {encoding}");
        let said = answer.json();
        assert!(
            said.pointer(pointer).is_some_and(Value::is_string),
            "{said}"
        );
    }
    assert_eq!((a.calls(), b.calls()), (0, 0));
    let body = br#"{"model":"ma"}"#;
    let answer = post(&proxy, CHAT, "content-encoding: identity\r\n", body).await;
    arrived(&answer, "a", body);
}

const FORM: &str = "content-type: multipart/form-data; boundary=\"a b\"\r\n";

/// A form with a file, and this model after it.
fn form(model: &str) -> Vec<u8> {
    let file = b"--a b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"model\"\r\n\r\n\x00\xff\r\n--a c\r\n\r\n";
    let model = format!(
        "--a b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--a b--\r\n"
    );
    [file.as_slice(), model.as_bytes()].concat()
}

#[tokio::test]
async fn transcriptions_are_routed_by_the_field_of_their_form() {
    let (_a, _b, proxy) = two().await;
    for (target, model, backend) in [
        (AUDIO, "ma", "a"),
        (AUDIO, "mb", "b"),
        ("/v1/audio/transcriptions?model=mb&model=ma", "ma", "b"),
        (
            "/v1/audio/transcriptions?x=1&m%6fdel=m%61:latest",
            "mb",
            "a",
        ),
    ] {
        for _ in 0..2 {
            let body = form(model);
            let told = arrived(&post(&proxy, target, FORM, &body).await, backend, &body);
            assert_eq!(told["target"], target);
            assert_eq!(told["type"], "multipart/form-data; boundary=\"a b\"");
        }
    }
}

#[tokio::test]
async fn a_form_without_a_model_is_for_a_backend_to_refuse() {
    let (a, b, proxy) = two().await;
    let whole = form("ma");
    let bodies: [(&str, &[u8]); 5] = [
        (FORM, &whole[..whole.len() - 20]),
        (FORM, b""),
        ("content-type: application/json\r\n", br#"{"model":"ma"}"#),
        ("content-type: multipart/form-data\r\n", &whole),
        ("", &whole),
    ];
    for (at, (content_type, body)) in bodies.into_iter().enumerate() {
        let answer = post(&proxy, AUDIO, content_type, body).await;
        assert_eq!(answer.json()["body"], json!(body));
        assert_eq!(a.calls() + b.calls(), at + 1);
    }
}
