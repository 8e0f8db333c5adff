//! What Ollama's clients expect where requests come in: pages that may call, paths, redirects, errors, headers.
//!
//! Numbers are those of the conformance statements.

use crate::support::backend::{Backend, Call, header};
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Proxy, config};
use crate::support::soon;
use llamero::config::{ContentHash, Settings};
use std::sync::{Arc, Mutex};

const ALLOW_HEADERS: &str = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,\
X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,\
X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,\
X-Stainless-Runtime-Version,X-Stainless-Timeout";

/// Heads of the requests that a backend was given.
type Heads = Arc<Mutex<Vec<String>>>;

/// A backend that keeps every head and answers `{}`, with headers of its own.
async fn listening(extra: &'static str) -> (Backend, Heads) {
    let heads = Heads::default();
    let kept = Arc::clone(&heads);
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let kept = Arc::clone(&kept);
        async move {
            kept.lock().unwrap().push(call.head.clone());
            call.write(&format!(
                "HTTP/1.1 200 OK\r\n{extra}content-length: 2\r\nconnection: close\r\n\r\n{{}}"
            ))
            .await;
        }
    })
    .await;
    (backend, heads)
}

fn proxy(keys: &str, backend: &Backend) -> Proxy {
    Proxy::start(&format!(
        "{keys}\n{}",
        config("round_robin", &[backend.url()])
    ))
}

