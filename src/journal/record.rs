//! What the writer does to the file, as SQL: record, settle, discard, prune. Each may be done twice.

use std::collections::HashMap;

use rusqlite::{Transaction, named_params, params};
use serde_json::{Value, json};

use crate::journal::entry::{JsonRow, Lane, NewEntry, Status};
use crate::journal::numbers::Numbers;
use crate::journal::states;
use crate::model::ids::POSTGRES_EPOCH_UNIX_SECONDS;
use crate::model::{ConflictType, Resolution, Stamp};

/// How a transaction changed the number of entries.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Tally {
    /// Rows that the call changed, for its caller.
    pub(super) changed: u64,
    /// Entries more or less.
    pub(super) entries: i64,
    /// Pending ones more or less.
    pub(super) pending: i64,
}

const INSERT: &str = "
INSERT INTO entry (source, target, batch, detected_at, conflict_type, relation, key, resolution, resolver, rule,
    status, note, remote_stamp, remote_node, remote_lsn, remote_offset, remote_xid, remote_operation, remote_row,
    remote_old, local_operation, local_stamp, local_node, local_row, result)
VALUES (:source, :target, :batch, :detected_at, :conflict_type, :relation, :key, :resolution, :resolver, :rule,
    'pending', :note, :remote_stamp, :remote_node, :remote_lsn, :remote_offset, :remote_xid, :remote_operation,
    :remote_row, :remote_old, :local_operation, :local_stamp, :local_node, :local_row, :result)
ON CONFLICT (target, source, remote_lsn, remote_offset, relation, key) DO NOTHING";

const REPLACE: &str = "
UPDATE entry SET batch = :batch, detected_at = :detected_at, conflict_type = :conflict_type,
    resolution = :resolution, resolver = :resolver, rule = :rule, note = :note, remote_stamp = :remote_stamp,
    remote_node = :remote_node, remote_xid = :remote_xid, remote_operation = :remote_operation,
    remote_row = :remote_row, remote_old = :remote_old, local_operation = :local_operation,
    local_stamp = :local_stamp, local_node = :local_node, local_row = :local_row, result = :result
WHERE target = :target AND source = :source AND remote_lsn = :remote_lsn AND remote_offset = :remote_offset
    AND relation = :relation AND key = :key AND status = 'pending'";

/// Records `entries` as pending; one that is there already is replaced while it is pending, else left alone.
pub(super) fn pending(transaction: &Transaction<'_>, entries: &[NewEntry]) -> rusqlite::Result<Tally> {
    let (mut tally, mut relations, mut numbers) = (Tally::default(), HashMap::new(), Numbers::default());
    for entry in entries {
        let table = (entry.schema.as_str(), entry.table.as_str());
        let relation = match relations.get(&table) {
            Some(known) => *known,
            None => *relations.entry(table).or_insert(relation(transaction, table)?),
        };
        let inserted = write(transaction, INSERT, entry, relation)?;
        if inserted {
            numbers.add(entry, relation);
            tally.entries += 1;
            tally.pending += 1;
            tally.changed += 1;
        } else {
            numbers.write(transaction)?; // which a replaced entry is taken out of
            tally.changed += u64::from(write(transaction, REPLACE, entry, relation)?);
        }
    }
    numbers.write(transaction)?;
    Ok(tally)
}

fn relation(transaction: &Transaction<'_>, (schema, table): (&str, &str)) -> rusqlite::Result<i64> {
    transaction
        .prepare_cached("INSERT OR IGNORE INTO relation (schema_name, table_name) VALUES (?1, ?2)")?
        .execute([schema, table])?;
    transaction
        .prepare_cached("SELECT id FROM relation WHERE schema_name = ?1 AND table_name = ?2")?
        .query_row([schema, table], |row| row.get(0))
}

