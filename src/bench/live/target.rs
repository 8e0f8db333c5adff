//! What is driven: its address, its API, and the connections to it.

use crate::header::{FORWARDED_FOR, put_line};
use crate::link::{Link, Links, Outgoing, RequestBody, RequestHead};
use crate::pool::Origin;
use crate::upstream;
use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Response, header};
use serde::Deserialize;
use std::future::poll_fn;
use std::net::IpAddr;
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
    ) -> anyhow::Result<Response<Link>> {
        let mut lines = BytesMut::new();
        let json = HeaderValue::from_static("application/json");
        put_line(&mut lines, &header::CONTENT_TYPE, &json);
        if let Some(client) = client {
            let client = HeaderValue::try_from(client.to_string())?;
            put_line(&mut lines, &FORWARDED_FOR, &client);
        }
        let head = RequestHead {
            method: &Method::POST,
            prefix: self.origin.prefix(),
            target: path,
            host: self.origin.authority(),
            lines: &lines,
        };
        let request = || Outgoing::new(&head, RequestBody::Kept(body.clone()));
        if let Some(link) = self.links.take(Instant::now()) {
            match link.send(request()).await {
                Ok(answer) => return Ok(answer),
                // The other side closed it while it was idle.
                Err(failed) if failed.unsent.is_some() => {}
                Err(failed) => return Err(failed.error.into()),
            }
        }
        let link = Link::connect(&self.origin, CONNECT)
            .await
            .context("no connection")?;
        link.send(request())
            .await
            .map_err(|failed| failed.error.into())
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn keep(&self, link: Link) {
        self.links.put(link, Instant::now());
    }
}

/// The next piece of an answer; `None` at its end.
pub(super) async fn piece(link: &mut Link) -> Option<anyhow::Result<Bytes>> {
    let piece = poll_fn(|cx| link.poll_piece(cx)).await?;
    Some(piece.map_err(Into::into))
}
