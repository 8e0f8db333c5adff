//! The inventories of a pool, turned round: for each model its holders, and the list that a single Ollama would give.

use super::inventory::{Inventory, Model};
use crate::hashed::Hashed;
use crate::knowledge::{self, Models};
use crate::wire::ModelKey;
use bytes::Bytes;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What all backends hold together.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    /// What it was made of, in the pool's order; `None` for a backend that has not said what it holds.
    made_of: Vec<Option<Arc<Inventory>>>,
    holders: Hashed<ModelKey, Holding>,
    /// Backends whose inventory is not known yet, so that they may hold anything.
    unknown: Vec<usize>,
    /// Names that mean different models on different backends.
    conflicts: BTreeSet<String>,
    tags: Bytes,
    openai: Bytes,
}

/// A model that somebody holds.
#[derive(Debug)]
struct Holding {
    model: Arc<knowledge::Model>,
    /// Places of those who hold it.
    at: Vec<usize>,
}

/// The shortest digest that Ollama's own client can print without a panic, in characters.
const DIGEST_CHARS: usize = 12;

fn is_same(a: Option<&Arc<Inventory>>, b: Option<&Arc<Inventory>>) -> bool {
    a.map(Arc::as_ptr) == b.map(Arc::as_ptr)
}

impl Catalogue {
    pub(super) fn of(made_of: Vec<Option<Arc<Inventory>>>, models: &Models) -> Self {
        let mut newest: HashMap<&ModelKey, &Model> = HashMap::new();
        let mut conflicts = BTreeSet::new();
        for (key, model) in made_of
            .iter()
            .flatten()
            .flat_map(|inventory| inventory.models())
        {
            let best = newest.entry(key).or_insert(model);
            if best.digest != model.digest {
                conflicts.insert(key.to_string());
            }
            if model.modified_at > best.modified_at {
                *best = model;
            }
        }
        let mut holders: Hashed<ModelKey, Holding> = Hashed::default();
        let mut unknown = Vec::new();
        for (at, inventory) in made_of.iter().enumerate() {
            let Some(inventory) = inventory else {
                unknown.push(at);
                continue;
            };
            for (key, model) in inventory.models() {
                // Who has another model under the name would give other answers.
                if newest
                    .get(key)
                    .is_some_and(|best| best.digest == model.digest)
                {
                    let holding = || {
                        let known = models.get(Models::id(&model.digest, key.hash64()));
                        known.set_bytes(model.size);
                        known.set_name(&model.name);
                        Holding {
                            model: known,
                            at: Vec::new(),
                        }
                    };
                    holders
                        .entry(key.clone())
                        .or_insert_with(holding)
                        .at
                        .push(at);
                }
            }
        }
        let mut listed: Vec<_> = newest
            .values()
            .filter(|model| model.digest.len() >= DIGEST_CHARS)
            .copied()
            .collect();
        listed.sort_by(|a, b| {
            b.modified_at
                .as_second()
                .cmp(&a.modified_at.as_second())
                .then_with(|| a.name.cmp(&b.name))
        });
        let (tags, openai) = (tags_body(&listed), openai_body(&listed));
        Self {
            made_of,
            holders,
            unknown,
            conflicts,
            tags,
            openai,
        }
    }

    /// Whether it was made of just these.
    pub(super) fn is_of(&self, inventories: &[Option<Arc<Inventory>>]) -> bool {
        let mut pairs = self.made_of.iter().zip(inventories);
        self.made_of.len() == inventories.len()
            && pairs.all(|(a, b)| is_same(a.as_ref(), b.as_ref()))
    }

    /// Whether it was made of this one at its place.
    pub(super) fn is_of_at(&self, place: usize, inventory: Option<&Arc<Inventory>>) -> bool {
        let made_of = self.made_of.get(place);
        made_of.is_some_and(|known| is_same(known.as_ref(), inventory))
    }

    /// The backends known to hold the model, often none.
    pub(super) fn known_holders(&self, model: &ModelKey) -> &[usize] {
        self.holders.get(model).map_or(&[], |holding| &holding.at)
    }

    /// What is known of a model that somebody holds.
    pub(super) fn model(&self, model: &ModelKey) -> Option<&Arc<knowledge::Model>> {
        self.holders.get(model).map(|holding| &holding.model)
    }

    /// Whether some backend holds the model, or has not said what it holds.
    pub(super) fn may_be_held(&self, model: &ModelKey) -> bool {
        self.is_held(model) || !self.unknown.is_empty()
    }

    /// The backends that have not said what they hold.
    pub(super) fn unknown(&self) -> &[usize] {
        &self.unknown
    }

    pub(super) fn is_held(&self, model: &ModelKey) -> bool {
        self.holders.contains_key(model)
    }

