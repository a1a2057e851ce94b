//! One row operation as decoded, and the relation that says which column is which.

use crate::model::ids::{TableId, Xid};
use crate::model::table::{Column, Table};
use crate::model::tuple::{Cell, Tuple};
use std::sync::Arc;

/// A column of a [`Relation`], as the source announced it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelationColumn {
    /// Name at the source.
    pub name: String,
    /// Type OID at the source; OIDs of user types differ between nodes.
    pub type_oid: u32,
    /// Part of the replica identity (all columns are under FULL).
    pub in_identity: bool,
}

/// A `Relation` message bound to the cluster's catalog: one version of one table's shape at one source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relation {
    /// OID at the source.
    pub oid: u32,
    /// Schema at the source.
    pub schema: String,
    /// Name at the source.
    pub name: String,
    /// Columns in tuple order.
    pub columns: Vec<RelationColumn>,
    /// The table, if it replicates; changes of other relations are dropped by the assembler.
    pub table: Option<Arc<Table>>,
    /// For each tuple position the index into [`Table::columns`]; `None` where the catalog lacks the column.
    pub column_of: Vec<Option<usize>>,
    /// For each key column of the table, in key order, the tuple position.
    pub key_positions: Vec<usize>,
}

impl Relation {
    /// The name of a last column that stands for a key in a table without one: the row's number, which we give it. No
    /// column can be called that.
    pub const NUMBER: &str = "";

    /// All columns of the table, in its order: of no source, for rows that we have on record ourselves.
    pub fn of_table(table: &Arc<Table>) -> Arc<Relation> {
        let column = |(at, column): (usize, &Column)| RelationColumn {
            name: column.name.clone(),
            type_oid: 0,
            in_identity: table.key.contains(&at),
        };
        Arc::new(Relation {
            oid: 0,
            schema: table.schema.clone(),
            name: table.name.clone(),
            columns: table.columns.iter().enumerate().map(column).collect(),
            table: Some(table.clone()),
            column_of: (0..table.columns.len()).map(Some).collect(),
            key_positions: table.key.clone(),
        })
    }

    /// The id of its table.
    ///
    /// # Panics
    /// If the relation is not replicated; no such relation's change leaves the assembler.
    pub fn table_id(&self) -> TableId {
        self.table().id
    }

    /// Its table; see [`Relation::table_id`].
    pub fn table(&self) -> &Arc<Table> {
        self.table.as_ref().expect("changes of tables that do not replicate are dropped by the assembler")
    }

    /// The first column that the table has at the source and not in the catalog: its values can't be written
    /// anywhere. One that is known to be the source's own is none.
    pub fn unknown_column(&self) -> Option<&str> {
        let table = self.table.as_ref()?;
        let unknown = self.columns.iter().zip(&self.column_of).filter(|(_, column)| column.is_none());
        let mut names = unknown.map(|(column, _)| column.name.as_str()).filter(|name| *name != Relation::NUMBER);
        names.find(|name| !table.local.iter().any(|local| local == name))
    }

    /// The key cells of `tuple`, in key order.
    pub fn key_cells<'a>(&'a self, tuple: &'a Tuple) -> impl Iterator<Item = Cell<'a>> {
        self.key_positions.iter().map(|position| tuple.cell(*position).unwrap_or(Cell::Null))
    }
}

#[cfg(test)]
impl Relation {
    /// The table as a source announces it, with these columns, for tests.
    pub fn sample(table: Table, columns: &[&str]) -> Arc<Relation> {
        let key: Vec<&str> = table.key.iter().map(|column| table.columns[*column].name.as_str()).collect();
        let column =
            |name: &&str| RelationColumn { name: (*name).to_owned(), type_oid: 25, in_identity: key.contains(name) };
        Arc::new(Relation {
            oid: 1,
            schema: table.schema.clone(),
            name: table.name.clone(),
            columns: columns.iter().map(column).collect(),
            column_of: columns.iter().map(|name| table.column(name)).collect(),
            key_positions: key.iter().filter_map(|key| columns.iter().position(|name| name == key)).collect(),
            table: Some(Arc::new(table)),
        })
    }
}

/// What happened to a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A new row.
    Insert {
        /// The row.
        new: Tuple,
    },
    /// A row changed.
    Update {
        /// What the server sent of the row before: its key if that changed (or is wide), all under FULL.
        old: Option<Tuple>,
        /// The row after; TOASTed values that did not change may be [`Cell::Unchanged`].
        new: Tuple,
    },
    /// A row went.
    Delete {
        /// Its replica identity: key columns, or the whole row under FULL.
        old: Tuple,
    },
    /// All rows of the table went. One record a table; `group` lists all tables of the statement.
    Truncate {
        /// All replicated tables that the statement emptied, this one included.
        group: Vec<TableId>,
        /// RESTART IDENTITY was given.
        restart_identity: bool,
    },
}

/// One change of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The shape of the tuples.
    pub relation: Arc<Relation>,
    /// The (sub)transaction that wrote the row if the server told (streamed transactions), else the top one.
    pub xid: Xid,
    /// What happened.
    pub op: Op,
}

impl Change {
    /// The row after the change, if there is one.
    pub fn new_tuple(&self) -> Option<&Tuple> {
        match &self.op {
            Op::Insert { new } | Op::Update { new, .. } => Some(new),
            Op::Delete { .. } | Op::Truncate { .. } => None,
        }
    }

    /// What the row after the change has in a column of the table, as text; `None` for NULL, and where there is no row, or at
    /// the source no such column. A value that the server left out is that of the old row.
    pub fn value_of(&self, column: &str) -> Option<&str> {
        let at = self.relation.table().column(column)?;
        let position = self.relation.column_of.iter().position(|of| *of == Some(at))?;
        let cell = match self.new_tuple()?.cell(position)? {
            Cell::Unchanged => self.old_tuple()?.cell(position)?,
            cell => cell,
        };
        match cell {
            Cell::Text(text) => std::str::from_utf8(text).ok(),
            Cell::Binary(_) | Cell::Null | Cell::Unchanged => None,
        }
    }

    /// What the server sent of the row before the change.
    pub fn old_tuple(&self) -> Option<&Tuple> {
        match &self.op {
            Op::Update { old, .. } => old.as_ref(),
            Op::Delete { old } => Some(old),
            Op::Insert { .. } | Op::Truncate { .. } => None,
        }
    }
}
