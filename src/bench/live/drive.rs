//! Sends what is planned when it is planned, and notes what becomes of it.

use super::exchange::Exchange;
use super::plan::Planned;
use super::talk::Talk;
use super::target::Target;
use crate::bench::{Failure, Outcome, Run};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout_at};

/// The timer counts in milliseconds and wakes up late by one or two; the last bit is waited for awake.
const AWAKE: Duration = Duration::from_millis(2);
/// Different errors that are told apart.
const ERRORS: usize = 64;

/// How a plan is carried out.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the run is called: [`Run::scenario`].
    pub scenario: String,
    /// Decides what the prompts say.
    pub seed: u64,
    /// How long a request may take from when it was meant to be sent.
    pub timeout: Duration,
    /// Requests meant to be sent earlier than this are sent, but do not count.
    pub warmup: Duration,
    /// The plan is carried out so many times faster, and what is measured is stretched again: every time here, in the
    /// plan and in the run is the plan's own. Above 0; 1 for anything real.
    pub time_scale: f64,
}

/// How far a run is, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests sent.
    pub sent: AtomicUsize,
    /// Requests that have ended in any way.
    pub ended: AtomicUsize,
    /// Those of them that failed.
    pub failed: AtomicUsize,
}

/// What came of a plan.
#[derive(Debug)]
pub struct Driven {
    /// The requests that ended. Those of the warm-up are left out.
    pub run: Run,
    /// Requests that were not sent, or not waited for, because the run was stopped.
    pub unfinished: usize,
    /// What failed requests were told, and how many of them, most first.
    pub errors: Vec<(String, usize)>,
}

/// One request that ended.
#[derive(Debug)]
struct Sample {
    outcome: Outcome,
    node: Option<String>,
    was_answered: bool,
    lag: Duration,
    error: Option<String>,
}

/// A run under way.
struct Course {
    target: Arc<Target>,
    options: Options,
    progress: Arc<Progress>,
    start: Instant,
    samples: Mutex<Vec<Sample>>,
}

