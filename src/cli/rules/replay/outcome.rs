//! A conflict on record and rules → what would have come out by them. Pure.
//!
//! The journal has two sides of each conflict, and what stood before it by the rules of then; so each is looked at by itself.
//! What those two do not tell is said to be open rather than guessed.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::merged::{self, Merged};
use crate::cli::conflicts::is_unchanged;
use crate::config::Rule;
use crate::config::rules::{Afterwards, Errors, Facet, deciding_in, deciding_unique, on_errors, table_rule};
use crate::conflict::condition::{Met, holds};
use crate::conflict::order::Ordered;
use crate::conflict::resolve::{Candidate, choose};
use crate::conflict::{self, ChangeRef};
use crate::journal::{Entry, EntryLocal, JsonRow, MASK, Operation};
use crate::model::ids::POSTGRES_EPOCH_UNIX_SECONDS;
use crate::model::table::Catalog;
use crate::model::{
    Cells, ConflictType, Deciding, Deletes, NodeId, Party, Resolution, Resolver, Stamp, TableRule, TouchKind,
    UniqueWinner,
};

/// How a conflict comes out by other rules.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// As it did.
    Alike,
    /// Another way.
    Otherwise(Outcome),
    /// The journal does not tell; this is why.
    Open(String),
}

/// What comes out.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// What would be done.
    pub resolution: Resolution,
    /// What would decide.
    pub resolver: &'static str,
    /// The rule that chooses it.
    pub rule: String,
    /// The row afterwards; `None`: there is none, or with [`Resolution::Error`] it is not known.
    pub row: Option<JsonRow>,
}

/// Which side's change stands afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Winner {
    Remote,
    Local,
    Both,
}

/// The sides of a conflict as candidates.
struct Sides<'a> {
    entry: &'a Entry,
    local: &'a EntryLocal,
    remote_stamp: Stamp,
    local_stamp: Stamp,
    target: NodeId,
}

/// What `rules` make of a conflict, for these nodes in the order of the configuration. Of `tables` conditions are told; or why
/// they are not known.
pub fn replay(entry: &Entry, rules: &[Rule], nodes: &[&str], tables: &Result<Catalog, String>) -> Verdict {
    let (schema, table) = entry.table.split_once('.').unwrap_or(("public", &entry.table));
    if entry.conflict_type == ConflictType::ApplyError {
        return refused(rules, schema, table);
    }
    let by = table_rule(rules, schema, table);
    if is_about_unique_values(entry) {
        return about_unique_values(entry, &by.unique, deciding_unique(rules, schema, table), nodes);
    }
    // Of any other type nothing is decided by a rule, nor where a row met one that no change explains.
    let (Some(facet), Some(local)) = (Facet::of(entry.conflict_type), &entry.local) else { return Verdict::Alike };
    if is_delete(entry.remote.operation) && is_delete(local.operation) {
        return Verdict::Alike;
    }
    let cases = match by.cases.is_empty() {
        true => Ok(Deciding::default()),
        false => cases_of(&by, entry, local, nodes, tables),
    };
    let cases = match cases {
        Ok(cases) => cases,
        Err(why) => return Verdict::Open(why),
    };
    let rule = deciding_in(rules, schema, table, facet, cases);
    if rule.is_some_and(|rule| rule.afterwards == Afterwards::Refused) {
        let outcome = Outcome { resolution: Resolution::Error, resolver: "error", rule: name_of(rule), row: None };
        return Verdict::Otherwise(outcome);
    }
    let (resolver, deletes) = (by.resolver_of(cases), by.deletes_of(cases));
    let place = |name: &str| place(nodes, name);
    let (remote_node, local_node) = (place(&entry.remote.node), local.node.as_deref().and_then(place));
    let Some(local_time) = local.stamp else {
        return Verdict::Open("when the row was written is not on record".into());
    };
    if let (Resolver::OriginPriority(_), None, _) | (Resolver::OriginPriority(_), _, None) =
        (resolver, remote_node, local_node)
    {
        let gone = if remote_node.is_none() { Some(&entry.remote.node) } else { local.node.as_ref() };
        let name = gone.map_or("of one side", |name| name);
        return Verdict::Open(format!("the node {name} is not in the configuration"));
    }
    if let Some(why) = resolver.by().and_then(|column| untold(column, entry, local)) {
        return Verdict::Open(why);
    }
    // A node that has gone decides nothing but between equal times.
    let node = |place: Option<u8>, other: u8| NodeId(place.unwrap_or(u8::MAX - other));
    let sides = Sides {
        entry,
        local,
        remote_stamp: stamp(entry.remote.stamp, node(remote_node, 0)),
        local_stamp: stamp(local_time, node(local_node, 1)),
        target: node(place(&entry.target), 2),
    };
    let (winner, row, open) = match resolver {
        Resolver::Merge(merge) if !is_delete(entry.remote.operation) && !is_delete(local.operation) => {
            let Merged { row, open } = merged::merge(entry, local, merge, sides.remote_stamp > sides.local_stamp);
            (Winner::Both, Some(row), open)
        }
        _ => {
            let winner = sides.winner(resolver, deletes);
            (winner, sides.row(winner), None)
        }
    };
    let resolution = match winner {
        _ if rule.is_some_and(|rule| rule.afterwards == Afterwards::Held) => Resolution::Hold,
        Winner::Remote => Resolution::ApplyRemote,
        Winner::Local if *resolver == Resolver::Skip => Resolution::Skip,
        Winner::Local => Resolution::KeepLocal,
        Winner::Both => Resolution::Merge,
    };
    let (resolver, rule) = (resolver.name(), name_of(rule));
    sides.against_record(winner, Outcome { resolution, resolver, rule, row }, open)
}