    /// Names that mean different models on different backends; the newest of them is the one that is served.
    pub(super) fn conflicts(&self) -> &BTreeSet<String> {
        &self.conflicts
    }

    pub(super) fn tags(&self) -> Bytes {
        self.tags.clone()
    }

    pub(super) fn openai(&self) -> Bytes {
        self.openai.clone()
    }
}

/// `/api/tags`, entries as they came.
fn tags_body(listed: &[&Model]) -> Bytes {
    let entries: Vec<_> = listed.iter().map(|model| &*model.entry).collect();
    format!("{{\"models\":[{}]}}", entries.join(",")).into()
}

/// `/v1/models`; Ollama gives null for an empty list there.
fn openai_body(listed: &[&Model]) -> Bytes {
    let entry = |model: &&Model| {
        let mut parts = model.name.rsplit('/');
        let owner = parts.nth(1).unwrap_or("library");
        json!({ "id": model.name, "object": "model", "created": model.modified_at.as_second(), "owned_by": owner })
    };
    let data: Vec<_> = listed.iter().map(entry).collect();
    let data = if data.is_empty() {
        serde_json::Value::Null
    } else {
        data.into()
    };
    format!("{}\n", json!({ "object": "list", "data": data })).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(entries: &str) -> Arc<Inventory> {
        Arc::new(Inventory::from_tags(format!("{{\"models\":[{entries}]}}").as_bytes()).unwrap())
    }

    fn entry(name: &str, digest: char, modified_at: &str) -> String {
        let digest = String::from(digest).repeat(64);
        format!(
            r#"{{"name":"{name}","digest":"{digest}","modified_at":"2026-01-01T00:00:{modified_at}Z"}}"#
        )
    }

    fn names(body: &Bytes) -> Vec<String> {
        let json: serde_json::Value = serde_json::from_slice(body).unwrap();
        json["models"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["name"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn an_unknown_inventory_may_hold_anything() {
        let model = ModelKey::parse("m").unwrap();
        let with = Some(inventory(r#"{"name":"m"}"#));
        let without = Some(inventory(""));
        let catalogue = Catalogue::of(vec![without.clone(), None], &Models::default());
        assert_eq!(
            (catalogue.known_holders(&model), catalogue.unknown()),
            (&[][..], &[1][..])
        );
        assert!(catalogue.may_be_held(&model) && !catalogue.is_held(&model));
        let catalogue = Catalogue::of(vec![with.clone(), None, with], &Models::default());
        assert_eq!(catalogue.known_holders(&model), [0, 2]);
        assert!(!Catalogue::of(vec![without], &Models::default()).may_be_held(&model));
    }

    #[test]
    fn the_list_has_each_name_once_newest_first() {
        let a = inventory(&[entry("Old:latest", 'a', "01"), entry("both", 'b', "02.9")].join(","));
        let b = inventory(
            &[
                entry("BOTH:latest", 'b', "03"),
                entry("new", 'c', "04"),
                entry("also", 'd', "01.5"),
            ]
            .join(","),
        );
        let catalogue = Catalogue::of(vec![Some(a), None, Some(b)], &Models::default());
        assert_eq!(
            names(&catalogue.tags()),
            ["new", "BOTH:latest", "Old:latest", "also"]
        );
        assert!(catalogue.conflicts().is_empty());
        let openai: serde_json::Value = serde_json::from_slice(&catalogue.openai()).unwrap();
        assert_eq!(
            openai["data"][0],
            json!({"id":"new","object":"model","created":1_767_225_604,"owned_by":"library"})
        );
    }

    #[test]
    fn of_two_models_under_one_name_the_newest_is_the_one() {
        let (a, b) = (
            inventory(&entry("m", 'a', "01")),
            inventory(&entry("m", 'b', "02")),
        );
        let catalogue = Catalogue::of(vec![Some(a), Some(b)], &Models::default());
        assert_eq!(catalogue.known_holders(&ModelKey::parse("m").unwrap()), [1]);
        assert_eq!(
            catalogue.conflicts().iter().collect::<Vec<_>>(),
            ["m:latest"]
        );
        assert_eq!(names(&catalogue.tags()), ["m"]);
    }

    #[test]
    fn empty_lists_are_as_ollamas() {
        let empty = Catalogue::of(vec![None], &Models::default());
        assert_eq!(empty.tags(), r#"{"models":[]}"#);
        let openai: serde_json::Value = serde_json::from_slice(&empty.openai()).unwrap();
        assert_eq!(openai, json!({"object":"list","data":null}));
        let short = Catalogue::of(
            vec![Some(inventory(r#"{"name":"m","digest":"abc"}"#))],
            &Models::default(),
        );
        assert_eq!(short.tags(), r#"{"models":[]}"#, "its client would panic");
        assert!(short.is_held(&ModelKey::parse("m").unwrap()));
    }
}
