//! Backends that fail, and how a request survives it.

use crate::support::backend::{Backend, Call, dead_address};
use crate::support::client::Client;
use crate::support::gateway::{Proxy, config};
use crate::support::{eventually, soon};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

const BODY: &str = r#"{"model":"m","prompt":"why is the sky blue?"}"#;
/// For an answer in one piece, of which a backend takes any number at a time.
const WHOLE: &str = r#"{"model":"m","stream":false}"#;

/// Sends until the request that meets the faulty backend first has been: with round robin, one of two.
async fn check_survives(faulty: &Backend) {
    let good = Backend::start(&["m"], |mut call: Call| async move {
        let whole = call.body == BODY.as_bytes();
        call.answer(
            if whole { "200 OK" } else { "400 Bad Request" },
            "application/json",
            "{}",
        )
        .await;
    })
    .await;
    let proxy = Proxy::over("round_robin", &[faulty, &good]);
    let mut attempts = Vec::new();
    for _ in 0..2 {
        let answer = proxy.post("/api/generate", BODY).await;
        assert_eq!((answer.status, answer.backend()), (200, "b"), "{answer:?}");
        attempts.push(answer.header("x-llamero-attempts").unwrap().to_owned());
    }
    assert!(
        attempts.contains(&"2".to_owned()),
        "one of them met the faulty backend first: {attempts:?}"
    );
    proxy.until_idle().await;
}

#[tokio::test]
async fn a_refused_connection_goes_elsewhere() {
    let faulty = Backend::saying(&["m"], "{}").await;
    let url = faulty.url();
    let good = Backend::saying(&["m"], "{}").await;
    let text = config("round_robin", &[url, good.url()]).replace("\"1s\"", "\"600s\"");
    let proxy = Proxy::start(&text);
    assert_eq!(proxy.post("/api/generate", BODY).await.status, 200);
    drop(faulty);
    for _ in 0..6 {
        assert_eq!(proxy.post("/api/generate", BODY).await.status, 200);
    }
    proxy.until_state("a", "down").await;
}

#[tokio::test]
async fn a_reset_before_the_first_byte_goes_elsewhere() {
    check_survives(&Backend::start(&["m"], |call: Call| async move { call.reset() }).await).await;
}

#[tokio::test]
async fn a_close_before_the_first_byte_goes_elsewhere() {
    check_survives(&Backend::start(&["m"], |call: Call| async move { drop(call) }).await).await;
}

#[tokio::test]
async fn half_a_head_goes_elsewhere() {
    check_survives(
        &Backend::start(&["m"], |mut call: Call| async move {
            call.write("HTTP/1.1 200 OK\r\ncont").await;
        })
        .await,
    )
    .await;
}

#[tokio::test]
async fn garbage_goes_elsewhere() {
    check_survives(
        &Backend::start(&["m"], |mut call: Call| async move {
            call.write("SSH-2.0-OpenSSH\r\n\r\n").await;
        })
        .await,
    )
    .await;
}

#[tokio::test]
async fn an_unasked_switch_of_protocols_goes_elsewhere() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    check_survives(
        &Backend::start(&["m"], move |mut call: Call| async move {
            call.write(switch).await;
        })
        .await,
    )
    .await;
}

#[tokio::test]
async fn busy_and_broken_gateways_go_elsewhere() {
    const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";
    check_survives(&Backend::failing(&["m"], "503 Service Unavailable", BUSY).await).await;
    check_survives(&Backend::failing(&["m"], "502 Bad Gateway", "upstream").await).await;
}

#[tokio::test]
async fn failed_loads_go_elsewhere_and_other_errors_do_not() {
    for text in [
        "llama-server process has terminated: signal: killed",
        "model runner has unexpectedly stopped, see logs",
    ] {
        check_survives(&Backend::failing(&["m"], "500 Internal Server Error", text).await).await;
    }
    let other = Backend::failing(
        &["m"],
        "500 Internal Server Error",
        "template: no such function",
    )
    .await;
    let good = Backend::saying(&["m"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&other, &good]);
    let mut statuses: Vec<_> = Vec::new();
    for _ in 0..2 {
        let answer = proxy.post("/api/generate", BODY).await;
        assert_eq!(answer.header("x-llamero-attempts"), Some("1"));
        statuses.push(answer.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 500]);
}