fn place(nodes: &[&str], name: &str) -> Option<u8> {
    nodes.iter().position(|node| *node == name).and_then(|at| u8::try_from(at).ok())
}

/// Which cases of the rule decide about the conflict; or why that can't be told.
fn cases_of(
    rule: &TableRule,
    entry: &Entry,
    local: &EntryLocal,
    nodes: &[&str],
    tables: &Result<Catalog, String>,
) -> Result<Deciding, String> {
    let (schema, name) = entry.table.split_once('.').unwrap_or(("public", &entry.table));
    let table = tables.as_ref().map_err(Clone::clone)?.find(schema, name);
    let table = table.ok_or("the table does not replicate now, and the types of its columns are not known")?;
    if rule.cases.iter().any(|case| case.condition.reads_old()) {
        return Err("what the local change had changed is not on record, and a condition looks at it".to_owned());
    }
    let rows = [&entry.remote.row, &local.row, &entry.remote.old].into_iter().flatten();
    let is_masked = |(column, value): (&String, &Value)| {
        value == MASK && rule.cases.iter().any(|case| case.condition.reads(column))
    };
    if rows.flatten().any(is_masked) {
        return Err("a condition looks at a column that is masked".to_owned());
    }
    let met = |name: Option<&str>, time: Option<DateTime<Utc>>, done: Operation, row: Option<&JsonRow>, old| {
        let source =
            NodeId(name.and_then(|name| place(nodes, name)).ok_or("one side's node is not in the configuration")?);
        let stamp = stamp(time.ok_or("when the row was written is not on record")?, source);
        let party = Party { source, stamp, row: row.map(cells), old };
        Ok::<_, &str>(Met { operation: operation(done), party })
    };
    let remote = &entry.remote;
    let old = remote.old.as_ref().map(cells);
    let changes = [
        met(Some(&remote.node), Some(remote.stamp), remote.operation, remote.row.as_ref(), old)?,
        met(local.node.as_deref(), local.stamp, local.operation, local.row.as_ref(), None)?,
    ];
    Ok(rule.deciding(|condition| holds(condition, table, &changes)))
}

/// What is known of a row.
fn cells(row: &JsonRow) -> Cells {
    let known = row.iter().filter(|(_, value)| !is_unchanged(value));
    known.map(|(column, value)| (column.clone(), value.as_str().map(str::to_owned))).collect()
}

fn operation(operation: Operation) -> conflict::Operation {
    match operation {
        Operation::Insert => conflict::Operation::Insert,
        Operation::Update => conflict::Operation::Update,
        Operation::Delete => conflict::Operation::Delete,
        Operation::Truncate => conflict::Operation::Truncate,
    }
}

