//! What it costs to go through llamero, beside nginx and haproxy, in the kernel's own accounting of each proxy's processes.
//!
//! `cargo bench --bench proxy` takes some minutes and prints medians of five rounds; `cargo bench --bench proxy -- --quick`
//! takes seconds and proves only that the comparison runs; `-- --growth` shows the cost against the size of bodies, fleets and
//! crowds of streams, and `-- --growth fleets` one table of these; `-- request chunk` measures these rows alone;
//! `-- --also FILE` has another build of llamero take part. nginx and haproxy do where they are installed. Nodes and clients
//! live in this process, so what they burn is never counted as a proxy's.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod growth;
mod load;
mod nodes;
mod peers;

use anyhow::{Context, Result, bail};
use load::Question;
use nodes::{CHUNK_EVERY, Nodes};
use peers::Peer;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Nodes, unless it is their number that is looked at.
const NODES: usize = 4;
/// Keep-alive connections of the closed loop.
const CONNECTIONS: usize = 64;
/// Streams open at one time, where the CPU for them is measured.
const STREAMS: usize = 200;
/// Bytes of a long chat.
const CHAT_BYTES: usize = 100_000;
/// Between two chunks, where memory is measured.
const RARELY: Duration = Duration::from_secs(2);
/// How long a process may take to give memory back.
const GIVE_BACK: Duration = Duration::from_secs(30);

/// What is measured, as it is called on the command line.
const ROWS: [&str; 5] = ["request", "chat", "chunk", "memory", "latency"];

/// How much is measured.
struct Plan {
    rows: Vec<String>,
    rounds: usize,
    requests: u32,
    chats: u32,
    /// Streams open at one time, where the memory for them is measured.
    crowd: usize,
    streaming: Duration,
    paced: Duration,
}

const FULL: Plan = Plan {
    rows: Vec::new(),
    rounds: 5,
    requests: 20_000,
    chats: 2_000,
    crowd: 4_000,
    streaming: Duration::from_secs(4),
    paced: Duration::from_secs(3),
};

const QUICK: Plan = Plan {
    rows: Vec::new(),
    rounds: 1,
    requests: 2_000,
    chats: 200,
    crowd: 100,
    streaming: Duration::from_secs(1),
    paced: Duration::from_secs(1),
};

/// One number per round, by what it says.
#[derive(Default)]
struct Readings {
    request_us: Vec<f64>,
    chat_us: Vec<f64>,
    chunk_us: Vec<f64>,
    stream_kib: Vec<f64>,
    /// Memory before any stream.
    base_mib: Vec<f64>,
    /// Memory some time after all streams are over, as a factor of what it was before any.
    kept: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

fn main() -> Result<()> {
    let (mut plan, mut also, mut rows) = (FULL, Vec::new(), Vec::new());
    let mut growth = None;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match &*arg {
            "--growth" => growth = Some(Vec::new()),
            "--quick" => plan = QUICK,
            "--also" => also.push(args.next().context("--also takes a program")?),
            "--bench" => {} // cargo says so
            name => match &mut growth {
                Some(tables) if growth::TABLES.contains(&name) => tables.push(arg),
                Some(_) => bail!(
                    "there is no table {name}, only {}",
                    growth::TABLES.join(", ")
                ),
                None if ROWS.contains(&name) => rows.push(arg),
                None => bail!("there is no row {name}, only {}", ROWS.join(", ")),
            },
        }
    }
    if let Some(tables) = growth {
        return runtime.block_on(growth::run(&tables, &also));
    }
    plan.rows = rows;
    runtime.block_on(run(&plan, &also))
}

async fn run(plan: &Plan, also: &[String]) -> Result<()> {
    let nodes = Nodes::start(NODES).await?;
    let dir = tempfile::tempdir()?;
    let mut peers = vec![Peer::direct(&nodes)];
    peers.extend(Peer::proxies(&nodes, also, dir.path()).await?);

    let mut readings: Vec<Readings> = peers.iter().map(|_| Readings::default()).collect();
    let mut order: Vec<_> = (0..peers.len()).collect();
    for round in 1..=plan.rounds {
        println!("round {round} of {}", plan.rounds);
        for at in &order {
            let (Some(peer), Some(into)) = (peers.get(*at), readings.get_mut(*at)) else {
                continue;
            };
            measure(peer, plan, into)
                .await
                .with_context(|| format!("{} in round {round}", peer.name))?;
        }
        // It makes a twentieth of a difference whom one comes after.
        order.rotate_left(1);
        order.reverse();
    }
    print_table(&peers, &readings);
    Ok(())
}

