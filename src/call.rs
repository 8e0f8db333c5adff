//! A request read far enough to route it, and able to be sent again if that is safe.

use crate::address::Address;
use crate::budget::{Budget, Share};
use crate::demand::{Demand, Intent};
use crate::error::Error;
use crate::feed::Feed;
use crate::header;
use crate::link::{Outgoing, RequestBody, RequestHead};
use crate::pool::Backend;
use crate::reading::{self, Encoding, Reading};
use crate::route::{Action, Route};
use crate::session;
use crate::silence::Silence;
use crate::upload::{Upload, UploadWatch};
use crate::urgency::Urgency;
use crate::wire::{Family, Kind, ModelKey};
use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// What is set aside for a body on the client's word alone, in bytes.
const TRUSTED_BODY_BYTES: usize = 1 << 20;

/// A request on its way to some backend.
#[derive(Debug)]
pub struct Call {
    /// Its place in the route table.
    pub route: Route,
    /// What it asks for.
    pub demand: Demand,
    /// Its place among those that wait.
    pub urgency: Urgency,
    method: Method,
    target: PathAndQuery,
    /// Headers for any backend, as lines of a head.
    lines: BytesMut,
    /// The map that the headers came in, empty: the answer's will fit.
    spare: HeaderMap,
    body: Body,
    /// Whether some of it may have reached a backend.
    given: bool,
    limit: Option<TimeLimit>,
}

/// A time in which an answer must be there whole.
#[derive(Debug, Clone, Copy)]
pub struct TimeLimit {
    /// How long it is.
    pub time: Duration,
    /// When it is over.
    pub end: Instant,
}

/// How long a backend may be silent that reports how it gets on: it reads whole files without a word.
pub const PROGRESS_IDLE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
enum Body {
    /// Read whole; can be sent any number of times. The share is that of the original, not of its copies.
    Kept(
        Bytes,
        #[expect(dead_code, reason = "held for its drop")] Option<Share>,
    ),
    /// Passed on while it comes in, once.
    Upload {
        upload: Option<Upload>,
        watch: UploadWatch,
    },
    /// One backend's share of an upload.
    Feed {
        feed: Option<Feed>,
        watch: UploadWatch,
    },
}

/// Where a request comes from, and what that means for its headers.
#[derive(Debug)]
pub struct Sender<'a> {
    /// The other end of the connection.
    pub peer: &'a Address,
    /// The client behind trusted proxies.
    pub client: IpAddr,
    /// The trusted proxies.
    pub trusted: &'a [IpNet],
    /// What the request is called.
    pub request_id: &'a HeaderValue,
    /// What this proxy is called among others.
    pub via: &'a HeaderValue,
}

/// How much may be held of bodies.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    /// Bytes of one body.
    pub one: usize,
    /// Bytes of all bodies.
    pub all: usize,
    /// What is held of them.
    pub held: &'a Budget,
}

