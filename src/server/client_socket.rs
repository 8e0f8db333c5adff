//! A client's socket that can be watched for hang-up while hyper reads and writes it.
//!
//! hyper notices a client that leaves only by reading, and stops reading while it holds bytes it has not parsed: one
//! stray CRLF behind a request, or a pipelined second one, and a generation runs to its end for nobody. The kernel tells
//! of the hang-up apart from the data, so the connection's task listens for that.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// The most that one read takes, in bytes.
const READ_BYTES: usize = 16 << 10;

/// The side of the socket that hyper gets.
#[derive(Debug)]
pub struct ClientSocket(Arc<TcpStream>);

impl ClientSocket {
    pub fn new(stream: Arc<TcpStream>) -> Self {
        Self(stream)
    }
}

/// Waits until the client has closed its side or reset the connection, whatever is left unread.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub async fn hung_up(stream: &TcpStream) {
    // Nobody registers for urgent data, so this interest is left with the one event that every interest in reading has:
    // that reading has come to its end. Unlike an interest in readability it is not met by unread bytes.
    // An error means that the runtime is gone, and the connection with it.
    while stream
        .ready(Interest::PRIORITY)
        .await
        .is_ok_and(|ready| !ready.is_read_closed())
    {
        tokio::task::yield_now().await;
    }
}

/// Elsewhere hyper's own detection has to do.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub async fn hung_up(_: &TcpStream) {
    std::future::pending().await
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let wanted = buffer.remaining().min(READ_BYTES);
            let mut read = 0;
            // Fewer bytes than asked for mean that the kernel has no more. Saying so to tokio, from within the same look
            // at the socket, saves the next read that could only say it again.
            let outcome = self.0.try_io(Interest::READABLE, || {
                let socket = socket2::SockRef::from(&*self.0);
                read = io::Read::read(&mut &*socket, buffer.initialize_unfilled_to(wanted))?;
                if read > 0 && read < wanted {
                    Err(io::ErrorKind::WouldBlock.into())
                } else {
                    Ok(())
                }
            });
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && read == 0 => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                _ => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_try(cx, &self.0, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_try(cx, &self.0, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match socket2::SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write) {
            // The client was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            outcome => Poll::Ready(outcome),
        }
    }
}

fn poll_try(
    cx: &mut Context<'_>,
    stream: &TcpStream,
    mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match write(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return Poll::Ready(outcome),
        }
    }
}
