//! A backend's socket that can be asked what the kernel holds right now.
//!
//! Whether there is something to read is told by the runtime, a moment later. A backend that wrote behind its last answer,
//! or closed, would in that moment be given the next request, and what it wrote before be taken for the answer.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The side of the socket that hyper gets.
#[derive(Debug)]
pub struct BackendSocket {
    stream: TcpStream,
    look: Look,
}

/// Has the next read look at the kernel itself.
#[derive(Debug, Clone, Default)]
pub struct Look(Arc<AtomicBool>);

impl Look {
    /// Asks for a look, or no more.
    pub fn set(&self, wanted: bool) {
        self.0.store(wanted, Relaxed);
    }
}

impl BackendSocket {
    /// The socket, and what makes it look.
    pub fn new(stream: TcpStream) -> (Self, Look) {
        let look = Look::default();
        let socket = Self {
            stream,
            look: look.clone(),
        };
        (socket, look)
    }

    /// Whether the kernel holds bytes, the end of the connection, or an error.
    fn holds_something(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        match socket2::SockRef::from(&self.stream).peek(&mut byte) {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

impl AsyncRead for BackendSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_pending() && self.look.0.load(Relaxed) && self.holds_something() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        polled
    }
}

impl AsyncWrite for BackendSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
