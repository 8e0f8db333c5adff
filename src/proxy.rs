//! A request's straight way: route, read, choose, send, pass the answer on.

use crate::access::{Access, Ended};
use crate::address::Address;
use crate::budget::Budget;
use crate::call::{Call, Room, Sender};
use crate::demand::Intent;
use crate::early::{self, Early};
use crate::edge::Edge;
use crate::error::Error;
use crate::fleet;
use crate::head;
use crate::header;
use crate::link::Link;
use crate::lists;
use crate::load_guard;
use crate::overload::Level;
use crate::pool::{Backend, Lease};
use crate::relief::Relief;
use crate::reply::{Relay, ReplyBody, Source};
use crate::route::{Action, NoRoute, Route};
use crate::state::State;
use crate::upload::Upload;
use crate::upstream::{self, Failure};
use crate::wire::{Family, Meter};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, response};
use hyper::body::Incoming;
use smallvec::SmallVec;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How much of a refusal is read to see whether another backend may do better, in bytes.
const REFUSAL_BYTES: usize = 64 << 10;
/// How long that may take; a refusal that stalls is passed on as far as it came.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// How much later than a backend's whole answer the request itself is given up: who was asked for a part of it, and did not
/// answer in time, is known by then.
const SLACK: Duration = Duration::from_secs(1);
/// What Ollama says when a load or a runner failed, which another node may well manage.
const LOAD_FAILURES: [&[u8]; 6] = [
    b"llama-server process has terminated",
    b"error starting llama-server",
    b"timed out waiting for llama-server to start",
    b"unable to load full model on GPU",
    b"model runner has unexpectedly stopped",
    b"out of memory",
];

/// Takes requests from clients and brings them answers from backends. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Proxy {
    state: Arc<ArcSwap<State>>,
    active: Arc<AtomicUsize>,
    /// What is held of bodies that are read whole.
    bodies: Budget,
    /// What this proxy is called among others.
    via: HeaderValue,
}

/// An answer on its way to the client.
type Answer = Response<Source>;

impl Proxy {
    /// A proxy that serves whatever state is current when a request comes.
    pub fn new(state: Arc<ArcSwap<State>>) -> Self {
        Self {
            state,
            active: Arc::default(),
            bodies: Budget::default(),
            via: header::new_via(),
        }
    }

    /// Requests whose answer is not over.
    pub fn active(&self) -> usize {
        self.active.load(Relaxed)
    }

    /// The family whose clients call a path, below the mount or not.
    pub fn family_of(&self, path: &str) -> Family {
        Family::of(self.state.load().settings.path_prefix.rest(path))
    }

    /// Answers a request; whatever goes wrong becomes an answer too. Dropping the future, or the body of its answer,
    /// closes the connection to the backend at once.
    pub async fn handle(
        &self,
        mut request: Request<Incoming>,
        peer: &Address,
        overload: Level,
    ) -> Response<ReplyBody> {
        let state = self.state.load_full();
        let edge = Edge::enter(&mut request, &state.settings);
        let id = header::request_id(request.headers());
        let client =
            header::client_address(request.headers(), peer, &state.settings.trusted_proxies);
        let family = Family::of(request.uri().path());
        let mut access = Access::begin(id, client, request.method().clone(), &self.active);
        let refusal = if overload >= Level::Refusing {
            Some(Err(Error::Overloaded))
        } else {
            head::check(&request).err().map(Err)
        };
        if let Some(outcome) = refusal.or_else(|| edge.answer(&request)) {
            let_in(request);
            return finish(outcome, access, family, &edge);
        }
        let mut call = match self.read(&state, request, peer, &mut access).await {
            Ok(call) => call,
            Err(error) => return finish(Err(error), access, family, &edge),
        };
        if let Some(patience) = early::patience(&state, &call) {
            return self.answer_by(patience, &state, call, access, &edge).await;
        }
        let outcome = forward(&self.state, &state, &mut call, &mut access).await;
        finish(outcome, access, family, &edge)
    }

