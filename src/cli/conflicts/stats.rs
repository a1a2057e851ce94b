//! `conflicts stats`: how many conflicts there are, a section a dimension.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Map, Value};

use crate::cli::conflicts::{FilterArgs, nothing_found};
use crate::cli::text::{Align, Paint, emit, shown, table};
use crate::journal::{By, Count, Reader};

/// Arguments of `conflicts stats`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// What to count by; several with commas
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "table,type,resolution,rule", value_parser = by())]
    by: Vec<By>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

fn by() -> impl TypedValueParser<Value = By> {
    let by = |name: String| By::ALL.into_iter().find(|by| by.name() == name).ok_or("none of the values");
    PossibleValuesParser::new(By::ALL.map(By::name)).try_map(by)
}

/// Runs the command.
pub(super) fn run(journal: &Reader, args: Args) -> anyhow::Result<ExitCode> {
    let filter = args.filter.into_filter(None);
    let counts = journal.counts(&filter, &args.by)?;
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
fn sums(counts: &[Count], place: usize, by: By) -> Vec<(String, u64)> {
    let mut sums = BTreeMap::new();
    for count in counts {
        *sums.entry(count.values[place].as_str()).or_insert(0) += count.count;
    }
    let mut sums: Vec<(String, u64)> = sums.into_iter().map(|(value, number)| (value.to_owned(), number)).collect();
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
    for (place, by) in by.iter().enumerate() {
        let heading = if *by == By::Hour { "HOUR (UTC)".to_owned() } else { by.name().to_uppercase() };
        let rows: Vec<Vec<String>> =
            sums(counts, place, *by).into_iter().map(|(name, number)| vec![shown(&name), number.to_string()]).collect();
        out.push('\n');
        out += &table(&[(heading.as_str(), Align::Left), ("CONFLICTS", Align::Right)], &rows, paint);
    }
    out
}

fn json(counts: &[Count], by: &[By]) -> Value {
    let mut out = Map::from_iter([("total".to_owned(), Value::from(total(counts)))]);
    for (place, by) in by.iter().enumerate() {
        let sums = sums(counts, place, *by).into_iter().map(|(name, number)| (name, Value::from(number)));
        out.insert(by.name().to_owned(), Value::Object(sums.collect()));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(values: [&str; 3], count: u64) -> Count {
        Count { values: values.map(str::to_owned).to_vec(), count }
    }

    #[test]
    fn counts_add_up_in_each_section() {
        let counts = [
            count(["public.a", "insert_exists", "2026-07-02T10:00:00Z"], 2),
            count(["public.b", "insert_exists", "2026-07-01T10:00:00Z"], 5),
            count(["public.a", "insert_exists", "2026-07-01T10:00:00Z"], 1),
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
