//! One conflict for people: who met whom, who won and why, then local, remote and result side by side.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::cli::conflicts::key;
use crate::cli::text::{Paint, cut, pad, seconds, shown, wrap};
use crate::journal::{Entry, JsonRow, Operation, Status};
use crate::model::{ConflictType, Resolution};

/// The widest that a value's column gets; longer values go on in the next line.
const VALUE_COLUMNS: usize = 40;
/// The widest that a column's name gets.
const NAME_COLUMNS: usize = 30;
/// Lines that one value gets; `--json` has it whole.
const VALUE_LINES: usize = 8;

/// The fields of `list --json` and those that it leaves out.
#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    batch: i64,
    remote_node: &'a str,
    remote_operation: Operation,
    local_operation: Option<Operation>,
    note: Option<&'a str>,
}

/// The entry as one JSON object.
pub(super) fn json(entry: &Entry) -> serde_json::Result<String> {
    let detail = Detail {
        entry,
        batch: entry.batch,
        remote_node: &entry.remote.node,
        remote_operation: entry.remote.operation,
        local_operation: entry.local.as_ref().map(|local| local.operation),
        note: entry.note.as_deref(),
    };
    Ok(serde_json::to_string(&detail)? + "\n")
}

/// The entry as a page of text.
pub(super) fn text(entry: &Entry, paint: Paint) -> String {
    let title =
        format!("conflict {}: {} on {}, {}", entry.id, entry.conflict_type, shown(&entry.table), key(&entry.key));
    let mut out = format!("{}\n\n", paint.strong(&title));
    let mut line = |name: &str, value: String| out += &format!("  {name:<8} {value}\n");
    line(
        "found",
        format!("{} on link {} → {}, batch {}", time(entry.detected_at), entry.source, entry.target, entry.batch),
    );
    line("outcome", outcome(entry));
    line("decided", format!("by {}, rule {:?}: {}", entry.resolver, entry.rule, entry.resolution));
    line("status", entry.status.name().to_owned());
    if let Some(note) = &entry.note {
        line("note", shown(note));
    }
    out.push('\n');
    out + &grid(entry, &sides(entry), paint)
}

/// Who won and why, as one sentence.
fn outcome(entry: &Entry) -> String {
    let remote = (entry.remote.node.as_str(), Some(entry.remote.stamp));
    let local = entry.local.as_ref();
    let local =
        (local.and_then(|local| local.node.as_deref()).unwrap_or(&entry.target), local.and_then(|local| local.stamp));
    match entry.resolution {
        Resolution::ApplyRemote => format!("the change of {} won{}", remote.0, margin(remote.1, local.1)),
        Resolution::KeepLocal => format!("what {} had won{}", local.0, margin(local.1, remote.1)),
        Resolution::Merge => "a row made from both was written".to_owned(),
        Resolution::Skip => "nothing had to be written, both ends wanted the same".to_owned(),
        Resolution::Hold if entry.conflict_type == ConflictType::ApplyError => {
            let refused = format!("{} refused the change", entry.target);
            match entry.status {
                Status::Resolved => format!("{refused} and did without it for a while"),
                Status::Pending | Status::Held => format!(
                    "{refused} and does without it until it can be written: pgconcord conflicts retry; or decide: pgconcord \
                     conflicts resolve {}",
                    entry.id
                ),
            }
        }
        Resolution::Hold => {
            let stands = if entry.result == entry.remote.row {
                format!("the change of {} stands", remote.0)
            } else if entry.local.as_ref().is_some_and(|local| local.row == entry.result) {
                format!("what {} had stands", local.0)
            } else {
                "a row made from both stands".to_owned()
            };
            match entry.status {
                Status::Resolved => format!("{stands}, and a person has decided since"),
                Status::Pending | Status::Held => {
                    format!("{stands} until a person decides: pgconcord conflicts resolve {}", entry.id)
                }
            }
        }
        Resolution::Error => format!("the link {} → {} stopped", entry.source, entry.target),
    }
}

