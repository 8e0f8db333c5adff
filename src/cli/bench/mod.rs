//! `llamero bench`: measures what runs, and compares strategies.

mod bar;
mod live;
mod output;

use std::process::ExitCode;

/// What `bench` takes.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Drive load at a running proxy or node, and report how it is served
    Live(live::LiveArgs),
}

/// Runs a benchmark and reports it.
///
/// # Errors
/// When it cannot be run, or the report cannot be written.
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Live(args) => live::run(args).await,
    }
}
