//! `conflicts stats`: how many conflicts there are, a section a dimension.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Map, Value};

use crate::cli::conflicts::{FilterArgs, nothing_found};
use crate::cli::text::{Align, Paint, emit, shown, table};
use crate::journal::{Count, Hours, Reader};

/// Arguments of `conflicts stats`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// What to count by; several with commas
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "table,type,resolution,rule")]
    by: Vec<By>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Table,
    Type,
    Resolution,
    Rule,
    Hour,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            By::Table => "table",
            By::Type => "type",
            By::Resolution => "resolution",
            By::Rule => "rule",
            By::Hour => "hour",
        }
    }

    fn of(self, count: &Count) -> String {
        match self {
            By::Table => count.table.clone(),
            By::Type => count.conflict_type.clone(),
            By::Resolution => count.resolution.clone(),
            By::Rule => count.rule.clone(),
            By::Hour => count.hour.map_or_else(String::new, |hour| hour.format("%Y-%m-%dT%H:00:00Z").to_string()),
        }
    }
}

/// Runs the command.
pub(super) fn run(journal: &Reader, args: Args) -> anyhow::Result<ExitCode> {
    let filter = args.filter.into_filter(None);
    let hours = if args.by.contains(&By::Hour) { Hours::Apart } else { Hours::Together };
    let counts = journal.counts(&filter, hours)?;
    if args.json {
        emit(&format!("{}\n", json(&counts, &args.by)))?;
    } else if counts.is_empty() {
        nothing_found(&filter);
    } else {
        emit(&text(&counts, &args.by, Paint::for_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The most frequent first; hours in order.
fn sums(counts: &[Count], by: By) -> Vec<(String, u64)> {
    let mut sums = BTreeMap::new();
    for count in counts {
        *sums.entry(by.of(count)).or_insert(0) += count.count;
    }
    let mut sums: Vec<(String, u64)> = sums.into_iter().collect();
    if by != By::Hour {
        sums.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    }
    sums
}

fn total(counts: &[Count]) -> u64 {
    counts.iter().map(|count| count.count).sum()
}

fn text(counts: &[Count], by: &[By], paint: Paint) -> String {
    let mut out = format!("conflicts: {}\n", total(counts));
    for by in by {
        let heading = if *by == By::Hour { "HOUR (UTC)".to_owned() } else { by.name().to_uppercase() };
        let rows: Vec<Vec<String>> =
            sums(counts, *by).into_iter().map(|(name, number)| vec![shown(&name), number.to_string()]).collect();
        out.push('\n');
        out += &table(&[(heading.as_str(), Align::Left), ("CONFLICTS", Align::Right)], &rows, paint);
    }
    out
}

fn json(counts: &[Count], by: &[By]) -> Value {
    let mut out = Map::from_iter([("total".to_owned(), Value::from(total(counts)))]);
    for by in by {
        let sums = sums(counts, *by).into_iter().map(|(name, number)| (name, Value::from(number)));
        out.insert(by.name().to_owned(), Value::Object(sums.collect()));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(table: &str, hour: &str, count: u64) -> Count {
        Count {
            table: table.into(),
            conflict_type: "insert_exists".into(),
            resolution: "keep_local".into(),
            rule: "default".into(),
            hour: Some(hour.parse().unwrap()),
            count,
        }
    }

    #[test]
    fn counts_add_up_in_each_section() {
        let counts = [
            count("public.a", "2026-07-02T10:00:00Z", 2),
            count("public.b", "2026-07-01T10:00:00Z", 5),
            count("public.a", "2026-07-01T10:00:00Z", 1),
        ];
        let out = json(&counts, &[By::Table, By::Type, By::Hour]);
        let wanted = serde_json::json!({
            "total": 8, "table": { "public.b": 5, "public.a": 3 }, "type": { "insert_exists": 8 },
            "hour": { "2026-07-01T10:00:00Z": 6, "2026-07-02T10:00:00Z": 2 },
        });
        assert_eq!(out, wanted);
        let page = text(&counts, &[By::Table], Paint::Plain);
        assert!(page.find("public.b") < page.find("public.a"), "the most frequent first: {page}");
    }
}
