//! The clients: requests as fast as they are answered, small requests at a fixed rate, and open streams.

use crate::nodes::{CHUNK_EVERY, EVERY};
use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, timeout};

/// Connections that share the fixed rate.
const PACED_CONNECTIONS: u32 = 10;
/// Between two requests on each of them: 500 requests a second in all.
const PACED_EVERY: Duration = Duration::from_millis(20);
/// The longest that anything may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked again and again.
#[derive(Clone)]
pub struct Question {
    path: &'static str,
    body: Bytes,
}

impl Question {
    /// A short prompt.
    pub fn small() -> Self {
        Self {
            path: "/api/generate",
            body: Bytes::from_static(br#"{"model":"m","prompt":"Say hello.","stream":false}"#),
        }
    }

    /// A chat with a history of so many bytes.
    pub fn chat(bytes: usize) -> Self {
        const TURNS: [&str; 2] = [
            r#"{"role":"user","content":"And what of the \"occasional\" intervals?\nTell me about the wind."}"#,
            r#"{"role":"assistant","content":"It was a dark and stormy night; the rain fell in torrents, except at occasional intervals, when it was checked by a violent gust of wind which swept up the streets, rattling along the house-tops, and fiercely agitating the scanty flame of the lamps that struggled against the darkness."}"#,
        ];
        let mut turns = String::new();
        for turn in TURNS.iter().cycle() {
            turns.push_str(turn);
            if turns.len() >= bytes {
                break;
            }
            turns.push(',');
        }
        let body = format!(r#"{{"model":"m","stream":false,"messages":[{turns}]}}"#);
        Self {
            path: "/v1/chat/completions",
            body: body.into(),
        }
    }
}

/// One keep-alive connection.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Client {
    async fn connect(addresses: &[SocketAddr], index: usize) -> Result<Self> {
        let address = addresses.iter().cycle().nth(index);
        let address = address.ok_or_else(|| anyhow::anyhow!("no address to connect to"))?;
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        let host = address.to_string();
        Ok(Self { sender, host })
    }

    async fn post(&mut self, path: &str, body: Bytes, every: Duration) -> Result<Incoming> {
        let request = Request::post(path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json")
            .header(EVERY, every.as_millis().to_string())
            .body(Full::from(body))?;
        self.sender.ready().await?;
        let response = timeout(PATIENCE, self.sender.send_request(request)).await??;
        ensure!(response.status().is_success(), "{}", response.status());
        Ok(response.into_body())
    }

    async fn ask(&mut self, question: &Question) -> Result<()> {
        let answer = self.post(question.path, question.body.clone(), CHUNK_EVERY);
        let answer = timeout(PATIENCE, answer.await?.collect())
            .await??
            .to_bytes();
        ensure!(answer.ends_with(b"}"), "an answer was cut");
        Ok(())
    }
}

/// Asks `requests` times over so many connections, on each one after the other.
pub async fn closed_loop(
    addresses: &[SocketAddr],
    question: &Question,
    connections: usize,
    requests: u32,
) -> Result<()> {
    let left = Arc::new(AtomicU64::new(requests.into()));
    let mut tasks = JoinSet::new();
    for index in 0..connections {
        let mut client = Client::connect(addresses, index).await?;
        let (left, question) = (Arc::clone(&left), question.clone());
        tasks.spawn(async move {
            let take = |left: u64| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                client.ask(&question).await?;
            }
            anyhow::Ok(())
        });
    }
    tasks.join_all().await.into_iter().collect()
}

/// Sends small requests at a fixed, modest rate for so long, and says how long each took.
pub async fn paced(addresses: &[SocketAddr], lasting: Duration) -> Result<Vec<Duration>> {
    let mut tasks = JoinSet::new();
    let start = Instant::now() + PACED_EVERY;
    for index in 0..PACED_CONNECTIONS {
        let mut client = Client::connect(addresses, index as usize).await?;
        tasks.spawn(async move {
            let phase = PACED_EVERY * index / PACED_CONNECTIONS;
            let mut ticks = interval_at(start + phase, PACED_EVERY);
            let (mut took, question) = (Vec::new(), Question::small());
            while ticks.tick().await < start + lasting {
                let sent = Instant::now();
                client.ask(&question).await?;
                took.push(sent.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    let took: Result<Vec<Vec<Duration>>> = tasks.join_all().await.into_iter().collect();
    Ok(took?.concat())
}

/// Streams that are read until this is dropped.
pub struct Streams {
    reading: JoinSet<Result<()>>,
    chunks: Arc<AtomicU64>,
}

impl Streams {
    /// Opens so many, each on its own connection and with a chunk so often, and returns when every one has begun.
    pub async fn open(addresses: &[SocketAddr], count: usize, every: Duration) -> Result<Self> {
        let mut reading = JoinSet::new();
        let chunks = Arc::new(AtomicU64::new(0));
        for index in 0..count {
            let mut client = Client::connect(addresses, index).await?;
            let body = br#"{"model":"m","messages":[{"role":"user","content":"Say a lot."}]}"#;
            let body = Bytes::from_static(body);
            let mut stream = client.post("/api/chat", body, every).await?;
            let chunks = Arc::clone(&chunks);
            reading.spawn(async move {
                while let Some(frame) = timeout(PATIENCE, stream.frame()).await? {
                    let lines = frame?
                        .into_data()
                        .map_or(0, |data| memchr::memchr_iter(b'\n', &data).count() as u64);
                    chunks.fetch_add(lines, Ordering::Relaxed);
                }
                drop(client);
                Ok(())
            });
        }
        Ok(Self { reading, chunks })
    }

    /// Chunks that have come in so far, on all of them.
    pub fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// Fails if any has ended.
    pub fn still_running(&mut self) -> Result<()> {
        if let Some(ended) = self.reading.try_join_next() {
            ended??;
            anyhow::bail!("a stream ended early");
        }
        Ok(())
    }
}
