//! A client that shows what was on the wire, chunk by chunk.

use crate::mock::{Model, Node, Profile};
use bytes::Bytes;
use serde_json::Value;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing in these tests takes this long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);

/// A profile in which everything happens at once.
pub(super) fn quick() -> Profile {
    Profile {
        models: vec![Model::named("llama3.2"), Model::named("nomic-embed-text")],
        answer_tokens: 6,
        time_scale: 10_000.0,
        ..Profile::default()
    }
}

pub(super) async fn start(profile: Profile) -> Node {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Node::start(any, profile).await.unwrap()
}

/// Fails a test that waits for something that does not come.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("it takes too long")
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    /// The chunks of the body; one if it was not chunked.
    pub(super) chunks: Vec<Bytes>,
    /// How the body ended before its end.
    pub(super) broken: Option<io::ErrorKind>,
}

impl Reply {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.chunks.concat()).unwrap()
    }

    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    #[track_caller]
    pub(super) fn lines(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    socket: BufReader<TcpStream>,
}

impl Client {
    pub(super) async fn connect(node: &Node) -> io::Result<Self> {
        let socket = TcpStream::connect(node.addr()).await?;
        Ok(Self {
            socket: BufReader::new(socket),
        })
    }

    pub(super) async fn send(&mut self, method: &str, path: &str, body: &str) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.socket.write_all(request.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.socket.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line)
    }

    /// Reads status and headers.
    pub(super) async fn head(&mut self) -> io::Result<Reply> {
        let mut reply = Reply::default();
        loop {
            let line = self.line().await?;
            if line.trim().is_empty() {
                break;
            }
            reply.head.push_str(&line);
        }
        let status = reply
            .head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        reply.status = status.ok_or(io::ErrorKind::InvalidData)?;
        Ok(reply)
    }

    /// Reads one chunk; an empty one is the last.
    pub(super) async fn chunk(&mut self) -> io::Result<Bytes> {
        let size = self.line().await?;
        let size =
            usize::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut chunk = vec![0; size];
        self.socket.read_exact(&mut chunk).await?;
        self.line().await?;
        Ok(chunk.into())
    }

    /// Reads a whole answer, or what there is of it.
    pub(super) async fn reply(&mut self, method: &str) -> io::Result<Reply> {
        let mut reply = self.head().await?;
        if method == "HEAD" || reply.status == 204 {
            return Ok(reply);
        }
        if let Some(length) = reply.header("content-length") {
            let mut body = vec![0; length.parse().unwrap()];
            self.socket.read_exact(&mut body).await?;
            reply.chunks.push(body.into());
            return Ok(reply);
        }
        loop {
            match self.chunk().await {
                Ok(chunk) if chunk.is_empty() => break,
                Ok(chunk) => reply.chunks.push(chunk),
                Err(error) => {
                    reply.broken = Some(error.kind());
                    break;
                }
            }
        }
        Ok(reply)
    }

    pub(super) async fn ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<Reply> {
        self.send(method, path, body).await;
        soon(self.reply(method)).await
    }
}

/// One request on a connection of its own.
pub(super) async fn ask(node: &Node, method: &str, path: &str, body: &str) -> Reply {
    let mut client = Client::connect(node).await.unwrap();
    client.ask(method, path, body).await.unwrap()
}

pub(super) async fn post(node: &Node, path: &str, body: &Value) -> Reply {
    ask(node, "POST", path, &body.to_string()).await
}