impl Call {
    /// Reads what routing needs: for [`Action::Pick`] the whole body, else none of it. Also returns the model's name as
    /// the client spelled it.
    ///
    /// Dropping the future stops reading; the rest of the body is drained for a while.
    ///
    /// # Errors
    /// When the body is too long, finds no room, breaks off, or is not what the route needs.
    pub async fn read(
        route: Route,
        request: Request<Incoming>,
        sender: Sender<'_>,
        room: Room<'_>,
    ) -> Result<(Self, Option<String>), Error> {
        let (parts, incoming) = request.into_parts();
        let mut upload = Upload::new(incoming);
        let is_question = parts.method == Method::GET || parts.method == Method::HEAD;
        let (body, reading) = match route.action {
            _ if is_question => {
                let is_picked = route.action == Action::Pick;
                let reading = Reading {
                    name: is_picked.then(|| last_segment(parts.uri.path())),
                    ..Reading::default()
                };
                (Body::Kept(Bytes::new(), None), reading)
            }
            Action::Pick | Action::Change | Action::Pull | Action::Create => {
                let encoding = Encoding::of(route, &parts.headers)?;
                let (bytes, share) = read_whole(upload, room).await?;
                let reading = reading::read(route, encoding, &parts, &bytes).await?;
                (Body::Kept(bytes, Some(share)), reading)
            }
            Action::Any
            | Action::Pin
            | Action::Blob
            | Action::Hello
            | Action::Version
            | Action::List(_) => {
                let watch = upload.watch();
                let upload = Some(upload);
                (Body::Upload { upload, watch }, Reading::default())
            }
        };
        let Reading { name, facts } = reading;
        let urgency = Urgency::of(route.label, &parts.headers);
        let session = session::of(&parts.headers).or(facts.session);
        let lines = header::for_backends(
            &parts.headers,
            sender.peer,
            sender.trusted,
            sender.request_id,
            sender.via,
        );
        let intent = Intent::of(route, &facts);
        let model = facts.model;
        let model = model.or_else(|| name.as_deref().and_then(ModelKey::parse));
        let demand = Demand {
            session,
            intent,
            is_embedding: Kind::of(route.label).is_embedding(),
            runner: facts.runner,
            output_limit: facts.output_limit,
            is_streamed: facts.stream.unwrap_or(route.family == Family::Native),
            prompt_bytes: facts.prompt_bytes,
            prefixes: facts.prefixes,
            ..Demand::new(model, sender.client)
        };
        let mut spare = parts.headers;
        spare.clear();
        let target = parts
            .uri
            .into_parts()
            .path_and_query
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        let call = Self {
            route,
            demand,
            urgency,
            method: parts.method,
            target,
            lines,
            spare,
            body,
            given: false,
            limit: None,
        };
        Ok((call, name))
    }

    /// Whether sending it again, after a backend may have begun to work on it, can do no harm: GET, HEAD, and what is
    /// [picked](Action::Pick), since generating text changes nothing but the time it costs.
    pub fn is_replayable(&self) -> bool {
        let harmless = self.route.action == Action::Pick
            || self.method == Method::GET
            || self.method == Method::HEAD;
        harmless && matches!(self.body, Body::Kept(..))
    }

    /// The body, where it was read whole.
    pub fn body(&self) -> &[u8] {
        match &self.body {
            Body::Kept(bytes, _) => bytes,
            Body::Upload { .. } | Body::Feed { .. } => &[],
        }
    }

    /// The same request once more, for another backend; without its body if that was not read whole.
    pub fn again(&self) -> Self {
        let body = match &self.body {
            Body::Kept(bytes, _) => bytes.clone(),
            Body::Upload { .. } | Body::Feed { .. } => Bytes::new(),
        };
        Self {
            route: self.route,
            demand: self.demand.clone(),
            urgency: self.urgency,
            method: self.method.clone(),
            target: self.target.clone(),
            lines: self.lines.clone(),
            spare: HeaderMap::new(),
            body: Body::Kept(body, None),
            given: false,
            limit: self.limit,
        }
    }

    /// The same request with a share of its upload as body.
    pub fn fed(&self, feed: Feed) -> Self {
        let body = Body::Feed {
            watch: feed.watch(),
            feed: Some(feed),
        };
        Self {
            body,
            ..self.again()
        }
    }

    /// The question whether what this request asks for is there.
    pub fn as_head(&self) -> Self {
        Self {
            method: Method::HEAD,
            body: Body::Kept(Bytes::new(), None),
            ..self.again()
        }
    }

    /// Gives away the upload, once.
    pub fn take_upload(&mut self) -> Option<Upload> {
        match &mut self.body {
            Body::Upload { upload, .. } => upload.take(),
            Body::Kept(..) | Body::Feed { .. } => None,
        }
    }

    /// Whether it may be sent now: always if it is [replayable](Self::is_replayable), else only while no backend was given
    /// any of it.
    pub fn may_be_sent(&self) -> bool {
        self.is_replayable() || !self.given
    }

    /// Takes back the body of a request of which nothing was sent.
    pub fn take_back(&mut self, unsent: RequestBody) {
        self.given = false;
        match (&mut self.body, unsent) {
            (Body::Upload { upload, .. }, RequestBody::Upload(unsent)) => *upload = Some(unsent),
            (Body::Feed { feed, .. }, RequestBody::Feed(unsent)) => *feed = Some(unsent),
            _ => {}
        }
    }

