//! The situations that strategies are compared in.

use super::chance::Chance;
use super::fleet::Setup;
use super::gpu::{A6000, CPU, Gpu, P40, RTX_3090, RTX_4090};
use super::lengths::{CODE, CONVERSATION};
use super::model::Model;
use super::node::Spec;
use super::request::{Request, Start};
use super::trace::Row;
use super::trouble::{Kind, Trouble};
use super::workload::{Gaps, documents, embeddings, replay, sessions, singles};
use std::sync::Arc;
use std::time::Duration;

/// The load at which the rates of the table are meant.
const TABLE_LOAD: f64 = 0.7;
/// Nodes that a request is given to at most, as the proxy has it by default.
pub(super) const ATTEMPTS: u16 = 2;
/// After this clients give up, as OpenAI's SDKs do; whatever fails counts as if it had taken so long.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// While the first requests find everything idle and cold, nothing counts.
pub(super) const WARM_UP: Duration = Duration::from_secs(60);
const REFERENCE: (&str, f64) = ("llama3.1:8b", super::gpu::REFERENCE_GB);
const SIX_MODELS: [(&str, f64); 6] = [
    REFERENCE,
    ("qwen2.5-coder:3b", 3.0),
    ("mistral-nemo:12b", 7.1),
    ("qwen2.5:14b", 9.0),
    ("gpt-oss:20b", 13.0),
    ("qwen2.5:32b", 19.5),
];
const SIX_SHARES: [f64; 6] = [0.40, 0.22, 0.16, 0.12, 0.06, 0.04];

/// A situation.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What users call it.
    pub name: &'static str,
    /// One line for help texts.
    pub summary: &'static str,
    fleet: &'static [(Gpu, usize)],
    slots: usize,
    has_attic: bool,
    /// Requests per second at [`TABLE_LOAD`].
    rate: f64,
    work: Work,
    trouble: Option<(Kind, f64, f64)>,
}

/// What clients do.
#[derive(Debug, Clone, Copy)]
enum Work {
    Talk,
    Code,
    Models,
    Sessions,
    Documents,
    Embed,
}

/// What a run of a scenario is like.
#[derive(Debug, Clone)]
pub struct Params {
    /// Offered load, as a share of what is full.
    pub load: f64,
    /// All chance comes from it.
    pub seed: u64,
    /// How many requests there are, bursts of embeddings not counted.
    pub requests: usize,
    /// Proxies side by side.
    pub proxies: usize,
    /// A trace whose lengths and times are used in place of the scenario's own.
    pub trace: Option<Arc<[Row]>>,
}

const FOUR_4090: &[(Gpu, usize)] = &[(RTX_4090, 4)];
const MIXED: &[(Gpu, usize)] = &[(RTX_4090, 2), (RTX_3090, 1), (P40, 2), (CPU, 1)];
const LARGE: &[(Gpu, usize)] = &[(RTX_4090, 2), (RTX_3090, 2), (A6000, 1)];
const FAST: &[(Gpu, usize)] = &[(RTX_4090, 2), (RTX_3090, 2)];

const BASE: Scenario = Scenario {
    name: "homog",
    summary: "four equal nodes, one model",
    fleet: FOUR_4090,
    slots: 4,
    has_attic: true,
    rate: 3.5,
    work: Work::Talk,
    trouble: None,
};
const HETERO: Scenario = Scenario {
    name: "hetero",
    summary: "six nodes from a fast GPU to a CPU, one model",
    fleet: MIXED,
    rate: 2.9,
    ..BASE
};
const MULTIMODEL: Scenario = Scenario {
    name: "multimodel",
    summary: "five nodes, six models, of which no node holds all in memory",
    fleet: LARGE,
    rate: 1.4,
    work: Work::Models,
    ..BASE
};
const MULTITURN: Scenario = Scenario {
    name: "multiturn",
    summary: "conversations on four fast nodes",
    fleet: FAST,
    rate: 2.6,
    work: Work::Sessions,
    ..BASE
};

