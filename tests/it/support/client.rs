//! A client that writes what a test says and shows every byte that comes back.

use super::backend::{find, header};
use super::soon;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection.
#[derive(Debug)]
pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

/// An answer that was read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
    /// Whether the body came to the end that its framing promised.
    pub whole: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The backend that the proxy names.
    pub fn backend(&self) -> &str {
        self.header("x-llamero-backend").unwrap_or_default()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(soon("connect", TcpStream::connect(address)).await.unwrap())
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("send", self.stream.write_all(bytes.as_ref()))
            .await
            .unwrap();
    }

    /// A POST with a JSON body.
    pub async fn post(&mut self, path: &str, body: &str) {
        let length = body.len();
        self.send(format!(
            "POST {path} HTTP/1.1\r\nhost: lb.example\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
    }

    pub async fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: lb.example\r\n\r\n"))
            .await;
    }

    /// Reads until the text has come, and returns all up to and with it.
    pub async fn read_to(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = find(&self.read, text.as_bytes()) {
                let rest = self.read.split_off(at + text.len());
                let taken = std::mem::replace(&mut self.read, rest);
                return String::from_utf8_lossy(&taken).into_owned();
            }
            let read = soon(text, self.stream.read_buf(&mut self.read))
                .await
                .unwrap_or(0);
            assert!(
                read > 0,
                "the connection ended before {text:?}; there was {:?}",
                String::from_utf8_lossy(&self.read)
            );
        }
    }

    /// Reads until the connection ends: what came, and whether it ended with a reset.
    pub async fn read_all(&mut self) -> (String, bool) {
        let reset = loop {
            match soon(
                "the end of the connection",
                self.stream.read_buf(&mut self.read),
            )
            .await
            {
                Ok(0) => break false,
                Ok(_) => {}
                Err(_) => break true,
            }
        };
        (
            String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned(),
            reset,
        )
    }

    /// Reads one answer as its framing says.
    pub async fn answer(&mut self) -> Answer {
        let head = self.read_to("\r\n\r\n").await;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        if header(&head, "transfer-encoding").is_some() {
            let (body, whole) = self.chunks().await;
            return Answer {
                status,
                head,
                body,
                whole,
            };
        }
        let length = header(&head, "content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        let mut whole = true;
        while self.read.len() < length {
            if soon("a body", self.stream.read_buf(&mut self.read))
                .await
                .unwrap_or(0)
                == 0
            {
                whole = false;
                break;
            }
        }
        let rest = self.read.split_off(length.min(self.read.len()));
        let body = std::mem::replace(&mut self.read, rest);
        Answer {
            status,
            head,
            body: String::from_utf8_lossy(&body).into_owned(),
            whole,
        }
    }

    async fn chunks(&mut self) -> (String, bool) {
        let mut body = Vec::new();
        loop {
            let Some(chunk) = self.chunk().await else {
                return (String::from_utf8_lossy(&body).into_owned(), false);
            };
            if chunk.is_empty() {
                return (String::from_utf8_lossy(&body).into_owned(), true);
            }
            body.extend_from_slice(&chunk);
        }
    }

    /// One chunk of a chunked body, empty for the last; `None` if the connection ended instead.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(line_end) = find(&self.read, b"\r\n") {
                let size = std::str::from_utf8(&self.read[..line_end]).ok()?;
                let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
                let end = line_end + 2 + size + 2;
                if self.read.len() >= end {
                    let rest = self.read.split_off(end);
                    let chunk = std::mem::replace(&mut self.read, rest);
                    return Some(chunk[line_end + 2..line_end + 2 + size].to_vec());
                }
            }
            match soon("a chunk", self.stream.read_buf(&mut self.read)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Leaves with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
}

/// One POST on a connection of its own.
pub async fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    let mut client = Client::connect(address).await;
    client.post(path, body).await;
    client.answer().await
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    let mut client = Client::connect(address).await;
    client.get(path).await;
    client.answer().await
}
