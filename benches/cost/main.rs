//! What going through llamero costs in allocations and bytes held, which are the same on every machine: so limits on them can
//! be kept. `cargo bench --bench cost` prints them and fails above a limit.
//!
//! Instructions come from valgrind: each phase is a function of its own, so
//! `valgrind --tool=callgrind --toggle-collect='*phase_small*' <this program> small` counts those of the proxy's thread
//! alone. Clients and nodes live on threads of their own, whose allocations are not counted either.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod choice;
mod traffic;

use allocation_counter::{AllocationInfo, measure};
use anyhow::{Result, ensure};
use llamero::Gateway;
use llamero::config::{ContentHash, Settings};
use std::io;
use std::net::SocketAddr;
use tokio::runtime::Runtime;
use traffic::{Client, Node};

const REQUESTS: usize = 1000;
const BIG_REQUESTS: usize = 200;
const CHUNKS: usize = 1000;
const STREAMS: usize = 100;
const CHOICES: usize = 1000;
/// A chat of about 100 KB.
const BIG_BODY: usize = 100_000;

/// Most allocations per small request.
const MOST_PER_REQUEST: f64 = 28.0;
/// Most allocations per relayed chunk: both are of hyper's read buffer.
const MOST_PER_CHUNK: f64 = 2.2;
/// Most heap per open stream, in KiB.
const MOST_PER_STREAM: f64 = 64.0;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| {
        let mut names = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|arg| arg == name)
    };
    let node = Node::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let text = format!(
        "listen = '127.0.0.1:0'\nadmin.listen = '127.0.0.1:0'\n[[backend]]\nurl = '{}'\nslots = 1000\n",
        node.address
    );
    let settings = Settings::parse(&text, "cost.toml")
        .map_err(|error| anyhow::anyhow!("{}", error.render(false)))?;
    let _lines = llamero::log::init_to(settings.log, io::sink());
    let gateway =
        runtime.block_on(async { Gateway::start(settings, None, ContentHash::of(&text), 1) })?;
    let address = gateway.addresses().first().copied();
    let address = address.ok_or_else(|| anyhow::anyhow!("it listens nowhere"))?;
    run(&runtime, address, 20, Client::small)?;

    let mut over = Vec::new();
    let mut say = |what: &str, value: f64, most: f64| {
        println!("{what:34}{value:>10.2}  (limit {most})");
        if value > most {
            over.push(what.to_owned());
        }
    };
    if wants("small") {
        let info = phase_small(&runtime, address)?;
        say(
            "allocations per small request",
            per(info.count_total, REQUESTS),
            MOST_PER_REQUEST,
        );
        println!(
            "{:34}{:>10.0}",
            "bytes allocated per small request",
            per(info.bytes_total, REQUESTS)
        );
    }
    if wants("big") {
        let info = phase_big(&runtime, address)?;
        println!(
            "{:34}{:>10.2}",
            "allocations per 100 KB request",
            per(info.count_total, BIG_REQUESTS)
        );
    }
    if wants("chunk") {
        let info = phase_chunk(&runtime, address)?;
        say(
            "allocations per chunk",
            per(info.count_total, CHUNKS),
            MOST_PER_CHUNK,
        );
    }
    if wants("streams") {
        let held = held_by_streams(&runtime, address)?;
        say("KiB of heap per open stream", held, MOST_PER_STREAM);
    }
    if wants("choice") {
        let fleet = choice::Fleet::new(16);
        let info = measure(|| phase_choice(&fleet));
        println!(
            "{:34}{:>10.2}",
            "allocations per choice of 16",
            per(info.count_total, CHOICES)
        );
    }
    ensure!(over.is_empty(), "above the limit: {}", over.join(", "));
    Ok(())
}

fn per(total: impl TryInto<u32>, count: usize) -> f64 {
    f64::from(total.try_into().unwrap_or(u32::MAX)) / count as f64
}

#[inline(never)]
fn phase_small(runtime: &Runtime, address: SocketAddr) -> Result<AllocationInfo> {
    run(runtime, address, REQUESTS, Client::small)
}

#[inline(never)]
fn phase_big(runtime: &Runtime, address: SocketAddr) -> Result<AllocationInfo> {
    run(runtime, address, BIG_REQUESTS, |client, count| {
        client.big(count, BIG_BODY)
    })
}

#[inline(never)]
fn phase_chunk(runtime: &Runtime, address: SocketAddr) -> Result<AllocationInfo> {
    run(runtime, address, CHUNKS, |client, count| {
        client.open()?;
        (0..count).try_for_each(|_| client.chunk())
    })
}

#[inline(never)]
fn phase_choice(fleet: &choice::Fleet) {
    (0..CHOICES).for_each(|_| fleet.choose());
}

/// Has a client on a thread of its own do so much of something, and serves it on this one.
fn run(
    runtime: &Runtime,
    address: SocketAddr,
    count: usize,
    work: fn(&mut Client, usize) -> Result<()>,
) -> Result<AllocationInfo> {
    let (done, is_done) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = done.send(Client::connect(address).and_then(|mut client| work(&mut client, count)));
    });
    let mut outcome = Ok(());
    let info = measure(|| outcome = runtime.block_on(async { is_done.await? }));
    outcome.map(|()| info)
}

/// Heap that an open stream holds between two chunks, in KiB.
fn held_by_streams(runtime: &Runtime, address: SocketAddr) -> Result<f64> {
    let (done, is_done) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let opened = (0..STREAMS).map(|_| {
            let mut client = Client::connect(address)?;
            client.open()?;
            Ok(client)
        });
        let _ = done.send(opened.collect::<Result<Vec<_>>>());
    });
    let mut outcome = Ok(Vec::new());
    let info = measure(|| outcome = runtime.block_on(async { is_done.await? }));
    let streams = outcome?.len();
    Ok(per(info.bytes_current, streams) / 1024.0)
}
