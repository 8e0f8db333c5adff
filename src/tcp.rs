//! What every connection, to a client or to a backend, has set on its socket.

use socket2::{SockRef, TcpKeepalive};
use std::io::{self, IoSlice};
use std::time::Duration;
use tokio::net::TcpStream;

/// A peer that vanished without a word is found out in a minute: asked after half of one, and three times more.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;
/// How long written bytes may go unacknowledged.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// How much of an answer the kernel may hold that is not sent, in bytes. What is on its way is not counted, so that this
/// slows nobody down, near or far; without it, readers that have stopped could hold megabytes each.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
const UNSENT: u32 = 64 << 10;

/// What is copied together for a write, in bytes: a list of pieces costs the kernel more than so many bytes of one.
const JOINED: usize = 1024;

/// Writes short pieces as one; `None` if they are long.
pub fn join<R>(pieces: &[IoSlice<'_>], write: impl FnOnce(&[u8]) -> R) -> Option<R> {
    let bytes = pieces.iter().map(|piece| piece.len()).sum();
    let mut joined = [0; JOINED];
    let mut rest = joined.get_mut(..bytes)?;
    for piece in pieces {
        let (place, more) = rest.split_at_mut_checked(piece.len())?;
        place.copy_from_slice(piece);
        rest = more;
    }
    joined.get(..bytes).map(write)
}

/// Keeps the kernel from holding much for a client that does not read.
///
/// # Errors
/// When the connection has ended already.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
pub fn limit_unsent(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_tcp_notsent_lowat(UNSENT)
}

/// Elsewhere the system's own limit has to do.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
pub fn limit_unsent(_: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// Sends small writes at once, and notices peers that are gone.
///
/// # Errors
/// When the connection has ended already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[&[u8]], joined: Option<&[u8]>) {
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        assert_eq!(join(&slices, <[u8]>::to_vec).as_deref(), joined);
    }

    #[test]
    fn short_pieces_become_one_in_their_order_and_long_ones_are_left() {
        let (most, more) = (vec![b'x'; JOINED - 1], vec![b'x'; JOINED]);
        check(&[], Some(b""));
        check(&[b"head", b"", b"body", b"\r\n"], Some(b"headbody\r\n"));
        check(&[b"x", &most], Some(&more));
        check(&[b"x", &more], None);
        check(&[&more, b"x"], None);
    }
}
