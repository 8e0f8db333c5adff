//! Whose turn it is on a connection, since when, and how long that may be.
//!
//! The socket notes what the client does, the service what the proxy does, and the connection's task looks at it only
//! when its one alarm goes off. The alarm is moved when something must happen earlier than it is set, never because
//! something did happen: a connection at work moves no timer.

use super::framing::Refusal;
use crate::alarm::Alarm;
use crate::overload::{Level, Overload};
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// The fewest bytes per second of a body, on average, once it was waited for as long as a pause may be.
const BODY_RATE: u64 = 1024;
/// How often the average of a body is looked at.
const RATE_EVERY: Duration = Duration::from_secs(1);
/// Between two requests, while the process is hard pressed; and how often an idle connection looks whether it is.
const BRIEF_IDLE: Duration = Duration::from_secs(5);
/// No time is noted, and no time that the alarm is set to.
const NEVER: u64 = u64::MAX;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Between two requests.
    pub idle: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Without a byte of a body.
    pub body: Duration,
    /// Without taking a byte of an answer.
    pub write: Duration,
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// The next request.
    Request,
    /// The end of a head.
    Head,
    /// Some bytes of a body.
    Body,
    /// The client's reading.
    Reading,
}

/// What one connection does. All of it happens in one task; times are in nanoseconds since the connection began.
#[derive(Debug)]
pub struct Turn {
    began: Instant,
    patience: Patience,
    overload: Arc<Overload>,
    /// When the alarm is to go off.
    due: AtomicU64,
    /// A request is being answered.
    busy: AtomicBool,
    /// The last answer was given to the kernel to its end.
    flushed: AtomicBool,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    body: Bodily,
    unread_since: AtomicU64,
    refusal: OnceLock<Refusal>,
    /// What the head asks for that came in more than one piece or is refused, as far as that is known.
    path: Mutex<Option<Box<str>>>,
}

/// How a body comes in.
#[derive(Debug)]
struct Bodily {
    awaited_since: AtomicU64,
    /// Nanoseconds that were waited for it before.
    awaited: AtomicU64,
    bytes: AtomicU64,
    late: AtomicBool,
    unfinished: AtomicBool,
}

impl Turn {
    /// A connection that begins now.
    pub fn new(patience: Patience, overload: Arc<Overload>) -> Arc<Self> {
        let never = || AtomicU64::new(NEVER);
        let turn = Self {
            began: Instant::now(),
            patience,
            overload,
            due: never(),
            busy: AtomicBool::new(false),
            flushed: AtomicBool::new(true),
            idle_since: AtomicU64::new(0),
            head_since: never(),
            body: Bodily {
                awaited_since: never(),
                awaited: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                late: AtomicBool::new(false),
                unfinished: AtomicBool::new(false),
            },
            unread_since: never(),
            refusal: OnceLock::new(),
            path: Mutex::default(),
        };
        turn.ring_by(0, patience.idle.min(BRIEF_IDLE));
        Arc::new(turn)
    }

    /// A request is handed on.
    pub fn begin(&self) {
        self.flushed.store(false, Relaxed);
        self.busy.store(true, Relaxed);
    }

    /// Its answer was handed to hyper to its end.
    fn end(&self) {
        let now = self.now();
        self.busy.store(false, Relaxed);
        self.idle_since.store(now, Relaxed);
        let in_head = self.head_since.load(Relaxed) != NEVER;
        self.ring_by(now, self.idle_patience(in_head).min(BRIEF_IDLE));
    }

    /// All that hyper had was given to the kernel. True if that ended a turn.
    pub fn note_flush(&self) -> bool {
        if self.flushed.load(Relaxed) || self.busy.load(Relaxed) {
            return false;
        }
        self.flushed.store(true, Relaxed);
        true
    }

    /// Whether a part of a request has not come.
    pub fn is_mid_request(&self) -> bool {
        self.body.unfinished.load(Relaxed) || self.head_since.load(Relaxed) != NEVER
    }

    /// Whether no answer is on its way.
    pub fn is_clear(&self) -> bool {
        self.flushed.load(Relaxed)
    }

    /// Whether a head has begun that is not whole.
    pub fn note_head(&self, in_head: bool) {
        let noted = self.head_since.load(Relaxed) != NEVER;
        if in_head && !noted {
            let now = self.now();
            self.head_since.store(now, Relaxed);
            self.ring_by(now, self.patience.head);
        } else if noted && !in_head {
            self.head_since.store(NEVER, Relaxed);
        }
    }

    /// A body begins, of which a part has not come, or has ended.
    pub fn note_body(&self, unfinished: bool) {
        self.body.unfinished.store(unfinished, Relaxed);
        self.body.awaited_since.store(NEVER, Relaxed);
        self.body.awaited.store(0, Relaxed);
        self.body.bytes.store(0, Relaxed);
    }

