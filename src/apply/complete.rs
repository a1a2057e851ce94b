//! Rows never mix (R8): a value that the server left out comes from the row that the author changed, or not at all.
//!
//! The author's row before a change is the outcome of what the author had seen. Where the target has just that,
//! the value may stay where it is; else it is taken from the change in the window that brought it, else from the
//! source's row as it is now: if that has moved on, a later change is under way and brings its own value.

use std::io;

use crate::apply::error::ApplyError;
use crate::apply::net::{Content, Net, Row};
use crate::apply::shared::Shared;
use crate::apply::sql;
use crate::conflict::coordinator::Coordinator;
use crate::conflict::window::ChangeRef;
use crate::model::key::KeyHasher;
use crate::model::{Cell, Change, KeyId, Link, NodeId, Op, TouchKind, Tuple};
use crate::node::NodeError;
use crate::wire::Pipeline;

/// A row as far as the window can complete it.
#[derive(Clone, Debug)]
pub enum Completed {
    /// Every value is there.
    Whole(Row),
    /// What is left out stands in the target's row of the same key (or of the key that the row moved from).
    AtTarget(Row),
    /// What is left out must be read where this change was made.
    AtSource(Row, ChangeRef),
}

/// What a change made of `key`.
///
/// # Errors
/// If a spilled transaction can't be read.
pub fn content_of(coordinator: &Coordinator, change: ChangeRef, key: KeyId, hasher: &KeyHasher) -> io::Result<Content> {
    if change.kind() == TouchKind::Delete {
        return Ok(Content::Delete);
    }
    let record = coordinator.window().transaction(change).transaction.change_at(change.offset())?;
    let row = new_row(&record).expect("a change that puts a row has one");
    debug_assert_eq!(row.key(hasher), key);
    Ok(Content::Put(row))
}

/// The row after a change, with the values that the old tuple has where the new one leaves them out.
pub fn new_row(change: &Change) -> Option<Row> {
    let row = |tuple: &Tuple| Row { relation: change.relation.clone(), tuple: tuple.clone() };
    match &change.op {
        Op::Insert { new } => Some(row(new)),
        Op::Update { old, new } => Some(row(new).with_old_values(old.as_ref().map(row).as_ref())),
        Op::Delete { .. } | Op::Truncate { .. } => None,
    }
}

/// The row before a change, as far as the source sent it.
pub fn old_row(change: &Change) -> Option<Row> {
    change.old_tuple().map(|tuple| Row { relation: change.relation.clone(), tuple: tuple.clone() })
}

/// Completes the row that `change` left at `key`, for a target where `standing` gives what stands at a key now.
///
/// # Errors
/// If a spilled transaction can't be read.
pub fn complete(
    coordinator: &Coordinator,
    target: NodeId,
    row: Row,
    key: KeyId,
    change: ChangeRef,
    hasher: &KeyHasher,
) -> io::Result<Completed> {
    let table = row.table().id;
    let (mut row, mut key, home, made) = (row, key, key, change);
    let mut change = made;
    while row.has_unchanged() {
        let record = coordinator.window().transaction(change).transaction.change_at(change.offset())?;
        if let Some(old) = old_row(&record).filter(|old| old.key(hasher) != key) {
            // The row came from another key: go on there, from the delete that this change was for it.
            key = old.key(hasher);
            let place = (change.seq, change.offset());
            match coordinator.find_change(table, key, change.source, place)? {
                Some(left) => change = left,
                None => return Ok(Completed::AtSource(row, made)),
            }
        }
        // What an earlier change moved here stands at a key that nobody will look at.
        let near = key == home || (change.seq, change.offset()) == (made.seq, made.offset());
        // While a key waits to be decided again its row is not known to be what stands.
        if near && !coordinator.is_reopened(target, key) && coordinator.has_predecessor(target, table, key, change)? {
            return Ok(Completed::AtTarget(row));
        }
        let Some(before) = coordinator.predecessor(table, key, change)? else {
            return Ok(Completed::AtSource(row, made));
        };
        match content_of(coordinator, before, key, hasher)? {
            Content::Put(earlier) => row = row.filled_from(&earlier),
            Content::Delete => return Ok(Completed::AtSource(row, made)),
        }
        change = before;
    }
    Ok(Completed::Whole(row))
}

