//! How fast a model works on the answers it is at: prompts share the speed of reading, answers crowd each other, and both
//! slow each other down.

use super::profile::{LONGEST, Profile};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Prompt tokens that are computed in one go; while prompts are read, answers get one token for each such batch.
const BATCH: f64 = 512.0;
/// What is left of the speed of reading while answers are written.
const READING_BESIDE: f64 = 0.92;
/// Less than this of a token is rounding.
const ROUNDING: f64 = 1e-6;

/// The pace of one model in memory. Speeds are tokens per second of the clock.
#[derive(Debug)]
pub(super) struct Pace {
    read: f64,
    write: f64,
    crowding: f64,
    work: Mutex<Work>,
    /// Told when somebody begins or ends, which changes the speed of all others.
    changed: Notify,
}

/// Who is at work, and how far everybody is who was there from the beginning.
#[derive(Debug)]
struct Work {
    reading: usize,
    writing: usize,
    read: f64,
    written: f64,
    at: Instant,
}

impl Pace {
    pub(super) fn new(profile: &Profile) -> Self {
        Self {
            read: profile.prefill_tokens_per_second * profile.time_scale,
            write: profile.decode_tokens_per_second * profile.time_scale,
            crowding: profile.crowding,
            work: Mutex::new(Work {
                reading: 0,
                writing: 0,
                read: 0.0,
                written: 0.0,
                at: Instant::now(),
            }),
            changed: Notify::new(),
        }
    }

    /// Tokens per second that each prompt is read with, and each answer written.
    fn rates(&self, work: &Work) -> (f64, f64) {
        let beside = if work.writing > 0 {
            READING_BESIDE
        } else {
            1.0
        };
        let read = self.read * beside / work.reading.max(1) as f64;
        let others = work.writing.saturating_sub(1) as f64;
        let alone = self.write / (1.0 + self.crowding * others);
        let write = if work.reading > 0 {
            alone.min(self.read / BATCH)
        } else {
            alone
        };
        (read, write)
    }

    /// The work as it stands now.
    fn work(&self) -> MutexGuard<'_, Work> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let (read, write) = self.rates(&work);
        let now = Instant::now();
        let seconds = now.saturating_duration_since(work.at).as_secs_f64();
        work.read += read * seconds;
        work.written += write * seconds;
        work.at = now;
        work
    }
}

/// One answer's part in the work. Its drop is its end.
#[derive(Debug)]
pub(super) struct Stint {
    pace: Arc<Pace>,
    is_writing: bool,
    /// How far the work has to be for what is waited for.
    goal: f64,
}

impl Stint {
    /// Begins to read a prompt.
    pub(super) fn begin(pace: Arc<Pace>, prompt_tokens: usize) -> Self {
        let mut work = pace.work();
        work.reading += 1;
        let goal = work.read + prompt_tokens as f64;
        drop(work);
        pace.changed.notify_waiters();
        Self {
            pace,
            is_writing: false,
            goal,
        }
    }

    /// Waits until the prompt is read, which gives the first token.
    pub(super) async fn first_token(&mut self) {
        self.reach().await;
        let mut work = self.pace.work();
        work.reading -= 1;
        work.writing += 1;
        self.goal = work.written;
        self.is_writing = true;
        drop(work);
        self.pace.changed.notify_waiters();
    }

    /// Waits for a further token.
    pub(super) async fn next_token(&mut self) {
        self.goal += 1.0;
        self.reach().await;
    }

    async fn reach(&self) {
        loop {
            let changed = self.pace.changed.notified();
            let left = {
                let work = self.pace.work();
                let (read, write) = self.pace.rates(&work);
                let (done, rate) = if self.is_writing {
                    (work.written, write)
                } else {
                    (work.read, read)
                };
                if self.goal - done <= ROUNDING {
                    return;
                }
                (self.goal - done) / rate
            };
            let time = Duration::try_from_secs_f64(left).map_or(LONGEST, |time| time.min(LONGEST));
            tokio::select! {
                () = sleep(time) => {}
                () = changed => {}
            }
        }
    }
}

impl Drop for Stint {
    fn drop(&mut self) {
        let mut work = self.pace.work();
        if self.is_writing {
            work.writing -= 1;
        } else {
            work.reading -= 1;
        }
        drop(work);
        self.pace.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When prompts of so many tokens are read and so many further tokens of their answers written, all begun at once.
    async fn times(crowding: f64, answers: &[(usize, usize)]) -> Vec<(u128, u128)> {
        let pace = Arc::new(Pace::new(&Profile {
            prefill_tokens_per_second: 51_200.0,
            decode_tokens_per_second: 100.0,
            crowding,
            ..Profile::default()
        }));
        let began = Instant::now();
        let answers = answers.iter().map(|(prompt, more)| {
            let mut stint = Stint::begin(Arc::clone(&pace), *prompt);
            let more = *more;
            tokio::spawn(async move {
                stint.first_token().await;
                let first = began.elapsed();
                for _ in 0..more {
                    stint.next_token().await;
                }
                (first.as_millis(), began.elapsed().as_millis())
            })
        });
        let mut times = Vec::new();
        for answer in answers.collect::<Vec<_>>() {
            times.push(answer.await.unwrap());
        }
        times
    }

    #[track_caller]
    fn check(found: &[(u128, u128)], expected: &[(u128, u128)]) {
        // The timer counts in milliseconds and is up to one late at each step.
        let is_near = |(a, b): (u128, u128)| a.abs_diff(b) <= 3;
        assert!(
            found.len() == expected.len()
                && found
                    .iter()
                    .zip(expected)
                    .all(|(f, e)| is_near((f.0, e.0)) && is_near((f.1, e.1))),
            "{found:?} in place of {expected:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn alone_everything_goes_at_its_speed() {
        check(&times(0.5, &[(51_200, 100)]).await, &[(1000, 2000)]);
    }

    #[tokio::test(start_paused = true)]
    async fn prompts_share_the_speed_and_answers_crowd_each_other() {
        // Both are read in two seconds, and each token then takes half as long again.
        check(
            &times(0.5, &[(51_200, 100), (51_200, 100)]).await,
            &[(2000, 3500), (2000, 3500)],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_prompt_is_read_answers_get_a_token_a_batch() {
        // The first is read by 100 ms. What the second has left, 48 640 tokens, is read at 0.92 of the speed while the first
        // writes at most 100 tokens a second, which is what a batch each gives here as well.
        check(
            &times(0.0, &[(2_560, 50), (51_200, 1)]).await,
            &[(100, 600), (1091, 1101)],
        );
    }
}
