//! One node: when it does what.

use crate::pool::Inventory;
use crate::sim::clock::date;
use crate::sim::gpu::Gpu;
use crate::sim::job::{Fault, Job, Sign};
use crate::sim::node::{KEEP_ALIVE, Node, QUEUE_LIMIT};
use crate::sim::{CONTEXT, Kind, Link, Model, Prompt, Spec};
use std::sync::Arc;
use std::time::Duration;

/// Round numbers: a prompt of 1000 tokens takes a second, an answer of 101 tokens another one after its first token.
const PLAIN: Gpu = Gpu {
    name: "plain",
    prefill: 1000.0,
    decode: 100.0,
    slope: 0.0,
    memory_gb: 16.0,
    load_gb: 4.9,
    settle: Duration::from_secs(1),
};

fn spec(gpu: Gpu, slots: usize) -> Spec {
    Spec {
        name: "node".to_owned(),
        gpu,
        slots,
        has_attic: false,
        troubles: Vec::new(),
    }
}

fn models() -> Arc<[Model]> {
    ["a", "b", "c"]
        .iter()
        .filter_map(|name| Model::chat(name, 4.9))
        .chain(Model::embedding("e", 0.49))
        .collect()
}

fn job(id: usize, model: usize, came: f64, texts: &[u64]) -> Job {
    let links: Vec<_> = (1..)
        .zip(texts)
        .map(|(count, text)| Link {
            hash: *text,
            tokens: 1000 * count,
            bytes: 4000 * count,
        })
        .collect();
    let len = links.len();
    Job {
        id,
        model,
        context: CONTEXT,
        prompt: Prompt::new(links.into(), len),
        output: if model == 3 { 0 } else { 101 },
        came: Duration::from_secs_f64(came),
    }
}

/// A node that is given jobs, and when it said what, in milliseconds.
struct Bench {
    node: Node,
    log: Vec<(u128, Sign)>,
}

impl Bench {
    fn new(spec: Spec) -> Self {
        Self {
            node: Node::new(spec, models()),
            log: Vec::new(),
        }
    }

    fn until(&mut self, time: f64) {
        let time = Duration::from_secs_f64(time);
        while let Some(soonest) = self.node.soonest().filter(|soonest| *soonest <= time) {
            self.act(soonest, |node, signs| node.advance(soonest, signs));
        }
        self.act(time, |node, signs| node.advance(time, signs));
    }

    fn act(&mut self, now: Duration, act: impl FnOnce(&mut Node, &mut Vec<Sign>)) {
        let mut signs = Vec::new();
        act(&mut self.node, &mut signs);
        self.log
            .extend(signs.into_iter().map(|sign| (now.as_millis(), sign)));
    }

    fn submit(&mut self, job: Job) {
        self.until(job.came.as_secs_f64());
        self.act(job.came, |node, signs| node.submit(job, signs));
    }

    fn cancel(&mut self, id: usize, at: f64) {
        self.until(at);
        let at = Duration::from_secs_f64(at);
        self.act(at, |node, signs| node.cancel(id, at, signs));
    }

    /// When jobs were done, in order.
    #[track_caller]
    fn check_done(&mut self, expected: &[(usize, u128)]) {
        self.until(1000.0);
        let done = self.log.iter().filter_map(|(at, sign)| match sign {
            Sign::Done { id, .. } => Some((*id, *at)),
            Sign::FirstToken(_) | Sign::Failed(..) => None,
        });
        assert_eq!(done.collect::<Vec<_>>(), expected, "{:?}", self.log);
        assert_eq!(self.node.ids().count(), 0);
    }
}

#[test]
fn a_job_waits_for_its_model_then_for_a_slot_in_order_of_arrival() {
    let mut bench = Bench::new(spec(PLAIN, 1));
    for id in 0..3 {
        bench.submit(job(id, 0, 0.0, &[id as u64]));
    }
    // Two seconds to load, one to read, one to write.
    bench.check_done(&[(0, 4000), (1, 6000), (2, 8000)]);
    let (at, sign) = bench.log[0];
    assert_eq!((at, sign), (3000, Sign::FirstToken(0)));
    let Some((_, Sign::Done { counters, .. })) = bench.log.last() else {
        panic!("{:?}", bench.log)
    };
    assert_eq!(
        counters.total_time,
        Some(Duration::from_nanos(8_000_000_000 + 6))
    );
    assert_eq!(counters.load_time, Some(Duration::from_secs(2)));
}

