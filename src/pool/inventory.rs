//! Which models a backend holds and which are loaded, as it says itself.

use crate::wire::ModelKey;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::collections::HashMap;

/// The models of one backend, as its `/api/tags` lists them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    models: HashMap<ModelKey, Model>,
}

/// One entry of `/api/tags`.
#[derive(Debug, PartialEq, Eq)]
pub struct Model {
    /// As the backend spells it.
    pub name: String,
    /// 64 hexadecimal digits in an answer of Ollama; empty if it gave none.
    pub digest: String,
    /// On disk, in bytes; 0 if the backend did not say.
    pub size: u64,
    /// When it last changed; the epoch if the backend did not say.
    pub modified_at: Timestamp,
    /// The whole entry as JSON, as it came.
    pub entry: Box<str>,
}

/// The models that a backend has in memory, as its `/api/ps` lists them.
#[derive(Debug, Default, PartialEq)]
pub struct Loaded {
    /// In the backend's order.
    pub models: Vec<LoadedModel>,
}

/// One entry of `/api/ps`.
#[derive(Debug, PartialEq)]
pub struct LoadedModel {
    /// For comparing.
    pub key: ModelKey,
    /// As the backend spells it.
    pub name: String,
    /// As in [`Model::digest`].
    pub digest: String,
    /// In memory, in bytes; 0 if the backend did not say.
    pub size: u64,
    /// When it will be unloaded; the epoch if the backend did not say.
    pub expires_at: Timestamp,
    /// The context it was loaded with, in tokens.
    pub context_length: Option<u64>,
    /// The whole entry.
    pub entry: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct List<T> {
    models: Option<Vec<T>>,
}

impl Inventory {
    /// Reads the body of an `/api/tags` answer. Entries with names that no Ollama accepts are left out.
    ///
    /// # Errors
    /// When the body is not JSON or has no list of models.
    pub fn from_tags(body: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Tag {
            name: String,
            #[serde(default)]
            digest: String,
            #[serde(default, deserialize_with = "bytes")]
            size: u64,
            #[serde(default, deserialize_with = "timestamp")]
            modified_at: Timestamp,
        }
        let list: List<Box<RawValue>> = serde_json::from_slice(body)?;
        let mut models = HashMap::new();
        for raw in list.models.unwrap_or_default() {
            let Tag {
                name,
                digest,
                size,
                modified_at,
            } = serde_json::from_str(raw.get())?;
            if let Some(key) = ModelKey::parse(&name) {
                models.insert(
                    key,
                    Model {
                        name,
                        digest,
                        size,
                        modified_at,
                        entry: raw.get().into(),
                    },
                );
            }
        }
        Ok(Self { models })
    }

    /// Whether the backend has the model.
    pub fn holds(&self, model: &ModelKey) -> bool {
        self.models.contains_key(model)
    }

    /// The digest of a model; `None` if the backend does not have it or gave none.
    pub fn digest(&self, model: &ModelKey) -> Option<&str> {
        self.models
            .get(model)
            .map(|model| model.digest.as_str())
            .filter(|digest| !digest.is_empty())
    }

    /// The models' names as the backend spells them, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self
            .models
            .values()
            .map(|model| model.name.as_str())
            .collect();
        names.sort_unstable();
        names
    }

    /// All models, in no order.
    pub fn models(&self) -> impl Iterator<Item = (&ModelKey, &Model)> {
        self.models.iter()
    }
}

impl LoadedModel {
    /// How long it stays if nobody uses it, when the clock on the wall shows `today`; `None` if the backend did not say.
    /// Ollama's word for ever is a year that never comes.
    pub fn expires_in(&self, today: Timestamp) -> Option<std::time::Duration> {
        if self.expires_at == Timestamp::UNIX_EPOCH {
            return None;
        }
        let left = self.expires_at.duration_since(today);
        Some(left.try_into().unwrap_or_default())
    }
}

impl Loaded {
    /// Reads the body of an `/api/ps` answer. Entries with names that no Ollama accepts are left out.
    ///
    /// # Errors
    /// When the body is not JSON or has no list of models.
    pub fn from_ps(body: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Entry {
            name: String,
            #[serde(default)]
            digest: String,
            #[serde(default, deserialize_with = "bytes")]
            size: u64,
            #[serde(default, deserialize_with = "timestamp")]
            expires_at: Timestamp,
            context_length: Option<u64>,
        }
        let list: List<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(body)?;
        let mut models = Vec::new();
        for entry in list.models.unwrap_or_default() {
            let Entry {
                name,
                digest,
                size,
                expires_at,
                context_length,
            } = Entry::deserialize(&entry)?;
            if let Some(key) = ModelKey::parse(&name) {
                models.push(LoadedModel {
                    key,
                    name,
                    digest,
                    size,
                    expires_at,
                    context_length,
                    entry,
                });
            }
        }
        Ok(Self { models })
    }

    /// Whether the model is in memory.
    pub fn holds(&self, model: &ModelKey) -> bool {
        self.models.iter().any(|loaded| loaded.key == *model)
    }
}

/// A size; whatever is none is 0, since it is no reason to lose the rest of a list.
fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?
        .as_u64()
        .unwrap_or(0))
}

/// A time as Go writes it. A backend that writes something else loses its place in an order, nothing more.
fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_tags_and_survives_odd_ones() {
        let tags = br#"{"models":[{"name":"Llama3.2:latest","size":1},{"name":"a b"}]}"#;
        let inventory = Inventory::from_tags(tags).unwrap();
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
            assert!(Loaded::from_ps(odd).is_err());
        }
    }

    #[test]
    fn times_that_are_none_are_the_epoch() {
        let tags = br#"{"models":[{"name":"a","modified_at":"yesterday"},{"name":"b","modified_at":null}]}"#;
        let inventory = Inventory::from_tags(tags).unwrap();
        assert!(
            inventory
                .models()
                .all(|(_, model)| model.modified_at == Timestamp::default())
        );
        let ps = br#"{"models":[{"name":"a","expires_at":"2026-08-22T10:00:00.5+02:00","context_length":4096}]}"#;
        let loaded = Loaded::from_ps(ps).unwrap();
        assert_eq!(
            loaded.models[0].expires_at.to_string(),
            "2026-08-22T08:00:00.5Z"
        );
        assert!(loaded.holds(&ModelKey::parse("A:latest").unwrap()));
    }
}