    /// hyper wants more of a body than there is.
    pub fn await_body(&self) {
        if self.body.awaited_since.load(Relaxed) == NEVER {
            let now = self.now();
            self.body.awaited_since.store(now, Relaxed);
            self.ring_by(now, self.patience.body);
        }
    }

    /// Some of a body came.
    pub fn body_came(&self, bytes: usize) {
        let since = self.body.awaited_since.swap(NEVER, Relaxed);
        if since != NEVER {
            let awaited = self.now().saturating_sub(since);
            self.body.awaited.fetch_add(awaited, Relaxed);
        }
        self.body.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Whether the rest of the body is not waited for any more.
    pub fn is_body_late(&self) -> bool {
        self.body.late.load(Relaxed)
    }

    /// The kernel takes no more of an answer.
    pub fn note_full(&self) {
        if self.unread_since.load(Relaxed) == NEVER {
            let now = self.now();
            self.unread_since.store(now, Relaxed);
            self.ring_by(now, self.patience.write);
        }
    }

    /// The kernel took some of an answer.
    pub fn note_write(&self) {
        if self.unread_since.load(Relaxed) != NEVER {
            self.unread_since.store(NEVER, Relaxed);
        }
    }

    /// Nothing more is to be read from this client, who is to be told why.
    pub fn refuse(&self, refusal: Refusal) {
        // The first reason stands.
        let _ = self.refusal.set(refusal);
    }

    /// Why nothing more is to be read.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal.get().copied()
    }