#[tokio::test]
async fn a_model_that_moved_away_is_found_where_it_is() {
    // Both list it; the first has lost it since.
    let lost = Backend::failing(&["m"], "404 Not Found", "model 'm' not found").await;
    check_survives(&lost).await;
}

#[tokio::test]
async fn when_all_are_busy_the_client_gets_the_refusal_as_it_is() {
    let busy = || Backend::failing(&["m"], "503 Service Unavailable", "server busy");
    let (a, b) = (busy().await, busy().await);
    let proxy = Proxy::over("round_robin", &[&a, &b]);
    let answer = proxy.post("/api/generate", BODY).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (503, r#"{"error":"server busy"}"#)
    );
    assert_eq!(answer.header("x-llamero-attempts"), Some("2"));
    assert_eq!(proxy.backend("a").await["state"], "up", "busy is not sick");
}

#[tokio::test]
async fn a_model_that_nobody_holds_gets_one_backends_own_refusal() {
    let (a, b) = (
        Backend::failing(&["x"], "404 Not Found", "model 'm' not found").await,
        Backend::failing(&["y"], "404 Not Found", "model 'm' not found").await,
    );
    let proxy = Proxy::over("round_robin", &[&a, &b]);
    let answer = proxy.post("/api/generate", BODY).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (404, r#"{"error":"model 'm' not found"}"#)
    );
    assert_eq!(a.calls() + b.calls(), 1);
}

#[tokio::test]
async fn when_all_are_down_the_client_learns_who_and_why_at_once() {
    let text = config(
        "round_robin",
        &[
            format!("http://{}", dead_address().await),
            format!("http://{}", dead_address().await),
        ],
    );
    let proxy = Proxy::start(&text);
    proxy.until_state("a", "down").await;
    proxy.until_state("b", "down").await;
    let shapes = [
        ("/api/chat", "/error"),
        ("/v1/chat/completions", "/error/message"),
        ("/v1/messages", "/error/message"),
    ];
    for (path, pointer) in shapes {
        let mut client = Client::connect(proxy.address()).await;
        let mut best = Duration::MAX;
        // One of many, since others may be at work on the machine.
        for _ in 0..50 {
            let asked = Instant::now();
            client.post(path, BODY).await;
            let answer = client.answer().await;
            best = best.min(asked.elapsed());
            assert_eq!(answer.status, 503);
            assert!(answer.header("retry-after").is_some());
            let json = answer.json();
            let message = json.pointer(pointer).unwrap().as_str().unwrap();
            for part in [
                "a at http://127.0.0.1:",
                "b at http://127.0.0.1:",
                "is down",
                "refused",
            ] {
                assert!(message.contains(part), "{message}");
            }
        }
        assert!(best < Duration::from_millis(5), "{best:?}");
    }
}

#[tokio::test]
async fn a_backend_whose_name_does_not_resolve_is_told_apart() {
    let proxy = Proxy::start(&config(
        "round_robin",
        &["http://no-such-host.invalid:1".to_owned()],
    ));
    let answer = proxy.post("/api/chat", BODY).await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.body.contains("no-such-host.invalid") && answer.body.contains("lookup"),
        "{}",
        answer.body
    );
}