/// A change that a node had refused is on record because a rule held it.
fn refused(rules: &[Rule], schema: &str, table: &str) -> Verdict {
    let rule = on_errors(rules, schema, table);
    match rule.and_then(|rule| rule.errors).unwrap_or_default() {
        Errors::Hold => Verdict::Alike,
        Errors::Stop => {
            let rule = name_of(rule);
            Verdict::Otherwise(Outcome { resolution: Resolution::Error, resolver: "errors", rule, row: None })
        }
    }
}

/// Another row keeps the value only by another order of the nodes; and rules may hold the conflict, or have it decided by
/// nobody.
fn about_unique_values(
    entry: &Entry,
    winner: &UniqueWinner,
    deciding: Option<(&Rule, Afterwards)>,
    nodes: &[&str],
) -> Verdict {
    let (rule, afterwards) = (name_of(deciding.map(|(rule, _)| rule)), deciding.map(|(_, afterwards)| afterwards));
    let otherwise =
        |resolution, resolver, row| Verdict::Otherwise(Outcome { resolution, resolver, rule: rule.clone(), row });
    if afterwards == Some(Afterwards::Refused) {
        return otherwise(Resolution::Error, "error", None);
    }
    let local = entry.local.as_ref();
    let (remote_node, local_node) =
        (place(nodes, &entry.remote.node), local.and_then(|local| place(nodes, local.node.as_deref()?)));
    let remote_keeps = match (winner, local.and_then(|local| local.stamp)) {
        (_, None) => true, // everybody had seen the row that had the value
        (UniqueWinner::LastUpdateWins, Some(local)) => (entry.remote.stamp, remote_node) > (local, local_node),
        (UniqueWinner::OriginPriority(order), Some(local)) => {
            let place_of = |node: Option<u8>| order.iter().position(|each| Some(each.0) == node);
            let [Some(remote_place), Some(local_place)] = [remote_node, local_node].map(place_of) else {
                return Verdict::Open("the node of one side is not in the configuration".to_owned());
            };
            (local_place, entry.remote.stamp) > (remote_place, local)
        }
    };
    let had_kept = entry.result == entry.remote.row;
    if entry.conflict_type == ConflictType::MultipleUniqueConflicts && remote_keeps != had_kept {
        return Verdict::Open("several rows had the values, and this entry has one of them".to_owned());
    }
    let held = afterwards == Some(Afterwards::Held);
    let resolution = match (held, remote_keeps) {
        (true, _) => Resolution::Hold,
        (false, true) => Resolution::ApplyRemote,
        (false, false) => Resolution::KeepLocal,
    };
    if remote_keeps == had_kept && held == (entry.resolution == Resolution::Hold) {
        return Verdict::Alike;
    }
    let row = if remote_keeps { entry.remote.row.clone() } else { local.and_then(|local| local.row.clone()) };
    otherwise(resolution, winner.name(), row)
}

/// Whether another row's unique value was in the way.
fn is_about_unique_values(entry: &Entry) -> bool {
    let row = entry.local.as_ref().and_then(|local| local.row.as_ref());
    row.is_some_and(|row| entry.key.iter().any(|(name, value)| row.get(name).is_some_and(|other| other != value)))
}

/// Why the column by which rows are told apart is not known of both sides, if both have rows.
fn untold(column: &str, entry: &Entry, local: &EntryLocal) -> Option<String> {
    let [Some(remote), Some(local)] = [&entry.remote.row, &local.row] else { return None };
    let rows = [remote, local];
    if rows.iter().any(|row| row.get(column).is_some_and(is_unchanged)) {
        return Some(format!("a server left out the value of {column:?}, which decides"));
    }
    if rows.iter().any(|row| row.get(column).is_some_and(|value| value == MASK)) {
        return Some(format!("the column {column:?}, which decides, is masked"));
    }
    rows.iter().any(|row| !row.contains_key(column)).then(|| format!("a row has no column {column:?}"))
}

/// As the journal calls it.
fn name_of(rule: Option<&Rule>) -> String {
    rule.map_or_else(|| "default".to_owned(), |rule| rule.name.clone())
}

