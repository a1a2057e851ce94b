//! `pgconcord rules`: what conflict rules come to, before they decide anything; and how a running daemon takes them.

use std::process::ExitCode;

use crate::cli::Global;
use crate::config::Config;
use crate::model::{Deletes, Resolver, TableRule};

mod check;
mod explain;
mod reload;
mod replay;

/// Arguments of `pgconcord rules`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Look for rules that can't hold, decide nothing, or don't come out alike at every node
    Check(check::Args),
    /// Tell which rule decides about a table, and why
    Explain(explain::Args),
    /// Have the running daemon read the rules again, as SIGHUP does
    Reload(reload::Args),
    /// Tell what other rules would have made of the conflicts on record
    Replay(replay::Args),
}

/// Runs the command.
pub async fn run(global: Global, args: Args) -> anyhow::Result<ExitCode> {
    let config = match global.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    match args.command {
        Command::Check(args) => check::run(&config, &args).await,
        Command::Explain(args) => explain::run(&config, &args),
        Command::Reload(args) => reload::run(&config, &args).await,
        Command::Replay(args) => replay::run(&config, args),
    }
}

/// A rule in a few words: `origin_priority (east, west), a delete wins`.
fn described(rule: &TableRule, config: &Config) -> String {
    let detail = match &rule.resolver {
        Resolver::LastUpdateWins | Resolver::FirstUpdateWins => String::new(),
        Resolver::LastByColumn(column) | Resolver::FirstByColumn(column) => format!(" (by {column})"),
        Resolver::OriginPriority(order) => {
            let names: Vec<_> = order.iter().map(|node| config.nodes[node.index()].name.as_str()).collect();
            format!(" ({})", names.join(", "))
        }
        Resolver::Merge(merge) => {
            let columns = merge.columns.iter().map(|(name, how)| format!("{name} by {how}, "));
            format!(" ({}others by {})", columns.collect::<String>(), merge.others)
        }
    };
    let deletes = match (&rule.resolver, rule.deletes) {
        (Resolver::Merge(_), _) | (_, Deletes::DeleteWins) => ", a delete wins",
        (_, Deletes::UpdateWins) => ", a delete loses",
        (_, Deletes::ByResolver) => "",
    };
    format!("{}{detail}{deletes}", rule.resolver.name())
}
