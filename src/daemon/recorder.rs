//! Conflicts → journal entries.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::Utc;
use serde_json::Value;

use crate::apply::ApplyError;
use crate::apply::net::{Content, Row};
use crate::apply::record::{self, Conflict, Recorder, Subject};
use crate::config::Rule;
use crate::config::rules::{self, Afterwards, Errors, Facet};
use crate::conflict::Operation;
use crate::daemon::Daemon;
use crate::journal::{self, JsonRow, LocalSide, MASK, NewEntry, Side, json_key, json_row};
use crate::model::{Link, Rename, Resolution, Resolver, Stamp, Table};

/// Writes to the daemon's journal.
#[derive(Clone, Debug)]
pub struct JournalRecorder(pub Arc<Daemon>);

impl Recorder for JournalRecorder {
    async fn pending(&self, conflicts: Vec<Conflict>) -> Result<(), ApplyError> {
        if let Some(refused) = conflicts.iter().find_map(|conflict| self.refused(conflict)) {
            return Err(refused);
        }
        let entries = conflicts.into_iter().map(|conflict| self.entry(conflict)).collect();
        self.0.journal.pending(entries).await.map_err(|error| ApplyError::Journal(error.to_string()))
    }

    fn holds(&self, table: &Table) -> bool {
        let rules = self.0.rules.of(table.id);
        rules::on_errors(&rules, &table.schema, &table.name).is_some_and(|rule| rule.errors == Some(Errors::Hold))
    }

    fn rename(&self, table: &Table) -> Option<(Rename, String)> {
        let rules = self.0.rules.of(table.id);
        rules::renaming(&rules, &table.schema, &table.name).map(|(rule, rename)| (rename.clone(), rule.name.clone()))
    }

    async fn discard_after(&self, link: Link, batch: u64) -> Result<(), ApplyError> {
        let discarded = self.0.journal.discard_after(&self.0.lane(link), batch).await;
        discarded.map(drop).map_err(|error| ApplyError::Journal(error.to_string()))
    }
}

impl JournalRecorder {
    /// Why the conflict is not to be decided, if a rule says so.
    fn refused(&self, conflict: &Conflict) -> Option<ApplyError> {
        let Conflict { link, table, key, conflict_type, .. } = conflict;
        let daemon = &self.0;
        let rules = daemon.rules.of(table.id);
        let (rule, afterwards) = deciding(&rules, conflict)?;
        let says = match (conflict.subject, &rule.unique) {
            (Subject::UniqueValue, Some(_)) => "unique",
            _ => "resolve",
        };
        (afterwards == Afterwards::Refused).then(|| ApplyError::Operator {
            what: format!(
                "the rule {:?} ({}) has no conflict of {table} decided, and there is one: {}, row {} ({} to {})",
                rule.name,
                rule.place,
                conflict_type.name(),
                Value::Object(json_key(&key.relation, &key.tuple)),
                daemon.name(link.source),
                daemon.name(link.target),
            ),
            advice:
                format!(
                    "look at the row at both nodes; give this rule {says} = \"last_update_wins\", or \"hold\" to decide about \
                     it later, leave the table's other rules as they are, and run `pgconcord rules reload`"
                ),
        })
    }

    fn entry(&self, conflict: Conflict) -> NewEntry {
        let daemon = &self.0;
        let rules = daemon.rules.of(conflict.table.id);
        let decided = deciding(&rules, &conflict);
        let Conflict { link, table, key, remote, local, .. } = conflict;
        let rule = match conflict.refusal {
            Some(_) => rules::on_errors(&rules, &table.schema, &table.name),
            None => decided.map(|(rule, _)| rule),
        };
        let is_decided =
            matches!(conflict.resolution, Resolution::ApplyRemote | Resolution::KeepLocal | Resolution::Merge)
                || conflict.resolution == Resolution::Skip && conflict.resolver == Resolver::Skip.name();
        let held = is_decided && decided.is_some_and(|(_, afterwards)| afterwards == Afterwards::Held);
        let mask = daemon.rules.masked(&table);
        let refusal = conflict.refusal.as_ref().map(|refusal| match mask.is_empty() {
            true => format!("{} refused it: {}", daemon.name(link.target), refusal.message),
            false => format!("{} refused it: {}", daemon.name(link.target), refusal.kind),
        });
        let json = |row: &Row| masked(json_row(&row.relation, &row.tuple), &mask);
        let json_old = |row: &Row| masked(json_old(row), &mask);
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
            resolution: if held { Resolution::Hold } else { conflict.resolution },
            resolver: if conflict.refusal.is_some() { "errors" } else { conflict.resolver }.to_owned(),
            rule: rule.map_or_else(|| "default".to_owned(), |rule| rule.name.clone()),
            remote: Side {
                stamp,
                node: node(&stamp),
                lsn: remote.lsn,
                xid: remote.xid,
                operation: operation(remote.operation),
                row: remote.row.as_ref().map(json),
                old: remote.old.as_ref().map(json_old),
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
            note: refusal.or(conflict.note),
            offset: conflict.offset,
        }
    }
}

/// The rule that has decided about the conflict, and what becomes of it: nothing where there was nothing to decide.
fn deciding<'r>(rules: &'r [Rule], conflict: &Conflict) -> Option<(&'r Rule, Afterwards)> {
    let Conflict { table, subject, refusal: None, .. } = conflict else { return None };
    if *subject == Subject::UniqueValue {
        return rules::deciding_unique(rules, &table.schema, &table.name);
    }
    let facet = Facet::of(conflict.conflict_type);
    let rule = rules::deciding_in(rules, &table.schema, &table.name, facet.unwrap_or(Facet::Writes), conflict.by)?;
    Some((rule, facet.map_or(Afterwards::Resolved, |_| rule.afterwards)))
}

/// What the server sent of a row before: only its key unless the identity is FULL; the rest is unknown, not NULL.
fn json_old(row: &Row) -> JsonRow {
    let mut all = json_row(&row.relation, &row.tuple);
    all.retain(|name, _| row.relation.columns.iter().any(|column| column.in_identity && column.name == *name));
    all
}

/// The row with [`MASK`] for the values of these columns, be they NULL or not.
fn masked(mut row: JsonRow, mask: &BTreeSet<String>) -> JsonRow {
    for name in mask {
        if let Some(value) = row.get_mut(name) {
            *value = Value::String(MASK.to_owned());
        }
    }
    row
}

fn operation(operation: Operation) -> journal::Operation {
    match operation {
        Operation::Insert => journal::Operation::Insert,
        Operation::Update => journal::Operation::Update,
        Operation::Delete => journal::Operation::Delete,
        Operation::Truncate => journal::Operation::Truncate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_value_is_not_written_be_it_null_or_not() {
        let row = |email: Value, phone: Value| {
            let cells = [("id", Value::from("1")), ("email", email), ("phone", phone)];
            cells.map(|(name, value)| (name.to_owned(), value)).into_iter().collect::<JsonRow>()
        };
        let mask = ["email", "phone", "elsewhere"].map(str::to_owned).into();
        let found = masked(row("a@b.c".into(), Value::Null), &mask);
        assert_eq!(found, row(MASK.into(), MASK.into()));
        assert_eq!(masked(row("a@b.c".into(), Value::Null), &BTreeSet::new()), row("a@b.c".into(), Value::Null));
    }
}
