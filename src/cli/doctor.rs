//! `pgconcord doctor`.

use std::process::ExitCode;

use crate::cli::Global;
use crate::node::{Level, doctor, finding};

/// Arguments of `pgconcord doctor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// One JSON object a line: level, node, check, table, what, fix
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(global: Global, args: Args) -> anyhow::Result<ExitCode> {
    let config = match global.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let findings = doctor::examine(&config).await;
    if args.json {
        for each in &findings {
            println!("{}", serde_json::to_string(each)?);
        }
    } else {
        print!("{}", finding::human(&findings));
    }
    Ok(match finding::worst(&findings) {
        Level::Error => ExitCode::FAILURE,
        Level::Ok | Level::Warning => ExitCode::SUCCESS,
    })
}
