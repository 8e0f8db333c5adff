//! `llamero bench`: comparing strategies.

mod sim;

use clap::{Args, Subcommand};

/// What is measured.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare strategies on simulated fleets, in virtual time
    Sim(sim::SimArgs),
}

/// Runs the command.
///
/// # Errors
/// When it could not do what it is for.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.command {
        Command::Sim(args) => sim::run(args),
    }
}
