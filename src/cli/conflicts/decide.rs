//! `conflicts resolve` and `conflicts undo`: a person decides about a row.
//!
//! What comes out is written at one node like a user's change. So it reaches the others by replication, after all that
//! this node had seen, and comes out alike everywhere; nothing is decided past the rules.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use chrono::Utc;
use serde_json::Value;

use crate::cli::conflicts::{key, show};
use crate::cli::text::{emit, shown};
use crate::cli::{Global, USAGE};
use crate::http::{Request, client};
use crate::journal::{self, Entry, JsonRow, MASK, Reader};
use crate::model::Resolver;

mod site;
mod wish;

use site::Site;
use wish::{Decision, Side, Wish, decision, is_refused};

/// Commands that write rows at a node.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// Decide about one: keep a side, set values, or delete the row; written at one node, it reaches the others
    Resolve(ResolveArgs),
    /// Bring the row back that did not win, if nobody has changed it since
    Undo(UndoArgs),
    /// Have the running daemon try all rows again that nodes have refused; it does so every minute by itself
    Retry(RetryArgs),
}

/// Arguments of `conflicts retry`.
#[derive(clap::Args, Debug)]
pub(super) struct RetryArgs {
    /// The daemon's address, instead of [http] listen of the configuration
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

/// Arguments of `conflicts resolve`.
#[derive(clap::Args, Debug)]
#[group(id = "decision", required = true, multiple = true, args = ["keep", "set", "drop"])]
pub(super) struct ResolveArgs {
    /// The number that `conflicts list` shows
    id: i64,
    /// The row as this side had it; where that side had deleted it, it is deleted
    #[arg(long, value_name = "SIDE")]
    keep: Option<Side>,
    /// Values for columns, as a JSON object: '{"qty": 5, "note": null}'; the others stay, or are those of --keep
    #[arg(long, value_name = "JSON", value_parser = values)]
    set: Option<JsonRow>,
    /// Delete the row
    #[arg(long, conflicts_with_all = ["keep", "set"])]
    drop: bool,
    /// Write even if the row is no longer as the conflict left it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    how: HowArgs,
}

/// Arguments of `conflicts undo`.
#[derive(clap::Args, Debug)]
pub(super) struct UndoArgs {
    /// The number that `conflicts list` shows
    id: i64,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(clap::Args, Debug)]
struct HowArgs {
    /// The node to write at, from where it reaches the others; the one where the conflict was found, if not given
    #[arg(long, value_name = "NODE")]
    at: Option<String>,
    /// Print the statement and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command; `path` is the journal's, if not the configuration's.
pub(super) async fn run(global: &Global, path: Option<PathBuf>, command: Command) -> anyhow::Result<ExitCode> {
    let config = match global.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let path = path.unwrap_or_else(|| config.journal.path.clone());
    let (id, wish, force, how) = match command {
        Command::Retry(RetryArgs { listen }) => return retry(listen.or(config.http)).await,
        Command::Undo(UndoArgs { id, how }) => (id, Wish::Undo, false, how),
        Command::Resolve(ResolveArgs { id, keep, set, drop: _, force, how }) => {
            let wish = match (keep, set) {
                (Some(side), set) => Wish::Keep(side, set.unwrap_or_default()),
                (None, Some(set)) => Wish::Set(set),
                (None, None) => Wish::Drop,
            };
            (id, wish, force, how)
        }
    };
    let Some(entry) = super::entry(&Reader::open(&path)?, id)? else { return Ok(ExitCode::FAILURE) };
    let decision = match decision(&entry, &wish) {
        Ok(decision) => decision,
        Err(why) => {
            eprintln!("pgconcord: conflict {id}: {why}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let at = how.at.as_deref().unwrap_or(decision.at);
    let Some(node) = config.node(at) else {
        eprintln!(
            "pgconcord: there is no node {at:?} in the configuration; --at takes {}",
            config.node_names().join(", ")
        );
        return Ok(ExitCode::from(USAGE));
    };
    let site = Site::open(&config, node, &entry.table).await?;
    let done = write(&site, &entry, &decision, force, how.dry_run).await?;
    report(&path, at, &entry, &decision, done)
}

async fn retry(listen: Option<SocketAddr>) -> anyhow::Result<ExitCode> {
    let Some(listen) = listen else {
        bail!(
            "the configuration has no [http] listen, so the daemon can't be asked; it tries held rows every minute by itself"
        );
    };
    match client::request(listen, Request::RetryHeld).await? {
        Ok(said) => {
            emit(&format!("{said}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(wrong) => bail!(wrong),
    }
}

/// Tells what came of it, and puts on record what was written.
fn report(path: &Path, at: &str, entry: &Entry, decision: &Decision<'_>, done: Done) -> anyhow::Result<ExitCode> {
    let id = entry.id;
    let (table, row) = (shown(&entry.table), key(&decision.key));
    match done {
        Done::Would(statement) => {
            emit(&format!("{statement};\n"))?;
        }
        Done::Changed(differences) => {
            eprintln!(
                "pgconcord: conflict {id}: nothing is written, for {table} ({row}) at {at} is no longer as the conflict left \
                 it:\n{differences}Look at later conflicts of that row (`pgconcord conflicts list --table {table}`), or write \
                 all the same: pgconcord conflicts resolve {id} ... --force"
            );
            return Ok(ExitCode::FAILURE);
        }
        Done::Lacking(columns) => {
            eprintln!(
                "pgconcord: conflict {id}: the row is to be written anew, and the journal lacks its values of {} (masked, or \
                 not sent by their server); give them, as in --keep {} --set '{{\"{}\": ...}}'",
                columns.join(", "),
                if decision.row == entry.remote.row { "remote" } else { "local" },
                columns[0]
            );
            return Ok(ExitCode::FAILURE);
        }
        Done::Written { nothing, kept } => {
            let what = &decision.what;
            let did = if nothing { "stands already" } else { "is written" };
            let at_time = Utc::now().format("%Y-%m-%d %H:%M UTC");
            let on_record = journal::decide(path, id, &format!("decided by hand on {at_time}: {what} {did} at {at}"));
            let kept = match kept.is_empty() {
                true => String::new(),
                false => format!("; {} stays, for the journal lacks it", kept.join(", ")),
            };
            let spreads = if nothing { "" } else { "; the other servers get it like any change" };
            emit(&format!("{table} ({row}): {what} {did} at {at}{kept}{spreads}\n"))?;
            match on_record {
                Ok(1) => {}
                Ok(0) => {
                    eprintln!("pgconcord: conflict {id} is no longer in the journal, so the decision is not on record")
                }
                Ok(number) => {
                    emit(&format!(
                        "{} more that were held about that row, or about the same two changes, are resolved, too\n",
                        number - 1
                    ))?;
                }
                Err(error) => {
                    eprintln!("pgconcord: the decision is not on record, and a held conflict stays held: {error}");
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What became of a decision.
enum Done {
    /// The statement that would be run.
    Would(String),
    /// Nothing, for the row is another one by now; how.
    Changed(String),
    /// Nothing, for these columns of a row that is to be written anew are not in the journal.
    Lacking(Vec<String>),
    Written {
        /// It stood there already.
        nothing: bool,
        /// Columns that stay as they are, because the journal lacks their values.
        kept: Vec<String>,
    },
}

async fn write(
    site: &Site,
    entry: &Entry,
    decision: &Decision<'_>,
    force: bool,
    dry_run: bool,
) -> anyhow::Result<Done> {
    let unknown = |name: &String| !site.has(name);
    if let Some(name) = decision.only.iter().flatten().find(|name| unknown(name)) {
        bail!("{} has no column {name:?}: {}", entry.table, site.like(name));
    }
    let there = site.lock(&decision.key).await?;
    let differences = differences(decision.left.as_ref(), there.as_ref());
    let kept: Vec<String> =
        decision.row.iter().flatten().filter(|(_, value)| !is_known(value)).map(|(name, _)| name.clone()).collect();
    let known = |name: &String, value: &Value| is_known(value) && site.has(name);
    let statement = match (&decision.row, &there) {
        (None, None) => None,
        (None, Some(_)) => Some(site.delete(&decision.key)),
        (Some(_), None) if !kept.is_empty() => return Ok(Done::Lacking(kept)),
        (Some(row), None) => Some(site.insert(row)),
        (Some(row), Some(there)) => {
            let wanted = |name: &String| decision.only.as_ref().is_none_or(|only| only.contains(name));
            let changes = row.iter().filter(|(name, value)| {
                wanted(name)
                    && known(name, value)
                    && !decision.key.contains_key(*name)
                    && there.get(*name) != Some(value)
            });
            let changes: JsonRow = changes.map(|(name, value)| (name.clone(), value.clone())).collect();
            match changes.is_empty() {
                false => Some(site.update(&decision.key, &changes)),
                // the other nodes have another row, or may have, and get this one
                true if is_refused(entry) || Resolver::DIVERGING.contains(&entry.resolver.as_str()) => {
                    Some(site.touch(&decision.key))
                }
                true => None,
            }
        }
    };
    // what is wanted may stand there although it is not what the conflict left: then all is well
    if statement.is_some() && !force && !differences.is_empty() {
        return Ok(Done::Changed(differences));
    }
    match statement {
        Some(statement) if dry_run => Ok(Done::Would(statement)),
        None if dry_run => Ok(Done::Would("-- nothing to do: it stands there already".to_owned())),
        Some(statement) => {
            site.run(&statement).await?;
            Ok(Done::Written { nothing: false, kept })
        }
        None => Ok(Done::Written { nothing: true, kept }),
    }
}

/// Whether the journal has the value.
fn is_known(value: &Value) -> bool {
    value.get("unchanged").is_none() && value != MASK
}

/// How the row differs from what was left, a line a column; columns of which the journal has no value don't.
fn differences(left: Option<&JsonRow>, there: Option<&JsonRow>) -> String {
    let line = |name: &str, then: &str, now: &str| format!("  {}: {then} then, {now} now\n", shown(name));
    match (left, there) {
        (None, None) => String::new(),
        (None, Some(_)) => line("the row", "none", "there"),
        (Some(_), None) => line("the row", "there", "none"),
        (Some(left), Some(there)) => {
            let known = left.iter().filter(|(_, value)| is_known(value));
            known
                .filter_map(|(name, then)| {
                    let now = there.get(name).filter(|now| *now != then)?;
                    Some(line(name, &show::cell(then), &show::cell(now)))
                })
                .collect()
        }
    }
}

/// A JSON object's values as the journal has them: texts in the server's notation.
fn values(text: &str) -> Result<JsonRow, String> {
    let example = "write a JSON object, such as '{\"qty\": 5, \"note\": null}'";
    let object: JsonRow = serde_json::from_str(text).map_err(|error| format!("{error}; {example}"))?;
    if object.is_empty() {
        return Err(format!("it names no column; {example}"));
    }
    let as_text = |value: Value| match value {
        Value::Null | Value::String(_) => value,
        other => Value::String(other.to_string()),
    };
    Ok(object.into_iter().map(|(name, value)| (name, as_text(value))).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(value: Value) -> JsonRow {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn a_row_that_has_changed_is_told_column_by_column() {
        let left = row(json!({ "id": "5", "qty": "4", "doc": { "unchanged": true }, "email": MASK }));
        let now = row(json!({ "id": "5", "qty": "6", "doc": "y", "email": "a@b.c" }));
        assert_eq!(differences(Some(&left), Some(&now)), "  qty: 4 then, 6 now\n");
        assert_eq!(differences(Some(&now), Some(&now)), "");
        assert_eq!(differences(None, Some(&now)), "  the row: none then, there now\n");
        assert_eq!(differences(Some(&left), None), "  the row: there then, none now\n");
    }

    #[test]
    fn values_are_texts_whatever_they_are_in_json() {
        let read = values(r#"{"n": 5, "b": true, "t": "x", "o": {"a": [1]}, "z": null}"#).unwrap();
        assert_eq!(read, row(json!({"n": "5", "b": "true", "t": "x", "o": "{\"a\":[1]}", "z": null})));
        assert!(values("5").is_err() && values("{}").is_err() && values("{").is_err());
    }
}
