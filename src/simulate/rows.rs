//! The simulated tables: rows as values, and as the tuples and transactions that a stream would deliver.
//!
//! Each table has a key column, a plain one, a nullable one with a secondary unique index, one that may be TOASTed (an
//! update that leaves it alone then omits it), and one to which changes append.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::KeyForm;
use crate::model::key::KeyHasher;
use crate::model::run::{Entry, Run, encode};
use crate::model::table::{Catalog, Table, UniqueIndex};
use crate::model::transaction::encode_record;
use crate::model::{
    Cell, KeyId, Lsn, NodeId, Op, Payload, Relation, RelationColumn, Stamp, TableId, Touch, TouchKind, Touches,
    Transaction, Tuple, Xid,
};
use crate::simulate::notes::Notes;

/// A row's place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// Its table.
    pub table: TableId,
    /// The value of its key column.
    pub id: u8,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}.k{}", self.table.0, self.id)
    }
}

/// The column that may be TOASTed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Body {
    /// Stands for the text.
    pub text: u32,
    /// Stored out of line: updates that leave it alone omit it.
    pub toasted: bool,
}

/// A row without its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The plain column.
    pub value: u32,
    /// The column with the secondary unique index.
    pub unique: Option<u8>,
    /// The column that may be TOASTed.
    pub body: Body,
    /// The column to which changes append.
    pub notes: Notes,
}

impl Row {
    /// What a rule makes of a row that loses its unique value and is not to be deleted: one that nobody contends for.
    pub fn renamed(self) -> Row {
        Row { unique: None, ..self }
    }

    /// What stands for any function that merges rows, this one the earlier: all that it makes depends on all that both have and
    /// on their order, and of equal rows it makes another one.
    pub fn called(self, later: Row) -> Row {
        let number = |row: Row| {
            let size = u32::from(row.body.toasted);
            let entries = row.notes.entries().iter().fold(0_u32, |sum, entry| sum.wrapping_mul(3).wrapping_add(*entry));
            [row.value, row.body.text, size, entries]
                .iter()
                .fold(1, |sum: u32, part| sum.wrapping_mul(31).wrapping_add(*part))
        };
        let made = number(self).wrapping_mul(7).wrapping_add(number(later).wrapping_mul(3)) % 100_000;
        let notes = if made.is_multiple_of(3) { self.notes } else { later.notes };
        Row { value: made, unique: later.unique, body: Body { text: made / 2, toasted: made.is_multiple_of(2) }, notes }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unique = self.unique.map_or("-".to_owned(), |unique| unique.to_string());
        let size = if self.body.toasted { "B" } else { "b" };
        let notes = if self.notes == Notes::default() { String::new() } else { format!(" {:?}", self.notes) };
        write!(f, "(v{} u{unique} {size}{}{notes})", self.value, self.body.text)
    }
}

/// A row as a stream delivers it: the body may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The plain column.
    pub value: u32,
    /// The column with the secondary unique index.
    pub unique: Option<u8>,
    /// The body, unless omitted.
    pub body: Option<Body>,
    /// The column to which changes append.
    pub notes: Notes,
}

impl Sent {
    /// The row, with the body from elsewhere if it was omitted.
    pub fn with(self, body: Body) -> Row {
        Row { value: self.value, unique: self.unique, body: self.body.unwrap_or(body), notes: self.notes }
    }
}

/// What one statement did to one row, or to a table.
#[derive(Clone, PartialEq, Debug)]
pub enum Write {
    /// A new row.
    Insert(Key, Row),
    /// The row at `from` became the row at `to`; the two are alike unless the key changed.
    Update {
        /// The key before.
        from: Key,
        /// The key after.
        to: Key,
        /// The row before.
        old: Row,
        /// The row after.
        new: Row,
    },
    /// The row went.
    Delete(Key, Row),
    /// All rows of the table went.
    Truncate(TableId),
}