    /// Reads as much of a request as it takes to know where it goes.
    async fn read(
        &self,
        state: &State,
        request: Request<Incoming>,
        peer: &Address,
        access: &mut Access,
    ) -> Result<Call, Error> {
        let route = match Route::of(request.method(), request.uri().path()) {
            Ok(route) => route,
            Err(no_route) => {
                let_in(request);
                return Err(match no_route {
                    NoRoute::Method(allow) => Error::Method { allow },
                    NoRoute::OddPath => Error::OddPath,
                });
            }
        };
        access.route = route.label;
        let settings = &state.settings;
        let request_id = access.id.clone();
        let sender = Sender {
            peer,
            client: access.client.ip,
            trusted: &settings.trusted_proxies,
            request_id: &request_id,
            via: &self.via,
        };
        if header::has_passed(request.headers(), &self.via) {
            let_in(request);
            return Err(Error::Loop);
        }
        let room = Room {
            one: settings.limits.body,
            all: settings.limits.bodies,
            held: &self.bodies,
        };
        let (call, model) = Call::read(route, request, sender, room).await?;
        access.bytes_in = call.body_bytes();
        if let Some(name) = model {
            access.set_model(name);
        }
        Ok(call)
    }

    /// Answers a stream with its head alone if the backend's takes longer than the client shall wait. Boxed, since hardly a
    /// request is answered so, and all of them would have to have the room for it.
    fn answer_by<'a>(
        &'a self,
        patience: Duration,
        state: &Arc<State>,
        mut call: Call,
        mut access: Access,
        edge: &'a Edge<'_>,
    ) -> Pin<Box<dyn Future<Output = Response<ReplyBody>> + Send + 'a>> {
        let (family, id) = (call.route.family, access.id.clone());
        let beat = early::beat(&call, access.model.as_deref().unwrap_or_default());
        let (shared, state) = (Arc::clone(&self.state), Arc::clone(state));
        let mut waiting = Box::pin(async move {
            let outcome = forward(&shared, &state, &mut call, &mut access).await;
            (outcome, access)
        });
        Box::pin(async move {
            if let Ok((outcome, access)) = timeout(patience, &mut waiting).await {
                return finish(outcome, access, family, edge);
            }
            let rest = async move {
                let (outcome, access) = waiting.await;
                early::go_on(family, outcome, access).await
            };
            let mut answer = early::head(family, Early::new(beat, Box::pin(rest)));
            name(answer.headers_mut(), family, &id);
            edge.leave(answer.headers_mut());
            answer.map(|source| ReplyBody::new(source, None))
        })
    }
}

/// Whatever body comes with a request that is answered without it is let in, so that the client gets to read.
fn let_in(request: Request<Incoming>) {
    drop(Upload::new(request.into_body()));
}

/// Gives an outcome the form of an answer, and its record the outcome.
fn finish(
    outcome: Result<Answer, Error>,
    mut access: Access,
    family: Family,
    edge: &Edge<'_>,
) -> Response<ReplyBody> {
    // A relayed answer says at its end how it ended.
    access.ended = match &outcome {
        Ok(_) => Ended::Complete,
        Err(Error::BodyGone) => Ended::ClientGone,
        Err(_) => Ended::Refused,
    };
    access.error = outcome.as_ref().err().map(Error::to_string);
    let mut answer =
        outcome.unwrap_or_else(|error| error.into_response(family, &access.id).map(Source::Own));
    access.answered(answer.status());
    if let Source::Own(bytes) = answer.body() {
        access.bytes_out = bytes.len() as u64;
    }
    label(answer.headers_mut(), family, &access);
    edge.leave(answer.headers_mut());
    answer.map(|source| ReplyBody::new(source, Some(access)))
}

/// Does with a call what its route says, for a bounded time if that takes a backend no thought.
async fn forward(
    shared: &Arc<ArcSwap<State>>,
    state: &State,
    call: &mut Call,
    access: &mut Access,
) -> Result<Answer, Error> {
    let is_question = call.route.action == Action::Blob && call.is_head();
    let is_unload = call.demand.intent == Intent::Unload;
    if !call.route.is_control() && !is_question && !is_unload {
        return act(shared, state, call, access).await;
    }
    let limit = call.set_limit(state.settings.timeouts.control);
    timeout_at(limit.end + SLACK, act(shared, state, call, access))
        .await
        .unwrap_or(Err(Error::ControlLate(limit.time)))
}

