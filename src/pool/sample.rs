//! A few of very many backends: what a choice costs must not grow with the fleet.
//!
//! Where all are alike, a sample that chance draws is about as good as the whole. For a request that saves work where its
//! model is in memory, or the beginning of its conversation is computed, it is not: such nodes are added.

use super::{Backend, Eligible, Pool};
use crate::balance::{Sight, Strategy, WHOLE, draw, leave_idlest};
use crate::health::Admit;
use crate::knowledge::Job;
use smallvec::SmallVec;
use std::sync::Arc;
use tokio::time::Instant;

/// Of the backends that should be drawn, the share that must be found: who finds fewer looks at all, for so many are out
/// that those who are left may stand together.
const LEAST_SHARE: usize = 4;

impl Pool {
    /// Some of the healthy backends that may be chosen and are fit, each once. `None` if all must be looked at: they are
    /// few, or the strategy asks for it, or hardly any can take a request.
    pub(super) fn sample(
        &self,
        strategy: &dyn Strategy,
        job: &Job<'_>,
        tried: &[u64],
        now: Instant,
        is_fit: impl Fn(&Backend) -> bool,
    ) -> Option<Eligible<'_>> {
        if self.backends.len() <= WHOLE {
            return None;
        }
        let sight = strategy.sight()?;
        let catalogue = self.catalogue.load();
        let [first, second] = self.kinds(&catalogue, job.demand.model.as_ref());
        let places = if first.len() > 0 { first } else { second };
        if places.len() <= WHOLE {
            return None;
        }
        let backend_at = |nth| self.backends.get(places.get(nth)?);
        let will_do = |backend: &Backend| {
            backend.admits(Admit::Healthy, now) && !tried.contains(&backend.id()) && is_fit(backend)
        };
        let find = |nth| backend_at(nth).filter(|backend| will_do(backend));
        let drawn = draw(places.len(), sight.drawn, sight.dice, find);
        let mut sample: Eligible<'_> = drawn.collect();
        if sample.len() * LEAST_SHARE < sight.drawn {
            return None;
        }
        leave_idlest(&mut sample, sight.idlest, sight.dice);
        let known = |id: u64| {
            let place = self.place_of(id)?;
            let backend = self.backends.get(place)?;
            (places.contain(place) && will_do(backend)).then_some(backend)
        };
        for backend in self.worth_adding(&sight, job, places.len(), known) {
            if !sample.iter().any(|it| Arc::ptr_eq(it, backend)) {
                sample.push(backend);
            }
        }
        Some(sample)
    }

    /// The backends that matter for this request above all; some may come twice.
    fn worth_adding<'a>(
        &'a self,
        sight: &Sight<'_>,
        job: &Job<'_>,
        count: usize,
        known: impl Fn(u64) -> Option<&'a Arc<Backend>>,
    ) -> SmallVec<[&'a Arc<Backend>; 16]> {
        let familiar = self.lore.homes.nodes(&job.demand.prefixes, sight.familiar);
        let mut found: SmallVec<_> = familiar.into_iter().filter_map(&known).collect();
        if let Some(model) = &job.model {
            // As many of those who are shown anyway should have the model in memory.
            let shown = sight.idlest * model.copies() / count;
            let missing = sight.warm.saturating_sub(shown);
            if missing > 0 {
                let nodes = model.nodes();
                let find = |nth: usize| known(*nodes.get(nth)?);
                found.extend(draw(nodes.len(), missing, sight.dice, find));
            }
        }
        found
    }

    /// Notes where a conversation goes on, if the fleet is so big that nobody would find it else.
    pub(super) fn note_home(&self, strategy: &dyn Strategy, job: &Job<'_>, backend: &Backend) {
        if self.backends.len() > WHOLE && strategy.sight().is_some_and(|sight| sight.familiar > 0) {
            self.lore.homes.note(&job.demand.prefixes, backend.id());
        }
    }

    pub(super) fn place_of(&self, id: u64) -> Option<usize> {
        let at = self.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.by_id.get(at).map(|(_, place)| *place)
    }
}

#[cfg(test)]
mod tests;
