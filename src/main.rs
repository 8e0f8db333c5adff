//! The `llamero` program.

use clap::Parser;
use llamero::cli::Cli;
use std::process::ExitCode;

/// The only allocator of three that were measured which gives memory back after a burst of streams.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[expect(clippy::print_stderr, reason = "the last word of a program that fails")]
fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("llamero: {error:#}");
            ExitCode::FAILURE
        }
    }
}