fn is_delete(operation: Operation) -> bool {
    matches!(operation, Operation::Delete | Operation::Truncate)
}

fn stamp(time: DateTime<Utc>, node: NodeId) -> Stamp {
    Stamp { micros: time.timestamp_micros().saturating_sub(POSTGRES_EPOCH_UNIX_SECONDS * 1_000_000), node }
}

impl Sides<'_> {
    fn winner(&self, resolver: &Resolver, deletes: Deletes) -> Winner {
        let candidate = |stamp: Stamp, operation, row: Option<&JsonRow>, seq| {
            let kind = if is_delete(operation) { TouchKind::Delete } else { TouchKind::Put };
            let value = resolver.by().and_then(|column| match row?.get(column)? {
                Value::String(text) => Ordered::read(text),
                Value::Number(number) => Ordered::read(&number.to_string()),
                _ => None,
            });
            Candidate { change: ChangeRef::at(stamp.node, (seq, 0), kind), stamp, value }
        };
        let (entry, local) = (self.entry, self.local);
        let remote = candidate(self.remote_stamp, entry.remote.operation, entry.remote.row.as_ref(), 0);
        let local = candidate(self.local_stamp, local.operation, local.row.as_ref(), 1);
        let incoming = remote.change;
        match choose(resolver, deletes, &[remote, local], self.target) {
            Some(change) if change == incoming => Winner::Remote,
            _ => Winner::Local,
        }
    }

    fn row(&self, winner: Winner) -> Option<JsonRow> {
        match winner {
            Winner::Remote => self.entry.remote.row.clone(),
            Winner::Local | Winner::Both => self.local.row.clone(),
        }
    }

    /// Which side stands by the record, as far as its resolution says so.
    fn recorded(&self) -> Option<Winner> {
        match self.entry.resolution {
            _ if ["merge", "function"].contains(&self.entry.resolver.as_str()) => None, // a row that is like one side may be made from both
            Resolution::ApplyRemote => Some(Winner::Remote),
            Resolution::KeepLocal => Some(Winner::Local),
            _ => None,
        }
    }

    fn against_record(&self, winner: Winner, outcome: Outcome, open: Option<String>) -> Verdict {
        let recorded = self.recorded();
        let result = self.entry.result.as_ref();
        if recorded == Some(Winner::Local)
            && let Difference::Certain = difference(self.local.row.as_ref(), result, Value::eq)
        {
            return Verdict::Open("a third change stands, which this entry does not have".into());
        }
        let held = (self.entry.resolution == Resolution::Hold) != (outcome.resolution == Resolution::Hold);
        let rows = match recorded == Some(winner) {
            true => Difference::None,
            false => difference(
                outcome.row.as_ref(),
                result,
                if winner == Winner::Both { merged::are_equal } else { Value::eq },
            ),
        };
        match (rows, open) {
            (Difference::Certain, None) => Verdict::Otherwise(outcome),
            (Difference::Certain | Difference::None | Difference::Masked, Some(why)) => Verdict::Open(why),
            (_, None) if held => Verdict::Otherwise(outcome),
            (Difference::None, None) => Verdict::Alike,
            (Difference::Masked, None) => Verdict::Open("values that could differ are masked".into()),
        }
    }
}

/// How two rows differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Difference {
    None,
    /// Not in what can be seen of them.
    Masked,
    Certain,
}

/// A value that was left out says nothing.
fn difference(one: Option<&JsonRow>, other: Option<&JsonRow>, are_equal: fn(&Value, &Value) -> bool) -> Difference {
    let (one, other) = match (one, other) {
        (None, None) => return Difference::None,
        (Some(one), Some(other)) => (one, other),
        _ => return Difference::Certain,
    };
    let mut found = Difference::None;
    for (name, value) in one {
        let Some(beside) = other.get(name) else { continue };
        if value == MASK || beside == MASK {
            found = Difference::Masked;
        } else if !is_unchanged(value) && !is_unchanged(beside) && !are_equal(value, beside) {
            return Difference::Certain;
        }
    }
    found
}

#[cfg(test)]
mod tests;
