//! Sets of rows → statements in a pipeline, and what their answers say of each row.

use std::collections::HashSet;

use crate::apply::batch::{Set, Write, into_sets};
use crate::apply::error::ApplyError;
use crate::apply::net::Folded;
use crate::apply::sql::{self, Array, CopyFormat, Guard, OnConflict, Variant};
use crate::wire::{self, CopiedRows, Outcome, Param, Pipeline};

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
    /// It tells of each row what it did.
    Told,
    /// By how many rows it touched.
    Counted,
    /// It fails unless it did all.
    ByItself,
}

/// The statement of a set with what it takes from the rows: may be made on another thread.
#[derive(Debug)]
pub(super) struct Statement {
    pub kind: Kind,
    /// The net changes that it is to write, in order.
    pub nets: Vec<usize>,
    /// For messages: `schema.name`.
    pub table: String,
    text: String,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Arrays {
        arrays: Vec<Array>,
        /// The horizon and our origins follow.
        guarded: bool,
        /// Then how many rows are to be touched.
        count: Option<String>,
    },
    Copy {
        rows: CopiedRows,
        /// Fails if they are not in the format that the server reads.
        check: Option<String>,
    },
}

impl Statement {
    /// For these rows of a set.
    pub fn new(kind: Kind, set: &Set, writes: &[Write], guard: Guard, judging: Judging) -> Statement {
        let table = set.relation.table();
        let columns: &[usize] = if kind == Kind::Delete { &[] } else { &set.columns };
        let mut arrays = set.arrays(writes, columns);
        let forms: Vec<_> = arrays.iter().map(|array| array.form).collect();
        let guarded = guard == Guard::Known && kind != Kind::Insert;
        let mut guard = guard;
        if guarded && writes.iter().any(|write| write.known.is_some()) {
            guard = Guard::KnownEach;
            let known: Vec<_> = writes.iter().map(|write| write.known.map(sql::xid_text)).collect();
            arrays.push(Array::of(None, known.iter().map(|xid| xid.as_ref().map(String::as_bytes))));
        }
        let variant = Variant { forms: &forms, guard, tells: judging != Judging::Counted };
        let text = match kind {
            Kind::Delete => sql::delete(table, variant),
            Kind::Update => sql::update(table, columns, variant),
            // The server takes no deferrable constraint as a reason to skip.
            Kind::Insert if guard == Guard::Known && !table.defers() => {
                sql::insert(table, columns, OnConflict::Skip, &forms)
            }
            Kind::Insert => sql::insert(table, columns, OnConflict::SkipKey, &forms),
        };
        let count = (judging == Judging::ByItself).then(|| writes.len().to_string());
        let text = match judging {
            Judging::Told | Judging::Counted => text,
            Judging::ByItself => sql::all_or_error(&text, arrays.len() + if guarded { 3 } else { 1 }),
        };
        let body = Body::Arrays { arrays, guarded, count };
        Statement { kind, nets: writes.iter().map(|write| write.net).collect(), table: table.to_string(), text, body }
    }

    /// A COPY of all rows of a set.
    pub fn copy(set: &Set) -> Statement {
        let table = set.relation.table();
        let (format, rows) = set.copied();
        let check = (format == CopyFormat::Binary).then(|| sql::types_or_error(table, &set.columns));
        let (text, body) = (sql::copy(table, &set.columns, format), Body::Copy { rows, check });
        let nets = set.writes.iter().map(|write| write.net).collect();
        Statement { kind: Kind::Insert, nets, table: table.to_string(), text, body }
    }

    /// Whether it is a COPY.
    pub fn copies(&self) -> bool {
        matches!(self.body, Body::Copy { .. })
    }

    /// Adds it to a window; `guard` gives the horizon and our origins. Returns its place.
    pub fn queue(&self, pipeline: &mut Pipeline<'_>, guard: Option<(&str, &str)>) -> usize {
        let (arrays, guarded, count) = match &self.body {
            Body::Copy { rows, check } => {
                let at = pipeline.copy_in(&self.text, rows);
                if let Some(check) = check {
                    pipeline.query(check, &[], []);
                }
                return at;
            }
            Body::Arrays { arrays, guarded, count } => (arrays, *guarded, count),
        };
        let (horizon, ours) = guard.filter(|_| guarded).unzip();
        let texts = || horizon.into_iter().chain(ours).chain(count.as_deref());
        let types: Vec<_> = arrays.iter().map(Array::oid).chain(texts().map(|_| sql::TEXT)).collect();
        let arrays = arrays.iter().map(|array| Param::Binary(&array.bytes));
        pipeline.query(&self.text, &types, arrays.chain(texts().map(|text| Param::Text(text.as_bytes()))))
    }
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
    let mode = if guard.is_some() { Guard::Known } else { Guard::Locked };
    Statement::new(kind, set, writes, mode, judging).queue(pipeline, guard)
}

/// Whether the statement of such a set writes rows; one that sets nothing but the key only looks for them.
pub(super) fn writes_rows(kind: Kind, set: &Set) -> bool {
    kind != Kind::Update
        || !sql::update(set.relation.table(), &set.columns, Variant::of_texts(Guard::Known)).starts_with("SELECT")
}

/// How many rows a statement wrote; one that only looks for them writes none.
pub(super) fn rows_written(outcome: &Outcome) -> u64 {
    if outcome.tag.name == "SELECT" { 0 } else { outcome.tag.rows }
}

/// Those net changes of a statement that it did not write; `nets` are all of them.
pub(super) fn missed(outcome: &Outcome, nets: impl Iterator<Item = usize>) -> Result<Vec<usize>, ApplyError> {
    let done = ordinals(outcome)?;
    Ok(nets.enumerate().filter(|(i, _)| !done.contains(i)).map(|(_, net)| net).collect())
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
