//! The replicated tables, as all nodes agree on them: the cluster's catalog.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::model::ids::TableId;
use crate::model::key::KeyHasher;

/// How a key column's text is brought to one form for all values that its type calls equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyForm {
    /// Equal values have equal bytes: integers, uuid, bool, text under a deterministic collation, dates and
    /// times under pinned settings, bytea, enums and the like.
    Bytes,
    /// `numeric`: scale does not count, 1.0 = 1.00.
    Numeric,
    /// `float4`, `float8`: −0 = 0.
    Float,
    /// `character(n)`: trailing blanks do not count.
    Blank,
}

/// A column that replicates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name, alike at every node.
    pub name: String,
    /// Its type as SQL, schema-qualified, quoted and without modifier: `pg_catalog.int4`, `public."Mood"`.
    pub sql_type: String,
    /// GENERATED ALWAYS AS IDENTITY at some node: an insert needs OVERRIDING SYSTEM VALUE.
    pub identity_always: bool,
    /// How its values compare where it is part of a key.
    pub key_form: KeyForm,
}

/// A secondary unique index over plain columns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UniqueIndex {
    /// The index's name at the node it was read from.
    pub name: String,
    /// Its columns, as indices into [`Table::columns`].
    pub columns: Vec<usize>,
    /// NULLS NOT DISTINCT (15+).
    pub nulls_not_distinct: bool,
}

/// One replicated table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Its place in the [`Catalog`].
    pub id: TableId,
    /// Schema, unquoted.
    pub schema: String,
    /// Name, unquoted.
    pub name: String,
    /// All columns that replicate: no generated ones.
    pub columns: Vec<Column>,
    /// The columns by which rows are identified (primary key, or the REPLICA IDENTITY index), as indices into
    /// [`Table::columns`]; never empty.
    pub key: Vec<usize>,
    /// Secondary unique indexes over plain columns.
    pub unique: Vec<UniqueIndex>,
    /// The root of partitions, which replicate under its name.
    pub is_partitioned: bool,
    /// REPLICA IDENTITY FULL at every node: the whole old row comes with each change, so no value is left out.
    pub sends_old_rows: bool,
}

impl Table {
    /// The index of the column called `name`.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// As the target of UPDATE, DELETE, TRUNCATE and LOCK, and in FROM: without the tables that inherit from it, which are
    /// tables of their own; a partitioned table has no rows but those of its partitions.
    pub fn sql_only(&self) -> String {
        match self.is_partitioned {
            true => self.sql_name(),
            false => format!("ONLY {}", self.sql_name()),
        }
    }

    /// `"schema"."name"`, for SQL.
    pub fn sql_name(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

impl fmt::Display for Table {
    /// `schema.name` unquoted, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// An identifier as SQL: always quoted, quotes inside doubled.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as an SQL string literal under `standard_conforming_strings = on`.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// All replicated tables, and the hash that gives their rows identity.
#[derive(Debug)]
pub struct Catalog {
    tables: Vec<Arc<Table>>,
    by_name: HashMap<(String, String), TableId>,
    /// Gives keys their [`crate::model::KeyId`].
    pub hasher: KeyHasher,
}

impl Catalog {
    /// Takes the tables in any order and gives each its [`TableId`] by its place.
    pub fn new(tables: Vec<Table>, hasher: KeyHasher) -> Catalog {
        let number = |i: usize| TableId(u32::try_from(i).expect("PostgreSQL has fewer than 2^32 tables"));
        let tables: Vec<Arc<Table>> =
            tables.into_iter().enumerate().map(|(i, table)| Arc::new(Table { id: number(i), ..table })).collect();
        let by_name = tables.iter().map(|table| ((table.schema.clone(), table.name.clone()), table.id)).collect();
        Catalog { tables, by_name, hasher }
    }

    /// The table of that id.
    pub fn table(&self, id: TableId) -> &Arc<Table> {
        &self.tables[id.0 as usize]
    }

    /// The table of that name, if it replicates.
    pub fn find(&self, schema: &str, name: &str) -> Option<&Arc<Table>> {
        self.by_name.get(&(schema.to_owned(), name.to_owned())).map(|id| self.table(*id))
    }

    /// All tables.
    pub fn tables(&self) -> &[Arc<Table>] {
        &self.tables
    }
}