    /// Notes what a head asks for that begins like this.
    pub fn note_path(&self, head: &[u8]) {
        let path = path_of(head).map(Box::from);
        *self.path.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    /// What the head asks for that is refused or late, if that is known.
    pub fn path(&self) -> Option<Box<str>> {
        let path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        path.clone()
    }

    /// The alarm of this connection, to be given to [`poll_overdue`](Self::poll_overdue).
    pub fn alarm(&self) -> Alarm {
        Alarm::at(self.began + self.patience.idle)
    }

    /// Ready when something takes too long. To be asked whenever the task is woken: the alarm may have to go off earlier
    /// than it is set.
    pub fn poll_overdue(&self, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<Overdue> {
        loop {
            let due = self.due.load(Relaxed);
            if due == NEVER {
                return Poll::Pending;
            }
            alarm.set(self.began + Duration::from_nanos(due));
            ready!(alarm.poll(cx));
            if let Some(overdue) = self.look() {
                return Poll::Ready(overdue);
            }
        }
    }

    /// What takes too long now. If nothing does, the alarm is set to when something may.
    fn look(&self) -> Option<Overdue> {
        let now = self.now();
        let mut next = NEVER;
        let mut is_over = |since: u64, limit: Duration| {
            let end = after(since, limit);
            next = next.min(if end <= now { NEVER } else { end });
            end <= now
        };
        let unread = self.unread_since.load(Relaxed);
        if unread != NEVER && is_over(unread, self.patience.write) {
            return Some(Overdue::Reading);
        }
        let awaited = self.body.awaited_since.load(Relaxed);
        let head = self.head_since.load(Relaxed);
        if awaited != NEVER {
            let waited = Duration::from_nanos(self.body.awaited.load(Relaxed) + (now - awaited));
            let slow = waited >= self.patience.body
                && self.body.bytes.load(Relaxed) < waited.as_secs() * BODY_RATE;
            if slow || is_over(awaited, self.patience.body) {
                self.body.awaited_since.store(NEVER, Relaxed);
                self.body.late.store(true, Relaxed);
                self.ring_by(now, self.patience.write);
                return Some(Overdue::Body);
            }
            let rest = self.patience.body.saturating_sub(waited);
            is_over(now, rest.max(RATE_EVERY));
        } else if !self.busy.load(Relaxed) {
            let idle = self.idle_since.load(Relaxed);
            let in_head = head != NEVER;
            let since = if in_head { head.max(idle) } else { idle };
            if is_over(since, self.idle_patience(in_head)) {
                return Some(if in_head {
                    Overdue::Head
                } else {
                    Overdue::Request
                });
            }
            // Nobody tells it when it may be idle for less time.
            is_over(now, BRIEF_IDLE);
        }
        self.due.store(next, Relaxed);
        None
    }

    fn idle_patience(&self, in_head: bool) -> Duration {
        if in_head {
            self.patience.head
        } else if self.overload.level() >= Level::Brief {
            self.patience.idle.min(BRIEF_IDLE)
        } else {
            self.patience.idle
        }
    }

    /// Has the alarm go off not later than this.
    fn ring_by(&self, since: u64, limit: Duration) {
        self.due.fetch_min(after(since, limit), Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(NEVER - 1)
    }
}

/// The path of a head that begins like this, if it is whole.
fn path_of(head: &[u8]) -> Option<&str> {
    let line = head
        .trim_ascii_start()
        .split(|byte| *byte == b'\n')
        .next()?;
    let target = line.splitn(2, |byte| *byte == b' ').nth(1)?;
    let end = target.iter().position(|byte| b" ?".contains(byte))?;
    std::str::from_utf8(target.get(..end)?).ok()
}

fn after(since: u64, limit: Duration) -> u64 {
    let limit = u64::try_from(limit.as_nanos()).unwrap_or(NEVER);
    since.saturating_add(limit).min(NEVER - 1)
}

/// An answer's body, which ends the turn when it is dropped.
#[derive(Debug)]
pub struct Answering<B> {
    body: B,
    turn: Arc<Turn>,
}

impl<B> Answering<B> {
    pub fn new(body: B, turn: Arc<Turn>) -> Self {
        Self { body, turn }
    }
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Answering<B> {
    fn drop(&mut self) {
        self.turn.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overload::Fullness;
    use std::future::poll_fn;

    const PATIENCE: Patience = Patience {
        idle: Duration::from_secs(75),
        head: Duration::from_secs(10),
        body: Duration::from_secs(30),
        write: Duration::from_secs(60),
    };

    fn fresh() -> Arc<Turn> {
        Turn::new(PATIENCE, Arc::default())
    }

    async fn check(turn: &Turn, overdue: Overdue, seconds: u64) {
        let start = Instant::now();
        let mut alarm = turn.alarm();
        let found = poll_fn(|cx| turn.poll_overdue(&mut alarm, cx)).await;
        assert_eq!((found, start.elapsed().as_secs()), (overdue, seconds));
    }

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[test]
    fn a_path_is_known_once_it_is_whole() {
        let check = |head: &str, path| assert_eq!(path_of(head.as_bytes()), path, "{head:?}");
        check(
            "GET /v1/models HTTP/1.1\r\nhost: a b\r\n",
            Some("/v1/models"),
        );
        check("\r\nPOST /v1/messages?beta=tr", Some("/v1/messages"));
        check("GET /v1/mod", None);
        check("GET\r\nhost: /v1/models \r\n", None);
        check("", None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_be_awaited_long_and_its_head_not() {
        check(&fresh(), Overdue::Request, 75).await;
        let turn = fresh();
        pass(70).await;
        turn.note_head(true);
        check(&turn, Overdue::Head, 10).await;
        let turn = fresh();
        turn.note_head(true);
        turn.note_head(false);
        turn.begin();
        pass(100).await;
        turn.note_head(true);
        pass(100).await;
        turn.end();
        check(&turn, Overdue::Head, 10).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_soon_let_go_when_the_process_is_hard_pressed() {
        let overload = Arc::<Overload>::default();
        let full = Fullness {
            descriptors: Some(0.85),
            memory: None,
        };
        let turn = Turn::new(PATIENCE, Arc::clone(&overload));
        let press = async {
            pass(12).await;
            overload.note(full);
        };
        // It looks every five seconds.
        tokio::join!(check(&turn, Overdue::Request, 15), press);
        let turn = Turn::new(PATIENCE, Arc::clone(&overload));
        turn.begin();
        pass(100).await;
        turn.end();
        check(&turn, Overdue::Request, 5).await;
        turn.note_head(true);
        check(&turn, Overdue::Head, 10).await;
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_overdue_while_a_request_is_answered() {
        let turn = fresh();
        turn.begin();
        let mut alarm = turn.alarm();
        let waited = tokio::time::timeout(
            Duration::from_secs(10_000),
            poll_fn(|cx| turn.poll_overdue(&mut alarm, cx)),
        );
        assert!(waited.await.is_err());
        turn.end();
        check(&turn, Overdue::Request, 75).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_neither_stop_nor_drip() {
        let turn = fresh();
        turn.begin();
        turn.note_body(true);
        turn.await_body();
        pass(20).await;
        turn.body_came(1 << 20);
        pass(1000).await; // nobody wants more of it
        turn.await_body();
        check(&turn, Overdue::Body, 30).await;
        assert!(turn.is_body_late());

        let turn = fresh();
        turn.begin();
        turn.note_body(true);
        let drip = async {
            loop {
                turn.await_body();
                pass(5).await;
                turn.body_came(1000);
            }
        };
        tokio::select! {
            () = drip => {}
            () = check(&turn, Overdue::Body, 30) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_may_be_slow_and_not_stop() {
        let turn = fresh();
        turn.begin();
        turn.note_full();
        pass(59).await;
        turn.note_write();
        turn.note_full();
        check(&turn, Overdue::Reading, 60).await;
    }
}