impl Write {
    /// The keys it touches, and how; none for a truncation.
    pub fn touches(&self) -> Vec<(Key, TouchKind)> {
        match self {
            Write::Insert(key, _) => vec![(*key, TouchKind::Put)],
            Write::Update { from, to, .. } if from == to => vec![(*to, TouchKind::Put)],
            Write::Update { from, to, .. } => vec![(*from, TouchKind::Delete), (*to, TouchKind::Put)],
            Write::Delete(key, _) => vec![(*key, TouchKind::Delete)],
            Write::Truncate(_) => Vec::new(),
        }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Write::Insert(key, row) => write!(f, "insert {key} {row}"),
            Write::Update { from, to, new, old } if from == to => write!(f, "update {to} {old} to {new}"),
            Write::Update { from, to, new, .. } => write!(f, "move {from} to {to} {new}"),
            Write::Delete(key, _) => write!(f, "delete {key}"),
            Write::Truncate(table) => write!(f, "truncate t{}", table.0),
        }
    }
}

/// Who committed what, and when.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    /// The node.
    pub source: NodeId,
    /// The transaction.
    pub xid: Xid,
    /// Where the commit record begins.
    pub begin: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// The commit time by the node's clock.
    pub micros: i64,
}

/// How large transactions and old rows are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Identity {
    /// REPLICA IDENTITY DEFAULT: of the old row the key, if it changed.
    Default,
    /// REPLICA IDENTITY FULL: the whole old row.
    Full,
}

/// The tables.
#[derive(Debug)]
pub struct Schema {
    catalog: Catalog,
    relations: Vec<Arc<Relation>>,
    /// What of the old row is sent.
    pub identity: Identity,
    /// Transactions with at least so many changes come as runs.
    pub large: usize,
}

const COLUMNS: [&str; 5] = ["id", "value", "code", "body", "notes"];

impl Schema {
    /// `tables` tables of the same shape.
    pub fn new(tables: u32, identity: Identity, large: usize) -> Schema {
        let catalog = Catalog::new((0..tables).map(table).collect(), KeyHasher::with_seed(7));
        let relations = catalog.tables().iter().map(|table| Arc::new(relation(table, identity))).collect();
        Schema { catalog, relations, identity, large }
    }

    /// The tables' ids.
    pub fn tables(&self) -> impl Iterator<Item = TableId> + '_ {
        self.catalog.tables().iter().map(|table| table.id)
    }

    /// The id by which the window knows the key.
    pub fn key_id(&self, key: Key) -> KeyId {
        let id = key.id.to_string();
        self.catalog.hasher.key(key.table, [(Cell::Text(id.as_bytes()), &KeyForm::Bytes)].into_iter())
    }

    /// The transaction as the stream's assembler hands it over.
    pub fn transaction(&self, commit: Commit, writes: &[Write]) -> Transaction {
        let (mut payload, mut touches, mut truncates) = (Vec::new(), Vec::new(), Vec::new());
        for write in writes {
            let offset = payload.len() as u64;
            let (table, op) = self.op(write);
            encode_record(&mut payload, table.0, commit.xid, &op);
            for (key, kind) in write.touches() {
                touches.push(Touch { key: self.key_id(key), offset, kind });
            }
            if let Write::Truncate(table) = write {
                truncates.push((*table, offset));
            }
        }
        let touches = if writes.len() >= self.large { runs(&touches) } else { Touches::List(touches) };
        Transaction {
            source: commit.source,
            xid: commit.xid,
            commit_lsn: commit.begin,
            end_lsn: commit.end,
            stamp: Stamp { micros: commit.micros, node: commit.source },
            changes: writes.len() as u64,
            relations: self.relations.clone(),
            touches,
            truncates,
            payload: Payload::Memory(Bytes::from(payload)),
            growth: None,
        }
    }

    fn op(&self, write: &Write) -> (TableId, Op) {
        let full = self.identity == Identity::Full;
        match write {
            Write::Insert(key, row) => (key.table, Op::Insert { new: tuple(key.id, *row, Some(row.body)) }),
            Write::Update { from, to, old, new } => {
                let kept = old.body == new.body && new.body.toasted;
                let identity = full.then(|| tuple(from.id, *old, Some(old.body)));
                let old = identity.or_else(|| (from != to).then(|| key_tuple(from.id)));
                (to.table, Op::Update { old, new: tuple(to.id, *new, (!kept).then_some(new.body)) })
            }
            Write::Delete(key, row) if full => (key.table, Op::Delete { old: tuple(key.id, *row, Some(row.body)) }),
            Write::Delete(key, _) => (key.table, Op::Delete { old: key_tuple(key.id) }),
            Write::Truncate(table) => (*table, Op::Truncate { group: vec![*table], restart_identity: false }),
        }
    }

    /// A table.
    pub fn table(&self, id: TableId) -> &Arc<Table> {
        self.catalog.table(id)
    }

    /// Gives keys their ids.
    pub fn hasher(&self) -> &KeyHasher {
        &self.catalog.hasher
    }

    /// The key of a tuple.
    ///
    /// # Errors
    /// If the tuple is not of these tables.
    pub fn key_of(&self, table: TableId, tuple: &Tuple) -> io::Result<Key> {
        Ok(Key { table, id: number(tuple, 0)?.unwrap_or(0) as u8 })
    }

    /// A row as sent.
    ///
    /// # Errors
    /// If the tuple is not of these tables.
    pub fn sent(&self, new: &Tuple) -> io::Result<Sent> {
        let value = number(new, 1)?.unwrap_or(0);
        let unique = number(new, 2)?.map(|unique| unique as u8);
        let notes = match new.cell(4) {
            Some(Cell::Text(text)) => Some(text),
            _ => None,
        };
        Ok(Sent { value, unique, body: body_of(new)?, notes: Notes::read(notes)? })
    }
}

