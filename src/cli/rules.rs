//! `pgconcord rules`: what conflict rules come to, before they decide anything; and how a running daemon takes them.

use std::process::ExitCode;

use crate::cli::Global;
use crate::config::Config;
use crate::model::table::Catalog;
use crate::model::{Case, Condition, Deletes, Merge, NodeId, Resolver, TableRule, UniqueWinner};
use crate::node::catalog::ClusterCatalog;
use crate::node::connect::connect;

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
        Command::Replay(args) => replay::run(&config, args).await,
    }
}

/// A rule in a few words: `origin_priority (east, west), a delete wins`.
fn described(rule: &TableRule, config: &Config) -> String {
    let otherwise = words(Some(&rule.resolver), rule.deletes, config);
    let case = |case: &Case| {
        let what = words(case.resolver.as_ref(), case.deletes.unwrap_or_default(), config);
        format!("{} where {}; else ", what, condition(&case.condition, &config.node_names()))
    };
    let unique = match &rule.unique {
        UniqueWinner::LastUpdateWins => String::new(),
        UniqueWinner::OriginPriority(order) => {
            format!("; unique values by {} ({})", rule.unique.name(), node_names(order, config))
        }
    };
    rule.cases.iter().map(case).collect::<String>() + &otherwise + &unique
}

fn words(resolver: Option<&Resolver>, deletes: Deletes, config: &Config) -> String {
    let detail = match resolver {
        None | Some(Resolver::LastUpdateWins | Resolver::FirstUpdateWins) => String::new(),
        Some(Resolver::KeepLocal | Resolver::ApplyRemote | Resolver::Skip) => " (rows may differ)".to_owned(),
        Some(Resolver::LastByColumn(column) | Resolver::FirstByColumn(column)) => format!(" (by {column})"),
        Some(Resolver::OriginPriority(order)) => {
            format!(" ({})", node_names(order, config))
        }
        Some(Resolver::Merge(merge)) => match &**merge {
            Merge::Columns(merge) => {
                let columns = merge.columns.iter().map(|(name, how)| format!("{name} by {how}, "));
                format!(" ({}others by {})", columns.collect::<String>(), merge.others)
            }
            Merge::Function(function) => format!(" ({function})"),
        },
    };
    let deletes = match (resolver, deletes) {
        (Some(Resolver::Merge(_)), _) | (_, Deletes::DeleteWins) => "a delete wins",
        (_, Deletes::UpdateWins) => "a delete loses",
        (None, Deletes::ByResolver) => "a delete is like any change",
        (_, Deletes::ByResolver) => "",
    };
    let parts = [format!("{}{detail}", resolver.map_or("", Resolver::name)), deletes.to_owned()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

fn node_names(nodes: &[NodeId], config: &Config) -> String {
    nodes.iter().map(|node| config.nodes[node.index()].name.as_str()).collect::<Vec<_>>().join(", ")
}

/// A condition in a few words: `east's change met west's and price changed`.
fn condition(condition: &Condition, nodes: &[&str]) -> String {
    let names = |of: &[NodeId]| {
        let names: Vec<_> = of.iter().filter_map(|node| nodes.get(node.index()).copied()).collect();
        names.join(" or ")
    };
    let between = match (&condition.source, &condition.target) {
        (Some(source), Some(target)) => Some(format!("{} met {}", names(source), names(target))),
        (Some(one), None) | (None, Some(one)) => Some(format!("one change is of {}", names(one))),
        (None, None) => None,
    };
    let changed = condition.changed.as_ref().map(|columns| format!("{} changed", columns.join(" or ")));
    let when = condition.when.as_ref().map(|when| format!("`{}`", when.text()));
    [between, changed, when].into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

/// The tables as they are at all nodes; `Err` if they can't be read.
async fn catalog(config: &Config) -> Result<Catalog, String> {
    let mut clients = Vec::new();
    for node in &config.nodes {
        let client = connect(&node.conninfo, "pgconcord rules").await;
        clients.push((node.name.as_str(), client.map_err(|error| format!("{}: {error}", node.name))?));
    }
    let clients: Vec<_> = clients.iter().map(|(name, client)| (*name, client)).collect();
    let read = ClusterCatalog::read(&config.tables, &config.object_name(), &clients).await;
    read.map(|read| read.catalog).map_err(|error| format!("reading the tables: {error}"))
}
