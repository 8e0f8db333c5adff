//! What clients send: lists of requests, drawn by chance or read from traces.

use super::chance::{Chance, mean, tokens};
use super::lengths::{CONVERSATION, DOCUMENT, FOLLOW_UP, Lengths, MOONCAKE_OUTPUT};
use super::prompt::{Link, Prompt};
use super::request::{Request, Start};
use super::trace::Row;
use std::sync::Arc;
use std::time::Duration;

/// Clients that send requests, some of them many.
const CLIENTS: u32 = 60;
/// Bytes of a token, and by how much a message may differ from that.
const TOKEN_BYTES: f64 = 4.0;
const BYTES_NOISE: f64 = 0.15;

/// How requests follow each other.
#[derive(Debug, Clone, Copy)]
pub enum Gaps {
    /// Whenever they like: exponential gaps.
    Poisson,
    /// In clusters: gaps of a gamma distribution with this coefficient of variation.
    Gamma(f64),
    /// As in a trace.
    Like(Lengths),
}

impl Gaps {
    /// A gap, of mean 1.
    fn draw(self, chance: &mut Chance) -> f64 {
        match self {
            Self::Poisson => chance.exponential(),
            Self::Gamma(cv) => chance.gamma(cv),
            Self::Like(lengths) => chance.of(lengths.gaps) / mean(lengths.gaps),
        }
    }
}

/// A conversation in the making.
#[derive(Debug, Clone, Default)]
struct Talk(Vec<Link>);

impl Talk {
    /// Adds a message. One of the same `text` after the same ones is the same.
    fn say(&mut self, text: u64, count: u32) {
        let last = self.0.last().copied().unwrap_or(Link {
            hash: 0,
            tokens: 0,
            bytes: 0,
        });
        let mut bytes = [0; 16];
        let (before, new) = bytes.split_at_mut(8);
        before.copy_from_slice(&last.hash.to_le_bytes());
        new.copy_from_slice(&text.to_le_bytes());
        let hash = xxhash_rust::xxh3::xxh3_64(&bytes);
        let noise = Chance::new(hash, 0).between(1.0 - BYTES_NOISE, 1.0 + BYTES_NOISE);
        self.0.push(Link {
            hash,
            tokens: last.tokens.saturating_add(count),
            bytes: last
                .bytes
                .saturating_add(tokens(f64::from(count) * TOKEN_BYTES * noise)),
        });
    }
}

/// Requests at times of their own, that have nothing in common.
pub fn singles(
    chance: &mut Chance,
    lengths: Lengths,
    gaps: Gaps,
    shares: &[f64],
    rate: f64,
    count: usize,
) -> Vec<Request> {
    let mut at = 0.0;
    let clients = clients();
    let request = |_| {
        at += gaps.draw(chance) / rate;
        let mut talk = Talk::default();
        talk.say(chance.bits(), chance.tokens(lengths.prompt));
        let output = chance.tokens(lengths.output);
        talk.say(chance.bits(), output);
        Request {
            start: Start::At(Duration::from_secs_f64(at)),
            client: client(chance, &clients),
            session: None,
            model: chance.weighted(shares),
            context: None,
            prompt: Prompt::new(talk.0.into(), 1),
            output,
        }
    };
    (0..count).map(request).collect()
}

/// People who read each answer, think, and ask again, all with one of a few system prompts. `rate` is of all requests.
pub fn sessions(chance: &mut Chance, shares: &[f64], rate: f64, count: usize) -> Vec<Request> {
    /// The share of conversations that end with each question.
    const END: f64 = 0.27;
    const SYSTEM_TOKENS: [u32; 6] = [256, 512, 768, 1024, 1536, 2048];
    let mut requests = Vec::with_capacity(count);
    let mut at = 0.0;
    let clients = clients();
    while requests.len() < count {
        at += chance.exponential() / (rate * END);
        let mut talk = Talk::default();
        let system = chance.below(SYSTEM_TOKENS.len());
        talk.say(
            system as u64,
            SYSTEM_TOKENS.get(system).copied().unwrap_or(256),
        );
        let mut outputs = Vec::new();
        loop {
            talk.say(
                chance.bits(),
                tokens(chance.log_normal(20.0, 1.6).min(4000.0)),
            );
            let output = chance.tokens(CONVERSATION.output);
            talk.say(chance.bits(), output);
            outputs.push(output);
            if chance.happens(END) || requests.len() + outputs.len() >= count {
                break;
            }
        }
        let (links, client, model): (Arc<[Link]>, _, _) = (
            talk.0.into(),
            client(chance, &clients),
            chance.weighted(shares),
        );
        for (turn, output) in outputs.into_iter().enumerate() {
            let start = match (turn, requests.len()) {
                (0, _) | (_, 0) => Start::At(Duration::from_secs_f64(at)),
                (_, next) => Start::After(
                    next - 1,
                    Duration::from_secs_f64(chance.log_normal(18.0, 0.8)),
                ),
            };
            requests.push(Request {
                start,
                client,
                session: None,
                model,
                context: None,
                prompt: Prompt::new(Arc::clone(&links), 2 + 2 * turn),
                output,
            });
        }
    }
    requests
}

