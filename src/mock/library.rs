//! The models and blobs on a node's disk.

use super::profile::{Model, is_embedding};
use crate::wire::ModelKey;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// When the newest model of a profile was made, in Unix seconds: June 2026.
const SHIPPED: i64 = 1_780_272_000;
/// Models on one disk.
const MODELS: usize = 10_000;
/// Blobs on one disk.
const BLOBS: usize = 10_000;

/// A model on disk.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// As it is listed, tag included.
    pub(super) name: Arc<str>,
    pub(super) key: ModelKey,
    pub(super) size: u64,
    /// 64 hex digits.
    pub(super) digest: Arc<str>,
    pub(super) modified: Timestamp,
    pub(super) embedding: bool,
}

impl Entry {
    fn new(name: &str, size: u64, modified: Timestamp) -> Option<Self> {
        let key = ModelKey::parse(name)?;
        Some(Self {
            name: key.to_string().into(),
            size,
            digest: digest_of(&key.to_string()).into(),
            modified,
            embedding: is_embedding(name),
            key,
        })
    }

    fn family(&self) -> String {
        let base = self.name.rsplit('/').next().unwrap_or_default();
        let family: String = base
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        match family.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "llama" => "llama".to_owned(),
            _ if self.embedding => format!("{family}-bert"),
            _ => family,
        }
    }

    /// Weights, from the size on disk.
    fn parameters(&self) -> u64 {
        if self.embedding {
            self.size / 2
        } else {
            self.size / 5 * 8
        }
    }

    /// The `details` of tags, ps and show.
    pub(super) fn details(&self) -> Value {
        let family = self.family();
        let parameters = self.parameters() as f64;
        let size = if parameters < 1e9 {
            format!("{:.0}M", parameters / 1e6)
        } else {
            format!("{:.1}B", parameters / 1e9)
        };
        json!({
            "parent_model": "",
            "format": "gguf",
            "family": family,
            "families": [family],
            "parameter_size": size,
            "quantization_level": if self.embedding { "F16" } else { "Q4_K_M" },
        })
    }

    pub(super) fn capabilities(&self) -> Value {
        if self.embedding {
            json!(["embedding"])
        } else {
            json!(["completion", "tools", "thinking"])
        }
    }

    /// The entry in `/api/tags`.
    pub(super) fn tag(&self) -> Value {
        json!({
            "name": *self.name,
            "model": *self.name,
            "modified_at": self.modified.to_string(),
            "size": self.size,
            "digest": *self.digest,
            "details": self.details(),
            "capabilities": self.capabilities(),
        })
    }

    /// What `/api/show` answers.
    pub(super) fn show(&self) -> Value {
        let family = self.family();
        let mut info = serde_json::Map::new();
        info.insert("general.architecture".into(), json!(family));
        info.insert("general.basename".into(), json!(*self.name));
        info.insert("general.parameter_count".into(), json!(self.parameters()));
        info.insert(format!("{family}.context_length"), json!(131_072));
        info.insert(
            format!("{family}.embedding_length"),
            json!(super::embedding::DIMENSIONS),
        );
        json!({
            "license": "MIT\n",
            "modelfile": format!("FROM {}\n", self.name),
            "parameters": "stop                           \"<|end|>\"",
            "template": "{{ .System }}{{ .Prompt }}",
            "details": self.details(),
            "model_info": info,
            "capabilities": self.capabilities(),
            "modified_at": self.modified.to_string(),
        })
    }
}

/// A node's disk.
#[derive(Debug)]
pub(super) struct Library {
    models: Mutex<Vec<Entry>>,
    blobs: Mutex<HashMap<String, u64>>,
}

impl Library {
    pub(super) fn new(models: &[Model]) -> Self {
        let shipped = Timestamp::from_second(SHIPPED).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut age = SignedDuration::ZERO;
        let library = Self {
            models: Mutex::default(),
            blobs: Mutex::default(),
        };
        for model in models {
            let modified = shipped.checked_sub(age).unwrap_or(shipped);
            age += SignedDuration::from_hours(1);
            library.add(&model.name, model.size_bytes, modified);
        }
        library
    }

    fn models(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All models, newest first.
    pub(super) fn list(&self) -> Vec<Entry> {
        let mut models = self.models().clone();
        models.sort_by_key(|entry| std::cmp::Reverse(entry.modified));
        models
    }

    pub(super) fn find(&self, name: &str) -> Option<Entry> {
        let key = ModelKey::parse(name)?;
        self.models().iter().find(|entry| entry.key == key).cloned()
    }

    /// Puts a model on the disk in place of one of the same name. `false` if the name is none or the disk is full.
    pub(super) fn add(&self, name: &str, size: u64, modified: Timestamp) -> bool {
        Entry::new(name, size, modified).is_some_and(|entry| self.put(entry))
    }

    fn put(&self, entry: Entry) -> bool {
        let mut models = self.models();
        models.retain(|other| other.key != entry.key);
        let room = models.len() < MODELS;
        if room {
            models.push(entry);
        }
        room
    }

    /// A second name for a model. `false` if the name is none or the disk is full.
    pub(super) fn copy(&self, source: &Entry, destination: &str) -> bool {
        let Some(mut copy) = Entry::new(destination, source.size, Timestamp::now()) else {
            return false;
        };
        copy.digest = Arc::clone(&source.digest);
        copy.embedding = source.embedding;
        self.put(copy)
    }

    pub(super) fn delete(&self, entry: &Entry) {
        self.models().retain(|other| other.key != entry.key);
    }

    fn blobs(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of a blob that was uploaded.
    pub(super) fn blob(&self, digest: &str) -> Option<u64> {
        self.blobs().get(&digest.replace('-', ":")).copied()
    }

    /// Keeps the size of a blob; its bytes are of no use here. `false` if the disk is full.
    pub(super) fn add_blob(&self, digest: &str, bytes: u64) -> bool {
        let mut blobs = self.blobs();
        let room = blobs.len() < BLOBS;
        if room {
            blobs.insert(digest.replace('-', ":"), bytes);
        }
        room
    }
}

/// Whether this is `sha256:` or `sha256-` and 64 hex digits.
pub(super) fn is_digest(text: &str) -> bool {
    let hex = text
        .strip_prefix("sha256:")
        .or_else(|| text.strip_prefix("sha256-"));
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// 64 hex digits that look like a hash of the name.
pub(super) fn digest_of(name: &str) -> String {
    (0..4).fold(String::with_capacity(64), |mut digest, round| {
        // Writing to a string cannot fail.
        let _ = write!(digest, "{:016x}", xxh3_64_with_seed(name.as_bytes(), round));
        digest
    })
}
