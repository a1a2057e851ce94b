//! Conflicts → journal entries.

use std::sync::Arc;

use chrono::Utc;

use crate::apply::ApplyError;
use crate::apply::net::{Content, Row};
use crate::apply::record::{self, Conflict, Recorder};
use crate::conflict::Operation;
use crate::daemon::Daemon;
use crate::journal::{self, JsonRow, LocalSide, NewEntry, Side, json_key, json_row};
use crate::model::{Link, Stamp, TableId};

/// Writes to the daemon's journal.
#[derive(Clone, Debug)]
pub struct JournalRecorder(pub Arc<Daemon>);

impl Recorder for JournalRecorder {
    async fn pending(&self, conflicts: Vec<Conflict>) -> Result<(), ApplyError> {
        let entries = conflicts.into_iter().map(|conflict| self.entry(conflict)).collect();
        self.0.journal.pending(entries).await.map_err(|error| ApplyError::Journal(error.to_string()))
    }

    async fn discard_after(&self, link: Link, batch: u64) -> Result<(), ApplyError> {
        let discarded = self.0.journal.discard_after(&self.0.lane(link), batch).await;
        discarded.map(drop).map_err(|error| ApplyError::Journal(error.to_string()))
    }
}

impl JournalRecorder {
    fn entry(&self, conflict: Conflict) -> NewEntry {
        let daemon = &self.0;
        let Conflict { link, table, key, remote, local, .. } = conflict;
        let mut rules = daemon.config.conflict_rules.iter();
        let rule = rules.find(|rule| rule.matches(&table.schema, &table.name, conflict.conflict_type));
        let rule = rule.filter(|rule| rule.resolve.name() == conflict.resolver);
        let node = |stamp: &Stamp| daemon.name(stamp.node).to_owned();
        let stamp = remote.stamp.unwrap_or(Stamp { micros: 0, node: link.source });
        NewEntry {
            lane: daemon.lane(link),
            batch: conflict.batch,
            detected_at: Utc::now(),
            conflict_type: conflict.conflict_type,
            schema: table.schema.clone(),
            table: table.name.clone(),
            key: json_key(&key.relation, &key.tuple),
            resolution: conflict.resolution,
            resolver: conflict.resolver.to_owned(),
            rule: rule.map_or_else(|| "default".to_owned(), |rule| rule.name.clone()),
            remote: Side {
                stamp,
                node: node(&stamp),
                lsn: remote.lsn,
                xid: remote.xid,
                operation: operation(remote.operation),
                row: remote.row.as_ref().map(json),
                old: remote.old.as_ref().map(|old| json_old(old, table.id)),
            },
            local: local.map(|record::Side { stamp, operation: done, row, .. }| LocalSide {
                stamp,
                node: stamp.as_ref().map(node),
                operation: operation(done),
                row: row.as_ref().map(json),
            }),
            result: conflict.result.and_then(|content| match content {
                Content::Put(row) => Some(json(&row)),
                Content::Delete => None,
            }),
            note: conflict.note,
            offset: conflict.offset,
        }
    }
}

fn json(row: &Row) -> JsonRow {
    json_row(&row.relation, &row.tuple)
}

/// What the server sent of a row before: only its key unless the identity is FULL; the rest is unknown, not NULL.
fn json_old(row: &Row, _table: TableId) -> JsonRow {
    let mut all = json(row);
    all.retain(|name, _| row.relation.columns.iter().any(|column| column.in_identity && column.name == *name));
    all
}

fn operation(operation: Operation) -> journal::Operation {
    match operation {
        Operation::Insert => journal::Operation::Insert,
        Operation::Update => journal::Operation::Update,
        Operation::Delete => journal::Operation::Delete,
        Operation::Truncate => journal::Operation::Truncate,
    }
}
