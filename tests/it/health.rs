//! Who is in and who is out.

use crate::support::backend::{Backend, Call};
use crate::support::client::{Client, get};
use crate::support::gateway::{Proxy, config};
use crate::support::{eventually, soon};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::Semaphore;

const BODY: &str = r#"{"model":"m"}"#;
/// The same for an answer in one piece, of which a backend takes any number at a time.
const WHOLE: &str = r#"{"model":"m","stream":false}"#;

#[tokio::test]
async fn checks_take_a_backend_out_and_bring_it_back() {
    let (a, b) = (
        Backend::saying(&["m"], "{}").await,
        Backend::saying(&["m"], "{}").await,
    );
    let proxy = Proxy::over("round_robin", &[&a, &b]);
    a.set_healthy(false);
    proxy.until_state("a", "down").await;
    let before = a.calls();
    for _ in 0..4 {
        assert_eq!(proxy.post("/api/chat", BODY).await.backend(), "b");
    }
    assert_eq!(a.calls(), before);
    a.set_healthy(true);
    proxy.until_state("a", "up").await;
    let backends: Vec<_> = [
        proxy.post("/api/chat", BODY).await,
        proxy.post("/api/chat", BODY).await,
    ]
    .iter()
    .map(|answer| answer.backend().to_owned())
    .collect();
    assert!(backends.contains(&"a".to_owned()), "{backends:?}");
}

#[tokio::test]
async fn failures_in_a_row_eject_but_never_the_last() {
    let broken = Backend::failing(&["m"], "500 Internal Server Error", "nonsense").await;
    let good = Backend::saying(&["m"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&broken, &good]);
    let mut failed = 0;
    for _ in 0..60 {
        failed += usize::from(proxy.post("/api/chat", BODY).await.status == 500);
    }
    let state = proxy.backend("a").await;
    assert_eq!(state["state"], "ejected");
    assert!(state["ejected_until"].is_string(), "{state}");
    assert!((5..=8).contains(&failed), "{failed} requests failed");

    let alone = Proxy::over("round_robin", &[&broken]);
    for _ in 0..20 {
        let answer = alone.post("/api/chat", BODY).await;
        assert_eq!(
            answer.status, 500,
            "its own error says more than a refusal of ours"
        );
    }
}

#[tokio::test]
async fn what_clients_do_wrong_is_held_against_nobody() {
    for (status, number) in [
        ("400 Bad Request", 400),
        ("404 Not Found", 404),
        ("413 Payload Too Large", 413),
        ("429 Too Many Requests", 429),
    ] {
        let picky = Backend::failing(&["m"], status, "it is your fault").await;
        let other = Backend::failing(&["m"], status, "it is your fault").await;
        let proxy = Proxy::over("round_robin", &[&picky, &other]);
        for _ in 0..30 {
            assert_eq!(proxy.post("/api/chat", BODY).await.status, number);
        }
        for name in ["a", "b"] {
            let state = proxy.backend(name).await;
            assert_eq!(
                (&state["state"], &state["failures"]),
                (&"up".into(), &0.into())
            );
        }
    }
}

#[tokio::test]
async fn operators_see_whether_it_is_ready() {
    let a = Backend::saying(&["m", "n:7b"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&a]);
    let admin = proxy.gateway.admin_address();
    assert_eq!(get(admin, "/livez").await.body, "ok\n");
    assert_eq!(get(admin, "/readyz").await.status, 200);
    assert!(
        get(admin, "/readyz?verbose")
            .await
            .body
            .contains("[+] backends: 1 usable")
    );
    proxy.post("/api/chat", BODY).await;
    let status = proxy.status().await;
    assert_eq!(status["strategy"], "round_robin");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let backend = &status["backends"][0];
    assert_eq!(backend["models"], serde_json::json!(["m", "n:7b"]));
    assert_eq!(
        (&backend["requests"], &backend["url"]),
        (&1.into(), &a.url().into())
    );
    assert!(backend["ttft_ms"]["mean"].as_f64().unwrap() > 0.0);
    a.set_healthy(false);
    proxy.until_state("a", "down").await;
    assert_eq!(get(admin, "/readyz").await.status, 503);
    assert_eq!(get(admin, "/livez").await.status, 200);
    assert_eq!(
        get(admin, "/nothing").await.header("content-type"),
        Some("application/problem+json")
    );
    let refused = get(proxy.address(), "/api/v1/status").await;
    assert_ne!(
        refused.status, 200,
        "nothing of the admin API answers to clients"
    );
}

/// Sends requests of many clients, one after the other, and returns which of them failed.
async fn failures(proxy: &Proxy, requests: usize) -> Vec<usize> {
    let mut client = Client::connect(proxy.address()).await;
    let mut failed = Vec::new();
    for number in 0..requests {
        let (from, length) = (number % 251, BODY.len());
        client
            .send(format!("POST /api/chat HTTP/1.1\r\nhost: lb\r\nx-forwarded-for: 203.0.113.{from}\r\ncontent-length: {length}\r\n\r\n{BODY}"))
            .await;
        if client.answer().await.status != 200 {
            failed.push(number);
        }
    }
    failed
}

