//! The models in a node's memory: as it said when it was asked, and as it must be since, from what was sent to it.

use super::Model;
use super::shadow::Shadow;
use crate::wire::RunnerOptions;
use std::sync::Arc;

/// Models that Ollama keeps in memory at a time for each GPU, unless it is told otherwise.
const USUAL_LIMIT: usize = 3;

/// A node's own word on what it has in memory.
#[derive(Debug)]
pub struct Sighting {
    /// When it was asked, in seconds since the epoch.
    pub asked: f64,
    /// The models.
    pub models: Vec<Seen>,
}

/// A model that a node said it has in memory.
#[derive(Debug)]
pub struct Seen {
    /// The model.
    pub model: Arc<Model>,
    /// The room it takes, in bytes; 0 if it did not say.
    pub memory: u64,
    /// The context it was loaded with, in tokens.
    pub context: Option<u64>,
    /// When it will be put out, in seconds since the epoch.
    pub expires: Option<f64>,
}

/// A model in memory, or on its way there. Ollama has one runner per model.
#[derive(Debug)]
pub(super) struct Resident {
    /// The node's number.
    node: u64,
    /// Of the model.
    pub(super) id: u64,
    pub(super) model: Arc<Model>,
    /// What it was loaded with; `None` if it was loaded before anybody looked.
    pub(super) shape: Option<RunnerOptions>,
    pub(super) context: Option<u64>,
    pub(super) loading: Option<Loading>,
    /// When it was there for certain, in seconds since the epoch.
    pub(super) known_at: f64,
    /// Requests that run or wait in it.
    pub(super) users: usize,
    /// Answers being written, and their sum over time.
    pub(super) decoding: u32,
    pub(super) area: f64,
    pub(super) area_at: f64,
    /// Answers that it was seen to write at a time, at least 1.
    pub(super) slots: usize,
    pub(super) shadow: Shadow,
    /// How likely it is that the load of another has put it out, 0 to 1.
    pub(super) risk: f64,
}

/// A load under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loading {
    pub(super) since: f64,
    /// Seconds that it should take.
    pub(super) takes: f64,
}

impl Loading {
    pub(super) fn left(&self, now: f64) -> f64 {
        (self.takes - (now - self.since)).max(0.5)
    }
}

impl Resident {
    pub(super) fn new(node: u64, model: Arc<Model>, slots: usize, now: f64) -> Self {
        model.add_copy(node);
        Self {
            node,
            id: model.id(),
            model,
            shape: None,
            context: None,
            loading: None,
            known_at: now,
            users: 0,
            decoding: 0,
            area: 0.0,
            area_at: now,
            slots,
            shadow: Shadow::default(),
            risk: 0.0,
        }
    }

    /// Whether it can serve a request without being loaded again.
    pub(super) fn serves(&self, asked: &RunnerOptions) -> bool {
        let contexts_agree = match (asked.num_ctx, self.context) {
            (Some(asked), Some(has)) => u64::try_from(asked) == Ok(has),
            (Some(asked), None) => self.shape.is_some_and(|shape| shape.num_ctx == Some(asked)),
            // Whoever asks for nothing gets the default, which an explicit context may or may not be.
            (None, _) => self.shape.is_none_or(|shape| shape.num_ctx.is_none()),
        };
        let rest = |options: RunnerOptions| RunnerOptions {
            num_ctx: None,
            ..options
        };
        contexts_agree && rest(self.shape.unwrap_or_default()) == rest(*asked)
    }

    /// Brings the sum of answers being written up to a time.
    pub(super) fn advance(&mut self, now: f64) {
        self.area += f64::from(self.decoding) * (now - self.area_at).max(0.0);
        self.area_at = now;
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.model.remove_copy(self.node);
    }
}

/// The memory of one node.
#[derive(Debug)]
pub(super) struct Memory {
    /// The node's number.
    pub(super) node: u64,
    pub(super) residents: Vec<Resident>,
    /// The most that was ever in memory at a time, in bytes.
    fits: f64,
    /// The least that something had to be put out for, in bytes.
    overflows: f64,
    /// The most models that were ever in memory at a time.
    most: usize,
    /// The most models that may be in memory at a time, as far as that was seen.
    count_limit: Option<usize>,
    /// What was seen last: number, room and end of each.
    before: Vec<(u64, f64, Option<f64>)>,
}