/// Sends a line and headers on a connection of its own; a POST has the body `{"model":"m"}`.
async fn ask(proxy: &Proxy, line: &str, headers: &str) -> Answer {
    let body = if line.starts_with("POST") {
        r#"{"model":"m"}"#
    } else {
        ""
    };
    let length = body.len();
    let mut client = Client::connect(proxy.address()).await;
    client
        .send(format!(
            "{line} HTTP/1.1\r\nhost: lb.example\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        ))
        .await;
    if line.starts_with("HEAD") {
        let head = client.read_to("\r\n\r\n").await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        return Answer {
            status,
            head,
            body: String::new(),
            whole: true,
        };
    }
    client.answer().await
}

/// All values of a header.
fn all<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let fields = answer.head.lines().filter_map(|line| line.split_once(':'));
    fields
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

#[track_caller]
fn check_granted(answer: &Answer, told: &str) {
    assert_eq!(all(answer, "access-control-allow-origin"), [told]);
    assert_eq!(
        all(answer, "access-control-expose-headers"),
        ["x-llamero-backend,x-llamero-attempts,x-request-id"]
    );
    let vary: &[&str] = if told == "*" { &[] } else { &["Origin"] };
    assert_eq!(all(answer, "vary"), vary);
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[track_caller]
fn check_untold(answer: &Answer) {
    assert!(
        !answer.head.to_ascii_lowercase().contains("access-control-"),
        "{}",
        answer.head
    );
}

#[tokio::test]
async fn s56_pages_that_may_call_are_told_so_whatever_the_answer() {
    let (backend, heads) = listening(
        "access-control-allow-origin: http://other\r\naccess-control-allow-credentials: true\r\n",
    )
    .await;
    let proxy = proxy("origins = [\"https://*.chat.example\"]", &backend);
    for origin in [
        "http://localhost:3000",
        "https://127.0.0.1",
        "app://obsidian.md",
        "vscode-webview://1a2b",
        "https://a.chat.example",
    ] {
        for (line, status) in [
            ("POST /api/chat", 200),
            ("GET /api/tags", 200),
            ("GET /unknown", 200),
            ("GET /api/chat", 405),
            ("GET //odd", 404),
            ("GET /api/tags/", 301),
        ] {
            let answer = ask(&proxy, line, &format!("origin: {origin}\r\n")).await;
            assert_eq!(answer.status, status, "{line}");
            check_granted(&answer, origin);
        }
    }
    let without = ask(&proxy, "POST /api/chat", "").await;
    check_untold(&without);
    for head in heads.lock().unwrap().iter() {
        assert_eq!(header(head, "origin"), None, "{head}");
    }
}

#[tokio::test]
async fn s56_a_preflight_is_answered_here() {
    let (backend, _) = listening("").await;
    let proxy = proxy("", &backend);
    let asks = "origin: http://localhost:3000\r\naccess-control-request-method: POST\r\n\
                access-control-request-headers: content-type\r\n";
    for (path, allow) in [
        ("/api/chat", Some("POST")),
        ("/api/tags", Some("GET, HEAD")),
        ("/v1/messages", Some("POST")),
        ("/unknown", None),
        ("//odd", None),
    ] {
        let answer = ask(&proxy, &format!("OPTIONS {path}"), asks).await;
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{path}");
        for (name, value) in [
            ("access-control-allow-origin", "http://localhost:3000"),
            (
                "access-control-allow-methods",
                "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
            ),
            ("access-control-allow-headers", ALLOW_HEADERS),
            ("access-control-max-age", "43200"),
        ] {
            assert_eq!(all(&answer, name), [value], "{path}");
        }
        assert_eq!(
            all(&answer, "vary"),
            [
                "Origin",
                "Access-Control-Request-Method",
                "Access-Control-Request-Headers"
            ]
        );
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert_eq!(answer.header("allow"), allow, "{path}");
    }
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn s58_a_foreign_page_is_refused_without_a_word_and_without_a_backend() {
    let (backend, _) = listening("").await;
    let proxy = proxy("", &backend);
    for origin in [
        "https://evil.example",
        "null",
        "chrome-extension://abc",
        "http://LOCALHOST",
        "http://localhost.evil.example",
        "http://lb.example:81",
    ] {
        for line in [
            "POST /api/chat",
            "GET /unknown",
            "GET /",
            "GET /api/tags/",
            "OPTIONS /api/chat",
        ] {
            let answer = ask(&proxy, line, &format!("origin: {origin}\r\n")).await;
            assert_eq!((answer.status, answer.body.as_str()), (403, ""), "{line}");
            assert_eq!(answer.header("content-length"), Some("0"));
            check_untold(&answer);
        }
    }
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn who_writes_much_before_it_reads_still_reads_its_refusal() {
    let (backend, heads) = listening("").await;
    let proxy = proxy("", &backend);
    // A request that came by here before says so.
    ask(&proxy, "POST /api/chat", "").await;
    let seen = heads.lock().unwrap()[0].clone();
    let via = seen.lines().find(|line| line.starts_with("via: ")).unwrap();
    let body = "x".repeat(8 << 20);
    for (path, field, status) in [
        ("/api/chat", "origin: https://evil", 403),
        ("/api/chat", via, 508),
        ("/api/tags", "accept: */*", 405),
        ("//api/chat", "accept: */*", 404),
        ("/api/chat", "content-encoding: gzip", 415),
    ] {
        let mut client = Client::connect(proxy.address()).await;
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: lb\r\n{field}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            ))
            .await;
        client.send(&body).await;
        assert_eq!(client.answer().await.status, status, "{path} {field}");
    }
    assert_eq!(backend.calls(), 1);
}

#[tokio::test]
async fn s57_a_page_of_the_proxys_own_name_may_call() {
    let (backend, heads) = listening("").await;
    let proxy = proxy("", &backend);
    for origin in ["http://lb.example", "https://lb.example"] {
        let answer = ask(&proxy, "POST /api/chat", &format!("origin: {origin}\r\n")).await;
        assert_eq!(answer.status, 200);
        check_untold(&answer);
        let options = ask(
            &proxy,
            "OPTIONS /api/chat",
            &format!("origin: {origin}\r\n"),
        )
        .await;
        assert_eq!(
            (options.status, options.header("allow")),
            (405, Some("POST"))
        );
    }
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), 2);
    for head in heads.iter() {
        assert_eq!(header(head, "origin"), None);
    }
}

#[tokio::test]
async fn every_page_may_call_if_so_configured_and_a_reload_ends_it() {
    let (backend, _) = listening("vary: Accept-Encoding\r\n").await;
    let proxy = proxy("origins = \"*\"", &backend);
    let foreign = "origin: https://evil.example\r\n";
    check_granted(&ask(&proxy, "GET /api/tags", foreign).await, "*");
    let answer = ask(&proxy, "POST /api/chat", foreign).await;
    assert_eq!(all(&answer, "vary"), ["Accept-Encoding"]);
    let preflight = ask(&proxy, "OPTIONS /x", foreign).await;
    assert_eq!(all(&preflight, "access-control-allow-origin"), ["*"]);
    assert_eq!(preflight.header("vary"), None);

    let text = format!("origins = []\n{}", config("round_robin", &[backend.url()]));
    let settings = Settings::parse(&text, "f").unwrap();
    proxy.gateway.reload(settings, ContentHash::of(&text), 1);
    assert_eq!(ask(&proxy, "POST /api/chat", foreign).await.status, 403);
    let local = ask(&proxy, "POST /api/chat", "origin: app://x\r\n").await;
    assert_eq!(all(&local, "vary"), ["Accept-Encoding", "Origin"]);
}

#[tokio::test]
async fn s5_everything_is_found_below_the_path_prefix_too() {
    let (backend, heads) = listening("").await;
    let proxy = proxy("path_prefix = \"/box/ollama\"", &backend);
    for (line, status) in [
        ("GET /box/ollama", 200),
        ("HEAD /box/ollama/", 200),
        ("GET /box/ollama/api/version", 200),
        ("GET /box/ollama/api/tags", 200),
        ("GET /api/tags", 200),
        ("GET /box/ollama/v1/models", 200),
        ("POST /box/ollama/api/chat?ts=1&x=%2F", 200),
        ("POST /api/chat", 200),
        ("GET /box/ollama/v1/models/m", 200),
        ("POST /box/ollama/api/me", 200),
        ("GET /box/ollama/unknown?q", 200),
        ("GET /box/ollamas", 200),
        ("GET /box/ollama/api/chat", 405),
        ("GET /box/ollama//api/chat", 404),
    ] {
        assert_eq!(ask(&proxy, line, "").await.status, status, "{line}");
    }
    let asked: Vec<String> = heads
        .lock()
        .unwrap()
        .iter()
        .map(|head| head.split(" HTTP/").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        asked,
        [
            "POST /api/chat?ts=1&x=%2F",
            "POST /api/chat",
            "GET /v1/models/m",
            "POST /api/me",
            "GET /unknown?q",
            "GET /box/ollamas",
        ]
    );
    let error = ask(&proxy, "GET /box/ollama/v1/messages", "").await;
    assert_eq!(
        error.json()["type"],
        "error",
        "the family is known below it"
    );
}

#[tokio::test]
async fn s4_a_slash_too_many_redirects_as_ollama_does() {
    let (backend, _) = listening("").await;
    let proxy = proxy("path_prefix = \"/p\"", &backend);
    for (line, status, location) in [
        ("GET /api/tags/", 301, "/api/tags"),
        ("GET /p/api/tags/?a=1&b=2", 301, "/p/api/tags?a=1&b=2"),
        ("POST /api/show/", 307, "/api/show"),
        (
            "POST /p/v1/chat/completions/",
            307,
            "/p/v1/chat/completions",
        ),
        ("HEAD /api/tags/", 307, "/api/tags"),
    ] {
        // A client's word on prefixes bends nothing (60).
        let answer = ask(&proxy, line, "x-forwarded-prefix: /evil\r\n").await;
        assert_eq!(answer.status, status, "{line}");
        assert_eq!(answer.header("location"), Some(location), "{line}");
        assert_eq!(
            answer.header("content-type"),
            Some("text/html; charset=utf-8")
        );
    }
    let page = ask(&proxy, "GET /api/tags/?a=1&b=2", "").await;
    assert_eq!(
        page.body,
        "<a href=\"/api/tags?a=1&amp;b=2\">Moved Permanently</a>.\n\n"
    );
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn s4_a_backends_redirect_is_passed_on_and_not_followed() {
    let backend = Backend::start(&["m"], |mut call| async move {
        call.write(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        )
        .await;
    })
    .await;
    let proxy = proxy("path_prefix = \"/p\"", &backend);
    for (line, location) in [
        ("GET /x", "/elsewhere"),
        ("GET /p/x", "/p/elsewhere"),
        ("POST /api/chat", "/elsewhere"),
    ] {
        let answer = ask(&proxy, line, "").await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (307, Some(location))
        );
    }
    assert_eq!(backend.calls(), 3);
}

#[tokio::test]
async fn s3_odd_paths_are_not_found_in_the_routers_words_and_wrong_methods_in_the_familys() {
    let (backend, _) = listening("").await;
    let proxy = proxy("", &backend);
    for line in [
        "GET //api/tags",
        "POST /v1/../v1/messages",
        "GET /v1/models/a%2Fb",
        "GET /x/%2e%2e/y",
    ] {
        let answer = ask(&proxy, line, "").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (404, "404 page not found"),
            "{line}"
        );
        assert_eq!(answer.header("content-type"), Some("text/plain"));
    }
    for (line, allow) in [
        ("OPTIONS /api/chat", "POST"),
        ("OPTIONS /v1/models", "GET"),
        ("PUT /api/tags", "GET, HEAD"),
        ("GET /v1/messages", "POST"),
    ] {
        let answer = ask(&proxy, line, "").await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some(allow)),
            "{line}"
        );
        assert!(answer.json().get("error").is_some());
    }
    // 2
    let head = ask(&proxy, "HEAD /api/ps", "").await;
    assert_eq!((head.status, head.header("allow")), (405, Some("GET")));
    assert_eq!(backend.calls(), 0);
}

