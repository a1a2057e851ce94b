//! The row that a change stands for: a TOASTed value that it omits comes from the window where that has it.

use std::io;

use crate::conflict::{ChangeRef, Coordinator};
use crate::model::TouchKind;
use crate::simulate::rows::{Key, Row, Schema, Sent};

/// What a key must be, as far as the window knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// No row.
    Gone,
    /// This row.
    Whole(Row),
    /// The body is that of the row at the target.
    KeepsBody(Sent),
    /// The body is that of the row at the source of the change.
    AtSource(Sent),
}

/// The change whose value the target's row has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// This one, or one that is stable.
    Change(Option<ChangeRef>),
    /// Nobody knows.
    Unknown,
}

/// What `winner` makes of `key` where `before` stands.
///
/// # Errors
/// If a change can't be read.
pub fn value(
    coordinator: &Coordinator,
    schema: &Schema,
    key: Key,
    winner: ChangeRef,
    before: Standing,
) -> io::Result<Value> {
    if winner.kind() == TouchKind::Delete {
        return Ok(Value::Gone);
    }
    let (_, sent) = read(coordinator, schema, winner)?;
    let mut earlier = winner;
    let mut body = sent.body;
    while body.is_none() {
        let last = coordinator.predecessor(key.table, schema.key_id(key), earlier)?;
        if before == Standing::Change(last) && last.is_none_or(|last| last.kind() == TouchKind::Put) {
            return Ok(Value::KeepsBody(sent));
        }
        let Some(last) = last.filter(|last| last.kind() == TouchKind::Put) else { return Ok(Value::AtSource(sent)) };
        body = read(coordinator, schema, last)?.1.body;
        earlier = last;
    }
    Ok(body.map_or(Value::AtSource(sent), |body| Value::Whole(sent.with(body))))
}

/// The row after a change that leaves one, as it was sent.
///
/// # Errors
/// If the change can't be read or leaves no row.
pub fn read(coordinator: &Coordinator, schema: &Schema, change: ChangeRef) -> io::Result<(Key, Sent)> {
    let record = coordinator.window().transaction(change).transaction.change_at(change.offset())?;
    schema.sent(&record)?.ok_or_else(|| io::Error::other("a change that puts a row has none"))
}