/// Questions about long documents, a part of them about one that was asked about before. All lengths are divided by
/// `shrink`.
pub fn documents(
    chance: &mut Chance,
    shares: &[f64],
    shrink: f64,
    rate: f64,
    count: usize,
) -> Vec<Request> {
    /// The share of requests that follow another, and how many of the last ones it may be.
    const FOLLOWS: f64 = 0.39;
    const RECENT: usize = 400;
    /// What every conversation begins with.
    const SYSTEM: f64 = 512.0;
    let mut at = 0.0;
    let clients = clients();
    let mut talks: Vec<(Talk, u32, usize)> = Vec::new();
    let mut requests = Vec::with_capacity(count);
    for _ in 0..count {
        at += chance.exponential() / rate;
        let recent = talks.len().min(RECENT);
        let (mut talk, client, model) = if recent > 0 && chance.happens(FOLLOWS) {
            talks.swap_remove(talks.len() - 1 - chance.below(recent))
        } else {
            let mut talk = Talk::default();
            talk.say(0, tokens(SYSTEM / shrink));
            talk.say(chance.bits(), tokens(chance.of(DOCUMENT) / shrink));
            (talk, client(chance, &clients), chance.weighted(shares))
        };
        talk.say(chance.bits(), tokens(chance.of(FOLLOW_UP) / shrink));
        let len = talk.0.len();
        let output = tokens(chance.of(MOONCAKE_OUTPUT) / shrink);
        talk.say(chance.bits(), output);
        requests.push(Request {
            start: Start::At(Duration::from_secs_f64(at)),
            client,
            session: None,
            model,
            context: None,
            prompt: Prompt::new(talk.0.clone().into(), len),
            output,
        });
        talks.push((talk, client, model));
    }
    requests
}

/// Texts to embed, many at once and then none for long.
pub fn embeddings(chance: &mut Chance, model: usize, until: Duration) -> Vec<Request> {
    const EVERY: Duration = Duration::from_secs(180);
    const FIRST: Duration = Duration::from_secs(90);
    const BURST: u32 = 600;
    const GAP: Duration = Duration::from_millis(5);
    let mut requests = Vec::new();
    let mut burst = FIRST;
    while burst < until {
        for number in 0..BURST {
            let mut talk = Talk::default();
            talk.say(chance.bits(), tokens(chance.log_normal(300.0, 0.6)));
            requests.push(Request {
                start: Start::At(burst + GAP * number),
                client: 0,
                session: None,
                model,
                context: None,
                prompt: Prompt::new(talk.0.into(), 1),
                output: 0,
            });
        }
        burst += EVERY;
    }
    requests
}

/// The first requests of a trace, sped up or slowed down to a rate. All lengths are divided by `shrink`.
pub fn replay(
    chance: &mut Chance,
    rows: &[Row],
    shares: &[f64],
    shrink: f64,
    rate: f64,
    count: usize,
) -> Vec<Request> {
    let rows = rows.get(..count).unwrap_or(rows);
    let span = rows.last().map_or(0.0, |row| row.at.as_secs_f64());
    let stretch = if span > 0.0 {
        rows.len() as f64 / (rate * span)
    } else {
        1.0
    };
    let clients = clients();
    let request = |row: &Row| {
        let mut talk = Talk::default();
        let mut left = tokens(f64::from(row.prompt) / shrink);
        for (at, block) in row.blocks.iter().enumerate() {
            let is_last = at + 1 == row.blocks.len();
            let size = tokens(f64::from(super::trace::BLOCK_TOKENS) / shrink);
            let part = if is_last { left } else { left.min(size) };
            if part > 0 {
                talk.say(*block, part);
            }
            left -= part;
        }
        if left > 0 {
            talk.say(chance.bits(), left);
        }
        let len = talk.0.len();
        let output = tokens(f64::from(row.output) / shrink);
        talk.say(chance.bits(), output);
        Request {
            start: Start::At(row.at.mul_f64(stretch)),
            client: client(chance, &clients),
            session: None,
            model: chance.weighted(shares),
            context: None,
            prompt: Prompt::new(talk.0.into(), len),
            output,
        }
    };
    rows.iter().map(request).collect()
}

/// How much each client sends: the first about 6.5 % of all, the last a tenth of that.
fn clients() -> Vec<f64> {
    (1..=CLIENTS)
        .map(|rank| 1.0 / f64::from(rank + 5))
        .collect()
}

fn client(chance: &mut Chance, weights: &[f64]) -> u32 {
    u32::try_from(chance.weighted(weights)).unwrap_or_default()
}
