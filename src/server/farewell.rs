//! The end of a connection whose client may still be sending.
//!
//! A socket that is closed with unread bytes in it resets the connection, and the reset may overtake the answer. So the
//! answer is written, this side is closed, and what the client still sends is thrown away for a while.

use bytes::Bytes;
use http::Response;
use std::io;
use std::net::Shutdown;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the client may take to read and to close.
const LINGER: Duration = Duration::from_secs(2);
/// How much of what it sends is thrown away, in bytes.
const LINGER_BYTES: usize = 4 << 20;
const READ_BYTES: usize = 8 << 10;

/// Writes a last answer, if there is one, and waits for the client to close.
pub async fn take(stream: &TcpStream, answer: Option<Response<Bytes>>) {
    let leaving = async {
        if let Some(answer) = answer {
            write(stream, &text(&answer)).await?;
        }
        socket2::SockRef::from(stream).shutdown(Shutdown::Write)?;
        drain(stream).await
    };
    // However it ends, it has ended.
    let _: Result<io::Result<()>, _> = timeout(LINGER, leaving).await;
}

fn text(answer: &Response<Bytes>) -> Vec<u8> {
    let status = answer.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in answer.headers() {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let length = answer.body().len();
    text.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
    text.extend_from_slice(answer.body());
    text
}

async fn write(stream: &TcpStream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        stream.writable().await?;
        match stream.try_write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn drain(stream: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut read = 0;
    while read < LINGER_BYTES {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
