//! An attempt on its way through the proxy, and what it tells its lease.

use super::clock::instant;
use super::job::Fault;
use crate::pool::Lease;
use crate::wire::Counters;
use http::StatusCode;
use std::time::Duration;

/// An attempt on its way through the proxy, with its lease, if it needed one.
#[derive(Debug)]
pub struct Passage {
    /// The node that it was given to.
    pub node: usize,
    tokens: u32,
    lease: Option<Lease>,
    is_answered: bool,
}

impl Passage {
    /// An attempt that begins now.
    pub fn new(node: usize, lease: Option<Lease>) -> Self {
        Self {
            node,
            tokens: 0,
            lease,
            is_answered: false,
        }
    }

    /// The head of the answer came, and with it the first token.
    pub fn first_token(&mut self, now: Duration) {
        self.answered(StatusCode::OK, now);
        if let Some(lease) = &self.lease {
            lease.first_byte(instant(now));
        }
        self.progress(1, now);
    }

    /// This many tokens came so far.
    pub fn progress(&mut self, tokens: u32, now: Duration) {
        let more = tokens.saturating_sub(self.tokens);
        self.tokens += more;
        if let Some(lease) = &self.lease
            && more > 0
        {
            lease.progressed(more, instant(now));
        }
    }

    /// The answer is complete, and these numbers were in its last chunk.
    pub fn done(&mut self, counters: &Counters, now: Duration) {
        self.answered(StatusCode::OK, now);
        self.progress(counters.output_tokens.unwrap_or_default(), now);
        if let Some(lease) = &mut self.lease {
            lease.finished(counters, instant(now));
        }
    }

    /// It is over, whatever came of it. Returns how many tokens were passed on.
    pub fn end(mut self, now: Duration) -> u32 {
        if let Some(lease) = &mut self.lease {
            lease.left(instant(now));
        }
        self.tokens
    }

    /// It failed.
    pub fn failed(&mut self, fault: Fault, now: Duration) {
        match fault {
            Fault::Full => self.answered(StatusCode::SERVICE_UNAVAILABLE, now),
            Fault::Error => self.answered(StatusCode::INTERNAL_SERVER_ERROR, now),
            Fault::Unreachable => {
                if let Some(lease) = &self.lease {
                    let now = instant(now);
                    lease.unreachable("connection refused".to_owned(), now, now);
                }
            }
            Fault::Broken => {
                if let Some(lease) = &self.lease {
                    lease.failed("connection reset".to_owned(), instant(now));
                }
            }
        }
    }

    fn answered(&mut self, status: StatusCode, now: Duration) {
        if let Some(lease) = &self.lease
            && !self.is_answered
        {
            lease.answered(status, instant(now));
        }
        self.is_answered = true;
    }
}
