//! `pgconcord rules reload`: the running daemon reads its rules again.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::bail;

use crate::config::Config;
use crate::http::{Request, client};

/// Arguments of `pgconcord rules reload`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The daemon's address, instead of [http] listen of the configuration
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

/// Runs the command: 0 if the daemon took the rules, 1 if it keeps the old ones.
pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let Some(listen) = args.listen.or(config.http) else {
        bail!(
            "the configuration has no [http] listen, so the daemon can't be asked here: send its process SIGHUP, and read \
             in its log what came of it"
        );
    };
    match client::request(listen, Request::ReloadRules).await? {
        Ok(said) => {
            println!("{said}");
            Ok(ExitCode::SUCCESS)
        }
        Err(wrong) => {
            eprintln!("{wrong}\nthe daemon keeps the rules that it has");
            Ok(ExitCode::FAILURE)
        }
    }
}
