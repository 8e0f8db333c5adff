//! When a request would be done on a node, and how much it would delay others: all in seconds.
//!
//! Pure: the same function scores what the proxy has learnt and, in simulations, what is true.

use crate::knowledge::{Outlook, Work};

/// How much of a prompt's time the answers that are being written in the same runner lose to it.
const PREFILL_STALL: f64 = 0.9;
/// What a request takes from each other model at work on the node, as a share of its own time.
const OTHERS_LOSS: f64 = 0.4;
/// What a request takes from those who come after it, for each one that must wait before it.
const QUEUE_LOSS: f64 = 0.15;
/// Seconds that a failure of just now counts for.
const FAILURE: f64 = 3.0;
/// Seconds per request that a node has before anything is known of its speed: it is to be tried by one at a time.
const UNPROVEN: f64 = 30.0;
/// Seconds that stand for a node that makes no progress.
const STUCK: f64 = 1000.0;

/// What a node would cost, in seconds each.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Terms {
    /// Until the model is in memory.
    pub load: f64,
    /// Until a slot is free; it passes while the model is loaded.
    pub wait: f64,
    /// For the prompt.
    pub prefill: f64,
    /// For the answer.
    pub decode: f64,
    /// Lost by those who run there already.
    pub contention: f64,
    /// Lost by those who come later: to the longer line, the longer prompt, the model that is gone.
    pub externality: f64,
    /// For doubts: failures of late, unknown speed, no progress.
    pub doubt: f64,
}

impl Terms {
    /// Until the first token.
    pub fn first_token(&self) -> f64 {
        self.load.max(self.wait) + self.prefill
    }

    /// The whole, by which nodes are compared.
    pub fn total(&self) -> f64 {
        self.first_token() + self.decode + self.contention + self.externality + self.doubt
    }
}

/// Scores a node for a request. `miss_cost` is the share of prompts that is found computed already, over the whole
/// fleet: a prompt that has to be computed pushes as much out of a cache as others would have found in it.
pub fn score(work: &Work, node: &Outlook, miss_cost: f64) -> Terms {
    let (prefill_rate, decode_rate) = (node.prefill_rate(), node.decode_rate());
    let prefill = (work.prompt - node.cached).max(0.0) / prefill_rate;
    let decode = work.output / decode_rate;
    let own = prefill + decode;

    // One more answer makes each of those that are written now this much slower, as long as both last.
    let slowing = node.slope / (1.0 + node.slope * node.together() as f64);
    let per_token = decode_rate.recip();
    let mut contention = OTHERS_LOSS * own * node.others as f64;
    for peer in node.peers.iter().filter(|peer| peer.is_decoding) {
        contention += PREFILL_STALL * prefill + decode.min(peer.output * per_token) * slowing;
    }

    let waiting = (node.peers.len() + 1).saturating_sub(node.slots) as f64;
    Terms {
        load: node.load,
        wait: node.wait(),
        prefill,
        decode,
        contention,
        externality: QUEUE_LOSS * own * waiting + miss_cost * prefill + node.eviction,
        doubt: FAILURE * node.failures
            + UNPROVEN * node.unproven as f64
            + if node.is_stuck { STUCK } else { 0.0 },
    }
}
