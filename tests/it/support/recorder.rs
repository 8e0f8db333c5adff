//! A backend that keeps every byte it is sent.

use super::backend::find;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Answers every request with `{}`, also on kept connections, and has the model `m`. What checks and lists ask is not kept.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

/// The paths that the proxy asks for by itself.
const OWN: [&[u8]; 3] = [b"GET /api/version ", b"GET /api/tags ", b"GET /api/ps "];

impl Recorder {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let kept = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&kept)));
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests since the last time, each with all bytes that came with it, broken ones too.
    pub fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, kept: Arc<Mutex<Vec<Vec<u8>>>>) {
    loop {
        let mut read = Vec::new();
        let mut slot = None;
        // Kept as it comes, so that nothing is missed of what breaks off.
        while !is_whole(&read) {
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
            let own = OWN
                .iter()
                .any(|own| own.starts_with(&read[..own.len().min(read.len())]));
            if own {
                continue;
            }
            let mut kept = kept.lock().unwrap();
            let at = *slot.get_or_insert(kept.len());
            if at < kept.len() {
                kept[at].clone_from(&read);
            } else {
                kept.push(read.clone());
            }
        }
        let body = if read.starts_with(OWN[0]) {
            r#"{"version":"0.33.0"}"#
        } else if slot.is_none() {
            r#"{"models":[{"name":"m"}]}"#
        } else {
            "{}"
        };
        let length = if read.starts_with(b"HEAD") {
            String::new()
        } else {
            body.to_owned()
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{length}",
            body.len()
        );
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Whether a request with a `content-length`, in chunks or without a body has come.
fn is_whole(read: &[u8]) -> bool {
    let Some(end) = find(read, b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&read[..end + 4]).to_ascii_lowercase();
    if head.contains("\r\ntransfer-encoding:") {
        return read.ends_with(b"\r\n0\r\n\r\n");
    }
    let length = super::backend::header(&head, "content-length");
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    read.len() >= end + 4 + length
}
