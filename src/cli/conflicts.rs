//! `pgconcord conflicts`.

use std::process::ExitCode;

use crate::cli::Global;

/// Arguments of `pgconcord conflicts`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs the command.
pub async fn run(_global: Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("conflicts is under construction")
}
