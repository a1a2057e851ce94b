//! `pgconcord rules replay`: what other rules would have made of the conflicts on record, before they decide any.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::USAGE;
use crate::cli::conflicts::{FilterArgs, KEY_COLUMNS, WRITE, cell, is_unchanged, key, nothing_found};
use crate::cli::rules::catalog;
use crate::cli::text::{Align, Paint, cut, emit, shown, table};
use crate::config::report::{Report, Style};
use crate::config::rules;
use crate::config::{Config, Rule};
use crate::journal::{Entry, JsonRow, Reader};
use crate::model::Resolution;

mod merged;
mod outcome;

use outcome::{Outcome, Verdict, replay};

/// Arguments of `pgconcord rules replay`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// These rules, a directory or a file, instead of those of the configuration
    #[arg(long, value_name = "PATH")]
    rules: Option<PathBuf>,
    /// The journal's file, instead of [journal] path of the configuration
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Show at most so many of those that come out otherwise; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// One JSON object a line for each conflict, also for those that come out alike
    #[arg(long)]
    json: bool,
}

/// Columns for the values that differ.
const VALUES_COLUMNS: usize = 60;

/// What came of all of them.
#[derive(Default)]
struct Tally {
    alike: u64,
    /// By table and rule.
    otherwise: BTreeMap<(String, String), u64>,
    /// By table and reason.
    open: BTreeMap<(String, String), u64>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let rules = match &args.rules {
        Some(path) => match read(path, config)? {
            Ok(rules) => rules,
            Err(report) => {
                eprintln!("{report}");
                return Ok(ExitCode::from(USAGE));
            }
        },
        None => config.conflict_rules.clone(),
    };
    // The journal has texts; which of them are numbers or times the servers tell.
    let tables = match rules.iter().any(|rule| !rule.condition.is_empty()) {
        true => catalog(config).await.map_err(|why| format!("the types of its columns are not known: {why}")),
        false => Err(String::new()),
    };
    let journal = Reader::open(args.journal.as_ref().unwrap_or(&config.journal.path))?;
    let filter = args.filter.into_filter(None);
    let nodes = config.node_names();
    let (mut tally, mut rows, mut lines, mut written) = (Tally::default(), Vec::new(), String::new(), Ok(true));
    let most = if args.limit == 0 { usize::MAX } else { args.limit };
    journal.list(&filter, |entry| {
        let verdict = replay(&entry, &rules, &nodes, &tables);
        tally.count(&entry, &verdict);
        match &verdict {
            _ if args.json => {
                lines += &format!("{}\n", object(&entry, &verdict));
                if lines.len() >= WRITE {
                    written = emit(&std::mem::take(&mut lines));
                }
            }
            Verdict::Otherwise(outcome) if rows.len() < most => rows.push(row(&entry, outcome)),
            _ => {}
        }
        matches!(written, Ok(true))
    })?;
    if !written? {
        return Ok(ExitCode::SUCCESS);
    }
    emit(&lines)?;
    if tally.total() == 0 {
        nothing_found(&filter);
    } else if !args.json {
        emit(&tally.text(&rows, Paint::for_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The rules at `path`; or what is wrong in them.
fn read(path: &std::path::Path, config: &Config) -> anyhow::Result<Result<Vec<Rule>, String>> {
    let mut report = Report::default();
    let rules = rules::read(path, &config.node_names(), &mut report);
    Ok(match rules {
        Err(error) => Err(format!("pgconcord: --rules: {error}")),
        Ok(_) if report.has_errors() => Err(report.render(Style::Plain)),
        Ok(rules) => {
            if !report.is_empty() {
                eprintln!("{}", report.render(Style::Plain));
            }
            Ok(rules)
        }
    })
}

impl Tally {
    fn count(&mut self, entry: &Entry, verdict: &Verdict) {
        match verdict {
            Verdict::Alike => self.alike += 1,
            Verdict::Otherwise(outcome) => {
                *self.otherwise.entry((entry.table.clone(), outcome.rule.clone())).or_default() += 1;
            }
            Verdict::Open(why) => *self.open.entry((entry.table.clone(), why.clone())).or_default() += 1,
        }
    }

    fn otherwise(&self) -> u64 {
        self.otherwise.values().sum()
    }

    fn open(&self) -> u64 {
        self.open.values().sum()
    }

    fn total(&self) -> u64 {
        self.alike + self.otherwise() + self.open()
    }

    fn text(&self, rows: &[Vec<String>], paint: Paint) -> String {
        let mut text = String::new();
        if !rows.is_empty() {
            let headings = ["FOUND (UTC)", "TABLE", "KEY", "WAS", "WOULD BE", "BY RULE", "ROW AFTERWARDS"];
            let headings: Vec<_> = headings.into_iter().map(|heading| (heading, Align::Left)).collect();
            text += &table(&[&[("ID", Align::Right)], &headings[..]].concat(), rows, paint);
            text.push('\n');
        }
        let left = self.otherwise() - rows.len() as u64;
        if left > 0 {
            text += &format!("{left} more come out otherwise; --limit 0 shows all\n\n");
        }
        text += &format!(
            "of {} conflicts on record {} would come out alike, {} otherwise, {} can't be told\n",
            self.total(),
            self.alike,
            self.otherwise(),
            self.open()
        );
        for ((table, rule), count) in &self.otherwise {
            text += &format!("  otherwise {count:>9}  {} by the rule {:?}\n", shown(table), rule);
        }
        for ((table, why), count) in &self.open {
            text += &format!("  not told  {count:>9}  {}: {}\n", shown(table), shown(why));
        }
        text + "Each conflict is looked at by itself, as if all before it had come out as they did. `pgconcord rules check` \
            tells whether\nthe tables allow these rules.\n"
    }
}

fn row(entry: &Entry, outcome: &Outcome) -> Vec<String> {
    vec![
        entry.id.to_string(),
        entry.detected_at.format("%Y-%m-%d %H:%M:%S").to_string(),
        shown(&entry.table),
        cut(&key(&entry.key), KEY_COLUMNS),
        entry.resolution.to_string(),
        outcome.resolution.to_string(),
        cut(&shown(&outcome.rule), KEY_COLUMNS),
        cut(&changed(entry.result.as_ref(), outcome), VALUES_COLUMNS),
    ]
}

/// `qty 3, not 4`.
fn changed(recorded: Option<&JsonRow>, outcome: &Outcome) -> String {
    match (&outcome.row, recorded) {
        _ if outcome.resolution == Resolution::Error => "the link would have stopped".to_owned(),
        (None, None) => "none, as it was".to_owned(),
        (None, Some(_)) => "none".to_owned(),
        (Some(_), None) => "there would be one".to_owned(),
        (Some(row), Some(recorded)) => {
            let differs = |(name, value): (&String, &Value)| {
                let was = recorded.get(name).filter(|was| *was != value && !is_unchanged(value))?;
                Some(format!("{} {}, not {}", shown(name), cell(value), cell(was)))
            };
            let all: Vec<String> = row.iter().filter_map(differs).collect();
            if all.is_empty() { "as it was".to_owned() } else { all.join("; ") }
        }
    }
}

fn object(entry: &Entry, verdict: &Verdict) -> Value {
    let Entry { id, table, key, source, target, .. } = entry;
    let was = json!({
        "resolution": entry.resolution.name(), "resolver": entry.resolver, "rule": entry.rule, "result": entry.result,
    });
    let (name, would_be, why) = match verdict {
        Verdict::Alike => ("alike", Value::Null, None),
        Verdict::Open(why) => ("open", Value::Null, Some(why)),
        Verdict::Otherwise(Outcome { resolution, resolver, rule, row }) => {
            let outcome = json!({ "resolution": resolution.name(), "resolver": resolver, "rule": rule, "result": row });
            ("otherwise", outcome, None)
        }
    };
    json!({
        "id": id, "detected_at": entry.detected_at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        "type": entry.conflict_type.name(), "table": table, "key": key, "source": source, "target": target,
        "verdict": name, "was": was, "would_be": would_be, "why": why,
    })
}