/// How much later the winner was; it need not be the later one under every rule.
fn margin(winner: Option<DateTime<Utc>>, loser: Option<DateTime<Utc>>) -> String {
    let (Some(winner), Some(loser)) = (winner, loser) else { return String::new() };
    let span = |delta: TimeDelta| seconds(delta.num_microseconds().unwrap_or(i64::MAX) as f64 / 1e6);
    match winner.cmp(&loser) {
        std::cmp::Ordering::Greater => format!(": committed {} later", span(winner - loser)),
        std::cmp::Ordering::Equal => ": both committed in the same microsecond, the tie falls by node".to_owned(),
        std::cmp::Ordering::Less => format!(", though committed {} earlier", span(loser - winner)),
    }
}

fn time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6f UTC").to_string()
}

/// One column of the grid.
struct Side<'a> {
    heading: [String; 3],
    row: Option<&'a JsonRow>,
}

fn sides(entry: &Entry) -> Vec<Side<'_>> {
    let (remote, local) = (&entry.remote, entry.local.as_ref());
    let did = |operation: Operation, row: Option<&JsonRow>| {
        let gone = if row.is_none() { ", no row" } else { "" };
        format!("{}{gone}", operation.name())
    };
    let mut sides = vec![
        Side {
            heading: match local {
                Some(local) => [
                    format!("local: {}", local.node.as_deref().unwrap_or("unknown node")),
                    local.stamp.map_or("time unknown".to_owned(), time),
                    did(local.operation, local.row.as_ref()),
                ],
                None => [format!("local: {}", entry.target), "nothing known".to_owned(), String::new()],
            },
            row: local.and_then(|local| local.row.as_ref()),
        },
        Side {
            heading: [
                format!("remote: {}", remote.node),
                time(remote.stamp),
                format!("{}, {} xid {}", did(remote.operation, remote.row.as_ref()), remote.lsn, remote.xid),
            ],
            row: remote.row.as_ref(),
        },
    ];
    if remote.old.is_some() {
        let heading = [format!("{} before", remote.node), "as it was sent".to_owned(), String::new()];
        sides.push(Side { heading, row: remote.old.as_ref() });
    }
    let gone = if entry.result.is_none() { "no row" } else { "" };
    sides.push(Side { heading: ["result".to_owned(), gone.to_owned(), String::new()], row: entry.result.as_ref() });
    sides
}

