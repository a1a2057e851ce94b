//! The row that a change stands for, as the real folding and completing make it.

use std::io;

use crate::apply::complete::{Completed, complete, complete_net, content_of};
use crate::apply::net::{Content, Folded};
use crate::conflict::{ChangeRef, Coordinator};
use crate::model::Link;
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

/// What `winner` makes of `key` at the link's target; where it is the last change of a batch, as that folds it.
///
/// # Errors
/// If a change can't be read.
pub fn value(
    coordinator: &Coordinator,
    schema: &Schema,
    link: Link,
    key: Key,
    winner: ChangeRef,
    folded: &Folded,
) -> io::Result<Value> {
    let (id, hasher) = (schema.key_id(key), schema.hasher());
    let net = folded.get(id).filter(|net| winner.source == link.source && net.place == (winner.seq, winner.offset()));
    let content = net.map_or_else(|| content_of(coordinator, winner, id, hasher), |net| Ok(net.content.clone()))?;
    let Content::Put(row) = content else { return Ok(Value::Gone) };
    let completed = match net {
        Some(net) => complete_net(coordinator, link, net, &row, hasher)?,
        None => complete(coordinator, link.target, row, id, winner, hasher)?,
    };
    let moved = net.is_some_and(|net| net.rekeyed);
    Ok(match completed {
        Completed::Whole(row) => {
            let sent = schema.sent(&row.tuple)?;
            sent.body.map_or(Value::AtSource(sent), |body| Value::Whole(sent.with(body)))
        }
        Completed::AtTarget(row) if moved => Value::AtSource(schema.sent(&row.tuple)?),
        Completed::AtTarget(row) => Value::KeepsBody(schema.sent(&row.tuple)?),
        Completed::AtSource(row, _) => Value::AtSource(schema.sent(&row.tuple)?),
    })
}

/// The key of a change that leaves a row, and the row as it was sent.
///
/// # Errors
/// If the change can't be read or leaves no row.
pub fn read(coordinator: &Coordinator, schema: &Schema, change: ChangeRef) -> io::Result<(Key, Sent)> {
    let record = coordinator.window().transaction(change).transaction.change_at(change.offset())?;
    let new = record.new_tuple().ok_or_else(|| io::Error::other("a change that puts a row has none"))?;
    Ok((schema.key_of(record.relation.table_id(), new)?, schema.sent(new)?))
}
