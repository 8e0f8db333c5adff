//! Nodes that cost as little as they can: one model, a small answer, and a stream of fifty chunks a second.

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Interval, interval};

/// The header that says how many milliseconds are between two chunks.
pub const EVERY: &str = "x-every";
/// Between two chunks of a stream, unless that says otherwise.
pub const CHUNK_EVERY: Duration = Duration::from_millis(20);
/// After so many chunks a stream ends: two minutes, longer than anything that is measured.
const CHUNKS: u32 = 6_000;
const CHUNK: &str = concat!(
    r#"{"model":"m","created_at":"2025-01-01T00:00:00.000000Z","#,
    r#""message":{"role":"assistant","content":" word"},"done":false}"#,
    "\n"
);
const ANSWER: &str = concat!(
    r#"{"model":"m","created_at":"2025-01-01T00:00:00.000000Z","response":"Hello.","done":true,"done_reason":"stop","#,
    r#""total_duration":1000000,"load_duration":1000,"prompt_eval_count":4,"prompt_eval_duration":1000,"eval_count":2,"eval_duration":1000}"#
);
const VERSION: &str = r#"{"version":"0.13.5"}"#;
const MODELS: &str = concat!(
    r#"{"models":[{"name":"m:latest","model":"m:latest","modified_at":"2025-01-01T00:00:00Z","size":1000,"#,
    r#""digest":"2af3b81862c6be03c769683af18efdadb2c33f60ff32ab6f83e42c043d6c7816","expires_at":"2125-01-01T00:00:00Z","#,
    r#""size_vram":1000,"details":{"format":"gguf","family":"llama","families":["llama"],"parameter_size":"1B","#,
    r#""quantization_level":"Q4_0"}}]}"#
);

/// Nodes that run until this is dropped.
pub struct Nodes {
    /// Where they listen.
    pub addresses: Vec<SocketAddr>,
    _accepting: JoinSet<()>,
}

impl Nodes {
    /// Starts so many on free ports.
    pub async fn start(count: usize) -> Result<Self> {
        let mut addresses = Vec::new();
        let mut accepting = JoinSet::new();
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            addresses.push(listener.local_addr()?);
            accepting.spawn(accept(listener));
        }
        Ok(Self {
            addresses,
            _accepting: accepting,
        })
    }
}

async fn accept(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let unbuffered = socket.set_nodelay(true);
        connections.spawn(async move {
            unbuffered?;
            // A proxy that hangs up in the middle of a stream is how every measurement ends.
            let served =
                http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer));
            std::io::Result::Ok(served.await.is_ok())
        });
    }
}

type Answer = Either<Full<Bytes>, Ticks>;

async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, hyper::Error> {
    let (head, body) = request.into_parts();
    body.collect().await?;
    let text = match (head.method, head.uri.path()) {
        (Method::GET | Method::HEAD, "/") => "Ollama is running",
        (Method::GET, "/api/version") => VERSION,
        (Method::GET, "/api/tags" | "/api/ps") => MODELS,
        (Method::POST, "/api/generate" | "/v1/chat/completions") => ANSWER,
        (Method::POST, "/api/chat") => {
            let every = head
                .headers
                .get(EVERY)
                .and_then(|every| every.to_str().ok()?.parse().ok());
            let every = every.map_or(CHUNK_EVERY, Duration::from_millis);
            return Ok(Response::new(Either::Right(Ticks::new(every))));
        }
        _ => {
            let mut response = Response::new(Either::Left(Full::default()));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
    };
    Ok(Response::new(Either::Left(Full::from(text))))
}

/// A body of chunks, one each so often, the first at once.
struct Ticks {
    interval: Interval,
    left: u32,
}

impl Ticks {
    fn new(every: Duration) -> Self {
        Self {
            interval: interval(every),
            left: CHUNKS,
        }
    }
}

impl Body for Ticks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        ready!(self.interval.poll_tick(cx));
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(CHUNK.as_bytes())))))
    }
}