fn grid(entry: &Entry, sides: &[Side<'_>], paint: Paint) -> String {
    let names = names(entry, sides);
    let name_width = names.iter().map(|name| shown(name).width()).max().unwrap_or(0).min(NAME_COLUMNS);
    let cells = |name: &str| -> Vec<String> {
        sides.iter().map(|side| side.row.and_then(|row| row.get(name)).map(cell).unwrap_or_default()).collect()
    };
    let rows: Vec<(&str, Vec<String>)> = names.iter().map(|name| (*name, cells(name))).collect();
    let width = |at: usize| {
        let values = rows.iter().map(|(_, cells)| cells[at].width());
        let widest = values.chain(sides[at].heading.iter().map(|text| text.width())).max().unwrap_or(0);
        widest.min(VALUE_COLUMNS)
    };
    let widths: Vec<usize> = (0..sides.len()).map(width).collect();
    let mut out = String::new();
    for at in 0..3 {
        let heading = sides.iter().zip(&widths).map(|(side, width)| pad(&cut(&side.heading[at], *width), *width));
        let line = format!("  {}  {}", pad("", name_width), heading.collect::<Vec<_>>().join("  "));
        let line = line.trim_end();
        out += &if at == 0 { paint.strong(line) } else { line.to_owned() };
        out.push('\n');
    }
    for (name, cells) in &rows {
        let differs = differs(entry, name);
        for (at, line) in lines(cells, &widths).into_iter().enumerate() {
            let mark = if differs && at == 0 { "*" } else { " " };
            let name = if at == 0 { cut(&shown(name), name_width) } else { String::new() };
            let line = format!("{mark} {}  {line}", pad(&name, name_width));
            out += &if differs { paint.notice(line.trim_end()) } else { line.trim_end().to_owned() };
            out.push('\n');
        }
    }
    if rows.iter().any(|(name, _)| differs(entry, name)) {
        out += "\n* differs between local and remote\n";
    }
    out
}

/// The columns' names, in the order of the widest row, then whatever else any side has.
fn names<'a>(entry: &'a Entry, sides: &[Side<'a>]) -> Vec<&'a str> {
    let mut rows: Vec<&JsonRow> = sides.iter().filter_map(|side| side.row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.len()));
    let mut names: Vec<&str> = Vec::new();
    for name in rows.into_iter().chain([&entry.key]).flat_map(|row| row.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

/// Whether both sides have a value there and not the same.
fn differs(entry: &Entry, name: &str) -> bool {
    let local = entry.local.as_ref().and_then(|local| local.row.as_ref()).and_then(|row| row.get(name));
    let remote = entry.remote.row.as_ref().and_then(|row| row.get(name));
    match (local, remote) {
        (Some(local), Some(remote)) => local != remote && !is_unchanged(local) && !is_unchanged(remote),
        _ => false,
    }
}

pub(in crate::cli) fn is_unchanged(value: &Value) -> bool {
    value.get("unchanged").is_some()
}

/// The cells of one row, wrapped beside each other.
fn lines(cells: &[String], widths: &[usize]) -> Vec<String> {
    let wrapped: Vec<Vec<String>> = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| {
            let mut lines = wrap(cell, (*width).max(1));
            if lines.len() > VALUE_LINES {
                lines.truncate(VALUE_LINES - 1);
                lines.push(cut(&format!("… {} characters", cell.chars().count()), *width));
            }
            lines
        })
        .collect();
    let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
    let line = |at: usize| {
        let parts =
            wrapped.iter().zip(widths).map(|(cell, width)| pad(cell.get(at).map_or("", String::as_str), *width));
        parts.collect::<Vec<_>>().join("  ")
    };
    (0..height).map(line).collect()
}

/// A value for people: NULL bare, text that might be taken for it or for nothing in quotes.
pub(in crate::cli) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) if text.is_empty() || text == "NULL" || text.starts_with('(') || text.trim() != text => {
            format!("\"{}\"", shown(text))
        }
        Value::String(text) => shown(text),
        other if is_unchanged(other) => "(unchanged)".to_owned(),
        other => match other.get("bytes").and_then(Value::as_str) {
            Some(hex) => format!("(bytes {hex})"),
            None => shown(&other.to_string()),
        },
    }
}

#[cfg(test)]
pub(in crate::cli) mod tests {
    use serde_json::json;

    use super::*;
    use crate::journal::{EntryLocal, EntryRemote, Status};

    fn row(value: Value) -> Option<JsonRow> {
        value.as_object().cloned()
    }

    fn at(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(1_790_000_000_000_000 + micros).unwrap()
    }

    pub(in crate::cli) fn example() -> Entry {
        Entry {
            id: 42,
            detected_at: at(5_000_000),
            conflict_type: ConflictType::UpdateOriginDiffers,
            table: "public.stock".into(),
            key: row(json!({ "id": "5" })).unwrap(),
            source: "east".into(),
            target: "west".into(),
            resolution: Resolution::ApplyRemote,
            resolver: "last_update_wins".into(),
            rule: "default".into(),
            status: Status::Resolved,
            remote: EntryRemote {
                stamp: at(1_250_000),
                lsn: "16/B374D848".into(),
                xid: 771,
                row: row(json!({ "id": "5", "qty": "4", "name": "ß", "doc": { "unchanged": true } })),
                old: None,
                node: "east".into(),
                operation: Operation::Update,
            },
            local: Some(EntryLocal {
                stamp: Some(at(0)),
                node: Some("west".into()),
                row: row(json!({ "id": "5", "qty": "3", "name": null, "doc": "x" })),
                operation: Operation::Update,
            }),
            result: row(json!({ "id": "5", "qty": "4", "name": "ß", "doc": "x" })),
            batch: 17,
            note: None,
        }
    }

