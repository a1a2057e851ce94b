//! `pgconcord teardown`.

use std::process::ExitCode;

use anyhow::Context;

use crate::cli::Global;
use crate::node::teardown::{self, ActiveSlot};

/// Arguments of `pgconcord teardown`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// End the process that still reads a slot
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub async fn run(global: Global, args: Args) -> anyhow::Result<ExitCode> {
    let config = match global.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let active = if args.force { ActiveSlot::Terminate } else { ActiveSlot::Refuse };
    let mut steps = 0;
    let mut say = |node: &str, line: &str| {
        steps += 1;
        println!("{node}: {line}");
    };
    let remains = teardown::run(&config, active, &mut say).await.context("teardown")?;
    if remains.is_empty() {
        println!("{}", if steps == 0 { "Nothing to do: nothing of the cluster is there." } else { "Done." });
        return Ok(ExitCode::SUCCESS);
    }
    for each in remains {
        eprintln!("\n{}: {}", each.node, each.reason);
        eprintln!("What may remain there goes with (as a role that may):\n{}", each.statements);
    }
    Ok(ExitCode::FAILURE)
}