/// Carries out a plan, sorted by time, on a target; ends when every request has ended, or early with `stop`.
pub async fn drive(
    target: &Arc<Target>,
    planned: Vec<Planned>,
    options: &Options,
    progress: &Arc<Progress>,
    stop: impl Future<Output = ()>,
) -> Driven {
    let count = planned.len();
    let course = Arc::new(Course {
        target: Arc::clone(target),
        options: options.clone(),
        progress: Arc::clone(progress),
        start: Instant::now() + AWAKE,
        samples: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    tokio::select! {
        () = course.pace(planned, &mut tasks) => {}
        () = stop => {}
    }
    // Nothing is noted any more when this has ended.
    tasks.shutdown().await;
    let samples = std::mem::take(&mut *course.samples());
    Driven {
        unfinished: count - samples.len(),
        errors: errors(&samples),
        run: course.run(samples),
    }
}

/// The requests that follow each other: all turns of a session, or one request.
fn lanes(planned: Vec<Planned>) -> Vec<Vec<Planned>> {
    let mut lanes: Vec<Vec<Planned>> = Vec::new();
    let mut sessions = HashMap::new();
    for planned in planned {
        let known = planned
            .session
            .map(|turn| *sessions.entry(turn.session).or_insert(lanes.len()));
        match known.and_then(|at| lanes.get_mut(at)) {
            Some(lane) => lane.push(planned),
            None => lanes.push(vec![planned]),
        }
    }
    lanes
}

/// Waits for a moment, more exactly than the timer does.
async fn wait_for(moment: Instant) {
    sleep_until(moment - AWAKE).await;
    while Instant::now() < moment {
        yield_now().await;
    }
}

impl Course {
    async fn pace(self: &Arc<Self>, planned: Vec<Planned>, tasks: &mut JoinSet<()>) {
        for (index, lane) in (0..).zip(lanes(planned)) {
            let Some(first) = lane.first() else {
                continue;
            };
            let intended = self.start + self.scaled(first.at);
            let mut talk = Talk::new(self.options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index);
            // Made before it is time, so that making it costs none.
            let request = talk.ask(first, self.target.api);
            wait_for(intended).await;
            tasks.spawn(Arc::clone(self).follow(lane, talk, intended, request));
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn follow(
        self: Arc<Self>,
        lane: Vec<Planned>,
        mut talk: Talk,
        mut intended: Instant,
        first: (&'static str, Bytes),
    ) {
        let mut request = Some(first);
        for planned in lane {
            let (path, body) = if let Some(first) = request.take() {
                first
            } else {
                let think = planned.session.map_or(Duration::ZERO, |turn| turn.think);
                intended = Instant::now() + self.scaled(think);
                let request = talk.ask(&planned, self.target.api);
                wait_for(intended).await;
                request
            };
            let answer = self.request(&planned, path, body, intended).await;
            talk.answered(&answer);
        }
    }

    /// Sends one request, notes what becomes of it, and returns the text of its answer.
    async fn request(
        &self,
        planned: &Planned,
        path: &'static str,
        body: Bytes,
        intended: Instant,
    ) -> String {
        let mut exchange = Exchange::new(&self.target, &self.progress, !planned.embedding);
        let deadline = intended + self.scaled(self.options.timeout);
        let ended = timeout_at(deadline, exchange.run(planned.client, path, body)).await;
        let (ended, failure) = match ended {
            Ok(Ok(())) => (Instant::now(), None),
            Ok(Err(failure)) => (Instant::now(), Some(failure)),
            Err(_) => (deadline, Some((Failure::TimedOut, "timed out".to_owned()))),
        };
        self.progress.ended.fetch_add(1, Relaxed);
        if failure.is_some() {
            self.progress.failed.fetch_add(1, Relaxed);
        }
        let since = |moment: Instant| self.stretched(moment.saturating_duration_since(intended));
        let answer = exchange.answer;
        let outcome = Outcome {
            intended: self.stretched(intended - self.start),
            first_token: exchange.first_token.map(since),
            total: since(ended),
            tokens: answer.tokens(),
            prompt_tokens: answer.prompt_tokens().unwrap_or(planned.prompt_tokens),
            cached_tokens: answer.cached_tokens(),
            node: None, // known when all names are
            attempts: exchange.attempts,
            failure: failure.as_ref().map(|(failure, _)| *failure),
        };
        self.samples().push(Sample {
            outcome,
            node: exchange.node,
            was_answered: exchange.was_answered,
            lag: since(exchange.sent.unwrap_or(ended)),
            error: failure.map(|(_, error)| error),
        });
        answer.text
    }

    fn run(&self, mut samples: Vec<Sample>) -> Run {
        samples.retain(|sample| sample.outcome.intended >= self.options.warmup);
        samples.sort_by_key(|sample| sample.outcome.intended);
        // Who names no node is one, unless others were named by the same target.
        if samples.iter().all(|sample| sample.node.is_none()) {
            for sample in samples.iter_mut().filter(|sample| sample.was_answered) {
                sample.node = Some(self.target.name().to_owned());
            }
        }
        let named = samples.iter().filter_map(|sample| sample.node.clone());
        let mut nodes: Vec<String> = named.collect();
        nodes.sort_unstable();
        nodes.dedup();
        let mut lags: Vec<Duration> = samples.iter().map(|sample| sample.lag).collect();
        lags.sort_unstable();
        let outcome = |sample: Sample| Outcome {
            node: sample
                .node
                .and_then(|name| nodes.binary_search(&name).ok())
                .and_then(|at| u16::try_from(at).ok()),
            ..sample.outcome
        };
        Run {
            scenario: self.options.scenario.clone(),
            strategy: self.target.url(),
            load: None,
            seed: self.options.seed,
            outcomes: samples.into_iter().map(outcome).collect(),
            nodes,
            loads: None,
            lags,
        }
    }

    fn samples(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A time of the plan on the clock.
    fn scaled(&self, time: Duration) -> Duration {
        time.div_f64(self.options.time_scale)
    }

    /// A time on the clock in the plan's own.
    fn stretched(&self, time: Duration) -> Duration {
        time.mul_f64(self.options.time_scale)
    }
}

fn errors(samples: &[Sample]) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for error in samples.iter().filter_map(|sample| sample.error.as_deref()) {
        let known = counts.len() < ERRORS || counts.contains_key(error);
        *counts
            .entry(if known { error } else { "others" })
            .or_default() += 1;
    }
    let mut counts: Vec<_> = counts
        .into_iter()
        .map(|(text, n)| (text.to_owned(), n))
        .collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}