/// Runs [`INSERT`] or [`REPLACE`]; tells whether it changed a row.
fn write(transaction: &Transaction<'_>, sql: &str, entry: &NewEntry, relation: i64) -> rusqlite::Result<bool> {
    let (remote, local) = (&entry.remote, entry.local.as_ref());
    let changed = transaction.prepare_cached(sql)?.execute(named_params! {
        ":source": entry.lane.source,
        ":target": entry.lane.target,
        ":batch": integer(entry.batch),
        ":detected_at": entry.detected_at.timestamp_micros(),
        ":conflict_type": entry.conflict_type.name(),
        ":relation": relation,
        ":key": text(&entry.key),
        ":resolution": entry.resolution.name(),
        ":resolver": entry.resolver,
        ":rule": entry.rule,
        ":note": entry.note,
        ":remote_stamp": unix_micros(remote.stamp),
        ":remote_node": remote.node,
        ":remote_lsn": remote.lsn.to_string(),
        ":remote_offset": integer(entry.offset),
        ":remote_xid": remote.xid.0,
        ":remote_operation": remote.operation.name(),
        ":remote_row": remote.row.as_ref().map(text),
        ":remote_old": remote.old.as_ref().map(text),
        ":local_operation": local.map(|local| local.operation.name()),
        ":local_stamp": local.and_then(|local| local.stamp).map(unix_micros),
        ":local_node": local.and_then(|local| local.node.as_ref()),
        ":local_row": local.and_then(|local| local.row.as_ref()).map(text),
        ":result": entry.result.as_ref().map(text),
    })?;
    Ok(changed > 0)
}

/// Settles the pending entries of `lane` up to `batch`.
pub(super) fn settle(transaction: &Transaction<'_>, lane: &Lane, batch: u64) -> rusqlite::Result<Tally> {
    let changed = transaction
        .prepare_cached(
            "UPDATE entry SET status = CASE resolution WHEN ?4 THEN ?5 ELSE ?6 END
             WHERE source = ?1 AND target = ?2 AND batch <= ?3 AND status = 'pending'",
        )?
        .execute(params![
            lane.source,
            lane.target,
            integer(batch),
            Resolution::Hold.name(),
            Status::Held.name(),
            Status::Resolved.name()
        ])?;
    Ok(Tally { changed: changed as u64, entries: 0, pending: -signed(changed) })
}

/// Removes the pending entries of `lane` beyond `batch`.
pub(super) fn discard_after(transaction: &Transaction<'_>, lane: &Lane, batch: u64) -> rusqlite::Result<Tally> {
    let changed = transaction
        .prepare_cached("DELETE FROM entry WHERE source = ?1 AND target = ?2 AND batch > ?3 AND status = 'pending'")?
        .execute(params![lane.source, lane.target, integer(batch)])?;
    Ok(Tally { changed: changed as u64, entries: -signed(changed), pending: -signed(changed) })
}

/// Removes up to `most` of the resolved entries found before `before`, in microseconds since 1970, the oldest first.
/// What is pending or held is still to be dealt with and stays.
pub(super) fn prune(transaction: &Transaction<'_>, before: i64, most: u32) -> rusqlite::Result<Tally> {
    let changed = transaction
        .prepare_cached(
            "DELETE FROM entry WHERE id IN (
                 SELECT id FROM entry INDEXED BY entry_listing
                 WHERE detected_at < ?1 AND status = 'resolved' ORDER BY detected_at, id LIMIT ?2)",
        )?
        .execute(params![before, most])?;
    Ok(Tally { changed: changed as u64, entries: -signed(changed), pending: 0 })
}

/// Bytes of the file that are in use: without the pages that are free, which the next entries take.
pub(super) fn used(connection: &rusqlite::Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "SELECT (pages.page_count - free.freelist_count) * size.page_size
             FROM pragma_page_count AS pages, pragma_freelist_count AS free, pragma_page_size AS size",
        )?
        .query_row([], |row| row.get::<_, i64>(0).map(i64::unsigned_abs))
}

/// Bytes of the file, once what is in the write-ahead file is in it.
pub(super) fn length(connection: &rusqlite::Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "SELECT pages.page_count * size.page_size
             FROM pragma_page_count AS pages, pragma_page_size AS size",
        )?
        .query_row([], |row| row.get::<_, i64>(0).map(i64::unsigned_abs))
}

/// Entries and pending ones in the file.
pub(super) fn count(connection: &rusqlite::Connection) -> rusqlite::Result<(u64, u64)> {
    Ok((
        number(connection, "SELECT count(*) FROM entry")?,
        number(connection, &format!("SELECT count(*) FROM ({})", states::PENDING))?,
    ))
}

