//! What a journal of a million conflicts costs: writing it, and what people ask of it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use chrono::{TimeDelta, Utc};
use pgconcord::journal::{Journal, Lane, LocalSide, NewEntry, Operation, Retention, Side};
use pgconcord::model::{ConflictType, Lsn, NodeId, Resolution, Stamp, Xid};
use serde_json::{Value, json};

use crate::plan::Plan;
use crate::report::median;

const ENTRIES: f64 = 1_000_000.0;
/// Of one batch of a link.
const AT_ONCE: u64 = 1_000;
const TABLES: [&str; 5] = ["account", "inventory", "orders", "price", "shipment"];
const DAYS: i64 = 60;

/// Writes the entries, then has each command answer in turns.
///
/// # Errors
/// If a command fails.
pub async fn measure(plan: &Plan) -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let config = directory.path().join("pgconcord.toml");
    let nodes = ["east", "west"].map(|name| format!("[[node]]\nname = {name:?}\ndsn = \"host=127.0.0.1\"\n"));
    let rules = "[tables]\ninclude = [\"public.*\"]\n[rules]\npath = \"rules.toml\"\n";
    fs::write(&config, format!("[cluster]\nname = \"bench\"\n{}{rules}", nodes.concat()))
        .context("the configuration")?;
    fs::write(directory.path().join("rules.toml"), "[[rule]]\nname = \"first\"\nresolve = \"first_update_wins\"\n")
        .context("the rules")?;
    let entries = (ENTRIES * plan.scale).max(1.0).round() as u64;
    let took = write(&directory.path().join("pgconcord.db"), entries).await?;
    println!("{entries} conflicts on record in {took:.1} s, {:.1} µs each", took * 1e6 / entries as f64);
    let middle = (entries / 2).max(1).to_string();
    let asked: [(&str, &[&str]); 9] = [
        ("list", &["conflicts", "list"]),
        ("list of one table and type", &["conflicts", "list", "--table", "price", "--type", "update_deleted"]),
        ("list of one key", &["conflicts", "list", "--key", "id=4711"]),
        ("list of what is held", &["conflicts", "list", "--status", "held"]),
        ("list, of which nothing is", &["conflicts", "list", "--type", "delete_missing"]),
        ("stats", &["conflicts", "stats"]),
        ("stats by hour", &["conflicts", "stats", "--by", "hour"]),
        ("show", &["conflicts", "show", &middle]),
        ("replay", &["rules", "replay"]),
    ];
    println!("{:<28} {:>10} {:>10} {:>10}", "pgconcord conflicts", "median ms", "least", "most");
    for (name, arguments) in asked {
        let mut times = Vec::new();
        for _ in 0..plan.runs {
            times.push(answer(&config, arguments)?);
        }
        times.sort_by(f64::total_cmp);
        println!(
            "{name:<28} {:>10.1} {:>10.1} {:>10.1}",
            median(&times).unwrap_or_default(),
            times[0],
            times[times.len() - 1]
        );
    }
    Ok(())
}

/// Seconds until all are on record, and settled.
async fn write(path: &Path, entries: u64) -> anyhow::Result<f64> {
    let journal = Journal::open(path, Retention::FOREVER)?;
    let begun = Instant::now();
    for batch in 0..entries.div_ceil(AT_ONCE) {
        let numbers = batch * AT_ONCE..((batch + 1) * AT_ONCE).min(entries);
        journal.pending(numbers.map(|number| entry(number, batch, entries)).collect()).await?;
        journal.settle(&lane(batch), batch).await?;
    }
    journal.close().await?;
    Ok(begun.elapsed().as_secs_f64())
}

fn lane(batch: u64) -> Lane {
    let [source, target] = if batch.is_multiple_of(2) { ["east", "west"] } else { ["west", "east"] };
    Lane { source: source.to_owned(), target: target.to_owned() }
}

/// Spread over the last weeks, the tables, and keys most of which are there several times.
fn entry(number: u64, batch: u64, of: u64) -> NewEntry {
    let back = TimeDelta::days(DAYS) * i32::try_from((of - number) * 1_000 / of).unwrap_or(0) / 1_000;
    let detected_at = Utc::now() - back;
    let lane = lane(batch);
    let id = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 200_000;
    let row = |qty: u64| match json!({ "id": id.to_string(), "qty": qty.to_string(), "name": format!("article {id}"), "note": null })
    {
        Value::Object(row) => row,
        _ => unreachable!("an object"),
    };
    let deleted = number.is_multiple_of(7);
    let stamp = |node: u8| Stamp { micros: detected_at.timestamp_micros() - 946_684_800_000_000, node: NodeId(node) };
    let remote = u8::try_from(batch % 2).unwrap_or(0);
    NewEntry {
        batch,
        detected_at,
        conflict_type: if deleted { ConflictType::UpdateDeleted } else { ConflictType::UpdateOriginDiffers },
        schema: "public".to_owned(),
        table: TABLES[(number / 13 % 5) as usize].to_owned(),
        key: row(0).into_iter().filter(|(name, _)| name == "id").collect(),
        resolution: match number % 5_000 {
            0 => Resolution::Hold,
            other if other % 2 == 1 => Resolution::ApplyRemote,
            _ => Resolution::KeepLocal,
        },
        resolver: "last_update_wins".to_owned(),
        rule: "default".to_owned(),
        remote: Side {
            stamp: stamp(remote),
            node: lane.source.clone(),
            lsn: Lsn(number * 120 + 1),
            xid: Xid(u32::try_from(number % u64::from(u32::MAX)).unwrap_or(0)),
            operation: Operation::Update,
            row: Some(row(number % 100)),
            old: Some(row(1)),
        },
        local: Some(LocalSide {
            stamp: Some(stamp(1 - remote)),
            node: Some(lane.target.clone()),
            operation: if deleted { Operation::Delete } else { Operation::Update },
            row: (!deleted).then(|| row(number % 50)),
        }),
        result: Some(row(number % 100)),
        note: None,
        offset: 0,
        lane,
    }
}

/// Milliseconds until the command has ended.
fn answer(config: &Path, arguments: &[&str]) -> anyhow::Result<f64> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgconcord"));
    command.args(arguments).arg("--config").arg(config).stdin(Stdio::null());
    let begun = Instant::now();
    let output = command.output().context("cannot run pgconcord")?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{} {}: {said}", arguments.join(" "), output.status);
    Ok(took)
}