/// What an error tells a client to do.
#[derive(Debug, Clone, Copy)]
enum Advice {
    Again,
    Never,
}

#[track_caller]
fn check_error(path: &str, answer: &Answer, status: u16, kind: &str, advice: Advice) {
    assert_eq!(answer.status, status, "{path}");
    assert!(!answer.body.contains('\n'), "{}", answer.body);
    let json = answer.json();
    let id = answer.header("x-request-id").unwrap();
    let v1 = path.starts_with("/v1/");
    let again = matches!(advice, Advice::Again);
    assert_eq!(answer.header("retry-after"), again.then_some("2"));
    let milliseconds = (again && v1).then_some("2000");
    assert_eq!(answer.header("retry-after-ms"), milliseconds, "{path}");
    let should = v1.then_some(if again { "true" } else { "false" });
    assert_eq!(answer.header("x-should-retry"), should, "{path}");
    let is_messages = path.starts_with("/v1/messages");
    assert_eq!(answer.header("request-id"), is_messages.then_some(id));
    if !v1 {
        assert!(json["error"].is_string(), "{json}");
        return;
    }
    assert_eq!(json["error"]["type"], kind, "{path}");
    assert!(json["error"]["message"].is_string());
    if is_messages {
        assert_eq!(
            (&json["type"], &json["request_id"]),
            (&"error".into(), &id.into())
        );
    } else {
        assert!(
            json["error"]
                .get("code")
                .is_some_and(serde_json::Value::is_null)
        );
    }
}

