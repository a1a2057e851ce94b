//! The numbers that `conflicts stats` reads, added up before they are written: the entries of one call are mostly alike.

use std::collections::HashMap;

use rusqlite::{Transaction, params};

use crate::journal::entry::NewEntry;

/// Microseconds.
pub(super) const HOUR: i64 = 3_600_000_000;

/// What is counted by (sql/journal_3.sql).
#[derive(PartialEq, Eq, Hash)]
struct Kind<'a> {
    relation: i64,
    conflict_type: &'a str,
    resolution: &'a str,
    rule: &'a str,
    hour: i64,
    source: &'a str,
    target: &'a str,
}

/// Entries that are in the file and not yet in its numbers.
#[derive(Default)]
pub(super) struct Numbers<'a>(HashMap<Kind<'a>, i64>);

impl<'a> Numbers<'a> {
    /// Counts an entry of the table with that number.
    pub(super) fn add(&mut self, entry: &'a NewEntry, relation: i64) {
        let kind = Kind {
            relation,
            conflict_type: entry.conflict_type.name(),
            resolution: entry.resolution.name(),
            rule: &entry.rule,
            hour: entry.detected_at.timestamp_micros() / HOUR,
            source: &entry.lane.source,
            target: &entry.lane.target,
        };
        *self.0.entry(kind).or_insert(0) += 1;
    }

    /// Writes what was counted.
    pub(super) fn write(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        for (kind, number) in self.0.drain() {
            let Kind { relation, conflict_type, resolution, rule, hour, source, target } = kind;
            transaction
                .prepare_cached(
                    "INSERT INTO entry_count (relation, conflict_type, resolution, rule, hour, source, target, number)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                     ON CONFLICT (relation, conflict_type, resolution, rule, hour, source, target)
                     DO UPDATE SET number = number + excluded.number",
                )?
                .execute(params![relation, conflict_type, resolution, rule, hour, source, target, number])?;
        }
        Ok(())
    }
}
