//! A node and its clients, on blocking sockets: one step of one at a time, so that every run is the same.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER: &str = concat!(
    r#"{"model":"m","created_at":"2025-01-01T00:00:00.000000Z","response":"Hello.","done":true,"done_reason":"stop","#,
    r#""total_duration":1000000,"load_duration":1000,"prompt_eval_count":4,"prompt_eval_duration":1000,"eval_count":2,"eval_duration":1000}"#
);
const CHUNK: &str = concat!(
    r#"{"model":"m","created_at":"2025-01-01T00:00:00.000000Z","#,
    r#""message":{"role":"assistant","content":" word"},"done":false}"#,
    "\n"
);
const MODELS: &str = concat!(
    r#"{"models":[{"name":"m:latest","model":"m:latest","modified_at":"2025-01-01T00:00:00Z","size":1000,"#,
    r#""digest":"2af3b81862c6be03c769683af18efdadb2c33f60ff32ab6f83e42c043d6c7816","expires_at":"2125-01-01T00:00:00Z","#,
    r#""size_vram":1000,"details":{"format":"gguf","family":"llama","families":["llama"],"parameter_size":"1B","#,
    r#""quantization_level":"Q4_0"}}]}"#
);

/// A node that answers at once, and writes a stream's chunks when its client asks for them.
pub struct Node {
    pub address: SocketAddr,
}

impl Node {
    /// Runs until the process ends.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A proxy that hangs up is how every stream ends.
                thread::spawn(move || serve(stream).is_ok());
            }
        });
        Ok(Self { address })
    }
}

fn serve(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut socket = BufReader::new(stream);
    loop {
        let (first, _) = read_message(&mut socket)?;
        let out = socket.get_mut();
        match first.split(' ').nth(1) {
            Some("/api/chat") => {
                write!(
                    out,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
                )?;
                loop {
                    out.write_all(format!("{:x}\r\n{CHUNK}\r\n", CHUNK.len()).as_bytes())?;
                    gate::wait();
                }
            }
            Some("/api/tags" | "/api/ps") => write_json(out, MODELS)?,
            Some("/api/version") => write_json(out, r#"{"version":"0.13.5"}"#)?,
            _ => write_json(out, ANSWER)?,
        }
    }
}

fn write_json(out: &mut TcpStream, body: &str) -> Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndate: Mon, 01 Jan 2025 00:00:00 GMT\r\ncontent-length: {length}\r\n\r\n"
    );
    Ok(out.write_all((head + body).as_bytes())?)
}

/// Reads a head and the body that its `Content-Length` announces.
fn read_message(socket: &mut BufReader<TcpStream>) -> Result<(String, usize)> {
    let mut first = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        ensure!(socket.read_line(&mut line)? > 0, "closed");
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
        if first.is_empty() {
            first = line;
        }
    }
    std::io::copy(&mut socket.take(length), &mut std::io::sink())?;
    Ok((first, usize::try_from(length)?))
}

/// One keep-alive connection.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// So many small requests, one after the other.
    pub fn small(&mut self, count: usize) -> Result<()> {
        let body = r#"{"model":"m","prompt":"Say hello.","stream":false}"#;
        (0..count).try_for_each(|_| self.ask("/api/generate", body))
    }

    /// So many requests with a long history.
    pub fn big(&mut self, count: usize, bytes: usize) -> Result<()> {
        let turn = r#"{"role":"user","content":"It was a dark and stormy night; the rain fell in torrents, except at \"occasional\" intervals.\nThen it stopped."}"#;
        let turns = vec![turn; bytes / turn.len()].join(",");
        let body = format!(r#"{{"model":"m","stream":false,"messages":[{turns}]}}"#);
        (0..count).try_for_each(|_| self.ask("/v1/chat/completions", &body))
    }

    fn ask(&mut self, path: &str, body: &str) -> Result<()> {
        self.send(path, body)?;
        let (first, length) = read_message(&mut self.0)?;
        ensure!(first.contains("200") && length > 0, "{first}");
        Ok(())
    }

    /// Begins a stream, up to its first chunk.
    pub fn open(&mut self) -> Result<()> {
        self.send(
            "/api/chat",
            r#"{"model":"m","messages":[{"role":"user","content":"Say a lot."}]}"#,
        )?;
        let (first, _) = read_message(&mut self.0)?;
        ensure!(first.contains("200"), "{first}");
        self.read_chunk()
    }

    /// The next chunk of it.
    pub fn chunk(&mut self) -> Result<()> {
        gate::open();
        self.read_chunk()
    }

    fn read_chunk(&mut self) -> Result<()> {
        let mut line = String::new();
        for _ in 0..3 {
            self.0.read_line(&mut line).context("no chunk")?;
        }
        ensure!(line.contains("word"), "{line}");
        Ok(())
    }

    fn send(&mut self, path: &str, body: &str) -> Result<()> {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1:11434\r\nuser-agent: cost/1\r\naccept: */*\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        Ok(self.0.get_mut().write_all((head + body).as_bytes())?)
    }
}

/// What a stream waits at before each chunk.
mod gate {
    use std::sync::{Condvar, Mutex, PoisonError};

    static ASKED: Mutex<usize> = Mutex::new(0);
    static RUNG: Condvar = Condvar::new();

    /// Lets one stream write one chunk.
    pub fn open() {
        *ASKED.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        RUNG.notify_all();
    }

    /// Waits until a chunk is asked for.
    pub fn wait() {
        let asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = RUNG.wait_while(asked, |asked| *asked == 0);
        *asked.unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}
