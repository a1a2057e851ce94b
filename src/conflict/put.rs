//! A change of a row, taken apart by column.

use crate::conflict::window::ChangeRef;
use crate::model::key::KeyHasher;
use crate::model::{Cell, Change, KeyId, Op, Relation, Stamp, Table, Tuple};

/// A column's text; `None` is NULL.
pub type Value = Option<Vec<u8>>;

/// A change that left a row.
pub(super) struct Put {
    pub(super) change: ChangeRef,
    pub(super) stamp: Stamp,
    /// By column; `None` if there was no row.
    pub(super) old: Option<Vec<Option<Value>>>,
    /// By column; `None` where the source does not have it.
    pub(super) new: Vec<Option<Value>>,
}

impl Put {
    pub(super) fn is_birth(&self) -> bool {
        self.old.is_none()
    }

    pub(super) fn touches(&self, column: usize) -> bool {
        match (&self.new[column], &self.old) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(new), Some(old)) => old[column].as_ref() != Some(new),
        }
    }

    pub(super) fn value(&self, column: usize) -> Value {
        self.new[column].clone().flatten()
    }

    /// All columns; one that its source did not have then as the latest of these others has it.
    pub(super) fn row(&self, others: &[&Put]) -> Vec<Value> {
        let value = |column: usize| {
            let others = others.iter().rev().map(|other| &other.new[column]);
            std::iter::once(&self.new[column]).chain(others).find_map(Clone::clone).flatten()
        };
        (0..self.new.len()).map(value).collect()
    }

    pub(super) fn before(&self, column: usize) -> Value {
        self.old.as_ref().and_then(|old| old[column].clone().flatten())
    }
}

/// `None` if the change came without its old row.
pub(super) fn put(table: &Table, change: ChangeRef, stamp: Stamp, record: &Change) -> Option<Put> {
    let relation = &record.relation;
    let old = match &record.op {
        Op::Insert { .. } => None,
        Op::Update { old, .. } => {
            let old = old.as_ref().filter(|_| relation.columns.iter().all(|column| column.in_identity))?;
            // A row that came from another key begins here.
            keeps_key(record).then(|| values(table, relation, old))
        }
        Op::Delete { .. } | Op::Truncate { .. } => return None,
    };
    let mut new = record.new_tuple().map(|new| values(table, relation, new))?;
    if let Op::Update { old: Some(before), new: after } = &record.op {
        // What the server left out is as before.
        let before = values(table, relation, before);
        let left_out = |column: usize| {
            let position = relation.column_of.iter().position(|of| *of == Some(column));
            position.and_then(|position| after.cell(position)) == Some(Cell::Unchanged)
        };
        for column in (0..new.len()).filter(|column| left_out(*column)) {
            new[column] = before[column].clone();
        }
    }
    Some(Put { change, stamp, old, new })
}

/// Whether an UPDATE leaves its row under the key that it had, as far as the server tells; of other changes false.
pub(super) fn keeps_key(record: &Change) -> bool {
    match &record.op {
        Op::Update { old, new } => {
            old.as_ref().is_none_or(|old| key_of(&record.relation, old) == key_of(&record.relation, new))
        }
        _ => false,
    }
}

fn key_of(relation: &Relation, tuple: &Tuple) -> KeyId {
    KeyHasher::with_seed(0).key(relation.table_id(), relation.key_cells(tuple).zip(relation.table().key_forms()))
}

/// By column of the table.
fn values(table: &Table, relation: &Relation, tuple: &Tuple) -> Vec<Option<Value>> {
    let mut values = vec![None; table.columns.len()];
    for (cell, column) in tuple.cells().zip(&relation.column_of) {
        if let Some(column) = column {
            values[*column] = Some(match cell {
                Cell::Text(text) | Cell::Binary(text) => Some(text.to_vec()),
                Cell::Null | Cell::Unchanged => None,
            });
        }
    }
    values
}