/// What a load would do to the models that are there.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// How many have to go.
    pub(super) count: usize,
    /// Places of those of whom they will be: idle ones if there are enough.
    pub(super) candidates: Vec<usize>,
    /// Whether one of them is at work, so that the load waits for it.
    pub(super) waits: bool,
}

impl Memory {
    /// The memory of the node of this number, of which nothing is known.
    pub(super) fn of(node: u64) -> Self {
        Self {
            node,
            residents: Vec::new(),
            fits: 0.0,
            overflows: f64::INFINITY,
            most: 0,
            count_limit: None,
            before: Vec::new(),
        }
    }

    pub(super) fn place(&self, model: u64) -> Option<usize> {
        self.residents
            .iter()
            .position(|resident| resident.id == model)
    }

    pub(super) fn get_mut(&mut self, model: u64) -> Option<&mut Resident> {
        self.residents
            .iter_mut()
            .find(|resident| resident.id == model)
    }

    /// Who would have to go for a model that is not there.
    pub(super) fn plan(&self, model: &Model) -> Plan {
        let present = |resident: &&Resident| resident.risk < 0.5;
        let mut room: f64 = self
            .residents
            .iter()
            .filter(present)
            .map(|it| it.model.memory())
            .sum();
        let mut count = self.residents.iter().filter(present).count();
        room += model.memory();
        count += 1;
        let capacity = if self.overflows.is_finite() {
            f64::midpoint(self.fits.min(self.overflows), self.overflows)
        } else {
            f64::INFINITY
        };
        let too_much = |room: f64, count: usize| {
            (room > capacity && count > 1) || self.count_limit.is_some_and(|limit| count > limit)
        };
        if !too_much(room, count) {
            return Plan::default();
        }
        // Ollama prefers idle ones, and among those goes by names of files that nobody outside sees.
        let is_idle = |at: &usize| {
            self.residents
                .get(*at)
                .is_some_and(|it| it.users == 0 && it.loading.is_none())
        };
        let (idle, busy): (Vec<_>, Vec<_>) = (0..self.residents.len()).partition(is_idle);
        let mut plan = Plan::default();
        for at in idle.iter().chain(&busy) {
            if !too_much(room, count) {
                break;
            }
            plan.count += 1;
            count -= 1;
            room -= self.residents.get(*at).map_or(0.0, |it| it.model.memory());
        }
        plan.waits = plan.count > idle.len();
        plan.candidates = if plan.waits {
            [idle, busy].concat()
        } else {
            idle
        };
        plan
    }

    /// Takes in what a node said of itself. A load that was begun and not finished when it was asked is believed in
    /// all the same.
    pub(super) fn reconcile(&mut self, sighting: &Sighting, slots: usize) {
        self.learn_room(sighting);
        let seen = |id: u64| sighting.models.iter().find(|seen| seen.model.id() == id);
        let loads = self
            .residents
            .iter()
            .any(|resident| resident.loading.is_some());
        self.residents.retain(|resident| {
            let is_new = resident.loading.is_some() || resident.known_at >= sighting.asked;
            is_new || seen(resident.id).is_some()
        });
        for it in &sighting.models {
            match self.get_mut(it.model.id()) {
                Some(resident) if resident.loading.is_none() => {
                    resident.context = it.context.or(resident.context);
                    if !loads {
                        resident.risk = 0.0;
                    }
                }
                Some(_) => {}
                // One that a load under way was to put out is not taken back before that is over.
                None if loads => {}
                None => {
                    let model = Arc::clone(&it.model);
                    let mut resident = Resident::new(self.node, model, slots, sighting.asked);
                    resident.context = it.context;
                    self.residents.push(resident);
                }
            }
        }
    }