/// Each strategy in front of these, with clients told apart by their addresses.
fn under_every_strategy(backends: &[&Backend]) -> Vec<(&'static str, Proxy)> {
    let urls: Vec<_> = backends.iter().map(|backend| backend.url()).collect();
    let proxy = |name: &str| {
        let text = config(name, &urls);
        Proxy::start(&format!("trusted_proxies = [\"127.0.0.0/8\"]\n{text}"))
    };
    let all = llamero::balance::ALL.iter();
    all.map(|entry| (entry.name, proxy(entry.name))).collect()
}

#[tokio::test]
async fn a_backend_that_fails_at_once_draws_five_requests_and_no_more() {
    const REQUESTS: usize = 400;
    let broken = Backend::failing(&["m"], "500 Internal Server Error", "nonsense").await;
    let (b, c) = (
        Backend::saying(&["m"], "{}").await,
        Backend::saying(&["m"], "{}").await,
    );
    for (strategy, proxy) in under_every_strategy(&[&broken, &b, &c]) {
        let failed = failures(&proxy, REQUESTS).await;
        assert!(failed.len() <= 5, "{strategy}: {failed:?}");
        assert!(failed.len() * 50 < REQUESTS, "{strategy}: {failed:?}");
    }
}

#[tokio::test]
async fn a_backend_that_fails_half_of_the_time_is_ejected_too() {
    let turn = Arc::new(AtomicUsize::new(0));
    let flaky = Backend::start(&["m"], move |mut call: Call| {
        let turn = turn.fetch_add(1, SeqCst);
        async move {
            let status = ["500 Internal Server Error", "200 OK"][turn % 2];
            call.answer(status, "application/json", "{}").await;
        }
    })
    .await;
    let good = Backend::saying(&["m"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&flaky, &good]);
    let failed = failures(&proxy, 60).await;
    assert_eq!(
        failed.len(),
        11,
        "the first of more than twenty: {failed:?}"
    );
    assert_eq!(proxy.backend("a").await["state"], "ejected");
}

#[tokio::test]
async fn the_request_that_tries_an_ejected_backend_does_not_pay_for_it() {
    let broken = Backend::failing(&["m"], "500 Internal Server Error", "nonsense").await;
    let good = Backend::saying(&["m"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&broken, &good]);
    assert_eq!(failures(&proxy, 20).await.len(), 5);
    let calls = broken.calls();
    soon("it is tried", async {
        while broken.calls() == calls {
            assert_eq!(proxy.post("/api/chat", BODY).await.status, 200);
        }
    })
    .await;
    assert_eq!(broken.calls(), calls + 1);
    assert_eq!(proxy.backend("a").await["state"], "ejected");
}

#[tokio::test]
async fn when_all_fail_half_of_them_stay_in_and_clients_see_their_errors() {
    let failing = || Backend::failing(&["m"], "500 Internal Server Error", "nonsense");
    let all = [
        failing().await,
        failing().await,
        failing().await,
        failing().await,
    ];
    let proxy = Proxy::over("round_robin", &all.each_ref());
    for _ in 0..100 {
        let answer = proxy.post("/api/chat", BODY).await;
        assert_eq!(answer.status, 500, "{answer:?}");
    }
    let mut ejected = 0;
    for name in ["a", "b", "c", "d"] {
        ejected += usize::from(proxy.backend(name).await["state"] == "ejected");
    }
    assert_eq!(ejected, 2);
}

/// One that answers each request when it is told to.
async fn patient(go: &Arc<Semaphore>) -> Backend {
    let go = Arc::clone(go);
    Backend::start(&["m"], move |mut call: Call| {
        let go = Arc::clone(&go);
        async move {
            go.acquire().await.unwrap().forget();
            call.answer("200 OK", "application/json", "{}").await;
        }
    })
    .await
}

#[tokio::test]
async fn who_comes_back_gets_one_request_then_two() {
    const WAVE: usize = 12;
    let go = Arc::new(Semaphore::new(0));
    let (back, other) = (patient(&go).await, patient(&go).await);
    let proxy = Proxy::over("least_connections", &[&back, &other]);
    back.set_healthy(false);
    proxy.until_state("a", "down").await;
    back.set_healthy(true);
    proxy.until_state("a", "up").await;
    for (wave, limit) in [(1, 1), (2, 2)] {
        assert_eq!(proxy.backend("a").await["slow_start"], limit);
        let mut clients = Vec::new();
        for _ in 0..WAVE {
            let mut client = Client::connect(proxy.address()).await;
            client.post("/api/chat", WHOLE).await;
            clients.push(client);
        }
        let called = || back.calls() + other.calls() == wave * WAVE;
        eventually("all are with a backend", called).await;
        assert_eq!(proxy.backend("a").await["in_flight"], limit);
        go.add_permits(WAVE);
        for mut client in clients {
            assert_eq!(client.answer().await.status, 200);
        }
        proxy.until_idle().await;
    }
    assert_eq!(proxy.backend("a").await["slow_start"], 8);
}
