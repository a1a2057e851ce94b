//! `pgconcord setup`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::cli::Global;
use crate::node::{Level, finding, setup};

/// Arguments of `pgconcord setup`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Print the statements for an administrator to run, and change nothing
    #[arg(long)]
    print_sql: bool,
    /// How long the creation of a slot may wait for running transactions, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait: u64,
}

/// Runs the command.
pub async fn run(global: Global, args: Args) -> anyhow::Result<ExitCode> {
    let config = match global.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    if args.print_sql {
        print!("{}", setup::script::print(&config).await.context("setup --print-sql")?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut steps = 0;
    let mut say = |node: &str, line: &str| {
        steps += 1;
        println!("{node}: {line}");
    };
    let report = setup::run(&config, Duration::from_secs(args.wait), &mut say).await.context("setup")?;
    if steps == 0 {
        println!("Nothing to do: everything is there.");
    }
    println!("{} tables replicate between {} nodes. Next: pgconcord run", report.tables, config.nodes.len());
    if report.left_out.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("\nNot replicated: {}", report.left_out.join(", "));
    let errors: Vec<_> = report.findings.into_iter().filter(|finding| finding.level == Level::Error).collect();
    eprint!("{}", finding::lines(&errors));
    Ok(ExitCode::FAILURE)
}
