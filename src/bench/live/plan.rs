//! Which requests are sent when: decided before the first one is, so that no answer can delay what comes after it.

use super::arrival::Arrival;
use super::lengths::Lengths;
use crate::sim::Row;
use fastrand::Rng;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Requests in one plan.
const REQUESTS: usize = 1_000_000;

/// A request to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// When, since the start. Of a session's later turns nothing is made of it: they follow the answer before.
    pub at: Duration,
    /// The model it is for.
    pub model: Arc<str>,
    /// Length of the prompt, or of the session's new message.
    pub prompt_tokens: u32,
    /// Names of the blocks that the prompt begins with, as of a trace: equal ones are equal texts of
    /// [`BLOCK_TOKENS`](crate::sim::BLOCK_TOKENS).
    pub blocks: Vec<u64>,
    /// Length of the answer that is asked for; an embedding has none.
    pub output_tokens: u32,
    /// Which conversation it belongs to, if to any. Turns of one session are sent in their order in the plan.
    pub session: Option<Turn>,
    /// Whether it asks for a vector.
    pub embedding: bool,
    /// For whom it says it is sent (`X-Forwarded-For`), which a proxy believes that trusts this machine.
    pub client: Option<IpAddr>,
}

/// A turn of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The conversation.
    pub session: u32,
    /// Between the answer to the turn before and this one.
    pub think: Duration,
}

/// How much is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// All that comes within this time.
    For(Duration),
    /// So many requests; of sessions so many starts.
    Requests(usize),
}

/// Conversations, each a closed loop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sessions {
    /// Turns of each.
    pub turns: u32,
    /// Mean of the times between an answer and the next turn, exponentially distributed.
    pub think: Duration,
}

/// A synthetic workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// How requests come, or sessions begin.
    pub arrival: Arrival,
    /// How many of them a second, above 0.
    pub rate: f64,
    /// How many in all.
    pub amount: Amount,
    /// Models and how often each is asked for, relative to the others.
    pub models: Vec<(Arc<str>, f64)>,
    /// The model for embeddings, and their share of all requests.
    pub embeddings: Option<(Arc<str>, f64)>,
    /// Lengths of prompts.
    pub prompt_tokens: Lengths,
    /// Lengths of answers.
    pub output_tokens: Lengths,
    /// Whether these are conversations.
    pub sessions: Option<Sessions>,
}

impl Workload {
    /// All requests. Equal seeds give equal plans. At most a million are planned.
    pub fn plan(&self, seed: u64) -> Vec<Planned> {
        // Times and contents have their own chance, so that the same requests can be sent at another pace.
        let mut times = Rng::with_seed(seed);
        let mut contents = Rng::with_seed(!seed);
        let mut planned = Vec::new();
        let mut at = 0.0;
        for session in 0.. {
            at += self.arrival.gap(&mut times) / self.rate;
            let Ok(time) = Duration::try_from_secs_f64(at) else {
                break;
            };
            let is_over = match self.amount {
                Amount::For(limit) => time >= limit,
                Amount::Requests(count) => session as usize >= count,
            };
            if is_over || planned.len() >= REQUESTS {
                break;
            }
            match self.sessions {
                None => planned.push(self.request(time, None, &mut contents)),
                Some(sessions) => {
                    let mut model = None;
                    for _ in 0..sessions.turns {
                        let think = sessions.think.mul_f64(Arrival::Poisson.gap(&mut contents));
                        let turn = Turn { session, think };
                        let mut request = self.request(time, Some(turn), &mut contents);
                        // A conversation stays with its model.
                        request.model = Arc::clone(model.get_or_insert(request.model));
                        planned.push(request);
                    }
                }
            }
        }
        planned.truncate(REQUESTS);
        planned
    }

    /// The requests of a trace: when each was sent, and the lengths of its prompt and of its answer. Only models and the
    /// share of embeddings are drawn, and of the amount no more is sent than there is. Times are divided by `factor`,
    /// which is above 0.
    pub fn replay(&self, trace: &[Row], factor: f64, seed: u64) -> Vec<Planned> {
        let mut contents = Rng::with_seed(!seed);
        let (until, count) = match self.amount {
            Amount::For(until) => (until, REQUESTS),
            Amount::Requests(count) => (Duration::MAX, count.min(REQUESTS)),
        };
        let planned = trace.iter().take(count).map(|row| {
            // A time that cannot be counted is never.
            let at = Duration::try_from_secs_f64(row.at.as_secs_f64() / factor);
            let drawn = self.request(at.unwrap_or(Duration::MAX), None, &mut contents);
            Planned {
                prompt_tokens: row.prompt.max(1),
                blocks: row.blocks.clone(),
                output_tokens: if drawn.embedding {
                    0
                } else {
                    row.output.max(1)
                },
                ..drawn
            }
        });
        planned.take_while(|planned| planned.at < until).collect()
    }