    /// Learns how much fits from what came and what went.
    fn learn_room(&mut self, sighting: &Sighting) {
        let room = |seen: &Seen| {
            if seen.memory > 0 {
                seen.memory as f64
            } else {
                seen.model.memory()
            }
        };
        let total: f64 = sighting.models.iter().map(room).sum();
        self.fits = self.fits.max(total);
        if self.overflows <= self.fits {
            self.overflows = f64::INFINITY;
        }
        self.most = self.most.max(sighting.models.len());
        if self.count_limit.is_some_and(|limit| self.most > limit) {
            self.count_limit = None;
        }
        let has = |id: u64| sighting.models.iter().any(|seen| seen.model.id() == id);
        let had = |id: u64| self.before.iter().any(|(before, _, _)| *before == id);
        // Whoever goes does so before the one that needs the room is there to be seen.
        let appeared = sighting.models.iter().filter(|seen| !had(seen.model.id()));
        let coming = self.residents.iter().filter(|it| it.loading.is_some());
        let coming = coming.map(|it| it.model.memory());
        let new = appeared.map(room).chain(coming).fold(0.0, f64::max);
        let evicted = self.before.iter().any(|(id, _, expires)| {
            let ran_out = expires.is_some_and(|at| at <= sighting.asked + 2.0);
            !has(*id) && !ran_out
        });
        if evicted && new > 0.0 {
            let needed: f64 = self.before.iter().map(|(_, room, _)| room).sum::<f64>() + new;
            if self.before.len() >= self.most.max(USUAL_LIMIT) || needed <= self.fits {
                self.count_limit = Some(self.before.len());
            } else {
                self.overflows = self.overflows.min(needed);
            }
        }
        self.before = sighting
            .models
            .iter()
            .map(|seen| (seen.model.id(), room(seen), seen.expires))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn model(id: u64, gib: u64) -> Arc<Model> {
        let model = Arc::new(Model::new(id));
        model.set_memory(gib * GIB);
        model
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few gigabytes"
    )]
    fn sighting(asked: f64, models: &[&Arc<Model>]) -> Sighting {
        let seen = |model: &&Arc<Model>| Seen {
            model: Arc::clone(model),
            memory: model.memory() as u64,
            context: Some(4096),
            expires: Some(asked + 300.0),
        };
        Sighting {
            asked,
            models: models.iter().map(seen).collect(),
        }
    }

    #[test]
    fn learns_how_much_fits_from_what_had_to_go() {
        let (a, b, c) = (model(1, 10), model(2, 10), model(3, 10));
        let mut memory = Memory::of(7);
        memory.reconcile(&sighting(1.0, &[&a]), 1);
        assert_eq!(
            memory.plan(&b),
            Plan::default(),
            "nothing is known, so it may fit"
        );
        memory.reconcile(&sighting(2.0, &[&a, &b]), 1);
        assert_eq!((a.copies(), b.copies(), c.copies()), (1, 1, 0));
        assert_eq!((&**a.nodes(), &**c.nodes()), (&[7][..], &[][..]));
        memory.reconcile(&sighting(3.0, &[&b, &c]), 1);
        assert_eq!((a.copies(), c.copies()), (0, 1));
        assert_eq!(
            memory.plan(&a),
            Plan {
                count: 1,
                candidates: vec![0, 1],
                waits: false
            }
        );
        memory.residents[0].users = 1;
        assert_eq!(memory.plan(&a).candidates, [1]);
        memory.residents[1].users = 1;
        assert!(memory.plan(&a).waits);
        drop(memory);
        assert_eq!(b.copies(), 0);
    }

    #[test]
    fn one_that_ran_out_of_time_says_nothing_of_the_room() {
        let (a, b) = (model(1, 10), model(2, 10));
        let mut memory = Memory::of(7);
        memory.reconcile(&sighting(1.0, &[&a]), 1);
        memory.reconcile(&sighting(400.0, &[&b]), 1);
        assert_eq!(memory.plan(&a), Plan::default());
    }

    #[test]
    fn a_runner_serves_only_those_who_ask_for_its_options() {
        let asked = |num_ctx| RunnerOptions {
            num_ctx,
            ..RunnerOptions::default()
        };
        let mut resident = Resident::new(1, model(1, 1), 1, 0.0);
        assert!(resident.serves(&asked(None)));
        assert!(!resident.serves(&asked(Some(8192))));
        resident.context = Some(8192);
        assert!(resident.serves(&asked(Some(8192))) && resident.serves(&asked(None)));
        resident.shape = Some(asked(Some(8192)));
        assert!(resident.serves(&asked(Some(8192))) && !resident.serves(&asked(None)));
        resident.context = None;
        assert!(resident.serves(&asked(Some(8192))) && !resident.serves(&asked(Some(1))));
        assert!(!resident.serves(&RunnerOptions {
            num_gpu: Some(1),
            ..asked(Some(8192))
        }));
    }
}
