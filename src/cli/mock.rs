//! `llamero mock`: simulated nodes to try things with.
#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use crate::mock::{Fault, Model, Node, Profile};
use anyhow::{Context, bail};
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Nodes that one process runs at most.
const NODES: u16 = 1000;

/// Simulated Ollama nodes on this machine.
#[derive(Debug, clap::Args)]
pub struct MockArgs {
    /// How many equal nodes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES)))]
    pub count: u16,
    /// Port of the first node, the others follow; 0 takes any
    #[arg(long, value_name = "PORT", default_value_t = 11500)]
    pub port: u16,
    /// A model that every node has; may be given several times
    #[arg(long, value_name = "NAME", default_values = ["llama3.2", "nomic-embed-text"])]
    pub model: Vec<String>,
    /// A TOML file that describes the nodes one by one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["count", "model"])]
    pub fleet: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fleet {
    node: Vec<Described>,
}

/// A node in a fleet file. What is left out is as in [`Profile::default`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    port: Option<u16>,
    models: Option<Vec<DescribedModel>>,
    prefill_tokens_per_second: Option<f64>,
    decode_tokens_per_second: Option<f64>,
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
struct Planned {
    port: u16,
    profile: Profile,
    faults: Vec<Fault>,
}

impl Described {
    fn planned(self, port: u16) -> Planned {
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

/// Starts the nodes, says where they are, and waits for Ctrl-C.
///
/// # Errors
/// When the fleet file cannot be read, or a node cannot be started.
pub async fn run(args: MockArgs) -> anyhow::Result<()> {
    let mut nodes = Vec::new();
    for planned in plan(&args)? {
        nodes.push(start(planned).await?);
    }
    let backends: Vec<String> = nodes
        .iter()
        .map(|node| format!("--backend {}", node.url()))
        .collect();
    println!("\nllamero {}", backends.join(" "));
    println!("Ctrl-C stops.");
    tokio::signal::ctrl_c()
        .await
        .context("cannot wait for Ctrl-C")
}

fn plan(args: &MockArgs) -> anyhow::Result<Vec<Planned>> {
    let port = |index: u16| match args.port {
        0 => Ok(0),
        first => first
            .checked_add(index)
            .with_context(|| format!("node {} would get a port above 65535", index + 1)),
    };
    if let Some(path) = &args.fleet {
        let fleet = read(path)?;
        return (0..)
            .zip(fleet.node)
            .map(|(index, node)| Ok(node.planned(port(index)?)))
            .collect();
    }
    (0..args.count)
        .map(|index| {
            Ok(Planned {
                port: port(index)?,
                profile: Profile {
                    models: args.model.iter().map(|name| Model::named(name)).collect(),
                    seed: u64::from(index),
                    ..Profile::default()
                },
                faults: Vec::new(),
            })
        })
        .collect()
}

fn read(path: &Path) -> anyhow::Result<Fleet> {
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

async fn start(planned: Planned) -> anyhow::Result<Node> {
    let Planned {
        port,
        profile,
        faults,
    } = planned;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let models: Vec<&str> = profile
        .models
        .iter()
        .map(|model| model.name.as_str())
        .collect();
    let about = format!(
        "{}  reads {} tok/s, writes {} tok/s, {} at once",
        models.join(", "),
        profile.prefill_tokens_per_second,
        profile.decode_tokens_per_second,
        profile.slots,
    );
    let node = Node::start(addr, profile)
        .await
        .with_context(|| format!("cannot start a node on {addr}"))?;
    println!("{}  {about}", node.url());
    for fault in faults {
        node.faults().set(fault);
    }
    Ok(node)
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
