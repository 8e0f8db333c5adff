//! Many runs, on as many cores as there are.

use super::fleet::{Chooser, simulate};
use super::scenario::{Params, Scenario};
use super::{bound::bound, fuzz};
use crate::bench::Run;
use crate::pool::OriginError;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// One run of many.
#[derive(Debug, Clone)]
pub struct Case {
    /// What is offered to whom.
    pub situation: Situation,
    /// How much of it.
    pub params: Params,
    /// Who chooses; `None` for the bound that nobody can be better than.
    pub chooser: Option<Chooser>,
}

/// What is offered to whom.
#[derive(Debug, Clone, Copy)]
pub enum Situation {
    /// A scenario of the table.
    Scenario(&'static Scenario),
    /// The random fleet of the seed; its load is random too.
    Fuzz,
}

impl Case {
    /// Makes the run.
    ///
    /// # Errors
    /// When a node's name cannot be that of a host.
    pub fn run(&self) -> Result<Run, OriginError> {
        let params = &self.params;
        let setup = match self.situation {
            Situation::Scenario(scenario) => scenario.setup(params),
            Situation::Fuzz => fuzz::setup(params.seed, params.requests, params.proxies),
        };
        match self.chooser {
            Some(chooser) => simulate(&setup, chooser),
            None => Ok(bound(&setup)),
        }
    }
}

/// Makes all runs, turns each into what is needed of it, and returns these in the order of the cases. `progress` is told
/// how many are done, and how many there are.
///
/// # Errors
/// When a node's name cannot be that of a host.
pub fn sweep<T: Send>(
    cases: &[Case],
    reduce: impl Fn(Run) -> T + Sync,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Vec<T>, OriginError> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results = Mutex::new(Vec::with_capacity(cases.len()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Relaxed);
            let Some(case) = cases.get(at) else { return };
            let result = case.run().map(&reduce);
            results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((at, result));
            progress(done.fetch_add(1, Relaxed) + 1, cases.len());
        }
    };
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(cases.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
