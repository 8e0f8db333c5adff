//! The TOML file that describes a fleet of simulated nodes.

use crate::mock::{Fault, Model, Profile};
use anyhow::{Context, bail};
use serde::Deserialize;
use std::path::Path;

/// Nodes that one process runs at most.
pub(super) const NODES: u16 = 1000;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fleet {
    pub(super) node: Vec<Described>,
}

/// A node in a fleet file. What is left out is as in [`Profile::default`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Described {
    port: Option<u16>,
    models: Option<Vec<DescribedModel>>,
    prefill_tokens_per_second: Option<f64>,
    decode_tokens_per_second: Option<f64>,
    crowding: Option<f64>,
    slots: Option<usize>,
    load_bytes_per_second: Option<f64>,
    loaded_limit: Option<usize>,
    version: Option<String>,
    seed: Option<u64>,
    answer_tokens: Option<usize>,
    time_scale: Option<f64>,
    #[serde(default)]
    faults: Vec<Fault>,
}

/// A model by its name alone, or with its size.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a name, or { name = \"…\", size_bytes = … }")]
enum DescribedModel {
    Named(String),
    WithSize(WithSize),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WithSize {
    name: String,
    size_bytes: u64,
}

/// A node to be started.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) port: u16,
    pub(super) profile: Profile,
    pub(super) faults: Vec<Fault>,
}

impl Described {
    /// The node, on `port` unless the file has another.
    pub(super) fn planned(self, port: u16) -> Planned {
        let base = Profile::default();
        let models = self.models.map(|models| {
            let model = |described| match described {
                DescribedModel::Named(name) => Model::named(&name),
                DescribedModel::WithSize(WithSize { name, size_bytes }) => {
                    Model { name, size_bytes }
                }
            };
            models.into_iter().map(model).collect()
        });
        Planned {
            port: self.port.unwrap_or(port),
            profile: Profile {
                models: models.unwrap_or(base.models),
                prefill_tokens_per_second: self
                    .prefill_tokens_per_second
                    .unwrap_or(base.prefill_tokens_per_second),
                decode_tokens_per_second: self
                    .decode_tokens_per_second
                    .unwrap_or(base.decode_tokens_per_second),
                crowding: self.crowding.unwrap_or(base.crowding),
                slots: self.slots.unwrap_or(base.slots),
                load_bytes_per_second: self
                    .load_bytes_per_second
                    .unwrap_or(base.load_bytes_per_second),
                loaded_limit: self.loaded_limit.unwrap_or(base.loaded_limit),
                version: self.version.unwrap_or(base.version),
                seed: self.seed.unwrap_or(base.seed),
                answer_tokens: self.answer_tokens.unwrap_or(base.answer_tokens),
                time_scale: self.time_scale.unwrap_or(base.time_scale),
            },
            faults: self.faults,
        }
    }
}

/// Reads and checks a file.
pub(super) fn read(path: &Path) -> anyhow::Result<Fleet> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} does not describe a fleet", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Fleet> {
    let fleet: Fleet = toml::from_str(text)?;
    if fleet.node.is_empty() || fleet.node.len() > usize::from(NODES) {
        bail!(
            "a fleet has 1 to {NODES} nodes, this one has {}",
            fleet.node.len()
        );
    }
    Ok(fleet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Kind;

    #[test]
    fn a_fleet_file_describes_nodes() {
        let text = r#"
            [[node]]
            port = 11600
            models = ["llama3.2", { name = "big", size_bytes = 7 }]
            decode_tokens_per_second = 9.5
            faults = [{ kind = "busy_503", count = 2, for = "1m" }]
            [[node]]
        "#;
        let mut nodes = parse(text)
            .unwrap()
            .node
            .into_iter()
            .map(|node| node.planned(1));
        let first = nodes.next().unwrap();
        assert_eq!(first.port, 11600);
        assert_eq!(first.profile.models[0], Model::named("llama3.2"));
        assert_eq!(first.profile.models[1].size_bytes, 7);
        assert!((first.profile.decode_tokens_per_second - 9.5).abs() < 1e-9);
        assert_eq!(first.faults[0].kind, Kind::Busy503);
        let second = nodes.next().unwrap();
        assert_eq!((second.port, second.profile), (1, Profile::default()));
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let error = format!("{:#}", parse(text).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn mistakes_are_named() {
        check("", "missing field `node`");
        check("node = []", "1 to 1000 nodes");
        check(
            "[[node]]\nslot = 1",
            "unknown field `slot`, expected one of",
        );
        check("[[node]]\nmodels = [1]", "a name, or {");
        check(
            "[[node]]\nfaults = [{kind = \"x\"}]",
            "unknown variant `x`, expected one of `refuse`",
        );
        check(
            "[[node]]\nfaults = [{kind = \"refuse\", for = \"x\"}]",
            "not a duration",
        );
    }
}
