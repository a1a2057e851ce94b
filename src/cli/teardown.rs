//! `pgconcord teardown`.

use std::process::ExitCode;

use crate::cli::Global;

/// Arguments of `pgconcord teardown`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs the command.
pub async fn run(_global: Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("teardown is under construction")
}
