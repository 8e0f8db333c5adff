//! What must not be seen of a request, and what a request must not do to a log.

use crate::support::backend::{Backend, Call};
use crate::support::client::{Client, get};
use crate::support::process::Process;

/// A word of a prompt, and one of a key; neither is anywhere else.
const PROMPT: &str = "pr0mpt-0f-a-us3r";
const KEY: &str = "k3y-0f-a-us3r";

/// One that does to a request what the model's name says.
async fn backend() -> Backend {
    Backend::start(
        &["ok", "error", "lost", "cut"],
        |mut call: Call| async move {
            let body = String::from_utf8_lossy(&call.body).into_owned();
            if body.contains("\"error\"") {
                call.answer(
                    "500 Internal Server Error",
                    "application/json",
                    "{\"error\":\"broken\"}",
                )
                .await;
            } else if body.contains("\"cut\"") {
                call.begin("application/x-ndjson").await;
                call.chunk("{\"done\":false}\n").await;
                call.reset();
            } else if body.contains("\"lost\"") {
                call.reset();
            } else {
                call.answer("200 OK", "application/json", "{}").await;
            }
        },
    )
    .await
}

#[tokio::test]
async fn no_output_has_a_prompt_or_a_key_in_it() {
    let backend = backend().await;
    let arguments = ["--backend", &backend.url(), "--log-level", "trace"];
    let (mut proxy, address) = Process::serve(&arguments).await;
    let admin = proxy.admin().await;
    let mut asked = 0;
    for path in [
        "/api/chat",
        "/api/generate",
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/responses",
        "/api/embed",
        "/api/show",
        "/api/pull",
        "/api/odd",
    ] {
        for model in [
            "\"ok\"",
            "\"error\"",
            "\"lost\"",
            "\"cut\"",
            "\"none\"",
            "7",
            "{",
        ] {
            let text = format!("{PROMPT} \\u0000");
            let body = format!(
                r#"{{"model":{model},"prompt":"{text}","input":"{text}","system":"{text}","user":"{text}","messages":[{{"role":"user","content":"{text}"}}]}}"#
            );
            let length = body.len();
            let mut client = Client::connect(address).await;
            client
                .send(format!(
                    "POST {path}?key={KEY} HTTP/1.1\r\nhost: lb\r\nauthorization: Bearer {KEY}\r\nx-api-key: {KEY}\r\ncookie: session={KEY}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                ))
                .await;
            let (answer, _) = client.read_all().await;
            assert!(answer.starts_with("HTTP/1.1 "), "{answer:?}");
            assert!(
                !answer.contains(PROMPT) && !answer.contains(KEY),
                "{path} {model}: {answer}"
            );
            asked += 1;
        }
    }
    // Heads that are refused before anything is read of them.
    for head in [
        "GET /#",
        "GET /%zz?",
        "BREW /api/chat?",
        "POST /api/chat/../",
    ] {
        let mut client = Client::connect(address).await;
        client
            .send(format!(
                "{head}{KEY} HTTP/1.1\r\nhost: lb\r\ncookie: {KEY}\r\nconnection: close\r\n\r\n"
            ))
            .await;
        let (answer, _) = client.read_all().await;
        assert!(!answer.contains(KEY), "{head}: {answer}");
    }
    let status = get(admin, "/api/v1/status").await.body;
    assert!(!status.contains(PROMPT) && !status.contains(KEY));
    crate::support::eventually("every request is logged", || {
        proxy.lines_with("llamero::access") >= asked
    })
    .await;
    assert_eq!(proxy.lines_with(PROMPT), 0);
    assert_eq!(proxy.lines_with(KEY), 0);
}

#[tokio::test]
async fn whatever_a_header_holds_a_request_is_one_line_of_json() {
    let backend = backend().await;
    let (mut proxy, address) = Process::serve(&["--backend", &backend.url()]).await;
    let values: [&[u8]; 6] = [
        b"a\"b\\c",
        b"\x1b[31mred",
        b"\xff\xfe",
        b"a\rb",
        b"a\r\n x-folded: 1",
        b"{\"level\":\"ERROR\"}",
    ];
    for (at, value) in values.into_iter().enumerate() {
        let mut client = Client::connect(address).await;
        let mut text =
            b"GET /api/version HTTP/1.1\r\nhost: lb\r\nconnection: close\r\nuser-agent: ".to_vec();
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\nx-request-id: ");
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\n\r\n");
        client.send(text).await;
        let (answer, _) = client.read_all().await;
        assert!(answer.starts_with("HTTP/1.1 "), "value {at}: {answer:?}");
    }
    let mut client = Client::connect(address).await;
    client
        .post("/api/chat", "{\"model\":\"a\\n\\u001b[31m\\\"\\ud800\"}")
        .await;
    client.answer().await;
    let last = Client::connect(address).await;
    drop(last);
    proxy.line_with("\"route\":\"/api/chat\"").await;
    for line in proxy.lines() {
        let parsed = serde_json::from_str::<serde_json::Value>(&line);
        assert!(
            parsed.is_ok_and(|line| line["level"] != "ERROR"),
            "{line:?}"
        );
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
}

#[tokio::test]
async fn ten_thousand_proxies_on_the_way_are_no_burden_and_fool_nobody() {
    let backend = Backend::start(&["ok"], |mut call: Call| async move {
        let seen = call.header("x-forwarded-for").unwrap_or_default().len();
        call.answer("200 OK", "application/json", &seen.to_string())
            .await;
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamero.toml");
    let text = format!(
        "trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\nlimits.head = \"1MiB\"\n[[backend]]\nurl = \"{}\"\n",
        backend.url()
    );
    std::fs::write(&file, text).unwrap();
    let (mut proxy, address) = Process::serve(&["--config", file.to_str().unwrap()]).await;
    let spoofed = "10.0.0.1, ".repeat(10_000);
    for (id, forwarded, client) in [
        // The right-most that is not trusted counts, whatever stands before it.
        (
            "right",
            format!("{spoofed}192.0.2.7, 10.9.9.9"),
            "192.0.2.7",
        ),
        // So many trusted ones are not followed to their end.
        ("long", format!("192.0.2.8, {spoofed}10.9.9.9"), "10."),
        ("odd", format!("192.0.2.9, {spoofed}nonsense"), "127.0.0.1"),
    ] {
        let body = r#"{"model":"ok"}"#;
        let length = body.len();
        let mut asking = Client::connect(address).await;
        asking
            .send(format!(
                "POST /api/chat HTTP/1.1\r\nhost: lb\r\nx-request-id: {id}\r\nx-forwarded-for: {forwarded}\r\ncontent-length: {length}\r\n\r\n{body}"
            ))
            .await;
        assert_eq!(asking.answer().await.status, 200, "{id}");
        let line = proxy.line_with(&format!("\"id\":\"{id}\"")).await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(
            line["client"].as_str().unwrap().starts_with(client),
            "{line}"
        );
    }
}

#[tokio::test]
async fn what_is_no_http_is_one_line_that_says_so() {
    let backend = backend().await;
    let (mut proxy, address) = Process::serve(&["--backend", &backend.url()]).await;
    let hello = [0x16, 3, 1, 0, 0x2f, 1, 0, 0, 0x2b, 3, 3, 0];
    let mut client = Client::connect(address).await;
    client.send(hello).await;
    let (answer, _) = client.read_all().await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    let line = proxy.line_with("a client was refused").await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["client"], "127.0.0.1");
    assert!(
        line["refusal"].as_str().unwrap().starts_with("Malformed"),
        "{line}"
    );
    assert_eq!(proxy.lines_with("refused"), 1);
}

/// Whatever is asked for, operators are shown what there is, and nothing is kept of it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn names_that_clients_make_up_are_not_kept() {
    const REQUESTS: usize = 3000;
    const NAME_BYTES: usize = 4 << 10;
    const KEPT_BYTES: usize = 5 << 20;
    let backend = backend().await;
    let (mut proxy, address) = Process::serve(&["--backend", &backend.url()]).await;
    let admin = proxy.admin().await;
    let mut client = Client::connect(address).await;
    let mut before = (0, 0);
    // Those of the first third show what any request takes.
    for number in 0..REQUESTS {
        if number == REQUESTS / 3 {
            before = (
                proxy.resident_bytes(),
                get(admin, "/api/v1/status").await.body.len(),
            );
        }
        let name = format!("{number}-{}", "x".repeat(NAME_BYTES));
        if number % 2 == 0 {
            client.get(&format!("/{name}")).await;
        } else {
            let body = format!(r#"{{"model":"{name}"}}"#);
            client.post("/api/chat", &body).await;
        }
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        if answer.header("connection") == Some("close") {
            client = Client::connect(address).await;
        }
    }
    let kept = proxy.resident_bytes().saturating_sub(before.0);
    assert!(kept <= KEPT_BYTES, "{kept} bytes");
    let shown = get(admin, "/api/v1/status").await.body.len();
    assert!(
        shown < before.1 + NAME_BYTES,
        "{shown} bytes instead of {}",
        before.1
    );
}
