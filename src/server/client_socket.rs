//! A client's socket that can be watched for hang-up while hyper reads and writes it, and that lets through to hyper only
//! what may be read in one way.
//!
//! hyper notices a client that leaves only by reading, and stops reading while it holds bytes it has not parsed: one
//! stray CRLF behind a request, or a pipelined second one, and a generation runs to its end for nobody. The kernel tells
//! of the hang-up apart from the data, so the connection's task listens for that.

use super::framing::{Fault, Framing};
use super::turn::Turn;
use crate::tcp;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

/// The side of the socket that hyper gets.
#[derive(Debug)]
pub struct ClientSocket<'s> {
    /// Reads into memory that nobody had to clear, and knows without asking when the kernel has no more.
    reader: ReadHalf<'s>,
    stream: &'s TcpStream,
    turn: Arc<Turn>,
    framing: Framing,
    /// What came last is not for hyper, nor is what comes after it.
    closed: Option<Closed>,
}

/// Why hyper gets no more.
#[derive(Debug, Clone, Copy)]
enum Closed {
    /// A head is refused, once what came before it is answered.
    Head,
    /// A body broke.
    Body,
}

impl<'s> ClientSocket<'s> {
    /// Reads one half of a stream and writes the other; heads may have so many bytes.
    pub fn new(
        reader: ReadHalf<'s>,
        stream: &'s TcpStream,
        turn: Arc<Turn>,
        head_bytes: usize,
    ) -> Self {
        Self {
            reader,
            stream,
            turn,
            framing: Framing::new(head_bytes),
            closed: None,
        }
    }

    /// Follows what was read, and says how many bytes of it hyper may have.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let was_in_body = self.framing.is_in_body();
        let was_in_head = self.framing.is_in_head();
        let fed = self.framing.feed(bytes);
        if self.framing.is_in_body() {
            if was_in_body {
                self.turn.body_came(bytes.len());
            } else {
                self.turn.note_body(true);
            }
        } else if was_in_body {
            self.turn.note_body(false);
        }
        let in_head = self.framing.is_in_head();
        self.turn.note_head(in_head);
        if in_head && !was_in_head {
            // Behind the rest of a body it is not worth searching for.
            self.turn.note_path(if was_in_body { &[] } else { bytes });
        }
        match fed {
            Ok(()) => bytes.len(),
            Err(Fault::Head(start, refusal)) => {
                if !was_in_head {
                    self.turn.note_path(bytes.get(start..).unwrap_or_default());
                }
                self.turn.refuse(refusal);
                self.closed = Some(Closed::Head);
                start
            }
            Err(Fault::Body(good)) => {
                self.closed = Some(Closed::Body);
                good
            }
        }
    }

    fn poll_closed(&self, closed: Closed) -> Poll<io::Result<()>> {
        match closed {
            // The flush that ends the answer under way wakes the task again.
            Closed::Head if !self.turn.is_clear() => Poll::Pending,
            Closed::Head | Closed::Body => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
        }
    }

    fn poll_try(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.stream.poll_write_ready(cx)?.is_pending() {
                self.turn.note_full();
                return Poll::Pending;
            }
            match write(self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => {
                    self.turn.note_write();
                    return Poll::Ready(outcome);
                }
            }
        }
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

impl AsyncRead for ClientSocket<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(closed) = self.closed {
            return self.poll_closed(closed);
        }
        if self.turn.is_body_late() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.reader).poll_read(cx, buffer);
        if polled.is_pending() && self.framing.is_in_body() {
            self.turn.await_body();
        }
        ready!(polled)?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        let (read, allowed) = (read.len(), self.follow(read));
        buffer.set_filled(before + allowed);
        match self.closed {
            // Nothing at all would be the end of the connection.
            Some(closed) if read > 0 && allowed == 0 => self.poll_closed(closed),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for ClientSocket<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = |bytes: &[u8]| self.poll_try(cx, |stream| stream.try_write(bytes));
        tcp::join(slices, write)
            .unwrap_or_else(|| self.poll_try(cx, |stream| stream.try_write_vectored(slices)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.turn.note_flush() && self.closed.is_some() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.closed, Some(Closed::Head)) {
            // The refusal is still to be written.
            return Poll::Ready(Ok(()));
        }
        match socket2::SockRef::from(self.stream).shutdown(std::net::Shutdown::Write) {
            // The client was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            outcome => Poll::Ready(outcome),
        }
    }
}
