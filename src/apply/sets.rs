//! Sets of rows → statements in a pipeline, and what their answers say of each row.

use std::collections::HashSet;

use crate::apply::batch::{Set, Write, into_sets};
use crate::apply::error::ApplyError;
use crate::apply::net::Folded;
use crate::apply::sql::{self, Guard, OnConflict};
use crate::wire::{self, Outcome, Param, Pipeline};

/// Deletes, updates, inserts as sets, each kind's tables in the order in which the batch first touches them: users
/// who lock in the same order do not wait for us in a circle.
pub(super) fn in_order(folded: &Folded, [deletes, updates, inserts]: [Vec<Write>; 3]) -> Vec<(Kind, Set)> {
    let ranks = folded.table_ranks();
    let groups = [(Kind::Delete, deletes), (Kind::Update, updates), (Kind::Insert, inserts)];
    let sets = |(kind, writes)| {
        let mut sets = into_sets(writes);
        sets.sort_by_key(|set| ranks.get(&set.relation.table_id()).copied());
        sets.into_iter().map(move |set| (kind, set))
    };
    groups.into_iter().flat_map(sets).collect()
}

/// What a set does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Delete,
    Update,
    Insert,
}

impl Kind {
    /// For messages.
    pub fn doing(self) -> &'static str {
        match self {
            Kind::Delete => "deleting from",
            Kind::Update => "updating",
            Kind::Insert => "inserting into",
        }
    }
}

/// How a statement's outcome is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Judging {
    /// It tells what it did.
    Told,
    /// It fails unless it did all.
    ByItself,
}

/// Queues the statement of a set; `guard` gives the horizon and our origins, without it the rows are locked.
pub(super) fn queue_set(
    pipeline: &mut Pipeline<'_>,
    kind: Kind,
    set: &Set,
    writes: &[Write],
    guard: Option<(&str, &str)>,
    judging: Judging,
) -> usize {
    let table = set.relation.table();
    let mode = if guard.is_some() { Guard::Known } else { Guard::Locked };
    let columns: &[usize] = if kind == Kind::Delete { &[] } else { &set.columns };
    let text = match (kind, mode) {
        (Kind::Delete, _) => sql::delete(table, mode),
        (Kind::Update, _) => sql::update(table, columns, mode),
        // The server takes no deferrable constraint as a reason to skip.
        (Kind::Insert, Guard::Known) if !table.defers() => sql::insert(table, columns, OnConflict::Skip),
        (Kind::Insert, _) => sql::insert(table, columns, OnConflict::SkipKey),
    };
    let mut arrays = set.arrays(writes, columns);
    let mut types = vec![sql::TEXT_ARRAY; arrays.len()];
    let mut texts: Vec<&str> = Vec::new();
    if let Some((horizon, ours)) = guard.filter(|_| kind != Kind::Insert) {
        let known: Vec<_> = writes.iter().map(|write| write.known.map(sql::xid_text)).collect();
        arrays.push(sql::text_array(known.iter().map(|xid| xid.as_ref().map(String::as_bytes))));
        types.extend([sql::TEXT_ARRAY, sql::TEXT, sql::TEXT]);
        texts.extend([horizon, ours]);
    }
    let count = writes.len().to_string();
    let text = match judging {
        Judging::Told => text,
        Judging::ByItself => {
            types.push(sql::TEXT);
            texts.push(&count);
            sql::all_or_error(&text, types.len())
        }
    };
    let arrays = arrays.iter().map(|array| Param::Binary(array));
    pipeline.query(&text, &types, arrays.chain(texts.iter().map(|text| Param::Text(text.as_bytes()))))
}

/// Whether the statement of such a set writes rows; one that sets nothing but the key only looks for them.
pub(super) fn writes_rows(kind: Kind, set: &Set) -> bool {
    kind != Kind::Update || !sql::update(set.relation.table(), &set.columns, Guard::Known).starts_with("SELECT")
}

/// How many rows a statement wrote; one that only looks for them writes none.
pub(super) fn rows_written(outcome: &Outcome) -> u64 {
    if outcome.tag.name == "SELECT" { 0 } else { outcome.tag.rows }
}

/// The net changes of a statement that it did not write.
pub(super) fn missed(outcome: &Outcome, writes: &[Write]) -> Result<Vec<usize>, ApplyError> {
    let done = ordinals(outcome)?;
    let each = writes.iter().enumerate().filter(|(i, _)| !done.contains(i));
    Ok(each.map(|(_, write)| write.net).collect())
}

/// The first column of each row: ordinals from 1, here from 0.
fn ordinals(outcome: &Outcome) -> Result<HashSet<usize>, ApplyError> {
    let parse = |row: &wire::Row| row.parse::<usize>(0).map(|ordinal| ordinal.saturating_sub(1));
    outcome
        .rows
        .iter()
        .map(parse)
        .collect::<Result<_, _>>()
        .map_err(ApplyError::wire("reading which rows were written"))
}
