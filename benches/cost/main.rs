//! What going through llamero costs in instructions, allocations and bytes held, which are nearly the same on every machine: so
//! limits on them can be kept. `cargo bench --bench cost` prints them and fails above a limit.
//!
//! Instructions are counted by valgrind, where it is installed: each phase is a function of its own, in which alone it
//! counts, and only what the proxy's thread does. Clients and nodes live on threads of their own, whose allocations are not
//! counted either.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod choice;
mod traffic;

use allocation_counter::{AllocationInfo, measure};
use anyhow::{Context, Result, ensure};
use llamero::Gateway;
use llamero::config::{ContentHash, Settings};
use std::hint::black_box;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use tokio::runtime::Runtime;
use traffic::{Client, Node};

const REQUESTS: usize = 1000;
const BIG_REQUESTS: usize = 200;
const CHUNKS: usize = 1000;
const STREAMS: usize = 100;
const CHOICES: usize = 1000;
/// A chat of about 100 KB.
const BIG_BODY: usize = 100_000;

/// One kind of work, and what one piece of it may cost.
struct Phase {
    name: &'static str,
    unit: &'static str,
    count: usize,
    most_allocations: f64,
    most_instructions: f64,
}

/// The limits leave a tenth of room for other processors and libraries.
const PHASES: [Phase; 5] = [
    Phase {
        name: "small",
        unit: "small request",
        count: REQUESTS,
        most_allocations: 15.5,
        most_instructions: 63_000.0,
    },
    Phase {
        name: "chunk",
        unit: "chunk",
        count: CHUNKS,
        // One for the piece, and a tenth for opening the stream.
        most_allocations: 1.2,
        most_instructions: 7_600.0,
    },
    Phase {
        name: "big",
        unit: "request of 100 KB",
        count: BIG_REQUESTS,
        most_allocations: 23.4,
        most_instructions: 745_000.0,
    },
    Phase {
        name: "choice",
        unit: "choice of 16",
        count: CHOICES,
        most_allocations: 3.4,
        most_instructions: 20_200.0,
    },
    Phase {
        name: "many",
        unit: "choice of 1000",
        count: CHOICES,
        // A part of them for nodes that are looked at for the first time.
        most_allocations: 5.2,
        most_instructions: 28_000.0,
    },
];
/// Most heap per open stream, in KiB.
const MOST_PER_STREAM: f64 = 24.0;
/// Told to a run that valgrind counts, which is to do one phase and say nothing.
const COUNTED: &str = "--counted";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_counted = args.iter().any(|arg| arg == COUNTED);
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
        println!("{what:44}{value:>12.2}  (limit {most})");
        if value > most {
            over.push(what.to_owned());
        }
    };
    for phase in PHASES.iter().filter(|phase| wants(phase.name)) {
        let info = match phase.name {
            "small" => phase_small(&runtime, address)?,
            "chunk" => phase_chunk(&runtime, address)?,
            "big" => phase_big(&runtime, address)?,
            "choice" => {
                let fleet = choice::Fleet::new(16);
                measure(|| phase_choice(&fleet))
            }
            _ => {
                let fleet = choice::Fleet::new(1000);
                measure(|| phase_many(&fleet))
            }
        };
        if is_counted {
            return Ok(());
        }
        let allocations = per(info.count_total, phase.count);
        let what = format!("allocations per {}", phase.unit);
        say(&what, allocations, phase.most_allocations);
        if let Some(instructions) = instructions(phase)? {
            let what = format!("instructions per {}", phase.unit);
            say(&what, instructions, phase.most_instructions);
        }
    }
    if wants("streams") {
        let held = held_by_streams(&runtime, address)?;
        say("KiB of heap per open stream", held, MOST_PER_STREAM);
    }
    ensure!(over.is_empty(), "above the limit: {}", over.join(", "));
    Ok(())
}

/// Instructions per piece of work; `None` without valgrind.
fn instructions(phase: &Phase) -> Result<Option<f64>> {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*phase_{}*", phase.name))
        .arg(std::env::current_exe()?)
        .args([phase.name, COUNTED])
        .output();
    let said = match run {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("valgrind is not installed: no instructions");
            return Ok(None);
        }
        run => run?,
    };
    let said = String::from_utf8_lossy(&said.stderr);
    let counted = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let counted: f64 = counted
        .with_context(|| said.to_string())?
        .1
        .trim()
        .parse()?;
    Ok(Some(counted / phase.count as f64))
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

#[inline(never)]
fn phase_many(fleet: &choice::Fleet) {
    for at in 0..CHOICES {
        black_box(at); // of two functions that do the same, the compiler would make one
        fleet.choose();
    }
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