#[test]
fn slots_share_the_machine_and_so_do_models() {
    let mut bench = Bench::new(spec(PLAIN, 2));
    bench.submit(job(0, 0, 0.0, &[0]));
    bench.submit(job(1, 0, 0.0, &[1]));
    // Both prompts together take two seconds; without a slope, both answers take what one takes.
    bench.check_done(&[(0, 5000), (1, 5000)]);

    let mut bench = Bench::new(spec(PLAIN, 1));
    bench.submit(job(0, 0, 0.0, &[0]));
    bench.until(4.0);
    bench.submit(job(1, 1, 4.0, &[1]));
    bench.until(8.0);
    bench.submit(job(2, 0, 10.0, &[2]));
    bench.submit(job(3, 1, 10.0, &[3]));
    bench.check_done(&[(0, 4000), (1, 8000), (2, 14_000), (3, 14_000)]);
    assert_eq!(bench.node.loads(), 2);
}

#[test]
fn one_model_is_loaded_after_the_other_and_a_busy_one_is_waited_for() {
    let mut bench = Bench::new(spec(PLAIN, 1));
    bench.submit(job(0, 0, 0.0, &[0]));
    bench.submit(job(1, 1, 0.0, &[1]));
    bench.submit(job(2, 2, 0.0, &[2]));
    bench.submit(job(3, 0, 0.0, &[3]));
    // At 4 s there is room for two models. The third has to wait for the first one, which job 3 is not for: it waits
    // behind the third.
    bench.until(4.0);
    assert_eq!(
        bench.node.waiting().map(|job| job.id).collect::<Vec<_>>(),
        [2, 3]
    );
    bench.until(1000.0);
    assert_eq!(bench.node.loads(), 4);
    let ids = bench.log.iter().filter_map(|(_, sign)| match sign {
        Sign::Done { id, .. } => Some(*id),
        Sign::FirstToken(_) | Sign::Failed(..) => None,
    });
    assert_eq!(ids.collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn other_options_reload_a_model() {
    let mut bench = Bench::new(spec(PLAIN, 1));
    bench.submit(job(0, 0, 0.0, &[0]));
    bench.submit(Job {
        context: 8192,
        ..job(1, 0, 5.0, &[1])
    });
    // One second until its memory is free, two to load.
    bench.check_done(&[(0, 4000), (1, 10_000)]);
    assert_eq!(bench.node.loads(), 2);
}

#[test]
fn a_load_is_broken_off_with_its_client_and_the_next_one_begins_anew() {
    let mut bench = Bench::new(spec(PLAIN, 1));
    bench.submit(job(0, 0, 0.0, &[0]));
    bench.submit(job(1, 0, 0.5, &[1]));
    bench.cancel(0, 1.5);
    bench.check_done(&[(1, 5500)]);
    assert_eq!(bench.node.loads(), 2);

    let mut bench = Bench::new(spec(PLAIN, 1));
    bench.submit(job(0, 0, 0.0, &[0]));
    bench.submit(job(1, 0, 0.0, &[1]));
    bench.submit(job(2, 0, 0.0, &[2]));
    bench.cancel(0, 2.5);
    bench.cancel(1, 3.0);
    bench.check_done(&[(2, 5000)]);
}

#[test]
fn only_requests_that_wait_for_a_load_can_be_too_many() {
    let mut bench = Bench::new(spec(PLAIN, 1));
    bench.submit(job(0, 0, 0.0, &[0]));
    bench.until(2.0);
    for id in 1..=QUEUE_LIMIT + 10 {
        bench.submit(job(id, 0, 2.0, &[0]));
    }
    assert!(
        bench.log.is_empty(),
        "a model in memory has a line without an end"
    );
    // The first is what is loaded, and does not wait.
    for id in 0..=QUEUE_LIMIT {
        bench.submit(job(10_000 + id, 1, 3.0, &[0]));
    }
    assert!(
        !bench
            .log
            .iter()
            .any(|(_, sign)| matches!(sign, Sign::Failed(..)))
    );
    bench.submit(job(20_000, 1, 3.0, &[0]));
    assert_eq!(
        bench.log.last(),
        Some(&(3000, Sign::Failed(20_000, Fault::Full)))
    );
}

#[track_caller]
fn check_cached(texts: [&[u64]; 3], has_attic: bool, expected: [u32; 3]) {
    let mut bench = Bench::new(Spec {
        has_attic,
        ..spec(PLAIN, 1)
    });
    for (id, texts) in texts.into_iter().enumerate() {
        bench.submit(job(id, 0, 100.0 * id as f64, texts));
    }
    bench.until(1000.0);
    let cached = bench.log.iter().filter_map(|(_, sign)| match sign {
        Sign::Done { cached, .. } => Some(*cached),
        Sign::FirstToken(_) | Sign::Failed(..) => None,
    });
    assert_eq!(cached.collect::<Vec<_>>(), expected);
}

#[test]
fn prompts_that_begin_alike_are_not_computed_again() {
    check_cached([&[1], &[1, 2], &[1, 2, 3]], false, [0, 1000, 2000]);
    check_cached([&[1], &[1], &[2]], false, [0, 999, 0]);
    check_cached([&[1, 2], &[3], &[1, 2, 4]], false, [0, 0, 0]);
    check_cached([&[1, 2], &[3], &[1, 2, 4]], true, [0, 0, 2000]);
}

#[test]
fn an_idle_model_goes_after_five_minutes() {
    let mut bench = Bench::new(spec(PLAIN, 1));
    bench.submit(job(0, 0, 0.0, &[0]));
    let gone = 4.0 + KEEP_ALIVE.as_secs_f64();
    bench.until(gone - 0.1);
    assert_eq!(bench.node.ps().models.len(), 1);
    bench.until(gone + 0.1);
    assert_eq!(bench.node.ps().models.len(), 0);
}

#[test]
fn what_it_says_of_itself_is_understood() {
    let mut bench = Bench::new(spec(PLAIN, 1));
    bench.submit(job(0, 0, 0.0, &[0]));
    let inventory = Inventory::from_tags(bench.node.tags().as_bytes()).unwrap();
    assert_eq!(inventory.names(), ["a", "b", "c", "e"]);
    assert_eq!(
        bench.node.ps().models,
        [],
        "what is being loaded does not show"
    );
    bench.until(2.0);
    let ps = bench.node.ps();
    let loaded = ps.models.first().unwrap();
    assert_eq!(Some(&*loaded.digest), inventory.digest(&loaded.key));
    let left = loaded.expires_in(date(Duration::from_secs(2)));
    assert_eq!(left, Some(KEEP_ALIVE));
}

#[test]
fn troubles_show() {
    let second = Duration::from_secs;
    let mut bench = Bench::new(spec(PLAIN, 1));
    bench.submit(job(0, 0, 0.0, &[0]));
    let trouble = |bench: &mut Bench, at: u64, kind| {
        bench.until(at as f64);
        bench.act(second(at), |node, signs| {
            node.set_trouble(kind, second(at), signs);
        });
    };
    // Half of the prompt has to be read twice as slowly after that.
    trouble(&mut bench, 2, Some(Kind::Slow(2.0)));
    trouble(&mut bench, 3, None);
    trouble(&mut bench, 4, Some(Kind::Frozen));
    trouble(&mut bench, 10, Some(Kind::Failing));
    bench.submit(job(1, 0, 10.0, &[1]));
    trouble(&mut bench, 11, Some(Kind::Gone));
    bench.submit(job(2, 0, 11.0, &[2]));
    let log: Vec<_> = bench
        .log
        .iter()
        .filter(|(_, sign)| !matches!(sign, Sign::Done { .. }))
        .copied()
        .collect();
    assert_eq!(
        log,
        [
            (3500, Sign::FirstToken(0)),
            (10_004, Sign::Failed(1, Fault::Error)),
            (11_000, Sign::Failed(2, Fault::Unreachable)),
        ]
    );
    bench.check_done(&[(0, 10_500)]);
    assert_eq!(bench.node.ps().models.len(), 0);
}

#[test]
fn texts_are_embedded_one_by_one() {
    let mut bench = Bench::new(spec(PLAIN, 4));
    bench.submit(job(0, 3, 0.0, &[0]));
    bench.submit(job(1, 3, 0.0, &[1]));
    // A tenth of the work of the others per token.
    bench.check_done(&[(0, 1200), (1, 1300)]);
    assert!(
        !bench
            .log
            .iter()
            .any(|(_, sign)| matches!(sign, Sign::FirstToken(_)))
    );
}