#[tokio::test]
async fn s54_errors_have_the_familys_shape_and_say_whether_to_ask_again() {
    let breaking = Backend::start(&["m"], |call| async move { call.reset() }).await;
    let large = format!("{{\"model\":\"m\",\"x\":\"{}\"}}", "x".repeat(2000));
    for (path, bad, large_kind, lost, none) in [
        ("/api/chat", "", "", "", ""),
        (
            "/v1/chat/completions",
            "invalid_request_error",
            "api_error",
            "api_error",
            "api_error",
        ),
        (
            "/v1/responses",
            "invalid_request_error",
            "api_error",
            "api_error",
            "api_error",
        ),
        (
            "/v1/messages",
            "invalid_request_error",
            "invalid_request_error",
            "api_error",
            "overloaded_error",
        ),
    ] {
        let proxy = proxy("limits.body = \"1KiB\"", &breaking);
        let answer = proxy.post(path, "{").await;
        check_error(path, &answer, 400, bad, Advice::Never);
        let answer = proxy.post(path, &large).await;
        check_error(path, &answer, 413, large_kind, Advice::Never);
        let answer = proxy.post(path, r#"{"model":"m"}"#).await;
        check_error(path, &answer, 502, lost, Advice::Again);

        let drained = Proxy::start(&format!(
            "{}drain = true\n",
            config("round_robin", &[breaking.url()])
        ));
        let answer = drained.post(path, r#"{"model":"m"}"#).await;
        check_error(path, &answer, 503, none, Advice::Again);
    }
}

#[tokio::test]
async fn messages_are_called_by_anthropics_header_too() {
    let (backend, heads) = listening("").await;
    let proxy = proxy("", &backend);
    for (path, named) in [("/v1/messages", true), ("/v1/responses", false)] {
        let answer = ask(&proxy, &format!("POST {path}"), "x-request-id: mine-1\r\n").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("request-id"), named.then_some("mine-1"));
    }
    for head in heads.lock().unwrap().iter() {
        assert_eq!(header(head, "x-request-id"), Some("mine-1"));
    }
}

#[tokio::test]
async fn s59_s60_backends_hear_what_the_client_said_and_nothing_that_was_for_the_proxy() {
    let (backend, heads) = listening("").await;
    let proxy = proxy("", &backend);
    let sent = "authorization: Bearer \r\nuser-agent: ollama/0.1 (x y) Go/1\r\nx-api-key: k\r\n\
                x-llamero-backend: b\r\nX-Llamero-Secret: s\r\nx-forwarded-prefix: /evil\r\n\
                access-control-request-method: PUT\r\n";
    let line = "POST /api/chat?ts=17&b=%20c";
    assert_eq!(ask(&proxy, line, sent).await.status, 200);
    assert_eq!(
        ask(&proxy, line, "authorization: Bearer ollama\r\n")
            .await
            .status,
        200
    );
    let heads = heads.lock().unwrap();
    let head = &heads[0];
    assert!(head.starts_with(line), "{head}");
    assert_eq!(header(head, "authorization"), Some("Bearer"));
    assert_eq!(header(head, "user-agent"), Some("ollama/0.1 (x y) Go/1"));
    assert_eq!(header(head, "x-api-key"), Some("k"));
    let lower = head.to_ascii_lowercase();
    for word in ["x-llamero", "x-forwarded-prefix", "access-control"] {
        assert!(!lower.contains(word), "{head}");
    }
    assert_eq!(header(&heads[1], "authorization"), Some("Bearer ollama"));
}

#[tokio::test]
async fn s55_any_host_may_be_asked_for() {
    let (backend, heads) = listening("").await;
    let proxy = proxy("", &backend);
    let mut client = Client::connect(proxy.address()).await;
    client
        .send("GET /x HTTP/1.1\r\nhost: anything.example\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 200);
    let host = backend.url().replace("http://", "");
    assert_eq!(header(&heads.lock().unwrap()[0], "host"), Some(&*host));
}

#[tokio::test]
async fn streams_are_not_to_be_held_back_on_the_way() {
    for (kind, is_stream) in [
        ("application/x-ndjson", true),
        ("text/event-stream", true),
        ("application/json", false),
    ] {
        let backend = Backend::start(&["m"], move |mut call| async move {
            call.begin(kind).await;
            call.chunk("{\"done\":true}\n").await;
            call.end().await;
        })
        .await;
        let proxy = proxy("", &backend);
        let answer = soon("a stream", ask(&proxy, "POST /api/chat", "")).await;
        let told = (
            answer.header("x-accel-buffering"),
            answer.header("cache-control"),
        );
        let expected = if is_stream {
            (Some("no"), Some("no-cache"))
        } else {
            (None, None)
        };
        assert_eq!(told, expected, "{kind}");
        assert!(answer.whole);
    }
}
