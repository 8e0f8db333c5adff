//! Which address of a backend's name takes a connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long an address may say nothing until the next one is tried beside it, as browsers do (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to whichever of these is the first to take it. One that swallows everything must not hide those behind it: an
/// IPv6 address that leads nowhere, say. Dropping the future ends all tries.
///
/// # Errors
/// When all have failed, with what the last of them said. While one says nothing, this waits.
pub(super) async fn connect(
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> io::Result<TcpStream> {
    let mut addresses = addresses.into_iter().peekable();
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let first = addresses.next().ok_or_else(none)?;
    if addresses.peek().is_none() {
        return TcpStream::connect(first).await;
    }
    let mut next = Some(first);
    let mut tries = JoinSet::new();
    let mut failure = none();
    loop {
        if let Some(address) = next {
            tries.spawn(TcpStream::connect(address));
        }
        match timeout(HEAD_START, tries.join_next()).await {
            Err(_) => {} // silent so far
            Ok(None) => return Err(failure),
            Ok(Some(outcome)) => match outcome? {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            },
        }
        next = addresses.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address that refuses.
    async fn nobody() -> SocketAddr {
        listener().await.1
    }

    #[tokio::test]
    async fn the_next_one_is_tried_when_one_refuses() {
        let (_listener, good) = listener().await;
        let addresses = [nobody().await, nobody().await, good];
        let stream = connect(addresses).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        for addresses in [vec![nobody().await], vec![nobody().await, nobody().await]] {
            let error = connect(addresses).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
        let error = connect([]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// The kernel has no room for another connection to it, and drops what asks for one.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_next_one_is_tried_when_one_swallows() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let swallowing = full.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(HEAD_START, TcpStream::connect(swallowing)).await {
            waiting.push(stream.unwrap());
        }
        let (_listener, good) = listener().await;
        let connecting = timeout(Duration::from_secs(10), connect([swallowing, good]));
        let stream = connecting.await.expect("it is not waited for").unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
    }
}
