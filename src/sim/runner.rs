//! One model in a node's memory: slots that work, and a line before them that is served in order and has no end.

use super::cache::{Attic, Kept, choose_slot};
use super::gpu::Gpu;
use super::job::{Job, Sign};
use super::model::Model;
use crate::knowledge::Peer;
use crate::wire::Counters;
use std::collections::VecDeque;
use std::time::Duration;

/// Tokens of prompts that main memory keeps for the reference model.
const ATTIC_TOKENS: f64 = 65_000.0;
/// What is left of the speed of reading while answers are written.
const READING_BESIDE: f64 = 0.92;
/// Prompt tokens that are computed in one go; while prompts are read, answers get one token for each such batch.
const BATCH: f64 = 512.0;
/// Ollama's word for a model that was in memory.
const HOT_LOAD: Duration = Duration::from_millis(5);
/// Less than this of a token is rounding.
const ROUNDING: f64 = 1e-6;

/// A loaded model.
#[derive(Debug)]
pub struct Runner {
    /// The place of the model in the scenario's list.
    pub model: usize,
    /// What it was loaded with.
    pub context: u32,
    /// Gigabytes that it takes.
    pub memory_gb: f64,
    /// When it did something last.
    pub used: Duration,
    effort: f64,
    slots: Vec<Slot>,
    attic: Attic,
    line: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Slot {
    kept: Kept,
    idle_since: Duration,
    work: Option<Work>,
}

#[derive(Debug)]
struct Waiting {
    job: Job,
    load: Duration,
}

/// A job in a slot.
#[derive(Debug)]
struct Work {
    job: Job,
    load: Duration,
    began: Duration,
    first_token: Option<Duration>,
    cached: u32,
    prefill_left: f64,
    output_left: f64,
    /// Tokens per second, of the prompt while some of it is left, else of the answer.
    rate: f64,
}

impl Runner {
    /// A model that was just loaded, with nothing to do.
    pub fn new(
        place: usize,
        model: &Model,
        context: u32,
        slots: usize,
        has_attic: bool,
        now: Duration,
    ) -> Self {
        let slots = model.slots(slots);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive and far from the limits"
        )]
        let attic = if has_attic && !model.is_embedding {
            Attic::with_capacity((ATTIC_TOKENS / model.effort()) as u64)
        } else {
            Attic::default()
        };
        let slot = || Slot {
            kept: Kept::default(),
            idle_since: now,
            work: None,
        };
        Self {
            model: place,
            context,
            memory_gb: model.memory_gb(context, slots),
            used: now,
            effort: model.effort(),
            slots: (0..slots).map(|_| slot()).collect(),
            attic,
            line: VecDeque::new(),
        }
    }

    /// Whether something runs or waits.
    pub fn is_busy(&self) -> bool {
        !self.line.is_empty() || self.is_active()
    }

    /// Whether something runs.
    pub fn is_active(&self) -> bool {
        self.slots.iter().any(|slot| slot.work.is_some())
    }

    /// Puts a job at the end of the line. `loaded` is when the model was ready, for a job that had to wait for that.
    pub fn push(&mut self, job: Job, loaded: Option<Duration>, now: Duration) {
        let load = loaded.map_or(HOT_LOAD, |loaded| loaded.saturating_sub(job.came));
        self.line.push_back(Waiting { job, load });
        self.fill(now);
    }

    /// Begins with as many jobs of the line as there are idle slots.
    fn fill(&mut self, now: Duration) {
        self.used = now;
        while let Some(waiting) = self.line.front() {
            let idle = self
                .slots
                .iter()
                .enumerate()
                .filter(|(_, slot)| slot.work.is_none());
            let idle = idle.map(|(at, slot)| (at, &slot.kept, slot.idle_since));
            let Some(at) = choose_slot(idle, &waiting.job.prompt) else {
                return;
            };
            let (Some(slot), Some(Waiting { job, load })) =
                (self.slots.get_mut(at), self.line.pop_front())
            else {
                return;
            };
            self.attic.swap(&mut slot.kept, &job.prompt);
            let cached = slot.kept.cached(&job.prompt);
            slot.kept.hold(job.prompt.clone());
            slot.work = Some(Work {
                load,
                began: now,
                first_token: None,
                cached,
                prefill_left: f64::from(job.prompt.tokens() - cached),
                output_left: f64::from(job.output),
                rate: 0.0,
                job,
            });
        }
    }

    /// Says how fast each job goes on from now, with `active` runners at work on the node and everything `slowdown` times
    /// slower than it should be; returns the seconds until the first of them gets somewhere.
    pub fn set_rates(&mut self, gpu: &Gpu, active: usize, slowdown: f64) -> f64 {
        let works = || self.slots.iter().filter_map(|slot| slot.work.as_ref());
        let reading = works().filter(|work| work.first_token.is_none()).count();
        let writing = works().count() - reading;
        let share = self.effort * active as f64 * slowdown;
        let beside = if writing > 0 { READING_BESIDE } else { 1.0 };
        let read = gpu.prefill / share * beside / reading.max(1) as f64;
        let alone = gpu.decode / (share * (1.0 + gpu.slope * writing.saturating_sub(1) as f64));
        let write = if reading > 0 {
            alone.min(gpu.prefill / (BATCH * share))
        } else {
            alone
        };
        let mut soonest = f64::INFINITY;
        for work in self.slots.iter_mut().filter_map(|slot| slot.work.as_mut()) {
            let (left, rate) = match work.first_token {
                None => (work.prefill_left, read),
                Some(_) => (work.output_left, write),
            };
            work.rate = rate;
            soonest = soonest.min(left / rate);
        }
        soonest
    }

    /// Lets time pass at the rates that were set.
    pub fn pass(&mut self, seconds: f64) {
        for work in self.slots.iter_mut().filter_map(|slot| slot.work.as_mut()) {
            let left = match work.first_token {
                None => &mut work.prefill_left,
                Some(_) => &mut work.output_left,
            };
            *left = (*left - work.rate * seconds).max(0.0);
        }
    }

    /// Ends what is done by now and begins with what waits; returns whether anything changed.
    pub fn settle(&mut self, now: Duration, signs: &mut Vec<Sign>) -> bool {
        let mut changed = false;
        for slot in &mut self.slots {
            let Some(work) = &mut slot.work else { continue };
            if work.first_token.is_none() && work.prefill_left <= ROUNDING {
                changed = true;
                work.first_token = Some(now);
                if work.job.output > 0 {
                    // The end of the prompt gives the first token.
                    work.output_left -= 1.0;
                    signs.push(Sign::FirstToken(work.job.id));
                }
            }
            if let Some(first) = work.first_token
                && work.output_left <= ROUNDING
            {
                changed = true;
                signs.push(Sign::Done {
                    id: work.job.id,
                    counters: work.counters(first, now),
                    cached: work.cached,
                });
                if work.job.output > 0 {
                    slot.kept.hold(work.job.prompt.with_answer());
                }
                slot.idle_since = now;
                slot.work = None;
            }
        }
        if changed {
            self.fill(now);
        }
        changed
    }

    /// Forgets a job; returns whether it was here.
    pub fn cancel(&mut self, id: usize, now: Duration) -> bool {
        let waiting = self.line.len();
        self.line.retain(|waiting| waiting.job.id != id);
        let mut found = self.line.len() < waiting;
        for slot in &mut self.slots {
            if slot.work.as_ref().is_some_and(|work| work.job.id == id) {
                slot.work = None;
                slot.idle_since = now;
                found = true;
            }
        }
        if found {
            self.fill(now);
        }
        found
    }

    /// The jobs that run or wait here.
    pub fn ids(&self) -> impl Iterator<Item = usize> {
        let running = self.slots.iter().filter_map(|slot| slot.work.as_ref());
        let waiting = self.line.iter().map(|waiting| waiting.job.id);
        running.map(|work| work.job.id).chain(waiting)
    }

    /// The answers that are being written, and how many tokens of them there are.
    pub fn answers(&self) -> impl Iterator<Item = (usize, u32)> {
        let running = self.slots.iter().filter_map(|slot| slot.work.as_ref());
        running
            .filter(|work| work.first_token.is_some())
            .map(|work| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and the length"
                )]
                let left = work.output_left.ceil() as u32;
                (work.job.id, work.job.output.saturating_sub(left).max(1))
            })
    }

    /// What everything here still has to do, first those that run.
    pub fn rests(&self) -> impl Iterator<Item = Peer> {
        let running = self.slots.iter().filter_map(|slot| slot.work.as_ref());
        let running = running.map(|work| Peer {
            prefill: work.prefill_left,
            output: work.output_left,
            is_decoding: work.first_token.is_some(),
        });
        let waiting = self.line.iter().map(|waiting| Peer {
            prefill: f64::from(waiting.job.prompt.tokens()),
            output: f64::from(waiting.job.output),
            is_decoding: false,
        });
        running.chain(waiting)
    }

    /// How many requests it works on at a time.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Tokens of a prompt that it would not have to compute now: from any slot if none is idle.
    pub fn cached(&self, prompt: &super::prompt::Prompt) -> u32 {
        let all_busy = self.slots.iter().all(|slot| slot.work.is_some());
        let slots = self
            .slots
            .iter()
            .filter(|slot| all_busy || slot.work.is_none());
        let best = slots
            .map(|slot| slot.kept.cached(prompt))
            .max()
            .unwrap_or(0);
        best.max(self.attic.cached(prompt))
    }
}

impl Work {
    fn counters(&self, first: Duration, now: Duration) -> Counters {
        Counters {
            prompt_tokens: Some(self.job.prompt.tokens()),
            prompt_time: Some(first.saturating_sub(self.began)),
            output_tokens: Some(self.job.output),
            output_time: Some(now.saturating_sub(first)),
            load_time: Some(self.load),
            total_time: Some(now.saturating_sub(self.job.came)),
        }
    }
}