/// All of them, in the order users see.
pub const ALL: &[Scenario] = &[
    BASE,
    HETERO,
    MULTIMODEL,
    MULTITURN,
    Scenario {
        name: "multiturn_p40",
        summary: "conversations on six old nodes, for which prompts are hard work",
        fleet: &[(P40, 6)],
        rate: 1.3,
        ..MULTITURN
    },
    Scenario {
        name: "mooncake",
        summary: "long documents with questions that follow each other",
        fleet: FAST,
        rate: 1.5,
        work: Work::Documents,
        ..BASE
    },
    Scenario {
        name: "embed",
        summary: "chats, and every three minutes 600 texts to embed",
        fleet: &[(RTX_4090, 2), (RTX_3090, 1), (P40, 1)],
        rate: 2.0,
        work: Work::Embed,
        ..BASE
    },
    Scenario {
        name: "failfast",
        summary: "one of four nodes answers 500 at once for a fifth of the time",
        trouble: Some((Kind::Failing, 0.1, 0.3)),
        ..BASE
    },
    Scenario {
        name: "slow",
        summary: "one of four nodes is eight times slower for a fifth of the time",
        trouble: Some((Kind::Slow(8.0), 0.1, 0.3)),
        ..BASE
    },
    Scenario {
        name: "hang",
        summary: "one of four nodes stops in the middle of its answers for a tenth of the time",
        trouble: Some((Kind::Frozen, 0.1, 0.2)),
        ..BASE
    },
    Scenario {
        name: "join",
        summary: "three nodes, and a fourth that joins late and cold",
        rate: 2.8,
        trouble: Some((Kind::Gone, 0.0, 0.3)),
        ..BASE
    },
    Scenario {
        name: "crash",
        summary: "one of four nodes is gone for a tenth of the time, and empty when it is back",
        trouble: Some((Kind::Gone, 0.2, 0.3)),
        ..BASE
    },
    Scenario {
        name: "code",
        summary: "as hetero, with the bursts of code completion",
        work: Work::Code,
        ..HETERO
    },
    Scenario {
        name: "np1_homog",
        summary: "as homog, one request at a time on each node, which is Ollama's default",
        slots: 1,
        rate: 1.6,
        ..BASE
    },
    Scenario {
        name: "np1_hetero",
        summary: "as hetero, one request at a time",
        slots: 1,
        rate: 1.3,
        ..HETERO
    },
    Scenario {
        name: "np1_multimodel",
        summary: "as multimodel, one request at a time",
        slots: 1,
        rate: 0.8,
        ..MULTIMODEL
    },
    Scenario {
        name: "np1_multiturn",
        summary: "as multiturn, one request at a time",
        slots: 1,
        rate: 1.2,
        ..MULTITURN
    },
];

impl Scenario {
    /// The scenario of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|scenario| scenario.name == name)
    }

    /// Everything that a run needs.
    pub fn setup(&self, params: &Params) -> Setup {
        let rate = self.rate * params.load / TABLE_LOAD;
        let mut chance = Chance::new(params.seed, 1);
        let count = params.requests;
        let models = match self.work {
            Work::Talk | Work::Code | Work::Sessions | Work::Documents => chats(&[REFERENCE]),
            Work::Models => chats(&SIX_MODELS),
            Work::Embed => {
                let mut models = chats(&[REFERENCE]);
                models.extend(Model::embedding("nomic-embed-text", 0.27));
                models
            }
        };
        let shares: &[f64] = if matches!(self.work, Work::Models) {
            &SIX_SHARES
        } else {
            &[1.0]
        };
        let shrink = if matches!(self.work, Work::Documents) {
            4.0
        } else {
            1.0
        };
        let mut requests = match (&params.trace, self.work) {
            (Some(rows), _) => replay(&mut chance, rows, shares, shrink, rate, count),
            (None, Work::Talk | Work::Embed) => singles(
                &mut chance,
                CONVERSATION,
                Gaps::Like(CONVERSATION),
                shares,
                rate,
                count,
            ),
            (None, Work::Models) => singles(
                &mut chance,
                CONVERSATION,
                Gaps::Poisson,
                shares,
                rate,
                count,
            ),
            (None, Work::Code) => singles(&mut chance, CODE, Gaps::Like(CODE), shares, rate, count),
            (None, Work::Sessions) => sessions(&mut chance, shares, rate, count),
            (None, Work::Documents) => documents(&mut chance, shares, shrink, rate, count),
        };
        let span = Duration::try_from_secs_f64(count as f64 / rate).unwrap_or_default();
        if matches!(self.work, Work::Embed) {
            requests.extend(embeddings(&mut chance, 1, span));
            sort(&mut requests);
        }
        let mut nodes = nodes(self.fleet, self.slots, self.has_attic);
        if let Some((kind, from, until)) = self.trouble
            && let Some(node) = nodes.get_mut(2)
        {
            node.troubles.push(Trouble {
                kind,
                from: span.mul_f64(from),
                until: span.mul_f64(until),
            });
        }
        Setup {
            scenario: self.name.to_owned(),
            load: Some(params.load),
            seed: params.seed,
            nodes,
            models: models.into(),
            requests,
            proxies: params.proxies,
            says_length: false,
            attempts: ATTEMPTS,
            patience: PATIENCE,
            warm_up: WARM_UP,
        }
    }
}

/// Puts requests of fixed times into the order of these.
pub(super) fn sort(requests: &mut [Request]) {
    requests.sort_by_key(|request| match request.start {
        Start::At(at) => at,
        Start::After(_, _) => Duration::MAX,
    });
}

pub(super) fn chats(models: &[(&str, f64)]) -> Vec<Model> {
    models
        .iter()
        .filter_map(|(name, size)| Model::chat(name, *size))
        .collect()
}

fn nodes(fleet: &[(Gpu, usize)], slots: usize, has_attic: bool) -> Vec<Spec> {
    let mut nodes = Vec::new();
    for (gpu, count) in fleet {
        for number in 1..=*count {
            nodes.push(Spec {
                name: format!("{}-{number}", gpu.name),
                gpu: *gpu,
                slots,
                has_attic,
                troubles: Vec::new(),
            });
        }
    }
    nodes
}
