//! Which of PostgreSQL's conflict types a conflict is, from the incoming operation and the row it met.
//!
//! <https://www.postgresql.org/docs/18/logical-replication-conflicts.html>

use serde::{Deserialize, Serialize};

use crate::model::{Change, ConflictType, Op, TouchKind};

/// What a change does to its row, as its author typed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// INSERT.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
    /// TRUNCATE.
    Truncate,
}

impl Operation {
    /// What the record of a change did to a key that it touches so: an UPDATE that moves a row deletes the old key.
    pub fn of(record: &Change, kind: TouchKind) -> Operation {
        match record.op {
            Op::Insert { .. } => Operation::Insert,
            Op::Update { .. } if kind == TouchKind::Put => Operation::Update,
            Op::Update { .. } | Op::Delete { .. } => Operation::Delete,
            Op::Truncate { .. } => Operation::Truncate,
        }
    }
}

/// What an incoming change met at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalRow {
    /// A row that a change wrote which the author of the incoming one had not seen.
    Written,
    /// No row: such a change deleted it.
    Deleted,
    /// No row, and nothing tells why.
    Missing,
}

/// The type of the conflict.
pub fn conflict_type(incoming: Operation, local: LocalRow) -> ConflictType {
    use ConflictType::*;
    match (incoming, local) {
        (Operation::Insert, LocalRow::Written) => InsertExists,
        (Operation::Update, LocalRow::Written) => UpdateOriginDiffers,
        (Operation::Delete | Operation::Truncate, LocalRow::Written) => DeleteOriginDiffers,
        // An insert against a concurrent delete has no name of its own in PostgreSQL: its author, too, wrote a row
        // that somebody deleted.
        (Operation::Insert | Operation::Update, LocalRow::Deleted) => UpdateDeleted,
        (Operation::Insert | Operation::Update, LocalRow::Missing) => UpdateMissing,
        (Operation::Delete | Operation::Truncate, LocalRow::Deleted | LocalRow::Missing) => DeleteMissing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_has_its_type() {
        use ConflictType::*;
        let table = [
            (Operation::Insert, [InsertExists, UpdateDeleted, UpdateMissing]),
            (Operation::Update, [UpdateOriginDiffers, UpdateDeleted, UpdateMissing]),
            (Operation::Delete, [DeleteOriginDiffers, DeleteMissing, DeleteMissing]),
        ];
        for (operation, types) in table {
            let found = [LocalRow::Written, LocalRow::Deleted, LocalRow::Missing].map(|l| conflict_type(operation, l));
            assert_eq!(found, types, "{operation:?}");
        }
    }
}