/// Rows of which an entry is held.
pub(super) fn held(connection: &rusqlite::Connection) -> rusqlite::Result<u64> {
    number(
        connection,
        "SELECT count(*) FROM (SELECT DISTINCT relation, key FROM entry INDEXED BY entry_held WHERE status = 'held')",
    )
}

/// Resolves what is held because `target` refused it, but for these rows.
pub(super) fn release_but(
    transaction: &Transaction<'_>,
    target: &str,
    rows: &[(String, String, JsonRow)],
) -> rusqlite::Result<Tally> {
    let rows: Vec<Value> = rows.iter().map(|(schema, table, key)| json!([schema, table, text(key)])).collect();
    let changed = transaction
        .prepare_cached(
            "UPDATE entry INDEXED BY entry_held SET status = 'resolved',
                 note = coalesce(note || '; ', '') || 'held no longer: it could be written, or a later change took its place'
             WHERE status = 'held' AND target = ?1 AND conflict_type = ?2 AND NOT EXISTS (
                 SELECT 1 FROM json_each(?3) AS row JOIN relation
                 ON relation.schema_name = row.value ->> 0 AND relation.table_name = row.value ->> 1
                 WHERE relation.id = entry.relation AND row.value ->> 2 = entry.key)",
        )?
        .execute(params![target, ConflictType::ApplyError.name(), Value::Array(rows).to_string()])?;
    Ok(Tally { changed: changed as u64, entries: 0, pending: 0 })
}

/// Changes if another connection has written the file. <https://www.sqlite.org/pragma.html#pragma_data_version>
pub(super) fn data_version(connection: &rusqlite::Connection) -> rusqlite::Result<u64> {
    number(connection, "PRAGMA data_version")
}

fn number(connection: &rusqlite::Connection, sql: &str) -> rusqlite::Result<u64> {
    connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0).map(i64::unsigned_abs))
}

/// Adds to the note of entry `id` what a person decided about its row; it and all entries about that row that are held
/// are resolved then, and so is the one that the other node has about the same two changes, which is of the other row where
/// two rows claimed one unique value. How many these are.
pub(super) fn decide(transaction: &Transaction<'_>, id: i64, what: &str) -> rusqlite::Result<usize> {
    let noted = "status = 'resolved', note = coalesce(note || '; ', '') || ?2";
    let other = format!(
        "UPDATE entry INDEXED BY entry_held SET {noted} || ' (conflict ' || ?1 || ')'
         WHERE (relation, key) = (SELECT relation, key FROM entry WHERE id = ?1) AND id <> ?1 AND status = 'held'"
    );
    let mirrored = format!(
        "UPDATE entry INDEXED BY entry_held SET {noted} || ' (conflict ' || ?1 || ')'
         WHERE status = 'held' AND EXISTS (
             SELECT 1 FROM entry AS one WHERE one.id = ?1 AND one.relation = entry.relation
             AND (one.remote_stamp, one.remote_node, one.remote_row) = (entry.local_stamp, entry.local_node, entry.local_row)
             AND (one.local_stamp, one.local_node, one.local_row) = (entry.remote_stamp, entry.remote_node, entry.remote_row))"
    );
    let one = format!("UPDATE entry SET {noted} WHERE id = ?1 AND status IN ('held', 'resolved')");
    let mut others = transaction.prepare_cached(&other)?.execute(params![id, what])?;
    others += transaction.prepare_cached(&mirrored)?.execute(params![id, what])?;
    Ok(others + transaction.prepare_cached(&one)?.execute(params![id, what])?)
}

/// Microseconds since 1970, as the file has them.
fn unix_micros(stamp: Stamp) -> i64 {
    stamp.micros.saturating_add(POSTGRES_EPOCH_UNIX_SECONDS * 1_000_000)
}

/// SQLite's integers are signed; batches and offsets never come near the end.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn signed(changed: usize) -> i64 {
    i64::try_from(changed).unwrap_or(i64::MAX)
}

fn text(row: &JsonRow) -> String {
    serde_json::to_string(row).unwrap_or_else(|error| Value::String(error.to_string()).to_string())
}