/// Does with a call what its route says.
async fn act(
    shared: &Arc<ArcSwap<State>>,
    state: &State,
    call: &mut Call,
    access: &mut Access,
) -> Result<Answer, Error> {
    match call.route.action {
        Action::Hello => lists::hello(state),
        Action::Version => lists::version(state),
        Action::List(listing) => Ok(lists::list(shared, state, listing).await),
        Action::Change => fleet::change(state, shared, call, access).await,
        Action::Pick if !fleet::is_pinned(call) && call.demand.intent == Intent::Unload => {
            fleet::change(state, shared, call, access).await
        }
        Action::Pull => fleet::pull(state, shared, call, access).await,
        Action::Create => fleet::create(state, shared, call, access).await,
        Action::Blob => fleet::blob(state, call, access).await,
        Action::Pick | Action::Any | Action::Pin => send(state, call, access).await,
    }
}

/// Sends a call to one backend after another until one gives an answer that may stand.
async fn send(state: &State, call: &mut Call, access: &mut Access) -> Result<Answer, Error> {
    let settings = &state.settings;
    let pinned = fleet::is_pinned(call);
    let mut tried: SmallVec<[u64; 4]> = SmallVec::new();
    let mut last = Err(None);
    // Held while the request is out once more. No pause comes before that: it goes to another backend each time, so that
    // there are no steps to be kept from falling into, and whoever waits for an answer is spared the time.
    let mut retry = None;
    for attempts_left in (0..settings.attempts).rev() {
        let chosen = if pinned {
            fleet::lease_pinned(state, &tried, Instant::now())
        } else if call.route.loads_models() {
            let (demand, urgency) = (&call.demand, call.urgency);
            let admitted = state.queue.admit(state, demand, urgency, &tried, access);
            match admitted.await {
                Ok(chosen) => chosen,
                Err(busy) => {
                    last = last.or(Err(Some(busy)));
                    break;
                }
            }
        } else {
            state.choose(&call.demand, &tried, Instant::now())
        };
        let Some(lease) = chosen else {
            break;
        };
        let name = Arc::clone(&lease.backend().spec().name);
        tried.push(lease.backend().id());
        access.attempts += 1;
        access.backend = Some(lease.backend().label().clone());
        // The last attempt is better waited for, and so is the one backend that will do.
        let relief = (attempts_left > 0 && !pinned)
            .then(|| Relief::of(call, &state.pool, lease.backend(), &tried))
            .flatten();
        let outcome = load_guard::exchange(state, call, lease, relief).await;
        drop(retry.take());
        let is_free = outcome.as_ref().is_err_and(Failure::is_free);
        match outcome {
            Ok((lease, response)) => match judge(state, call, response, lease).await {
                Verdict::Pass(answer) => return Ok(credit(answer, access)),
                // An answer that another backend might better is kept in case none does.
                Verdict::Refusal(answer) => last = Ok(answer),
                Verdict::Lost(error) => last = last.or(Err(Some(error))),
            },
            Err(failure) => {
                let may_retry = failure.may_retry(call);
                let error = match failure {
                    Failure::Client => return Err(call.error_of_client()),
                    // It would be no different with another backend.
                    Failure::Exhausted(reason) => {
                        return Err(Error::NoBackend(format!(
                            "the proxy cannot make more connections: {reason}"
                        )));
                    }
                    Failure::Late(limit) => return Err(Error::ControlLate(limit)),
                    Failure::Connect { .. } => None,
                    Failure::Lost(reason) => Some(Error::Lost {
                        name: name.to_string(),
                        reason,
                    }),
                };
                last = last.or(Err(error));
                if !may_retry {
                    break;
                }
            }
        }
        if !is_free && !state.pool.has_sound(&tried, Instant::now()) {
            // Where one backend fails, another does the work instead of it. Where all do, each retry is load on top.
            retry = state.retries.begin(access.active());
            if retry.is_none() {
                break;
            }
        }
    }
    match last {
        Ok(answer) => Ok(credit(answer, access)),
        Err(Some(error)) => Err(error),
        Err(None) if pinned => Err(Error::NoBackend(fleet::explain_pin(state))),
        Err(None) => Err(Error::NoBackend(
            state.explain_refusal(call.demand.model.as_ref()),
        )),
    }
}

/// What to make of an answer's head.
enum Verdict {
    /// Give it to the client.
    Pass(Answer),
    /// Another backend may do better; if none does, this is the answer.
    Refusal(Answer),
    /// It broke off while it was looked at.
    Lost(Error),
}

