//! The body of an answer that tells how several backends get on.

use super::follow::{News, follow};
use super::members::Members;
use super::outcome::{Outcome, Rule, blame, combine};
use super::progress::{Progress, failure, success};
use super::{Answer, Current};
use crate::call::Call;
use crate::error::Error;
use crate::reply::Source;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// News that wait for the client, of all members together; then the members wait.
const NEWS: usize = 64;

/// Members at work and what they said so far. Its drop ends them at once.
#[derive(Debug)]
pub struct Merged {
    news: Receiver<(usize, News)>,
    members: Members,
    ends: Vec<Option<End>>,
    progress: Progress,
    lines: VecDeque<Bytes>,
    told_the_end: bool,
    bytes: u64,
    /// Held for its drop.
    _tasks: JoinSet<()>,
}

/// How a member ended.
#[derive(Debug)]
enum End {
    Done,
    Failed(String),
    Unheard(Outcome),
}

impl Merged {
    /// Has all members work on a request.
    fn start(call: &Call, members: Members, connect: Duration, current: &Current) -> Self {
        let (sender, news) = mpsc::channel(NEWS);
        let mut tasks = JoinSet::new();
        for (number, backend) in members.iter().enumerate() {
            let (call, lease) = (call.again(), backend.lease(Instant::now()));
            let (current, sender) = (current.clone(), sender.clone());
            tasks.spawn(follow(number, call, lease, connect, current, sender));
        }
        Self {
            news,
            ends: members.iter().map(|_| None).collect(),
            progress: Progress::of(members.len()),
            members,
            lines: VecDeque::new(),
            told_the_end: false,
            bytes: 0,
            _tasks: tasks,
        }
    }

    /// The next line, or `None` after the last.
    pub fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                self.bytes += line.len() as u64;
                return Poll::Ready(Some(line));
            }
            if self.told_the_end {
                return Poll::Ready(None);
            }
            match ready!(self.news.poll_recv(cx)) {
                Some((number, news)) => self.take(number, news),
                None => self.end(),
            }
        }
    }

    /// Whether the last line was handed out.
    pub fn is_over(&self) -> bool {
        self.told_the_end && self.lines.is_empty()
    }

    /// Bytes handed out so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn take(&mut self, number: usize, news: News) {
        let end = match news {
            News::At(station) => {
                self.lines.extend(self.progress.at(number, station));
                return;
            }
            News::Done => End::Done,
            News::Failed(text) => End::Failed(text),
            News::Refused(outcome) => End::Unheard(outcome),
            News::Lost(reason) => End::Unheard(Outcome::Lost(reason)),
        };
        let well = matches!(end, End::Done);
        self.lines.extend(self.progress.ended(number, well));
        if let Some(slot) = self.ends.get_mut(number) {
            *slot = Some(end);
        }
    }

    /// Writes the one line that ends it all.
    fn end(&mut self) {
        self.told_the_end = true;
        let mut failures = Vec::new();
        let mut alike: Option<&str> = None;
        let mut all_alike = true;
        for (backend, end) in self.members.iter().zip(&self.ends) {
            let reason = match end {
                Some(End::Done) => {
                    all_alike = false;
                    continue;
                }
                Some(End::Failed(text)) => {
                    all_alike &= *alike.get_or_insert(text) == text;
                    format!("says: {text}")
                }
                Some(End::Unheard(outcome)) => {
                    all_alike = false;
                    outcome.reason()
                }
                None => {
                    all_alike = false;
                    "was given up".to_owned()
                }
            };
            failures.push((backend.name(), reason));
        }
        self.lines.push_back(match alike {
            _ if failures.is_empty() => success(),
            // They agree, so it is not about any one of them.
            Some(text) if all_alike => failure(text),
            _ => failure(&blame(&failures)),
        });
    }
}

/// Has all members work on a request and begins to tell of it with the first line that any of them writes.
///
/// # Errors
/// When all were lost before that. If they refused instead, the answer is such a refusal.
pub(super) async fn merge(
    call: &Call,
    members: Members,
    connect: Duration,
    current: &Current,
) -> Result<Answer, Error> {
    let mut merged = Merged::start(call, members, connect, current);
    while let Some((number, news)) = merged.news.recv().await {
        let begins = !matches!(news, News::Refused(_) | News::Lost(_));
        merged.take(number, news);
        if begins {
            let mut answer = Response::new(Source::Merged(Box::new(merged)));
            let kind = HeaderValue::from_static("application/x-ndjson");
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            return Ok(answer);
        }
    }
    let unheard = |end| match end {
        Some(End::Unheard(outcome)) => outcome,
        Some(End::Done | End::Failed(_)) | None => Outcome::Lost("was given up".to_owned()),
    };
    let outcomes = merged.ends.into_iter().map(unheard).collect();
    combine(Rule::All, &merged.members, outcomes)
}
