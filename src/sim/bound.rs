//! What nobody can be better than: each request on the best node, which is idle, has the model in memory, and has computed
//! all that any node ever did.

use super::fleet::Setup;
use super::node::Node;
use super::request::Start;
use crate::bench::{Outcome, Run};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// What it is called in results.
pub const NAME: &str = "lower_bound";

/// The bound, in the form of a run.
pub fn bound(setup: &Setup) -> Run {
    let nodes: Vec<_> = setup
        .nodes
        .iter()
        .map(|spec| Node::new(spec.clone(), Arc::clone(&setup.models)))
        .collect();
    let mut seen = HashSet::new();
    let mut ends: Vec<Duration> = Vec::with_capacity(setup.requests.len());
    let mut outcomes = Vec::with_capacity(setup.requests.len());
    for request in &setup.requests {
        let intended = match request.start {
            Start::At(at) => at,
            Start::After(before, pause) => ends.get(before).copied().unwrap_or_default() + pause,
        };
        let prompt_tokens = request.prompt.tokens();
        let mut cached = 0;
        for link in request.prompt.links() {
            if !seen.insert((request.model, link.hash)) {
                cached = link.tokens.min(prompt_tokens.saturating_sub(1));
            }
        }
        if request.output > 0 {
            let answered = request.prompt.with_answer();
            seen.extend(
                answered
                    .links()
                    .last()
                    .map(|link| (request.model, link.hash)),
            );
        }
        let best = setup.models.get(request.model).and_then(|model| {
            let fitting = nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| node.fits(model));
            let times = fitting.map(|(at, node)| {
                let gpu = &node.spec().gpu;
                let first = f64::from(prompt_tokens - cached) * model.effort() / gpu.prefill;
                let rest =
                    f64::from(request.output.saturating_sub(1)) * model.effort() / gpu.decode;
                (at, first, first + rest)
            });
            times.min_by(|(_, _, a), (_, _, b)| a.total_cmp(b))
        });
        let (node, first, total) = best.unwrap_or_default();
        let total = Duration::from_secs_f64(total);
        ends.push(intended + total);
        outcomes.push(Outcome {
            intended,
            first_token: (request.output > 0).then(|| Duration::from_secs_f64(first)),
            total,
            tokens: request.output,
            prompt_tokens,
            cached_tokens: cached,
            node: u16::try_from(node).ok(),
            attempts: 1,
            failure: None,
        });
    }
    outcomes.retain(|outcome| outcome.intended >= setup.warm_up);
    outcomes.sort_by_key(|outcome| outcome.intended);
    Run {
        scenario: setup.scenario.clone(),
        strategy: NAME.to_owned(),
        load: setup.load,
        seed: setup.seed,
        nodes: setup.nodes.iter().map(|node| node.name.clone()).collect(),
        outcomes,
        loads: Some(0),
        lags: Vec::new(),
    }
}