fn table(number: u32) -> Table {
    let unique = vec![UniqueIndex {
        name: "code".to_owned(),
        columns: vec![2],
        nulls_not_distinct: false,
        deferrable: false,
        rule: None,
    }];
    Table { id: TableId(number), unique, ..Table::of_texts(&format!("t{number}"), &COLUMNS) }
}

fn relation(table: &Arc<Table>, identity: Identity) -> Relation {
    let column = |(i, name): (usize, &&str)| RelationColumn {
        name: (*name).to_owned(),
        type_oid: 25,
        in_identity: i == 0 || identity == Identity::Full,
    };
    Relation {
        oid: 16_384 + table.id.0,
        schema: table.schema.clone(),
        name: table.name.clone(),
        columns: COLUMNS.iter().enumerate().map(column).collect(),
        table: Some(table.clone()),
        column_of: (0..COLUMNS.len()).map(Some).collect(),
        key_positions: vec![0],
    }
}

fn tuple(id: u8, row: Row, body: Option<Body>) -> Tuple {
    let (id, value) = (id.to_string(), row.value.to_string());
    let unique = row.unique.map(|unique| unique.to_string());
    let body = body.map(|body| format!("{}{}", if body.toasted { "B" } else { "b" }, body.text));
    let notes = row.notes.text();
    let cells = [
        Cell::Text(id.as_bytes()),
        Cell::Text(value.as_bytes()),
        unique.as_ref().map_or(Cell::Null, |unique| Cell::Text(unique.as_bytes())),
        body.as_ref().map_or(Cell::Unchanged, |body| Cell::Text(body.as_bytes())),
        notes.as_ref().map_or(Cell::Null, |notes| Cell::Text(notes.as_bytes())),
    ];
    Tuple::from_cells(cells.into_iter())
}

fn key_tuple(id: u8) -> Tuple {
    let id = id.to_string();
    Tuple::from_cells([Cell::Text(id.as_bytes()), Cell::Null, Cell::Null, Cell::Null, Cell::Null].into_iter())
}

fn number(tuple: &Tuple, column: usize) -> io::Result<Option<u32>> {
    match tuple.cell(column) {
        Some(Cell::Text(bytes)) => digits(bytes).map(Some),
        _ => Ok(None),
    }
}

fn body_of(tuple: &Tuple) -> io::Result<Option<Body>> {
    match tuple.cell(3) {
        Some(Cell::Text([size, text @ ..])) => Ok(Some(Body { text: digits(text)?, toasted: *size == b'B' })),
        _ => Ok(None),
    }
}

fn digits(bytes: &[u8]) -> io::Result<u32> {
    let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
    text.parse().map_err(io::Error::other)
}

fn runs(touches: &[Touch]) -> Touches {
    let half = touches.len().div_ceil(2).max(1);
    let run = |touches: &[Touch]| {
        let entry = |touch: &Touch| Entry { key: touch.key, value: [0, touch.pack()] };
        let mut entries: Vec<_> = touches.iter().map(entry).collect();
        let bytes = encode(&mut entries);
        Run::new(&entries, Payload::Memory(Bytes::from(bytes)))
    };
    Touches::Runs(touches.chunks(half).map(run).collect())
}
