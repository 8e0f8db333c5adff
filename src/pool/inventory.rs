//! Which models a backend holds, and which backends hold a model.

use crate::wire::ModelKey;
use serde::Deserialize;
use std::collections::HashMap;

/// The models of one backend, as its `/api/tags` lists them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    models: HashMap<ModelKey, String>,
}

impl Inventory {
    /// Reads the body of an `/api/tags` answer. Entries with names that no Ollama accepts are left out.
    ///
    /// # Errors
    /// When the body is not JSON or has no list of models.
    pub fn from_tags(body: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Tags {
            models: Option<Vec<Tag>>,
        }
        #[derive(Deserialize)]
        struct Tag {
            name: String,
        }
        let tags: Tags = serde_json::from_slice(body)?;
        let keyed = |tag: Tag| Some((ModelKey::parse(&tag.name)?, tag.name));
        Ok(Self {
            models: tags
                .models
                .unwrap_or_default()
                .into_iter()
                .filter_map(keyed)
                .collect(),
        })
    }

    /// Whether the backend has the model.
    pub fn holds(&self, model: &ModelKey) -> bool {
        self.models.contains_key(model)
    }

    /// The models' names as the backend spells them, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.models.values().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn keys(&self) -> impl Iterator<Item = &ModelKey> {
        self.models.keys()
    }
}

/// The inventories of a pool, turned round: for each model the positions of its holders.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    holders: HashMap<ModelKey, Vec<usize>>,
    /// Backends whose inventory is not known yet, so that they may hold anything.
    unknown: Vec<usize>,
}

impl Catalogue {
    pub(super) fn of<'a>(inventories: impl Iterator<Item = Option<&'a Inventory>>) -> Self {
        let mut catalogue = Self::default();
        for (at, inventory) in inventories.enumerate() {
            match inventory {
                None => catalogue.unknown.push(at),
                Some(inventory) => {
                    for key in inventory.keys() {
                        catalogue.holders.entry(key.clone()).or_default().push(at);
                    }
                }
            }
        }
        catalogue
    }

    /// The backends known to hold the model; else those that may; else `None`: nobody holds it.
    pub(super) fn holders(&self, model: &ModelKey) -> Option<&[usize]> {
        let known = self.holders.get(model).map(Vec::as_slice);
        known.or_else(|| (!self.unknown.is_empty()).then_some(&self.unknown))
    }

    pub(super) fn is_held(&self, model: &ModelKey) -> bool {
        self.holders.contains_key(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_tags_and_survives_odd_ones() {
        let inventory = Inventory::from_tags(
            br#"{"models":[{"name":"Llama3.2:latest","size":1},{"name":"a b"}]}"#,
        )
        .unwrap();
        assert!(inventory.holds(&ModelKey::parse("llama3.2").unwrap()));
        assert_eq!(inventory.names(), ["Llama3.2:latest"]);
        assert_eq!(
            Inventory::from_tags(br#"{"models":null}"#).unwrap(),
            Inventory::default()
        );
        for odd in [
            &b"<html>"[..],
            b"",
            b"[]",
            br#"{"models":{}}"#,
            br#"{"models":[{"name":7}]}"#,
        ] {
            assert!(Inventory::from_tags(odd).is_err());
        }
    }

    #[test]
    fn an_unknown_inventory_may_hold_anything_until_somebody_is_known_to() {
        let model = ModelKey::parse("m").unwrap();
        let with = Inventory::from_tags(br#"{"models":[{"name":"m"}]}"#).unwrap();
        let without = Inventory::default();
        let holders = |list: &[Option<&Inventory>]| {
            Catalogue::of(list.iter().copied())
                .holders(&model)
                .map(<[usize]>::to_vec)
        };
        assert_eq!(holders(&[Some(&without), None]), Some(vec![1]));
        assert_eq!(holders(&[Some(&with), None, Some(&with)]), Some(vec![0, 2]));
        assert_eq!(holders(&[Some(&without)]), None);
    }
}
