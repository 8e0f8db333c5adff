//! Who is in and who is out.

use crate::support::backend::Backend;
use crate::support::client::get;
use crate::support::gateway::Proxy;

const BODY: &str = r#"{"model":"m"}"#;

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
    assert_eq!(proxy.backend("a").await["state"], "ejected");
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
    let picky = Backend::failing(
        &["m"],
        "400 Bad Request",
        "option temperature must be of type float32",
    )
    .await;
    let proxy = Proxy::over("round_robin", &[&picky]);
    for _ in 0..20 {
        assert_eq!(proxy.post("/api/chat", BODY).await.status, 400);
    }
    let state = proxy.backend("a").await;
    assert_eq!(
        (&state["state"], &state["failures"]),
        (&"up".into(), &0.into())
    );
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