    /// Gives it so long from now until its answer must be there whole.
    pub fn set_limit(&mut self, time: Duration) -> TimeLimit {
        let end = Instant::now() + time;
        *self.limit.insert(TimeLimit { time, end })
    }

    /// When its answer is of no use any more, if ever.
    pub fn limit(&self) -> Option<TimeLimit> {
        self.limit
    }

    /// How long its answer may be silent once it has begun; `idle` unless something else is known of it.
    pub fn silence(&self, idle: Duration) -> Silence {
        match self.limit {
            Some(limit) => Silence::until(limit.end),
            None if self.route.reports_progress() => Silence::between(PROGRESS_IDLE.max(idle)),
            None => Silence::between(idle),
        }
    }

    /// Whether it is a HEAD request.
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whether the client's own body broke, so that no backend is to blame for what came of it.
    pub fn is_broken_by_client(&self) -> bool {
        match &self.body {
            Body::Kept(..) => false,
            Body::Upload { watch, .. } | Body::Feed { watch, .. } => watch.is_broken(),
        }
    }

    /// What the client is told if its own body broke.
    pub fn error_of_client(&self) -> Error {
        self.upload_watch()
            .map_or(Error::BodyBroken, |watch| watch.error())
    }

    /// Tells, for as long as anybody asks, whether the client's body broke; `None` if it was read whole.
    pub fn upload_watch(&self) -> Option<UploadWatch> {
        match &self.body {
            Body::Kept(..) => None,
            Body::Upload { watch, .. } | Body::Feed { watch, .. } => Some(watch.clone()),
        }
    }

    /// Bytes of the body, as far as it was read here.
    pub fn body_bytes(&self) -> u64 {
        match &self.body {
            Body::Kept(bytes, _) => bytes.len() as u64,
            Body::Upload { .. } | Body::Feed { .. } => 0,
        }
    }

    /// The request as one backend is to get it. `None` if a backend was given some of its body before.
    pub fn request_for(&mut self, backend: &Backend) -> Option<Outgoing> {
        self.given = true;
        let body = match &mut self.body {
            Body::Kept(bytes, _) => RequestBody::Kept(bytes.clone()),
            Body::Upload { upload, .. } => RequestBody::Upload(upload.take()?),
            Body::Feed { feed, .. } => RequestBody::Feed(feed.take()?),
        };
        let origin = &backend.spec().origin;
        let head = RequestHead {
            method: &self.method,
            prefix: origin.prefix(),
            target: self.target.as_str(),
            host: origin.authority(),
            lines: &self.lines,
        };
        let mut outgoing = Outgoing::new(&head, body);
        outgoing.spare = std::mem::take(&mut self.spare);
        Some(outgoing)
    }
}

/// The last segment of a path, its encodings undone.
fn last_segment(path: &str) -> String {
    let last = path.rsplit('/').next().unwrap_or_default();
    percent_encoding::percent_decode_str(last)
        .decode_utf8_lossy()
        .into_owned()
}

async fn read_whole(mut upload: Upload, room: Room<'_>) -> Result<(Bytes, Share), Error> {
    let limit = room.one;
    let too_large = || Error::BodyTooLarge { limit };
    let mut share = room.held.share();
    let announced = usize::try_from(upload.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = upload.frame().await {
        let Ok(data) = frame.map_err(|error| Error::of_body(&error))?.into_data() else {
            continue;
        };
        // Only what has come counts: else a few clients that announce much could keep everybody out.
        if !share.grow(data.len(), room.all) {
            return Err(Error::BodiesFull);
        }
        if first.is_empty() {
            // Most bodies come in one piece, which then needs no copy.
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(announced.min(TRUSTED_BODY_BYTES));
            whole.extend_from_slice(&first);
        }
        if whole.len() + data.len() > limit {
            return Err(too_large());
        }
        whole.extend_from_slice(&data);
    }
    if first.len() > limit {
        return Err(too_large());
    }
    let body = if whole.is_empty() {
        first
    } else {
        whole.freeze()
    };
    Ok((body, share))
}