async fn judge(state: &State, call: &Call, response: Response<Link>, lease: Lease) -> Verdict {
    let (mut parts, mut link) = response.into_parts();
    // An answer in HTTP/1.0 would be passed on as one, its end told by the end of the connection alone.
    parts.version = Version::HTTP_11;
    let meter = Meter::new(call.route.family, &parts.headers);
    let encoded = parts.headers.contains_key(http::header::CONTENT_ENCODING);
    header::for_client(&mut parts.headers, call.is_head());
    note_what_it_holds(state, call, &lease, parts.status);
    let relay = |parts, head, link, lease| {
        Response::from_parts(
            parts,
            Source::Relay(Box::new(Relay::new(
                head,
                link,
                lease,
                meter,
                call.upload_watch(),
                call.silence(state.settings.timeouts.stream_idle),
            ))),
        )
    };
    if encoded || !call.is_replayable() || !may_differ_elsewhere(state, call, parts.status) {
        return Verdict::Pass(relay(parts, Bytes::new(), link, lease));
    }
    match upstream::read_up_to(&mut link, REFUSAL_BYTES, REFUSAL_TIME).await {
        Ok((head, false)) => Verdict::Pass(relay(parts, head, link, lease)),
        Ok((whole, true)) => {
            lease.backend().links().put(link, Instant::now());
            // An error of a backend that failed before is more likely its own than one that all would give.
            let better_elsewhere = parts.status != StatusCode::INTERNAL_SERVER_ERROR
                || lease.is_on_probation()
                || is_load_failure(&whole);
            let answer = own(parts, whole, lease.backend());
            if better_elsewhere {
                Verdict::Refusal(answer)
            } else {
                Verdict::Pass(answer)
            }
        }
        Err(error) => {
            let reason = error.to_string();
            lease.failed(reason.clone(), Instant::now());
            Verdict::Lost(Error::Lost {
                name: lease.backend().name().to_owned(),
                reason,
            })
        }
    }
}

/// Whose answer it is.
#[derive(Debug, Clone)]
struct Credit(HeaderValue);

/// An answer that was read whole; it remembers who gave it, since others may be asked before it is used.
fn own(mut parts: response::Parts, whole: Bytes, backend: &Backend) -> Answer {
    parts.extensions.insert(Credit(backend.label().clone()));
    Response::from_parts(parts, Source::Own(whole))
}

/// Whether a status is worth asking another backend.
fn may_differ_elsewhere(state: &State, call: &Call, status: StatusCode) -> bool {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => true,
        StatusCode::INTERNAL_SERVER_ERROR => call.route.action == Action::Pick,
        // It was thought to hold the model, and does not: others may.
        StatusCode::NOT_FOUND => call
            .demand
            .model
            .as_ref()
            .is_some_and(|model| state.pool.may_be_held(model)),
        _ => false,
    }
}

fn is_load_failure(body: &[u8]) -> bool {
    LOAD_FAILURES
        .iter()
        .any(|text| memchr::memmem::find(body, text).is_some())
}

/// When a backend lacks a model that it was thought to hold, or has one that nobody was, what is known is out of date.
fn note_what_it_holds(state: &State, call: &Call, lease: &Lease, status: StatusCode) {
    let (Some(model), Action::Pick) = (&call.demand.model, call.route.action) else {
        return;
    };
    let thought = state.pool.is_held(model);
    if (thought && status == StatusCode::NOT_FOUND) || (!thought && status.is_success()) {
        lease.backend().doubt_inventory();
    }
}

/// Names the backend whose answer it is, which for one that was read whole need not be the last that was tried.
fn credit(answer: Answer, access: &mut Access) -> Answer {
    if let Some(Credit(name)) = answer.extensions().get() {
        access.backend = Some(name.clone());
    }
    answer
}

/// Tells the client what the request is called.
fn name(headers: &mut http::HeaderMap, family: Family, id: &HeaderValue) {
    headers.insert(header::REQUEST_ID, id.clone());
    if family == Family::Anthropic {
        headers.insert(header::ANTHROPIC_REQUEST_ID, id.clone());
    }
}

/// Tells the client what the request is called and who answered it.
fn label(headers: &mut http::HeaderMap, family: Family, access: &Access) {
    name(headers, family, &access.id);
    if access.attempts == 0 {
        return;
    }
    let attempts = match access.attempts {
        1 => HeaderValue::from_static("1"),
        attempts => HeaderValue::from(attempts),
    };
    headers.insert(header::ATTEMPTS, attempts);
    if let Some(name) = &access.backend {
        headers.insert(header::BACKEND, name.clone());
    }
}
