//! What llamero costs as bodies, fleets and crowds of streams grow, and with fleets what the others cost.

use crate::load::{self, Question};
use crate::nodes::Nodes;
use crate::peers::{LLAMERO, Peer};
use crate::{NODES, median, micros, requests};
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time::sleep;

const BODIES: [usize; 5] = [100, 1_000, 10_000, 100_000, 1_000_000];
const FLEETS: [usize; 4] = [4, 40, 400, 1_000];
/// Nodes that write all streams at a time, however many these are.
const STREAMING: usize = 16;
const STREAMS: [usize; 4] = [200, 1_000, 4_000, 8_000];
/// Chunks a second of all streams together, so that the clients keep up.
const CHUNKS_A_SECOND: usize = 8_000;
const REQUESTS: u32 = 10_000;
/// Turns that proxies take in front of one fleet.
const ROUNDS: usize = 3;
/// Bytes of all bodies of one size together, about.
const BYTES: usize = 200_000_000;
/// How long a process is watched.
const WATCHED: Duration = Duration::from_secs(5);
/// What a fleet may take to be known.
const KNOWN: Duration = Duration::from_secs(12);

/// What may grow, as it is called on the command line.
pub const TABLES: [&str; 3] = ["bodies", "fleets", "streams"];

/// Prints a table for each of these, or for all if there are none.
///
/// # Errors
/// When llamero does not start or does not answer.
pub async fn run(wanted: &[String], also: &[String]) -> Result<()> {
    let nodes = Nodes::start(NODES).await?;
    let wants = |table: &str| wanted.is_empty() || wanted.iter().any(|it| it == table);
    if wants("bodies") {
        bodies(&nodes).await?;
    }
    if wants("fleets") {
        fleets(also).await?;
    }
    if wants("streams") {
        streams(&Nodes::start(STREAMING).await?).await?;
    }
    Ok(())
}

async fn bodies(nodes: &Nodes) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let peer = Peer::llamero(nodes, LLAMERO, dir.path()).await?;
    println!("\nbody bytes  CPU us per request");
    for bytes in BODIES {
        let count = u32::try_from(BYTES / bytes.max(20_000))?;
        let chat = Question::chat(bytes);
        requests(&peer, &chat, count / 10).await?;
        println!("{bytes:>10}{:>20.1}", requests(&peer, &chat, count).await?);
    }
    Ok(())
}

async fn fleets(also: &[String]) -> Result<()> {
    println!("\n  backends  CPU us per request of each  CPU % when idle  RSS MiB");
    for size in FLEETS {
        let dir = tempfile::tempdir()?;
        let nodes = Nodes::start(size).await?;
        let peers = Peer::proxies(&nodes, also, dir.path()).await?;
        let llamero = peers.first().context("llamero is always there")?;
        sleep(KNOWN).await;
        let before = llamero.cpu()?;
        sleep(WATCHED).await;
        let idle = llamero.cpu()?.saturating_sub(before).as_secs_f64() / WATCHED.as_secs_f64();
        let question = Question::small();
        let mut costs = vec![Vec::new(); peers.len()];
        for round in 0..=ROUNDS {
            for (peer, costs) in peers.iter().zip(&mut costs) {
                if round == 0 {
                    // Until there is a connection to most of them: to make them is no part of a request.
                    requests(peer, &question, REQUESTS / 10 + 25 * u32::try_from(size)?).await?;
                } else {
                    costs.push(requests(peer, &question, REQUESTS).await?);
                }
            }
        }
        let costs = peers.iter().zip(&costs);
        let costs = costs.map(|(peer, costs)| format!("{} {:.1}", peer.name, median(costs)));
        println!(
            "{size:>10}  {}{:>10.1}{:>9.1}",
            costs.collect::<Vec<_>>().join("  "),
            100.0 * idle,
            llamero.rss_kib()? as f64 / 1024.0,
        );
    }
    Ok(())
}

async fn streams(nodes: &Nodes) -> Result<()> {
    println!("\n   streams  CPU us per chunk  RSS KiB per stream");
    for count in STREAMS {
        let dir = tempfile::tempdir()?;
        let peer = Peer::llamero(nodes, LLAMERO, dir.path()).await?;
        load::closed_loop(&peer.addresses, &Question::small(), 4, 100).await?;
        let before = peer.rss_kib()?;
        let every =
            Duration::from_secs(1) * u32::try_from(count)? / u32::try_from(CHUNKS_A_SECOND)?;
        let mut open = load::Streams::open(&peer.addresses, count, every).await?;
        sleep(2 * every).await;
        let (cpu, chunks) = (peer.cpu()?, open.chunks());
        sleep(WATCHED).await;
        let (cpu, chunks) = (peer.cpu()?.saturating_sub(cpu), open.chunks() - chunks);
        let grown = peer.rss_kib()?.saturating_sub(before);
        open.still_running()?;
        println!(
            "{count:>10}{:>18.1}{:>20.1}",
            micros(cpu) / chunks as f64,
            grown as f64 / count as f64
        );
    }
    Ok(())
}
