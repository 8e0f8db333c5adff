//! The command line: one file per command.

mod bench;
mod check;
mod demo;
mod mock;
mod serve;

use clap::{Parser, Subcommand};
use std::io::{self, IsTerminal};
use std::process::ExitCode;

/// The exit code for a bad configuration, as in `sysexits.h`.
const BAD_CONFIG: u8 = 78;
/// The exit code after a shutdown that had to cut streams.
const CUT_STREAMS: u8 = 3;

/// Makes several Ollama instances look like one.
///
/// Point OLLAMA_HOST at it, and every client keeps working.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_long_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

const EXAMPLES: &str = "\
Examples:
  llamero demo                                   see it work, without any Ollama
  llamero --backend gpu1 --backend gpu2          balance two nodes on 127.0.0.1:11434
  llamero --backend fast=10.0.0.7 --backend slow=10.0.0.8:11435 --strategy response_time
  llamero --config llamero.toml                  read a file, and again whenever it changes
  llamero check --config llamero.toml            say what a file means, or what is wrong with it";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy (what happens without a command)
    Serve(serve::ServeArgs),
    /// Run the proxy in front of simulated nodes: no GPU, no Ollama, no configuration needed
    Demo(demo::DemoArgs),
    /// Run simulated Ollama nodes alone
    Mock(mock::MockArgs),
    /// Read the configuration and say what it means, or all that is wrong with it
    Check(check::CheckArgs),
    /// Measure a running proxy or node, or compare strategies
    Bench(Box<bench::BenchArgs>),
}

impl Cli {
    /// Runs the command. The exit code says how it ended.
    ///
    /// # Errors
    /// When it could not do what it is for.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let command = self.command.unwrap_or(Command::Serve(self.serve));
        if let Command::Check(args) = command {
            return Ok(check::run(args));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(
                std::thread::available_parallelism()
                    .map_or(2, usize::from)
                    .max(2),
            )
            .enable_all()
            .build()?;
        runtime.block_on(async {
            match command {
                Command::Serve(args) => serve::run(args).await,
                Command::Demo(args) => demo::run(args).await,
                Command::Mock(args) => mock::run(args).await.map(|()| ExitCode::SUCCESS),
                Command::Bench(args) => bench::run(*args).await,
                Command::Check(args) => Ok(check::run(args)),
            }
        })
    }
}

/// Whether errors on stderr may be coloured.
fn wants_color() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    set("CLICOLOR_FORCE") || (io::stderr().is_terminal() && !set("NO_COLOR"))
}