/// The completion of a net change's own row.
///
/// # Errors
/// If a spilled transaction can't be read.
pub fn complete_net(
    coordinator: &Coordinator,
    link: Link,
    net: &Net,
    row: &Row,
    hasher: &KeyHasher,
) -> io::Result<Completed> {
    match coordinator.find_change(net.table.id, net.key, link.source, net.place)? {
        Some(change) => complete(coordinator, link.target, row.clone(), net.key, change, hasher),
        None => Err(io::Error::other("a change of the batch in flight is not in the window")),
    }
}

/// Reads the columns that `row` leaves out from the row with the key of `key_row` in the pipeline's session.
pub fn queue_read(pipeline: &mut Pipeline<'_>, row: &Row, key_row: &Row) -> usize {
    let (table, columns) = (row.table(), left_out(row));
    let keys: Vec<_> =
        key_row.key_cells().map(|cell| sql::text_array([sql::text_of(Some(cell))].into_iter())).collect();
    let types = vec![sql::TEXT_ARRAY; keys.len()];
    pipeline.query(&sql::read(table, &columns), &types, keys.iter().map(|array| crate::wire::Param::Binary(array)))
}

/// The columns that a row leaves out, as indices into the table's columns.
fn left_out(row: &Row) -> Vec<usize> {
    let named = row.tuple.cells().zip(&row.relation.column_of);
    named.filter(|(cell, _)| *cell == Cell::Unchanged).filter_map(|(_, column)| *column).collect()
}

/// `row` with the values that were read, in order of the columns that it leaves out.
pub fn with_values(row: &Row, values: &[Option<Vec<u8>>]) -> Row {
    let mut values = values.iter();
    let cells: Vec<_> = row
        .tuple
        .cells()
        .zip(&row.relation.column_of)
        .map(|(cell, column)| match (cell, column) {
            (Cell::Unchanged, Some(_)) => match values.next() {
                Some(Some(text)) => Cell::Text(text),
                _ => Cell::Null,
            },
            _ => cell,
        })
        .collect();
    Row { relation: row.relation.clone(), tuple: Tuple::from_cells(cells.into_iter()) }
}

/// Reads what `change` left out of `row` at the node where it was made, if the row there is still the one that the
/// change left.
///
/// # Errors
/// [`ApplyError::MovedOn`] if it is not: a later change decides then; it is there already or on its way.
/// [`ApplyError::InDoubt`] if that is not known yet. Otherwise if the node is not connected or the query fails.
pub async fn read_at_source(shared: &Shared, row: &Row, change: ChangeRef) -> Result<Row, ApplyError> {
    let id = change.source;
    let node = shared.node(id);
    let moved_on = || ApplyError::MovedOn { table: row.table().to_string(), node: node.name.clone() };
    let in_doubt = || ApplyError::InDoubt { table: row.table().to_string(), node: node.name.clone() };
    shared.barrier(id).await?;
    let (table, key) = (row.table().id, row.key(&shared.catalog.hasher));
    let down = || ApplyError::NodeDown { node: node.name.clone(), what: format!("a value of {}", row.table()) };
    let control = node.control().ok_or_else(down)?;
    let horizon = node.horizon().ok_or_else(down)?; // before the window is looked at, which then has what is older
    let (settled, xid) = {
        let coordinator = shared.coordinator();
        let standing = coordinator.standing(id, table, key)?;
        let settled = standing.is_certain && coordinator.is_ready(id) && !coordinator.is_reopened(id, key);
        if settled && standing.change != Some(change) {
            return Err(moved_on());
        }
        (settled, coordinator.window().transaction(change).transaction.xid)
    };
    // The version that the change's own transaction left is the change's row, whatever else is in doubt.
    let versions = [Some(sql::xid_text(xid)), settled.then(|| sql::xid_text(horizon))];
    let versions = versions.iter().map(|xid| xid.as_ref().map(String::as_bytes));
    let texts: Vec<Option<&[u8]>> = row.key_cells().map(|cell| sql::text_of(Some(cell))).chain(versions).collect();
    let parameters: Vec<_> = texts.iter().map(|text| text as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
    let query = sql::read_known(row.table(), &left_out(row));
    let found = control.client().query_opt(&query, &parameters).await;
    let found = found.map_err(NodeError::doing("read a value that a change left out"))?.ok_or_else(in_doubt)?;
    let value = |i| found.get::<_, Option<Vec<u8>>>(i);
    Ok(with_values(row, &(0..found.len()).map(value).collect::<Vec<_>>()))
}