    #[test]
    fn both_sides_stand_beside_each_other_and_what_differs_is_marked() {
        let expected = "\
conflict 42: update_origin_differs on public.stock, id=5

  found    2026-09-21 14:13:25.000000 UTC on link east → west, batch 17
  outcome  the change of east won: committed 1.25 s later
  decided  by last_update_wins, rule \"default\": apply_remote
  status   resolved

        local: west                     remote: east                    result
        2026-09-21 14:13:20.000000 UTC  2026-09-21 14:13:21.250000 UTC
        update                          update, 16/B374D848 xid 771
  id    5                               5                               5
* qty   3                               4                               4
* name  NULL                            ß                               ß
  doc   x                               (unchanged)                     x

* differs between local and remote
";
        assert_eq!(text(&example(), Paint::Plain), expected);
    }

    #[test]
    fn colour_marks_the_same_lines() {
        let page = text(&example(), Paint::Colour);
        let coloured: Vec<&str> = page.lines().filter(|line| line.starts_with("\x1b[1;33m*")).collect();
        assert_eq!(coloured.len(), 2, "{page}");
        assert!(coloured[0].contains("qty") && coloured[1].contains("name"));
    }

    #[test]
    fn a_delete_and_an_unknown_side_are_told() {
        let mut entry = example();
        entry.local = None;
        entry.remote.row = None;
        entry.remote.operation = Operation::Delete;
        entry.remote.old = row(json!({ "id": "5" }));
        entry.result = None;
        let page = text(&entry, Paint::Plain);
        for part in ["nothing known", "delete, no row, 16/", "east before", "result", "no row", "  id "] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains('*'), "no column can differ\n{page}");
    }

    #[test]
    fn the_outcome_names_winner_and_margin() {
        let mut entry = example();
        entry.resolution = Resolution::KeepLocal;
        assert_eq!(outcome(&entry), "what west had won, though committed 1.25 s earlier");
        entry.remote.stamp = at(0);
        assert_eq!(outcome(&entry), "what west had won: both committed in the same microsecond, the tie falls by node");
        entry.local = None;
        assert_eq!(outcome(&entry), "what west had won");
    }

    #[test]
    fn what_is_held_says_what_stands_and_what_to_do() {
        let mut entry = example();
        (entry.resolution, entry.status) = (Resolution::Hold, Status::Held);
        entry.result.clone_from(&entry.remote.row);
        let stands = "the change of east stands until a person decides: pgconcord conflicts resolve 42";
        assert_eq!(outcome(&entry), stands);
        entry.result = entry.local.as_ref().and_then(|local| local.row.clone());
        assert!(outcome(&entry).starts_with("what west had stands until"));
        entry.conflict_type = ConflictType::ApplyError;
        assert!(outcome(&entry).starts_with("west refused the change and does without it until"));
        entry.status = Status::Resolved;
        assert_eq!(outcome(&entry), "west refused the change and did without it for a while");
    }

    #[test]
    fn long_values_are_wrapped_and_very_long_ones_cut() {
        let mut entry = example();
        entry.result = row(json!({ "id": "5", "doc": "a".repeat(100) }));
        let page = text(&entry, Paint::Plain);
        assert_eq!(page.matches('a').count() - text(&example(), Paint::Plain).matches('a').count(), 100, "{page}");
        entry.result = row(json!({ "id": "5", "doc": "a".repeat(5_000) }));
        let page = text(&entry, Paint::Plain);
        assert!(page.contains("… 5000 characters"), "{page}");
        assert!(page.lines().count() < 30);
    }

    #[test]
    fn null_nothing_and_words_for_them_look_different() {
        let shown =
            [json!(null), json!("NULL"), json!(""), json!(" a"), json!("(unchanged)"), json!({ "bytes": "00ff" })]
                .map(|value| cell(&value));
        assert_eq!(shown, ["NULL", "\"NULL\"", "\"\"", "\" a\"", "\"(unchanged)\"", "(bytes 00ff)"]);
    }

    #[test]
    fn json_adds_what_the_list_leaves_out() {
        let value: Value = serde_json::from_str(&json(&example()).unwrap()).unwrap();
        assert_eq!(value["remote_operation"], "update");
        assert_eq!(
            (&value["batch"], &value["type"], &value["id"]),
            (&json!(17), &json!("update_origin_differs"), &json!(42))
        );
    }
}
