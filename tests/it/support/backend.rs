//! A backend that does on the wire exactly what a test tells it to, byte by byte.

use super::{PATIENCE, soon};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// A scripted backend. It answers checks and lists of models by itself, with all models in memory; every other request
/// is the script's.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
    healthy: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// A connection with one request on it that was read whole.
#[derive(Debug)]
pub struct Call {
    pub stream: TcpStream,
    pub head: String,
    pub body: Vec<u8>,
}

impl Backend {
    /// Starts one that holds `models` and runs the script for each request.
    pub async fn start<F, R>(models: &[&str], script: F) -> Self
    where
        F: Fn(Call) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::launch(models, script, true).await
    }

    /// The same, but the script is given `/api/ps` too.
    pub async fn start_with_ps<F, R>(models: &[&str], script: F) -> Self
    where
        F: Fn(Call) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::launch(models, script, false).await
    }

    async fn launch<F, R>(models: &[&str], script: F, answers_ps: bool) -> Self
    where
        F: Fn(Call) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let healthy = Arc::new(AtomicBool::new(true));
        let listed: Vec<_> = models
            .iter()
            .map(|name| format!(r#"{{"name":"{name}"}}"#))
            .collect();
        let tags = format!(r#"{{"models":[{}]}}"#, listed.join(","));
        let counter = Arc::clone(&calls);
        let well = Arc::clone(&healthy);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let (tags, script, counter, well) =
                    (tags.clone(), script.clone(), counter.clone(), well.clone());
                tokio::spawn(async move {
                    let Some(mut call) = Call::read(stream).await else {
                        return;
                    };
                    if call.head.starts_with("GET /api/version ") {
                        let status = if well.load(SeqCst) {
                            "200 OK"
                        } else {
                            "500 Internal Server Error"
                        };
                        call.answer(status, "application/json", r#"{"version":"0.33.0"}"#)
                            .await;
                    } else if call.head.starts_with("GET /api/tags ")
                        || (answers_ps && call.head.starts_with("GET /api/ps "))
                    {
                        call.answer("200 OK", "application/json", &tags).await;
                    } else {
                        counter.fetch_add(1, SeqCst);
                        script(call).await;
                    }
                });
            }
        });
        Self {
            address,
            calls,
            healthy,
            task,
        }
    }

    /// One that answers every request with this text as JSON.
    pub async fn saying(models: &[&str], text: &'static str) -> Self {
        Self::start(models, move |mut call| async move {
            call.answer("200 OK", "application/json", text).await;
        })
        .await
    }

    /// One that answers every request with this status and a JSON error.
    pub async fn failing(models: &[&str], status: &'static str, error: &'static str) -> Self {
        let body = format!(r#"{{"error":"{error}"}}"#);
        Self::start(models, move |mut call| {
            let body = body.clone();
            async move { call.answer(status, "application/json", &body).await }
        })
        .await
    }

    /// How the configuration names it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests the script was given.
    pub fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    /// Whether its checks pass.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, SeqCst);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address that nobody listens on.
pub async fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

impl Call {
    /// Reads a request with `Content-Length` or without a body; `None` if the connection ends first.
    pub async fn read(stream: TcpStream) -> Option<Self> {
        let mut call = Self::read_head(stream).await?;
        call.read_body().await?;
        Some(call)
    }

    /// Reads a request's head, and what came with it of its body; `None` if the connection ends first.
    pub async fn read_head(mut stream: TcpStream) -> Option<Self> {
        let mut read = Vec::new();
        let head_end = loop {
            if let Some(at) = find(&read, b"\r\n\r\n") {
                break at + 4;
            }
            if timeout(PATIENCE, stream.read_buf(&mut read))
                .await
                .ok()?
                .ok()?
                == 0
            {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&read[..head_end]).into_owned();
        let body = read.split_off(head_end);
        Some(Self { stream, head, body })
    }

    /// Reads the rest of a body whose length was told.
    pub async fn read_body(&mut self) -> Option<()> {
        let length = self.header("content-length");
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        while self.body.len() < length {
            if timeout(PATIENCE, self.stream.read_buf(&mut self.body))
                .await
                .ok()?
                .ok()?
                == 0
            {
                return None;
            }
        }
        Some(())
    }

    /// A header's value, if the request has it.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub async fn write(&mut self, text: &str) {
        // The proxy may be gone, which is then what the test is about.
        let _ = self.stream.write_all(text.as_bytes()).await;
        let _ = self.stream.flush().await;
    }

    /// A whole answer; the connection is closed after it.
    pub async fn answer(&mut self, status: &str, kind: &str, body: &str) {
        let length = body.len();
        self.write(&format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        ))
        .await;
    }

    /// The head of a chunked stream.
    pub async fn begin(&mut self, kind: &str) {
        self.write(&format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        ))
        .await;
    }

    pub async fn chunk(&mut self, text: &str) {
        self.write(&format!("{:x}\r\n{text}\r\n", text.len())).await;
    }

    pub async fn end(&mut self) {
        self.write("0\r\n\r\n").await;
    }

    /// Resets the connection.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// Waits until the proxy has closed or reset the connection, and says when.
    pub async fn gone(&mut self) -> Instant {
        let mut rest = [0; 1024];
        soon("the proxy leaves", async {
            while self.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        })
        .await;
        Instant::now()
    }
}

pub fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields
        .find(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}