async fn measure(peer: &Peer, plan: &Plan, into: &mut Readings) -> Result<()> {
    let small = Question::small();
    load::closed_loop(&peer.addresses, &small, 4, 100).await?;
    let wants = |row: &str| plan.rows.is_empty() || plan.rows.iter().any(|wanted| wanted == row);
    // Only a process that never had streams shows what they take: afterwards its allocator has the memory already.
    if wants("memory") && into.stream_kib.is_empty() {
        into.base_mib.push(peer.rss_kib()? as f64 / 1024.0);
        let (each, kept) = memory(peer, plan.crowd).await.context("many streams")?;
        into.stream_kib.push(each);
        into.kept.push(kept);
    }
    if wants("chunk") {
        let each = chunks(peer, plan.streaming).await.context("streams")?;
        into.chunk_us.push(each);
    }
    if wants("request") || wants("chat") {
        let request_us = requests(peer, &small, plan.requests)
            .await
            .context("small requests")?;
        into.request_us.push(request_us);
        if wants("chat") {
            let chat = Question::chat(CHAT_BYTES);
            let chat_us = requests(peer, &chat, plan.chats).await.context("chats")?;
            into.chat_us.push(chat_us - request_us);
        }
    }
    if wants("latency") {
        let mut latencies = load::paced(&peer.addresses, plan.paced)
            .await
            .context("a steady rate")?;
        latencies.sort_unstable();
        into.p50_us.push(percentile(&latencies, 50));
        into.p99_us.push(percentile(&latencies, 99));
    }
    Ok(())
}

/// CPU time per request, in microseconds.
async fn requests(peer: &Peer, question: &Question, count: u32) -> Result<f64> {
    let cpu = peer.cpu()?;
    load::closed_loop(&peer.addresses, question, CONNECTIONS, count).await?;
    Ok(micros(peer.cpu()?.saturating_sub(cpu)) / f64::from(count))
}

/// CPU time per relayed chunk, in microseconds.
async fn chunks(peer: &Peer, lasting: Duration) -> Result<f64> {
    let mut streams = load::Streams::open(&peer.addresses, STREAMS, CHUNK_EVERY).await?;
    let (cpu, chunks) = (peer.cpu()?, streams.chunks());
    sleep(lasting).await;
    let (cpu, chunks) = (peer.cpu()?.saturating_sub(cpu), streams.chunks() - chunks);
    streams.still_running()?;
    Ok(micros(cpu) / chunks as f64)
}

/// KiB of memory per open stream, and what all of it is afterwards as a factor of what it was before: as soon as that is
/// near one, else in the end.
async fn memory(peer: &Peer, count: usize) -> Result<(f64, f64)> {
    let before = peer.rss_kib()?;
    let mut streams = load::Streams::open(&peer.addresses, count, RARELY).await?;
    sleep(2 * RARELY).await;
    let grown = peer.rss_kib()?.saturating_sub(before) as f64;
    streams.still_running()?;
    drop(streams);
    let over = Instant::now();
    let mut kept = f64::INFINITY;
    while kept > 1.1 && over.elapsed() < GIVE_BACK {
        sleep(RARELY).await;
        kept = peer.rss_kib()? as f64 / before as f64;
    }
    Ok((grown / count as f64, kept))
}

fn print_table(peers: &[Peer], readings: &[Readings]) {
    let median_of = |pick: fn(&Readings) -> &Vec<f64>| -> Vec<f64> {
        readings.iter().map(|r| median(pick(r))).collect()
    };
    let over_direct = |values: Vec<f64>| -> Vec<f64> {
        let direct = values.first().copied().unwrap_or_default();
        values.iter().map(|value| value - direct).collect()
    };
    let rows = [
        ("CPU us per small request", median_of(|r| &r.request_us)),
        ("CPU us more for 100 KB of chat", median_of(|r| &r.chat_us)),
        ("CPU us per relayed chunk", median_of(|r| &r.chunk_us)),
        ("RSS KiB per open stream", median_of(|r| &r.stream_kib)),
        ("RSS MiB before any stream", median_of(|r| &r.base_mib)),
        ("RSS afterwards, times before", median_of(|r| &r.kept)),
        (
            "added latency p50 us",
            over_direct(median_of(|r| &r.p50_us)),
        ),
        (
            "added latency p99 us",
            over_direct(median_of(|r| &r.p99_us)),
        ),
    ];

    // The first peer is no proxy, the second is llamero, the others are what it is measured against.
    print!("\n{:32}", "");
    peers.iter().skip(1).for_each(|p| print!("{:>10}", p.name));
    peers
        .iter()
        .skip(2)
        .for_each(|p| print!("{:>18}", format!("to {}", p.name)));
    println!();
    for (label, values) in &rows {
        if values.iter().all(|value| value.is_nan()) {
            continue;
        }
        print!("{label:32}");
        values.iter().skip(1).for_each(|v| print!("{v:>10.1}"));
        let own = values.get(1).copied().unwrap_or_default();
        for other in values.iter().skip(2) {
            if own > 0.0 && *other > 0.0 {
                print!("{:>18.2}", own / other);
            } else {
                print!("{:>18}", "-");
            }
        }
        println!();
    }
    if let Some(direct) = readings.first() {
        println!(
            "direct: p50 {:.0} us, p99 {:.0} us",
            median(&direct.p50_us),
            median(&direct.p99_us)
        );
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(rank).copied().map_or(f64::NAN, micros)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
