//! `pgconcord init`.

use std::process::ExitCode;

use crate::cli::Global;

/// Arguments of `pgconcord init`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs the command.
pub async fn run(_global: Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("init is under construction")
}
