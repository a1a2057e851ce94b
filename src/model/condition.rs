//! For which conflicts of its tables a rule is: those of two changes that it says.

use std::sync::Arc;

use crate::model::when::{Party, When};
use crate::model::{ConflictType, NodeId, Table};

/// What must be so of two changes that did not see each other, taken one way or the other. Everything that is there
/// must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Condition {
    /// One was made at one of these nodes.
    pub source: Option<Arc<[NodeId]>>,
    /// The other was made at one of these.
    pub target: Option<Arc<[NodeId]>>,
    /// One of the two changed one of these columns; a new row changes all, a delete none.
    pub changed: Option<Arc<[String]>>,
    /// The expression holds.
    pub when: Option<When>,
}

impl Condition {
    /// Whether it asks for nothing, so that a rule is for all conflicts.
    pub fn is_empty(&self) -> bool {
        *self == Condition::default()
    }

    /// Whether it looks at the column.
    pub fn reads(&self, column: &str) -> bool {
        self.changed.iter().flat_map(|columns| columns.iter()).any(|each| each == column)
            || self.when.as_ref().is_some_and(|when| when.columns().is_none_or(|columns| columns.contains(column)))
    }

    /// Whether it looks at rows before a change, or at what it changed in them.
    pub fn reads_old(&self) -> bool {
        self.changed.is_some() || self.when.as_ref().is_some_and(When::reads_old)
    }

    /// Whether it holds for `remote` as a change that met `local`; `kind` is what that is called.
    pub fn holds(&self, table: &Table, remote: &Party, local: &Party, kind: ConflictType) -> bool {
        let is_one = |nodes: &Option<Arc<[NodeId]>>, party: &Party| {
            nodes.as_ref().is_none_or(|nodes| nodes.contains(&party.source))
        };
        is_one(&self.source, remote)
            && is_one(&self.target, local)
            && self
                .changed
                .as_ref()
                .is_none_or(|columns| [remote, local].into_iter().any(|party| party.changed_any(columns)))
            && self.when.as_ref().is_none_or(|when| when.holds(table, remote, local, kind))
    }
}

impl Party {
    fn changed_any(&self, columns: &[String]) -> bool {
        match (&self.row, &self.old) {
            (Some(row), Some(old)) => columns.iter().any(|column| row.get(column) != old.get(column)),
            (row, _) => row.is_some(),
        }
    }
}
