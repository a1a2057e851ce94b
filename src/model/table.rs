//! The replicated tables, as all nodes agree on them: the cluster's catalog.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::model::binary::BinaryType;
use crate::model::ids::TableId;
use crate::model::key::KeyHasher;
use crate::model::key_form::KeyForm;

/// A column that replicates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name, alike at every node.
    pub name: String,
    /// Its type under all domains as SQL, schema-qualified, quoted and without modifier: `pg_catalog.int4`,
    /// `public."Mood"`.
    pub sql_type: String,
    /// It, or a domain over it, has a modifier: the 20 of `varchar(20)`.
    pub has_modifier: bool,
    /// How the type's text becomes a value.
    pub input: Input,
    /// The operator by which its values are equal, as SQL: `=`, or `OPERATOR("public".=)` for an extension's type.
    pub equals: String,
    /// GENERATED ALWAYS AS IDENTITY at some node: an insert needs OVERRIDING SYSTEM VALUE.
    pub identity_always: bool,
    /// How its values compare where it is part of a key.
    pub key_form: KeyForm,
}

/// How SQL makes a value of a text by the type's input function, which a cast from text is not always.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// The cast from text does so.
    Text,
    /// There is a cast from text that does something else (regclass, whoever made one): by way of `bpchar`, from which
    /// there is none.
    Blank,
    /// `"char"`: `\ooo` is a byte above 127, which servers before 16 don't read.
    Char,
}

impl Column {
    /// The parameter of that number, a text, as a value of the column's type.
    pub fn parameter(&self, number: usize) -> String {
        self.value(&format!("${number}::pg_catalog.text"))
    }

    /// The binary format that its values can be brought to.
    pub fn binary(&self) -> Option<BinaryType> {
        BinaryType::of(&self.sql_type)
    }

    /// An expression of type text as a value of the column's type.
    pub fn value(&self, text: &str) -> String {
        let of_type = &self.sql_type;
        match self.input {
            Input::Text => format!("{text}::{of_type}"),
            Input::Blank => format!("{text}::pg_catalog.bpchar::{of_type}"),
            Input::Char => {
                let digit = |place: u32| format!("(pg_catalog.ascii(pg_catalog.substr({text}, {place}, 1)) - 48)");
                format!(
                    r"CASE WHEN {text} ~ '^\\[0-7]{{3}}$' THEN ({} * 64 + {} * 8 + {} - 256)::{of_type} ELSE {text}::{of_type} END",
                    digit(2),
                    digit(3),
                    digit(4)
                )
            }
        }
    }
}

/// A secondary unique index, or an exclusion constraint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UniqueIndex {
    /// The index's name at the node it was read from.
    pub name: String,
    /// The columns that it looks at, as indices into [`Table::columns`].
    pub columns: Vec<usize>,
    /// NULLS NOT DISTINCT (15+).
    pub nulls_not_distinct: bool,
    /// DEFERRABLE: our sessions switch off the server's recheck.
    pub deferrable: bool,
    /// What two rows must not both have, where that is more than equal values of its columns.
    pub rule: Option<IndexRule>,
}

/// When two rows stand against each other in an index: all keys of the two are in the operators' relation, and both rows
/// fulfil the predicate. In the server's own words, the columns unqualified.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct IndexRule {
    /// The keys.
    pub keys: Vec<IndexKey>,
    /// `WHERE`.
    pub predicate: Option<String>,
}

/// One key of an index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexKey {
    /// A column or an expression.
    pub expression: String,
    /// `OPERATOR(schema.name)`.
    pub operator: String,
    /// Its collation, qualified.
    pub collation: Option<String>,
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
    /// Columns that only some nodes have and that do not replicate: a change that tells one leaves it out.
    pub local: Vec<String>,
    /// The columns by which rows are identified (primary key, or the REPLICA IDENTITY index), as indices into
    /// [`Table::columns`]; empty only if nothing but inserts replicate.
    pub key: Vec<usize>,
    /// Its inserts replicate, and nothing else.
    pub insert_only: bool,
    /// Secondary unique indexes and exclusion constraints.
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

    /// How the key's cells compare; of a table without a key, the row's number.
    pub fn key_forms(&self) -> impl Iterator<Item = &KeyForm> {
        let number = self.key.is_empty().then_some(&KeyForm::Bytes);
        self.key.iter().map(|column| &self.columns[*column].key_form).chain(number)
    }

    /// Whether a constraint of it is deferrable.
    pub fn defers(&self) -> bool {
        self.unique.iter().any(|index| index.deferrable)
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

impl Table {
    /// A table of text columns in public whose first column is the key: for simulations and tests.
    pub fn of_texts(name: &str, columns: &[&str]) -> Table {
        let column = |name: &&str| Column {
            name: (*name).to_owned(),
            sql_type: "pg_catalog.text".to_owned(),
            has_modifier: false,
            input: Input::Text,
            equals: "=".to_owned(),
            identity_always: false,
            key_form: KeyForm::Bytes,
        };
        Table {
            id: TableId(0),
            schema: "public".to_owned(),
            name: name.to_owned(),
            columns: columns.iter().map(column).collect(),
            local: Vec::new(),
            key: vec![0],
            insert_only: false,
            unique: Vec::new(),
            is_partitioned: false,
            sends_old_rows: false,
        }
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
