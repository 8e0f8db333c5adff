//! `llamero mock`: simulated nodes to try things with.
#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

mod fleet_file;

use crate::mock::{Model, Node, Profile};
use anyhow::Context;
use fleet_file::{NODES, Planned};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Simulated Ollama nodes on this machine.
#[derive(Debug, clap::Args)]
pub struct MockArgs {
    /// How many equal nodes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES)))]
    pub count: u16,
    /// Address that they listen on
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
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

/// Starts the nodes, says where they are, and waits for Ctrl-C.
///
/// # Errors
/// When the fleet file cannot be read, or a node cannot be started.
pub async fn run(args: MockArgs) -> anyhow::Result<()> {
    let mut nodes = Vec::new();
    for planned in plan(&args)? {
        nodes.push(start(args.host, planned).await?);
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
        let fleet = fleet_file::read(path)?;
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

async fn start(host: IpAddr, planned: Planned) -> anyhow::Result<Node> {
    let Planned {
        port,
        profile,
        faults,
    } = planned;
    let addr = SocketAddr::new(host, port);
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
