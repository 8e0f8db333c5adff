//! A client's request body while it comes in.

use crate::error::Error;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;

/// How long, and for how many bytes, a body that nobody wants is still read. A client that writes everything before it
/// reads would otherwise meet a reset connection instead of the answer that waits for it.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: u64 = 64 << 20;

/// Why a request's body could not be sent to its end.
#[derive(Debug, Error)]
pub enum BodyError {
    /// It broke off on its way in.
    #[error("{0}")]
    Upload(#[from] hyper::Error),
    /// Whoever passed it on gave up.
    #[error("the request body was given up")]
    Feed,
    /// It is not as long as was announced.
    #[error("the request body is not as long as announced")]
    Length,
}

/// A body from a client. Dropped before its end, it is drained in the background for a bounded time.
#[derive(Debug)]
pub struct Upload {
    body: Option<Incoming>,
    /// For whoever watches it, if anybody does.
    broken: Option<Arc<Broken>>,
}

/// Tells whether an upload broke by the client's fault, also after the upload was given away.
#[derive(Debug, Clone, Default)]
pub struct UploadWatch(Arc<Broken>);

#[derive(Debug, Default)]
struct Broken {
    off: AtomicBool,
    /// Because it did not come in time.
    late: AtomicBool,
    /// Because the client left.
    gone: AtomicBool,
}

impl UploadWatch {
    /// Whether the client broke off or sent a body that is no HTTP.
    pub fn is_broken(&self) -> bool {
        self.0.off.load(Relaxed)
    }

    /// Notes that it broke.
    pub fn set_broken(&self) {
        self.0.off.store(true, Relaxed);
    }

    /// What the client is told of it.
    pub fn error(&self) -> Error {
        if self.0.late.load(Relaxed) {
            Error::BodyLate
        } else if self.0.gone.load(Relaxed) {
            Error::BodyGone
        } else {
            Error::BodyBroken
        }
    }
}

impl Upload {
    /// Takes charge of a request's body.
    pub fn new(body: Incoming) -> Self {
        Self {
            body: Some(body),
            broken: None,
        }
    }

    /// A handle that outlives the upload.
    pub fn watch(&mut self) -> UploadWatch {
        UploadWatch(Arc::clone(self.broken.get_or_insert_default()))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        loop {
            return match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                // Trailers of a request are dropped on purpose: no Ollama route reads any.
                Some(Ok(frame)) if frame.is_trailers() => continue,
                Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(Err(error)) => {
                    self.body = None;
                    if let Some(broken) = &self.broken {
                        let why = Error::of_body(&error);
                        let (late, gone) = (&broken.late, &broken.gone);
                        late.store(matches!(why, Error::BodyLate), Relaxed);
                        gone.store(matches!(why, Error::BodyGone), Relaxed);
                        broken.off.store(true, Relaxed);
                    }
                    Poll::Ready(Some(Err(error)))
                }
                None => {
                    self.body = None;
                    Poll::Ready(None)
                }
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        // Outside a runtime there is no connection left to be kind to.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(drain(body));
        }
    }
}

async fn drain(mut body: Incoming) {
    let reading = async {
        let mut read = 0;
        while let Some(Ok(frame)) =
            std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
        {
            read += frame.data_ref().map_or(0, Bytes::len) as u64;
            if read > LINGER_BYTES {
                break;
            }
        }
    };
    // Whether it ended or ran out of time makes no difference: the connection's own task sees the rest.
    let _ = tokio::time::timeout(LINGER, reading).await;
}
