//! What llamero costs as bodies, fleets and crowds of streams grow.

use crate::load::{self, Question};
use crate::nodes::Nodes;
use crate::peers::{LLAMERO, Peer};
use crate::{micros, requests};
use anyhow::Result;
use std::time::Duration;
use tokio::time::sleep;

const BODIES: [usize; 5] = [100, 1_000, 10_000, 100_000, 1_000_000];
/// Backends per node, of which there are four.
const EACH: [usize; 4] = [1, 10, 100, 250];
const STREAMS: [usize; 4] = [200, 1_000, 4_000, 8_000];
/// Chunks a second of all streams together, so that the clients keep up.
const CHUNKS_A_SECOND: usize = 8_000;
const REQUESTS: u32 = 10_000;
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
pub async fn run(wanted: &[String]) -> Result<()> {
    let nodes = Nodes::start().await?;
    let wants = |table: &str| wanted.is_empty() || wanted.iter().any(|it| it == table);
    if wants("bodies") {
        bodies(&nodes).await?;
    }
    if wants("fleets") {
        fleets(&nodes).await?;
    }
    if wants("streams") {
        streams(&nodes).await?;
    }
    Ok(())
}

async fn bodies(nodes: &Nodes) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let peer = Peer::llamero(nodes, 1, LLAMERO, dir.path()).await?;
    println!("\nbody bytes  CPU us per request");
    for bytes in BODIES {
        let count = u32::try_from(BYTES / bytes.max(20_000))?;
        let chat = Question::chat(bytes);
        requests(&peer, &chat, count / 10).await?;
        println!("{bytes:>10}{:>20.1}", requests(&peer, &chat, count).await?);
    }
    Ok(())
}

async fn fleets(nodes: &Nodes) -> Result<()> {
    println!("\n  backends  CPU us per request  CPU % when idle  RSS MiB");
    for each in EACH {
        let dir = tempfile::tempdir()?;
        let peer = Peer::llamero(nodes, each, LLAMERO, dir.path()).await?;
        sleep(KNOWN).await;
        let before = peer.cpu()?;
        sleep(WATCHED).await;
        let idle = peer.cpu()?.saturating_sub(before).as_secs_f64() / WATCHED.as_secs_f64();
        let question = Question::small();
        // Until there is a connection to most of them: to make them is no part of a request.
        requests(&peer, &question, REQUESTS / 10 + 100 * u32::try_from(each)?).await?;
        let us = requests(&peer, &question, REQUESTS).await?;
        println!(
            "{:>10}{us:>20.1}{:>17.1}{:>9.1}",
            4 * each,
            100.0 * idle,
            peer.rss_kib()? as f64 / 1024.0,
        );
    }
    Ok(())
}

async fn streams(nodes: &Nodes) -> Result<()> {
    println!("\n   streams  CPU us per chunk  RSS KiB per stream");
    for count in STREAMS {
        let dir = tempfile::tempdir()?;
        let peer = Peer::llamero(nodes, 4, LLAMERO, dir.path()).await?;
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