    fn request(&self, at: Duration, session: Option<Turn>, rng: &mut Rng) -> Planned {
        let prompt_tokens = self.prompt_tokens.draw(rng);
        let output_tokens = self.output_tokens.draw(rng);
        let chance = rng.f64();
        let embedding = self.embeddings.as_ref();
        let embedding = embedding.filter(|(_, share)| session.is_none() && chance < *share);
        let chosen = self.choose(rng);
        Planned {
            at,
            model: embedding.map_or(chosen, |(model, _)| Arc::clone(model)),
            prompt_tokens,
            blocks: Vec::new(),
            output_tokens: if embedding.is_some() {
                0
            } else {
                output_tokens
            },
            session,
            embedding: embedding.is_some(),
            client: None,
        }
    }

    fn choose(&self, rng: &mut Rng) -> Arc<str> {
        let sum: f64 = self.models.iter().map(|(_, share)| share).sum();
        let mut left = rng.f64() * sum;
        let chosen = self.models.iter().find(|(_, share)| {
            left -= share;
            left < 0.0
        });
        let chosen = chosen.or(self.models.last());
        chosen.map_or_else(|| "".into(), |(model, _)| Arc::clone(model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(amount: Amount) -> Workload {
        Workload {
            arrival: Arrival::Poisson,
            rate: 5.0,
            amount,
            models: vec![("a".into(), 3.0), ("b".into(), 1.0)],
            embeddings: Some(("e".into(), 0.2)),
            prompt_tokens: Lengths::Uniform(10, 20),
            output_tokens: Lengths::Fixed(7),
            sessions: None,
        }
    }

    #[test]
    fn a_plan_has_the_rate_and_the_shares_asked_for() {
        let plan = workload(Amount::For(Duration::from_secs(2000))).plan(1);
        let count = |model: &str| plan.iter().filter(|p| &*p.model == model).count();
        assert!((9700..10_300).contains(&plan.len()), "{}", plan.len());
        assert!((1850..2150).contains(&count("e")), "{}", count("e"));
        let ratio = count("a") as f64 / count("b") as f64;
        assert!((2.7..3.3).contains(&ratio), "{ratio}");
        assert!(plan.is_sorted_by_key(|planned| planned.at));
        assert!(plan.iter().all(|p| p.embedding == (&*p.model == "e")));
        assert!(plan.iter().all(|p| (10..=20).contains(&p.prompt_tokens)));
    }

    #[test]
    fn equal_seeds_give_equal_plans_and_others_do_not() {
        let workload = workload(Amount::Requests(50));
        assert_eq!(workload.plan(9).len(), 50);
        assert_eq!(workload.plan(9), workload.plan(9));
        assert_ne!(workload.plan(9), workload.plan(10));
        let mut slower = workload.clone();
        slower.rate = 1.0;
        let lengths = |plan: Vec<Planned>| -> Vec<u32> {
            plan.iter().map(|planned| planned.prompt_tokens).collect()
        };
        assert_eq!(lengths(workload.plan(9)), lengths(slower.plan(9)));
    }

    #[track_caller]
    fn check_replay(amount: Amount, factor: f64, expected: &[(u64, u32, u32, usize)]) {
        let row = |at, prompt, output, blocks: &[u64]| Row {
            at: Duration::from_secs(at),
            prompt,
            output,
            blocks: blocks.to_vec(),
        };
        let trace = [
            row(0, 9, 0, &[]),
            row(1, 0, 4, &[]),
            row(4, 600, 7, &[1, 2]),
        ];
        let mut workload = workload(amount);
        workload.embeddings = None;
        let plan = workload.replay(&trace, factor, 4);
        let told = |p: &Planned| {
            let at = u64::try_from(p.at.as_millis()).unwrap();
            (at, p.prompt_tokens, p.output_tokens, p.blocks.len())
        };
        assert_eq!(plan.iter().map(told).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_trace_is_sent_as_it_was() {
        let whole = [(0, 9, 1, 0), (1000, 1, 4, 0), (4000, 600, 7, 2)];
        check_replay(Amount::Requests(usize::MAX), 1.0, &whole);
        check_replay(Amount::Requests(2), 1.0, &whole[..2]);
        check_replay(Amount::For(Duration::from_secs(4)), 1.0, &whole[..2]);
        let faster = whole.map(|(at, prompt, output, blocks)| (at / 2, prompt, output, blocks));
        check_replay(Amount::For(Duration::from_secs(3)), 2.0, &faster);
    }

    #[test]
    fn a_session_stays_with_its_model() {
        let mut workload = workload(Amount::Requests(20));
        workload.sessions = Some(Sessions {
            turns: 3,
            think: Duration::from_secs(5),
        });
        let plan = workload.plan(2);
        assert_eq!(plan.len(), 60);
        for turns in plan.chunks(3) {
            let session = turns[0].session.unwrap().session;
            for turn in turns {
                assert_eq!(turn.session.unwrap().session, session);
                assert_eq!(turn.model, turns[0].model);
                assert!(!turn.embedding);
            }
        }
    }
}
