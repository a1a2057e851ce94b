//! `pgconcord conflicts`: what the journal has on record, whether the daemon runs or not.

use std::path::PathBuf;
use std::process::ExitCode;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

use crate::cli::Global;
use crate::cli::text::{Align, Paint, cut, emit, shown, table};
use crate::daemon::retention;
use crate::journal::{Entry, Filter, JsonRow, KeyFilter, Reader, Status, TableFilter};
use crate::model::ConflictType;

mod decide;
mod export;
mod prune;
mod show;
mod stats;
mod tail;

#[cfg(test)]
pub(in crate::cli) use show::tests::example;
pub(in crate::cli) use show::{cell, is_unchanged};

/// Arguments of `pgconcord conflicts`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The journal's file, instead of [journal] path of the configuration
    #[arg(long, global = true, value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    #[command(flatten)]
    OfFile(OfFile),
    #[command(flatten)]
    Decide(decide::Command),
}

/// Commands that need nothing but the journal's file.
#[derive(clap::Subcommand, Debug)]
enum OfFile {
    /// The conflicts on record, newest first
    List(ListArgs),
    /// One conflict: both sides and the result, column by column
    Show(ShowArgs),
    /// How many there are by table, type, resolution and rule, or by hour
    Stats(stats::Args),
    /// The latest, then each one as it is settled; ends on Ctrl-C
    Tail(tail::Args),
    /// Remove resolved ones that are old or too many; pending and held ones stay
    Prune(prune::Args),
    /// All of them as JSON lines or CSV, for other programs
    Export(export::Args),
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct FilterArgs {
    /// Only tables that match, such as public.stock, public.* or stock; may be repeated
    #[arg(long, value_name = "GLOB")]
    table: Vec<TableFilter>,
    /// Only conflicts of this type, such as insert_exists; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<ConflictType>,
    /// Only links from or to this node; may be repeated
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    /// Only rows whose key has this: column=value, or a value of any key column; may be repeated
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Only those found since then: 90s, 30min, 1h, 2d, 2026-07-01 or "2026-07-01 12:00" (UTC)
    #[arg(long, value_name = "WHEN", value_parser = |text: &str| since(text, Utc::now()))]
    since: Option<DateTime<Utc>>,
    /// Only those in this state: pending, resolved or held; may be repeated
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Vec<Status>,
}

impl FilterArgs {
    pub(in crate::cli) fn into_filter(self, limit: Option<u32>) -> Filter {
        Filter {
            tables: self.table,
            types: self.types,
            nodes: self.node,
            keys: self.key.into_iter().map(KeyFilter).collect(),
            since: self.since,
            statuses: self.status,
            limit,
        }
    }
}

#[derive(clap::Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many; 0 for all. 50 if not given, all with --json
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct ShowArgs {
    /// The number that `conflicts list` shows
    id: i64,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Entries that a list shows where no limit is given: two screens.
const LIMIT: u32 = 50;
/// Columns for a key in a list; `show` has it whole.
pub(in crate::cli) const KEY_COLUMNS: usize = 32;

/// Bytes of a list that are written at a time.
pub(in crate::cli) const WRITE: usize = 1 << 16;

/// Runs the command.
pub async fn run(global: Global, args: Args) -> anyhow::Result<ExitCode> {
    let command = match args.command {
        Command::OfFile(command) => command,
        Command::Decide(command) => return decide::run(&global, args.journal, command).await,
    };
    let (path, retention) = match args.journal {
        Some(path) => (path, None),
        None => match global.load() {
            Ok(config) => (config.journal.path.clone(), Some(retention(&config.journal))),
            Err(code) => return Ok(code),
        },
    };
    match command {
        OfFile::List(args) => list(&Reader::open(&path)?, args),
        OfFile::Show(args) => show_one(&Reader::open(&path)?, &args),
        OfFile::Tail(args) => tail::run(&path, &args).await,
        OfFile::Prune(args) => prune::run(&path, retention, &args),
        OfFile::Stats(args) => stats::run(&Reader::open(&path)?, args),
        OfFile::Export(args) => export::run(&Reader::open(&path)?, args),
    }
}

fn list(journal: &Reader, args: ListArgs) -> anyhow::Result<ExitCode> {
    let limit = match args.limit {
        Some(0) => None,
        None if args.json => None,
        limit => Some(limit.unwrap_or(LIMIT)),
    };
    let filter = args.filter.into_filter(limit.map(|limit| if args.json { limit } else { limit.saturating_add(1) }));
    let found = if args.json { list_json(journal, &filter)? } else { list_table(journal, &filter, limit)? };
    if found == 0 {
        nothing_found(&filter);
    }
    Ok(ExitCode::SUCCESS)
}

/// Says so.
pub(in crate::cli) fn nothing_found(filter: &Filter) {
    eprintln!("no conflict on record{}", if is_everything(filter) { "" } else { " matches" });
}

fn is_everything(filter: &Filter) -> bool {
    let Filter { tables, types, nodes, keys, since, statuses, limit: _ } = filter;
    tables.is_empty()
        && types.is_empty()
        && nodes.is_empty()
        && keys.is_empty()
        && since.is_none()
        && statuses.is_empty()
}

/// Streams, since a journal may have a million entries.
fn list_json(journal: &Reader, filter: &Filter) -> anyhow::Result<usize> {
    let (mut found, mut waiting) = (0, String::new());
    let mut written = Ok(true);
    journal.list(filter, |entry| {
        found += 1;
        written = serde_json::to_string(&entry).map_err(anyhow::Error::from).and_then(|line| {
            waiting += &line;
            waiting.push('\n');
            if waiting.len() < WRITE { Ok(true) } else { Ok(emit(&std::mem::take(&mut waiting))?) }
        });
        matches!(written, Ok(true))
    })?;
    if written? {
        emit(&waiting)?;
    }
    Ok(found)
}

fn list_table(journal: &Reader, filter: &Filter, limit: Option<u32>) -> anyhow::Result<usize> {
    let mut rows = Vec::new();
    journal.list(filter, |entry| {
        rows.push(list_row(&entry));
        true
    })?;
    let found = rows.len();
    if found == 0 {
        return Ok(0);
    }
    let shown = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    rows.truncate(shown);
    let headings = [
        ("ID", Align::Right),
        ("FOUND (UTC)", Align::Left),
        ("TYPE", Align::Left),
        ("TABLE", Align::Left),
        ("KEY", Align::Left),
        ("LINK", Align::Left),
        ("RESOLUTION", Align::Left),
        ("RULE", Align::Left),
        ("STATUS", Align::Left),
    ];
    emit(&table(&headings, &rows, Paint::for_stdout()))?;
    if found > shown {
        eprintln!("there are more; --limit N shows N, --limit 0 all");
    }
    Ok(found)
}

fn list_row(entry: &Entry) -> Vec<String> {
    vec![
        entry.id.to_string(),
        entry.detected_at.format("%Y-%m-%d %H:%M:%S").to_string(),
        entry.conflict_type.to_string(),
        shown(&entry.table),
        cut(&key(&entry.key), KEY_COLUMNS),
        format!("{} → {}", entry.source, entry.target),
        entry.resolution.to_string(),
        cut(&shown(&entry.rule), KEY_COLUMNS),
        entry.status.name().to_owned(),
    ]
}

fn show_one(journal: &Reader, args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let Some(entry) = entry(journal, args.id)? else { return Ok(ExitCode::FAILURE) };
    emit(&if args.json { show::json(&entry)? } else { show::text(&entry, Paint::for_stdout()) })?;
    Ok(ExitCode::SUCCESS)
}

/// The conflict of that number; says so if there is none.
fn entry(journal: &Reader, id: i64) -> anyhow::Result<Option<Entry>> {
    let found = journal.get(id)?;
    if found.is_none() {
        eprintln!("pgconcord: no conflict {id} is on record; `pgconcord conflicts list` shows which are");
    }
    Ok(found)
}

/// `id=5, region=eu`.
pub(in crate::cli) fn key(key: &JsonRow) -> String {
    let cells: Vec<String> = key.iter().map(|(name, value)| format!("{}={}", shown(name), show::cell(value))).collect();
    if cells.is_empty() { "(all rows)".to_owned() } else { cells.join(", ") }
}

fn status(text: &str) -> Result<Status, String> {
    Status::of(text).ok_or_else(|| "it is one of pending, resolved, held".to_owned())
}

/// A span before `now`, a date, or a time; UTC where it does not say otherwise.
fn since(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    if let Some(span) = span(text) {
        return now.checked_sub_signed(span).ok_or_else(|| "that is too long ago".to_owned());
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let forms = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];
    let time = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let date = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    let found = time.or_else(date).map(|time| time.and_utc());
    found.ok_or_else(|| "write a span such as 90s, 30min, 1h or 2d, a date such as 2026-07-01, or a time".to_owned())
}

fn span(text: &str) -> Option<chrono::TimeDelta> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    chrono::TimeDelta::try_seconds(number.parse::<i64>().ok()?.checked_mul(seconds)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::USAGE;

    #[test]
    fn since_takes_spans_dates_and_times() {
        let now = "2026-07-02T12:00:00Z".parse().unwrap();
        let at = |text| since(text, now).map(|time| time.to_rfc3339());
        assert_eq!(at("90s").unwrap(), "2026-07-02T11:58:30+00:00");
        assert_eq!(at("1h").unwrap(), "2026-07-02T11:00:00+00:00");
        assert_eq!(at("2d").unwrap(), "2026-06-30T12:00:00+00:00");
        assert_eq!(at("2026-07-01").unwrap(), "2026-07-01T00:00:00+00:00");
        assert_eq!(at("2026-07-01 10:30").unwrap(), "2026-07-01T10:30:00+00:00");
        assert_eq!(at("2026-07-01T10:30:15+02:00").unwrap(), "2026-07-01T08:30:15+00:00");
        for wrong in ["", "h", "1y", "-1h", "yesterday", "2026-13-01", "9223372036854775807w", "9999999999999h"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_filter_is_a_usage_error() {
        for wrong in [["--type", "nosuch"], ["--since", "soon"], ["--status", "done"], ["--table", "a["]] {
            let line = [&["pgconcord", "conflicts", "list"], &wrong[..]].concat();
            let error = crate::cli::Cli::try_parse_from(line).map(|_| ()).unwrap_err();
            assert_eq!(error.exit_code(), i32::from(USAGE), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_is_shown_on_one_line() {
        let row = serde_json::json!({ "id": "5", "name": "a\nb" });
        assert_eq!(key(row.as_object().unwrap()), "id=5, name=a\\nb");
        assert_eq!(key(&JsonRow::new()), "(all rows)");
    }
}
