//! `llamero bench`: measures what runs, and compares strategies.

mod bar;
mod live;
mod output;
mod sim;

use crate::sim::{Row, read_trace as read};
use anyhow::Context as _;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;

/// What `bench` takes.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Compare strategies on simulated fleets, in virtual time
    Sim(sim::SimArgs),
    /// Drive load at a running proxy or node, and report how it is served
    Live(live::LiveArgs),
}

/// Runs a benchmark and reports it.
///
/// # Errors
/// When it cannot be run, or the report cannot be written.
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Sim(args) => sim::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Live(args) => live::run(args).await,
    }
}

/// The requests of a trace's file.
fn read_trace(path: &Path) -> anyhow::Result<Vec<Row>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    read(BufReader::new(file)).with_context(|| path.display().to_string())
}
