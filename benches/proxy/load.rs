//! The clients: small requests as fast as they are answered, small requests at a fixed rate, and open streams.

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

    async fn post(&mut self, path: &str, body: &'static str) -> Result<Incoming> {
        let request = Request::post(path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body))?;
        self.sender.ready().await?;
        let response = timeout(PATIENCE, self.sender.send_request(request)).await??;
        ensure!(response.status().is_success(), "{}", response.status());
        Ok(response.into_body())
    }

    async fn small(&mut self) -> Result<()> {
        let body = r#"{"model":"m","prompt":"Say hello.","stream":false}"#;
        let answer = self.post("/api/generate", body).await?;
        let answer = timeout(PATIENCE, answer.collect()).await??.to_bytes();
        ensure!(answer.ends_with(b"}"), "an answer was cut");
        Ok(())
    }
}

/// Sends `requests` small ones over so many connections, on each one after the other.
pub async fn closed_loop(
    addresses: &[SocketAddr],
    connections: usize,
    requests: u32,
) -> Result<()> {
    let left = Arc::new(AtomicU64::new(requests.into()));
    let mut tasks = JoinSet::new();
    for index in 0..connections {
        let mut client = Client::connect(addresses, index).await?;
        let left = Arc::clone(&left);
        tasks.spawn(async move {
            let take = |left: u64| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                client.small().await?;
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
            let mut took = Vec::new();
            while ticks.tick().await < start + lasting {
                let sent = Instant::now();
                client.small().await?;
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
    /// Opens so many, each on its own connection, and returns when every one has begun.
    pub async fn open(addresses: &[SocketAddr], count: usize) -> Result<Self> {
        let mut reading = JoinSet::new();
        let chunks = Arc::new(AtomicU64::new(0));
        for index in 0..count {
            let mut client = Client::connect(addresses, index).await?;
            let body = r#"{"model":"m","messages":[{"role":"user","content":"Say a lot."}]}"#;
            let mut stream = client.post("/api/chat", body).await?;
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
