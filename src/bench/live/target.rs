//! What is driven: its address, its API, and the connections to it.

use crate::link::{Link, Links, RequestBody};
use crate::pool::Origin;
use crate::upstream::{self, describe};
use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body::Body as _;
use hyper::body::Incoming;
use serde::Deserialize;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How long a connection may take; the request's own timeout ends it earlier.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the target may take to list its models, and how long that list may be.
const LIST: Duration = Duration::from_secs(10);
const LIST_BYTES: usize = 16 << 20;

/// The API that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Api {
    /// Ollama's own: `/api/chat`, `/api/embed`.
    Native,
    /// `/v1/chat/completions`, `/v1/embeddings`.
    Openai,
}

/// A proxy or a node.
#[derive(Debug)]
pub struct Target {
    origin: Origin,
    pub(super) api: Api,
    links: Links,
    pub(super) sockets: Semaphore,
}

impl Target {
    /// A target at `url`, to which at most `connections` are open at one time.
    ///
    /// # Errors
    /// When the URL is no address that plain HTTP can be spoken to.
    pub fn new(url: &str, api: Api, connections: usize) -> anyhow::Result<Self> {
        Ok(Self {
            origin: Origin::parse(url)?,
            api,
            links: Links::default(),
            sockets: Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS)),
        })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.origin.to_string()
    }

    /// What it is called where it does not name a node.
    pub(super) fn name(&self) -> &str {
        self.origin.authority().to_str().unwrap_or("target")
    }

    /// The models that it lists, none if it knows no such list.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn models(&self) -> anyhow::Result<Vec<String>> {
        #[derive(Deserialize)]
        struct List {
            models: Vec<Named>,
        }
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        let answer = upstream::get(&self.origin, "/api/tags", LIST, LIST_BYTES).await;
        let (_, body) = answer.with_context(|| format!("{} does not answer", self.url()))?;
        let list: Option<List> = serde_json::from_slice(&body).ok();
        let models = list.map_or_else(Vec::new, |list| list.models);
        Ok(models.into_iter().map(|model| model.name).collect())
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        path: &str,
        client: Option<IpAddr>,
        body: Bytes,
    ) -> anyhow::Result<(Response<Incoming>, Link)> {
        let uri: Uri = format!("{}{path}", self.origin.prefix()).parse()?;
        let mut request = Request::new(RequestBody::Kept(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.origin.authority().clone());
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        if let Some(client) = client {
            let client = HeaderValue::try_from(client.to_string())?;
            headers.insert("x-forwarded-for", client);
        }
        if let Some(mut link) = self.links.take(Instant::now()) {
            match link.send(request).await {
                Ok(answer) => return Ok((answer, link)),
                // The other side closed it while it was idle.
                Err(failed) => match failed.unsent {
                    Some(unsent) => request = unsent,
                    None => return Err(anyhow!(describe(&failed.error))),
                },
            }
        }
        let mut link = Link::connect(&self.origin, CONNECT)
            .await
            .context("no connection")?;
        let answer = link.send(request).await;
        let answer = answer.map_err(|failed| anyhow!(describe(&failed.error)))?;
        Ok((answer, link))
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn keep(&self, link: Link) {
        self.links.put(link, Instant::now());
    }
}

/// The next piece of an answer; `None` at its end.
pub(super) async fn piece(body: &mut Incoming, link: &mut Link) -> Option<anyhow::Result<Bytes>> {
    let frame = poll_fn(|cx| {
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        link.drive(cx);
        Pin::new(&mut *body).poll_frame(cx)
    });
    match frame.await? {
        Ok(frame) => Some(Ok(frame.into_data().unwrap_or_default())),
        Err(error) => Some(Err(anyhow!(describe(&error)))),
    }
}