/// A head alone is kept back, since as long as the client has seen nothing another backend can answer; but not for ever.
#[tokio::test]
async fn a_head_of_which_nothing_follows_is_passed_on_in_the_end() {
    const LINE: &str = "{\"done\":true}\n";
    for dies in [false, true] {
        let seen = Arc::new(Semaphore::new(0));
        let script = {
            let seen = Arc::clone(&seen);
            move |mut call: Call| {
                let seen = Arc::clone(&seen);
                async move {
                    call.begin("application/x-ndjson").await;
                    seen.acquire().await.unwrap().forget();
                    if !dies {
                        call.chunk(LINE).await;
                        call.end().await;
                    }
                }
            }
        };
        let (a, b) = (
            Backend::start(&["m"], script.clone()).await,
            Backend::start(&["m"], script).await,
        );
        let proxy = Proxy::over("round_robin", &[&a, &b]);
        let mut client = Client::connect(proxy.address()).await;
        client.post("/api/chat", BODY).await;
        assert!(client.read_to("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        seen.add_permits(1);
        if dies {
            let (rest, _) = client.read_all().await;
            assert!(rest.contains("{\"error\":\"backend "), "{rest:?}");
            assert!(!rest.contains("0\r\n\r\n"), "{rest:?}");
        } else {
            assert_eq!(client.chunk().await.unwrap(), LINE.as_bytes());
            assert_eq!(client.chunk().await.unwrap(), b"");
        }
        assert_eq!(a.calls() + b.calls(), 1);
    }
}

async fn check_broken_stream(
    path: &str,
    kind: &'static str,
    part: &'static str,
    reset: bool,
    record: &str,
) {
    let breaking = Backend::start(&["m"], move |mut call: Call| async move {
        call.begin(kind).await;
        call.chunk(part).await;
        if reset { call.reset() } else { drop(call) }
    })
    .await;
    let other = Backend::saying(&["m"], "{}").await;
    let proxy = Proxy::over("ip_hash", &[&breaking, &other]);
    // One of the two breaks; the other must not be asked once bytes have passed.
    let mut client = Client::connect(proxy.address()).await;
    client.post(path, r#"{"model":"m"}"#).await;
    let mut answer = client.answer().await;
    if answer.backend() == "b" {
        let proxy = Proxy::over("ip_hash", &[&breaking]);
        answer = proxy.post(path, r#"{"model":"m"}"#).await;
    } else {
        assert_eq!(other.calls(), 0);
    }
    assert_eq!(answer.status, 200);
    assert!(!answer.whole, "a broken stream must not end cleanly");
    // With a reset the kernel may drop what the backend had written just before.
    assert!(
        answer.body.contains(record),
        "{:?} lacks {record:?}",
        answer.body
    );
    proxy.until_idle().await;
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_its_familys_error_and_is_cut() {
    const EVENTS: &str = "text/event-stream";
    for reset in [false, true] {
        check_broken_stream(
            "/api/chat",
            "application/x-ndjson",
            "{\"done\":false}\n",
            reset,
            "{\"error\":\"backend a broke off",
        )
        .await;
        check_broken_stream(
            "/api/chat",
            "application/x-ndjson",
            "{\"do",
            false,
            "{\"do\n{\"error\":\"",
        )
        .await;
        check_broken_stream(
            "/v1/chat/completions",
            EVENTS,
            "data: {}\n\n",
            reset,
            "data: {\"error\":{",
        )
        .await;
        check_broken_stream(
            "/v1/messages",
            EVENTS,
            "event: x\ndata: {}\n\n",
            reset,
            "event: error\ndata: {\"",
        )
        .await;
        check_broken_stream(
            "/v1/responses",
            EVENTS,
            "data: {}\n\n",
            reset,
            "event: error\ndata: {\"",
        )
        .await;
    }
}

#[tokio::test]
async fn an_answer_of_known_length_that_breaks_is_cut_short_and_never_padded() {
    let breaking = Backend::start(&["m"], |mut call: Call| async move {
        call.write("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"half\":").await;
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&breaking]);
    let answer = proxy.post("/api/chat", r#"{"model":"m"}"#).await;
    assert!(!answer.whole);
    assert_eq!(answer.body, "{\"half\":");
}

#[tokio::test]
async fn an_idle_connection_that_the_backend_closed_costs_nobody_anything() {
    // Answers once per connection, promising to keep it, and then closes it.
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        call.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            .await;
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    for _ in 0..300 {
        client.post("/api/chat", BODY).await;
        assert_eq!(client.answer().await.status, 200);
    }
    let state = proxy.backend("a").await;
    assert_eq!(
        (&state["failures"], &state["requests"]),
        (&0.into(), &300.into())
    );
}

#[tokio::test]
async fn what_a_backend_says_unasked_reaches_nobody() {
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        call.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison").await;
        call.gone().await;
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    for _ in 0..100 {
        client.post("/api/chat", BODY).await;
        assert_eq!(client.answer().await.body, "{}");
    }
}

#[tokio::test]
async fn a_refusal_that_stalls_is_passed_on_as_far_as_it_came() {
    let stalling = Backend::start(&["m"], |mut call: Call| async move {
        call.write("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 20\r\n\r\n{\"")
            .await;
        call.gone().await;
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&stalling]);
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/generate", BODY).await;
    assert!(client.read_to("{\"").await.starts_with("HTTP/1.1 503"));
    drop(client);
    proxy.until_idle().await;
}

/// Ollama's layer for other APIs ends a failed stream as if it were whole; its clients would take half a text for all.
#[tokio::test]
async fn a_stream_of_another_api_that_ends_before_it_is_done_is_an_error() {
    for (path, record) in [
        ("/v1/chat/completions", "data: {\"error\":{"),
        ("/v1/responses", "event: error\ndata: {"),
        ("/v1/messages", "event: error\ndata: {"),
    ] {
        let ending = Backend::start(&["m"], |mut call: Call| async move {
            call.begin("text/event-stream").await;
            call.chunk("data: {\"half\":1}\n\n").await;
            call.end().await;
        })
        .await;
        let proxy = Proxy::over("round_robin", &[&ending]);
        let answer = proxy.post(path, r#"{"model":"m","stream":true}"#).await;
        assert!(!answer.whole, "{path}");
        let rest = answer.body.strip_prefix("data: {\"half\":1}\n\n").unwrap();
        assert!(rest.starts_with(record), "{rest:?}");
        assert_eq!(proxy.backend("a").await["failures"], 0);
        proxy.until_idle().await;
    }
}

/// A backend that keeps every request until it is told to go on, and then does it as it is scripted.
async fn holding<R>(
    go: &Arc<Semaphore>,
    script: impl Fn(Call) -> R + Clone + Send + Sync + 'static,
) -> Backend
where
    R: Future<Output = ()> + Send + 'static,
{
    let go = Arc::clone(go);
    Backend::start(&["m"], move |call: Call| {
        let (go, script) = (Arc::clone(&go), script.clone());
        async move {
            go.acquire().await.unwrap().forget();
            script(call).await;
        }
    })
    .await
}

async fn turn_away(mut call: Call) {
    let status = "503 Service Unavailable";
    call.answer(status, "application/json", "{\"error\":\"server busy\"}")
        .await;
}

async fn reset(call: Call) {
    call.reset();
}

/// So many requests at a time that all backends fail, and how often these are asked for them.
async fn check_budget<R>(script: fn(Call) -> R, status: u16)
where
    R: Future<Output = ()> + Send + 'static,
{
    const REQUESTS: usize = 100;
    let go = Arc::new(Semaphore::new(0));
    let backends = [
        holding(&go, script).await,
        holding(&go, script).await,
        holding(&go, script).await,
    ];
    let [a, b, c] = backends.each_ref();
    let text = config("round_robin", &[a.url(), b.url(), c.url()]);
    let proxy = Proxy::start(&format!("retry.attempts = 3\n{text}"));
    let calls = || a.calls() + b.calls() + c.calls();
    let mut clients = Vec::new();
    for _ in 0..REQUESTS {
        let mut client = Client::connect(proxy.address()).await;
        client.post("/api/generate", WHOLE).await;
        clients.push(client);
    }
    eventually("all are with a backend", || calls() == REQUESTS).await;
    go.add_permits(REQUESTS);
    soon("all have failed once", async {
        while proxy.in_flight().await != calls() - REQUESTS {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let most = REQUESTS / 5 + 3;
    let again = calls() - REQUESTS;
    assert!((3..=most).contains(&again), "{again} were sent again");
    go.add_permits(REQUESTS);
    for mut client in clients {
        assert_eq!(client.answer().await.status, status);
    }
    let again = calls() - REQUESTS;
    // Some of them a third time, and those are the second retries of few.
    assert!(again <= most + most / 5 + 3, "{again} were sent again");
    proxy.until_idle().await;
}

#[tokio::test]
async fn when_all_fail_at_once_they_are_not_asked_three_times_as_often() {
    check_budget(turn_away, 503).await;
    check_budget(reset, 502).await;
}

#[tokio::test]
async fn when_one_of_two_fails_the_other_gets_all_that_it_had() {
    const REQUESTS: usize = 100;
    let go = Arc::new(Semaphore::new(0));
    for resets in [false, true] {
        let script = move |call: Call| async move {
            if resets {
                reset(call).await;
            } else {
                turn_away(call).await;
            }
        };
        let failing = holding(&go, script).await;
        let good = Backend::saying(&["m"], "{}").await;
        let proxy = Proxy::over("round_robin", &[&failing, &good]);
        let mut clients = Vec::new();
        for _ in 0..REQUESTS {
            let mut client = Client::connect(proxy.address()).await;
            client.post("/api/generate", WHOLE).await;
            clients.push(client);
        }
        let called = || failing.calls() + good.calls() >= REQUESTS;
        eventually("all are with a backend", called).await;
        go.add_permits(failing.calls());
        for mut client in clients {
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.backend()), (200, "b"));
        }
        proxy.until_idle().await;
    }
}
