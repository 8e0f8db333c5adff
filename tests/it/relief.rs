//! A backend that says nothing and then fails its checks, and the request that waits for it.

use crate::support::backend::{Backend, Call};
use crate::support::client::{self, Answer};
use crate::support::gateway::Proxy;
use crate::support::{eventually, soon};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const BODY: &str = r#"{"model":"m","prompt":"why is the sky blue?"}"#;

/// A backend that says nothing to requests until it is let.
struct Silent {
    backend: Backend,
    taken: Arc<AtomicUsize>,
    left: Arc<AtomicUsize>,
    let_go: Arc<Semaphore>,
}

impl Silent {
    /// With the model in memory, or so that each request has to load it.
    async fn start(is_loaded: bool) -> Self {
        let (taken, left): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let let_go = Arc::new(Semaphore::new(0));
        let shared = (Arc::clone(&taken), Arc::clone(&left), Arc::clone(&let_go));
        let backend = Backend::start_with_ps(&["m"], move |mut call: Call| {
            let (taken, left, let_go) = shared.clone();
            async move {
                if call.head.starts_with("GET /api/ps ") {
                    let name = if is_loaded { r#"{"name":"m"}"# } else { "" };
                    let loaded = format!(r#"{{"models":[{name}]}}"#);
                    call.answer("200 OK", "application/json", &loaded).await;
                    return;
                }
                taken.fetch_add(1, SeqCst);
                let is_let = tokio::select! {
                    permit = let_go.acquire() => permit.is_ok(),
                    _ = call.gone() => false,
                };
                if is_let {
                    call.answer("200 OK", "application/json", "{}").await;
                } else {
                    left.fetch_add(1, SeqCst);
                }
            }
        })
        .await;
        Self {
            backend,
            taken,
            left,
            let_go,
        }
    }

    /// Sends requests until one waits for this backend.
    async fn until_waited_for(&self, proxy: &Proxy, path: &'static str) -> JoinHandle<Answer> {
        loop {
            let address = proxy.address();
            let asked = tokio::spawn(async move { client::post(address, path, BODY).await });
            eventually("it is taken or answered", || {
                asked.is_finished() || self.taken.load(SeqCst) > 0
            })
            .await;
            if self.taken.load(SeqCst) > 0 {
                return asked;
            }
        }
    }
}

/// Waits until the proxy knows what each backend has in memory.
async fn until_known(proxy: &Proxy) {
    while (proxy.status().await["backends"].as_array().unwrap().iter())
        .any(|backend| backend["loaded"].is_null())
    {
        tokio::task::yield_now().await;
    }
}

async fn answer(asked: JoinHandle<Answer>) -> Answer {
    soon("an answer", asked).await.unwrap()
}

async fn check_relieved(is_loaded: bool) {
    let silent = Silent::start(is_loaded).await;
    let good = Backend::saying(&["m"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&silent.backend, &good]);
    until_known(&proxy).await;
    let asked = silent.until_waited_for(&proxy, "/api/generate").await;
    silent.backend.set_healthy(false);
    let answer = answer(asked).await;
    assert_eq!((answer.status, answer.backend()), (200, "b"), "{answer:?}");
    assert_eq!(answer.header("x-llamero-attempts"), Some("2"));
    eventually("its connection is closed", || silent.left.load(SeqCst) == 1).await;
    assert_eq!(silent.taken.load(SeqCst), 1);
    let state = proxy.backend("a").await;
    assert_eq!(
        (&state["state"], &state["failures"]),
        (&"down".into(), &1.into())
    );
    proxy.until_idle().await;
}

#[tokio::test]
async fn a_request_that_waits_for_a_node_that_goes_down_is_answered_by_another() {
    check_relieved(true).await;
}

#[tokio::test]
async fn a_load_on_a_node_that_goes_down_is_not_guarded() {
    check_relieved(false).await;
}

#[tokio::test]
async fn the_only_node_is_waited_for_until_it_is_back() {
    let silent = Silent::start(true).await;
    let stranger = Backend::saying(&["n"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&silent.backend, &stranger]);
    until_known(&proxy).await;
    let asked = silent.until_waited_for(&proxy, "/api/generate").await;
    silent.backend.set_healthy(false);
    proxy.until_state("a", "down").await;
    silent.backend.set_healthy(true);
    proxy.until_state("a", "up").await;
    silent.let_go.add_permits(1);
    let answer = answer(asked).await;
    assert_eq!((answer.status, answer.backend()), (200, "a"), "{answer:?}");
    assert_eq!(answer.header("x-llamero-attempts"), Some("1"));
    assert_eq!(stranger.calls(), 0);
}

#[tokio::test]
async fn who_comes_back_first_gets_the_request() {
    let silent = Silent::start(true).await;
    let good = Backend::saying(&["m"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&silent.backend, &good]);
    until_known(&proxy).await;
    let asked = silent.until_waited_for(&proxy, "/api/generate").await;
    good.set_healthy(false);
    proxy.until_state("b", "down").await;
    silent.backend.set_healthy(false);
    proxy.until_state("a", "down").await;
    assert!(!asked.is_finished(), "nobody else could have answered");
    good.set_healthy(true);
    let answer = answer(asked).await;
    assert_eq!((answer.status, answer.backend()), (200, "b"), "{answer:?}");
}

#[tokio::test]
async fn what_may_not_be_done_twice_is_waited_for() {
    let silent = Silent::start(true).await;
    let good = Backend::saying(&["m"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&silent.backend, &good]);
    until_known(&proxy).await;
    let asked = silent.until_waited_for(&proxy, "/api/of-tomorrow").await;
    silent.backend.set_healthy(false);
    proxy.until_state("a", "down").await;
    let other = proxy.post("/api/generate", BODY).await;
    assert_eq!((other.status, other.backend()), (200, "b"), "{other:?}");
    // The other one does well: nothing but the kind of the request keeps it where it is.
    let calls = good.calls();
    silent.backend.set_healthy(true);
    proxy.until_state("a", "up").await;
    silent.let_go.add_permits(1);
    let answer = answer(asked).await;
    assert_eq!((answer.status, answer.backend()), (200, "a"), "{answer:?}");
    assert_eq!(good.calls(), calls);
    assert_eq!(silent.taken.load(SeqCst), 1);
}
