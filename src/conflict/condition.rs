//! Whether a rule's condition holds for a conflict: of changes of which none had seen another, those that are causally maximal.
//!
//! It holds if it does for any two of them, either of which may be the one that met the other. So it says the same at every
//! node, whichever change came first there (R1).

use crate::conflict::detect::{LocalRow, Operation, conflict_type};
use crate::conflict::put;
use crate::model::{Cell, Cells, Change, Condition, Party, Relation, Stamp, Table, TableRule, TouchKind, Tuple};

/// A change as conditions look at it.
#[derive(Clone, PartialEq, Debug)]
pub struct Met {
    /// What it did.
    pub operation: Operation,
    /// The rest.
    pub party: Party,
}

impl Met {
    /// The change of a record, with what the rule's conditions look at.
    pub fn new(rule: &TableRule, kind: TouchKind, stamp: Stamp, record: &Change) -> Met {
        let deletes = kind == TouchKind::Delete;
        let operation = Operation::of(record, kind);
        let table = record.relation.table();
        let is_read = |column: &str| {
            let is_key = || table.key.iter().any(|key| table.columns[*key].name == column);
            rule.cases.iter().any(|case| case.condition.reads(column)) || is_key()
        };
        let mut old = record.old_tuple().map(|old| known(&record.relation, old, &is_read, true));
        let mut row = record.new_tuple().filter(|_| !deletes).map(|new| known(&record.relation, new, &is_read, false));
        if let (Some(row), Some(old)) = (&mut row, &old) {
            // What the server left out of it is as before.
            old.iter().for_each(|(column, value)| {
                row.entry(column.clone()).or_insert_with(|| value.clone());
            });
        }
        if row.is_some() && !put::keeps_key(record) {
            old = None; // a row that came from another key begins here
        }
        Met { operation, party: Party { source: stamp.node, stamp, row, old } }
    }
}

/// The values that the server sent. Of a row before a change they are those of the replica identity; the others are no NULLs.
fn known(relation: &Relation, tuple: &Tuple, is_read: &impl Fn(&str) -> bool, is_old: bool) -> Cells {
    let mut cells = Cells::new();
    for (column, cell) in relation.columns.iter().zip(tuple.cells()) {
        let text = match cell {
            Cell::Unchanged | Cell::Binary(_) => continue,
            Cell::Null => None,
            Cell::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        };
        if (!is_old || column.in_identity) && is_read(&column.name) {
            cells.insert(column.name.clone(), text);
        }
    }
    cells
}

/// Whether the condition holds for the conflict of these changes.
pub fn holds(condition: &Condition, table: &Table, changes: &[Met]) -> bool {
    let holds = |remote: &Met, local: &Met| {
        let local_row = if local.party.row.is_some() { LocalRow::Written } else { LocalRow::Deleted };
        condition.holds(table, &remote.party, &local.party, conflict_type(remote.operation, local_row))
    };
    let others = |at: usize| changes.iter().enumerate().filter(move |(other, _)| *other != at).map(|(_, each)| each);
    changes.iter().enumerate().any(|(at, remote)| others(at).any(|local| holds(remote, local)))
}
