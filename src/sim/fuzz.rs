//! Fleets and loads that nobody would think of: what a strategy must not be bad at.

use super::chance::{Chance, mean};
use super::fleet::Setup;
use super::gpu::{A6000, CPU, Gpu, M2_ULTRA, P40, RTX_3090, RTX_4090};
use super::lengths::{CODE, CONVERSATION, DOCUMENT, FOLLOW_UP, Lengths, MOONCAKE_OUTPUT};
use super::model::{CONTEXT, Model};
use super::node::Spec;
use super::scenario::{ATTEMPTS, PATIENCE, WARM_UP, chats};
use super::trouble::{Kind, Trouble};
use super::workload::{Gaps, documents, singles};
use std::time::Duration;

const KINDS: [Gpu; 6] = [RTX_4090, RTX_3090, A6000, M2_ULTRA, P40, CPU];
const MODELS: [(&str, f64); 6] = [
    ("llama3.1:8b", 4.9),
    ("qwen2.5-coder:3b", 3.0),
    ("mistral-nemo:12b", 7.1),
    ("qwen2.5:14b", 9.0),
    ("gpt-oss:20b", 13.0),
    ("gemma3:4b", 3.3),
];
/// What is left of the length of documents, which are for larger nodes.
const SHRINK: f64 = 4.0;

/// The random fleet of a number, with `requests` requests: 2 to 8 nodes of six kinds that do 1 to 4 requests at a time, 1
/// to 5 models, and a load of 0.25 to 0.85. Some fleets have a node that fails or is slow for a while.
pub fn setup(seed: u64, requests: usize, proxies: usize) -> Setup {
    let mut chance = Chance::new(seed, 2);
    let slots = 1 + chance.below(4);
    let mut nodes: Vec<_> = (0..2 + chance.below(7))
        .map(|number| {
            let gpu = KINDS
                .get(chance.below(KINDS.len()))
                .copied()
                .unwrap_or(RTX_4090);
            Spec {
                name: format!("{}-{number}", gpu.name),
                gpu,
                slots,
                has_attic: true,
                troubles: Vec::new(),
            }
        })
        .collect();
    let mut choice = MODELS;
    let count = 1 + chance.below(5);
    for at in 0..count {
        choice.swap(at, at + chance.below(MODELS.len() - at));
    }
    let models = chats(choice.get(..count).unwrap_or(&choice));
    let shares: Vec<_> = models.iter().map(|_| chance.exponential()).collect();
    let load = chance.between(0.25, 0.85);
    let kind = chance.below(3);
    let (prompt, output) = match kind {
        0 => means(&CONVERSATION),
        1 => means(&CODE),
        // A third of the requests follow others, whose prompts they may find computed.
        _ => (
            (mean(DOCUMENT) + mean(FOLLOW_UP)) / SHRINK,
            mean(MOONCAKE_OUTPUT),
        ),
    };
    let rate = load * capacity(&nodes, &models, &shares, prompt, output);
    let list = match kind {
        0 => singles(
            &mut chance,
            CONVERSATION,
            Gaps::Poisson,
            &shares,
            rate,
            requests,
        ),
        1 => singles(&mut chance, CODE, Gaps::Gamma(2.5), &shares, rate, requests),
        _ => documents(&mut chance, &shares, SHRINK, rate, requests),
    };
    let span = Duration::try_from_secs_f64(requests as f64 / rate).unwrap_or_default();
    let mut trouble = |probability: f64, kind: Kind, from: f64, until: f64| {
        let happens = chance.happens(probability);
        let victim = chance.below(nodes.len());
        if let Some(node) = nodes.get_mut(victim).filter(|_| happens) {
            let (from, until) = (span.mul_f64(from), span.mul_f64(until));
            node.troubles.push(Trouble { from, until, kind });
        }
    };
    // One after the other, since a node has one trouble at a time.
    trouble(0.15, Kind::Failing, 0.2, 0.4);
    trouble(0.13, Kind::Slow(8.0), 0.5, 0.7);
    Setup {
        scenario: "fuzz".to_owned(),
        load: Some(load),
        seed,
        nodes,
        models: models.into(),
        requests: list,
        proxies,
        says_length: false,
        attempts: ATTEMPTS,
        patience: PATIENCE,
        warm_up: WARM_UP,
    }
}

fn means(lengths: &Lengths) -> (f64, f64) {
    (mean(lengths.prompt), mean(lengths.output))
}

/// Requests per second that all nodes do together if they load nothing and have all slots full.
fn capacity(nodes: &[Spec], models: &[Model], shares: &[f64], prompt: f64, output: f64) -> f64 {
    let total: f64 = shares.iter().sum();
    let node = |node: &Spec| {
        let slots = node.slots as f64;
        let decode = node.gpu.decode * slots / (1.0 + node.gpu.slope * (slots - 1.0));
        let seconds = prompt / node.gpu.prefill + output / decode;
        let effort: f64 = models
            .iter()
            .zip(shares)
            .filter(|(model, _)| model.memory_gb(CONTEXT, node.slots) <= node.gpu.memory_gb)
            .map(|(model, share)| model.effort() * share / total)
            .sum();
        if effort > 0.0 {
            1.0 / (seconds * effort)
        } else {
            0.0
        }
    };
    nodes.iter().map(node).sum()
}
