//! A backend's socket that can be asked what the kernel holds right now.
//!
//! Whether there is something to read is told by the runtime, a moment later. A backend that wrote behind its last answer,
//! or closed, would in that moment be given the next request, and what it wrote before be taken for the answer.
//!
//! Nor does a failed write end it: a backend that refuses an upload may answer and reset before it has read it, and the
//! answer waits to be read.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The side of the socket that hyper gets.
#[derive(Debug)]
pub struct BackendSocket {
    stream: TcpStream,
    look: Look,
    /// The backend takes nothing more. What is still written goes nowhere; reading tells the answer, or the end.
    is_deaf: bool,
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
            is_deaf: false,
        };
        (socket, look)
    }

    /// What a write came to, which is of so many bytes.
    fn written(&mut self, wrote: io::Result<usize>, bytes: usize) -> io::Result<usize> {
        match wrote {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.is_deaf = true;
                Ok(bytes)
            }
            wrote => wrote,
        }
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
        if self.is_deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let wrote = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        Poll::Ready(self.written(wrote, bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = || slices.iter().map(|slice| slice.len()).sum();
        if self.is_deaf {
            return Poll::Ready(Ok(bytes()));
        }
        let wrote = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices));
        Poll::Ready(self.written(wrote, bytes()))
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
