//! The `pgconcord` command: parses the command line, runs it, turns an error into a message and an exit code.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use pgconcord::cli::Cli;

/// The allocations of a change are made by the thread that reads it and freed by the one that has applied it, which takes the
/// system's allocator a sixth of the daemon's time in a conflict storm.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pgconcord: cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(cli.run());
    runtime.shutdown_background();
    code.unwrap_or_else(|error| {
        eprintln!("pgconcord: {error:#}");
        ExitCode::FAILURE
    })
}
