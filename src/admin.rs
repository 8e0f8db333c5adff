//! What operators and their tools ask, on a listener of its own.

use crate::address::Address;
use crate::error::Error;
use crate::health;
use crate::overload::{Level, Overload};
use crate::server::{Handler, Phase, Refusal};
use crate::state::State;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// Answers the admin API. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Arc<ArcSwap<State>>,
    phase: watch::Receiver<Phase>,
    overload: Arc<Overload>,
    config_file: Option<PathBuf>,
    started: Instant,
}

impl Admin {
    /// Looks at a proxy from outside.
    pub fn new(
        state: Arc<ArcSwap<State>>,
        phase: watch::Receiver<Phase>,
        overload: Arc<Overload>,
        config_file: Option<PathBuf>,
    ) -> Self {
        Self(Arc::new(Shared {
            state,
            phase,
            overload,
            config_file,
            started: Instant::now(),
        }))
    }

    fn answer(&self, method: &Method, path: &str, query: Option<&str>) -> Response<Full<Bytes>> {
        let verbose = query.is_some_and(|query| {
            query
                .split('&')
                .any(|pair| pair == "verbose" || pair == "verbose=true")
        });
        let known = matches!(path, "/livez" | "/readyz" | "/healthz" | "/api/v1/status");
        if known && method != Method::GET && method != Method::HEAD {
            let mut refusal = problem(StatusCode::METHOD_NOT_ALLOWED, "use GET");
            refusal
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match path {
            "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" | "/healthz" => self.ready(verbose),
            "/api/v1/status" => json_answer(StatusCode::OK, "application/json", &self.status()),
            _ => problem(
                StatusCode::NOT_FOUND,
                "try /livez, /readyz, /healthz or /api/v1/status",
            ),
        }
    }

    /// Ready: not on the way out, and some backend may be given requests. One that is ejected is, if no other can be.
    fn ready(&self, verbose: bool) -> Response<Full<Bytes>> {
        let serving = *self.0.phase.borrow() == Phase::Serving;
        let usable = self.usable_backends();
        let status = if serving && usable > 0 {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        if !verbose {
            return text(
                status,
                if status == StatusCode::OK {
                    "ok\n"
                } else {
                    "not ready\n"
                }
                .to_owned(),
            );
        }
        let mark = |passed| if passed { '+' } else { '-' };
        text(
            status,
            format!(
                "[{}] serving\n[{}] backends: {usable} usable\n",
                mark(serving),
                mark(usable > 0)
            ),
        )
    }

    fn usable_backends(&self) -> usize {
        let state = self.0.state.load();
        let usable = state
            .pool
            .backends()
            .iter()
            .filter(|b| !b.spec().drain && b.condition().0 != health::State::Down);
        usable.count()
    }

    fn status(&self) -> Value {
        let state = self.0.state.load_full();
        let now = Instant::now();
        let backends: Vec<_> = state
            .pool
            .backends()
            .iter()
            .map(|backend| backend_status(backend, now))
            .collect();
        let loaded_at = Timestamp::try_from(state.loaded_at).unwrap_or_default();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": now.saturating_duration_since(self.0.started).as_secs(),
            "config": {
                "file": self.0.config_file,
                "hash": state.config_hash.to_string(),
                "loaded_at": loaded_at.to_string(),
            },
            "strategy": state.settings.strategy.name,
            "overload": self.0.overload.status(),
            "queue": state.queue.status(),
            "reloads_avoided": state.pool.reloads_avoided(),
            "backends": backends,
        })
    }
}

fn backend_status(backend: &crate::pool::Backend, now: Instant) -> Value {
    let (condition, last_error) = backend.condition();
    let spec = backend.spec();
    let state = if spec.drain && condition == health::State::Up {
        "draining"
    } else {
        condition.as_str()
    };
    let restraint = backend.restraint(now);
    let ejected_until = restraint.ejected_until.and_then(|until| {
        let left = SignedDuration::try_from(until.saturating_duration_since(now)).ok()?;
        Some(Timestamp::now().checked_add(left).ok()?.to_string())
    });
    let inventory = backend.inventory();
    let report = backend.report(now);
    let measured = |rate: f64| report.is_proven.then(|| (rate * 10.0).round() / 10.0);
    let memory = report
        .memory
        .iter()
        .map(|(model, is_loading)| json!({ "model": model.name(), "loading": is_loading }));
    json!({
        "name": backend.name(),
        "url": spec.origin.to_string(),
        "state": state,
        "last_error": last_error.as_deref(),
        "ejected_until": ejected_until,
        "slow_start": restraint.limit,
        "weight": spec.weight,
        "slots": spec.slots.unwrap_or(report.slots),
        "slots_learnt": spec.slots.is_none(),
        "in_flight": backend.in_flight(),
        "models": inventory.as_deref().map(crate::pool::Inventory::names),
        "loaded": backend.loaded().map(|loaded| loaded.models.iter().map(|model| model.name.clone()).collect::<Vec<_>>()),
        "memory": memory.collect::<Vec<_>>(),
        "tokens_per_second": measured(report.speed.decode),
        "prompt_tokens_per_second": measured(report.speed.prefill),
        "pace": report.live,
        "stuck": report.is_stuck,
        "version": backend.version().as_deref(),
        "requests": backend.requests(),
        "failures": backend.failures(),
        "ttft_ms": { "mean": backend.ttfb(crate::ewma::Tick::of(now)).map(|reading| (reading.seconds * 1e5).round() / 100.0) },
    })
}

impl Handler for Admin {
    type Body = Full<Bytes>;

    async fn handle(
        &self,
        request: Request<Incoming>,
        _: &Address,
        _: Level,
    ) -> Response<Full<Bytes>> {
        self.answer(
            request.method(),
            request.uri().path(),
            request.uri().query(),
        )
    }

    fn refuse(&self, refusal: Refusal, _: Option<&str>, head_bytes: usize) -> Response<Bytes> {
        let error = Error::of_refusal(refusal, head_bytes);
        let mut response = Response::new(format!("{error}\n").into());
        *response.status_mut() = error.status();
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        response
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", body.into())
}

fn json_answer(status: StatusCode, kind: &'static str, body: &Value) -> Response<Full<Bytes>> {
    answer(status, kind, format!("{body}\n").into())
}

/// An error as RFC 9457 shapes it.
fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let body =
        json!({ "title": status.canonical_reason(), "status": status.as_u16(), "detail": detail });
    json_answer(status, "application/problem+json", &body)
}

fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
