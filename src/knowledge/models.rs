//! Every model that some node holds, so that what is learnt of one on a node helps on all.

use super::Model;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

/// Models that are remembered at a time; names of models are the nodes' to make up.
const LIMIT: usize = 10_000;

/// The models of a fleet. Only those who take in a node's lists come here, never a request.
#[derive(Debug, Default)]
pub struct Models(Mutex<HashMap<u64, Arc<Model>>>);

impl Models {
    /// The number of a model: its digest's, whatever its name, or its name's where a node gave no digest.
    pub fn id(digest: &str, name_hash: u64) -> u64 {
        if digest.is_empty() {
            name_hash
        } else {
            xxh3_64(digest.as_bytes())
        }
    }

    /// The model of this number. Beyond the limit it is one that nobody else will get, and learns nothing.
    pub fn get(&self, id: u64) -> Arc<Model> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = known.get(&id) {
            return Arc::clone(model);
        }
        let model = Arc::new(Model::new(id));
        if known.len() >= LIMIT {
            known.retain(|_, model| Arc::strong_count(model) > 1);
        }
        if known.len() < LIMIT {
            known.insert(id, Arc::clone(&model));
        }
        model
    }
}
