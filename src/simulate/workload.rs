//! Applications: random transactions that hold their locks for a while, so that commits come in another order
//! than statements.

use std::collections::VecDeque;

use crate::model::{NodeId, TableId, Xid};
use crate::simulate::node::{Done, Guard, Node};
use crate::simulate::notes::Notes;
use crate::simulate::random::Random;
use crate::simulate::rows::{Body, Key, Row};

/// A statement of an application.
#[derive(Clone, Debug)]
pub enum Statement {
    /// INSERT … ON CONFLICT DO NOTHING.
    Insert(Key, Row),
    /// UPDATE of some columns.
    Update {
        /// The row.
        key: Key,
        /// The plain column.
        value: Option<u32>,
        /// What the notes are edited by.
        entry: Option<u32>,
        /// The unique column, if it is set.
        unique: Option<Option<u8>>,
        /// The body, if it is set.
        body: Option<Body>,
    },
    /// UPDATE of the key.
    Move(Key, Key, u32),
    /// DELETE.
    Delete(Key),
    /// DELETE if the unique column has this value: how the loser of a unique conflict goes (R12).
    DeleteIf(Key, u8),
    /// The same, where a rule gives it another value instead.
    RenameIf(Key, u8),
    /// TRUNCATE.
    Truncate(TableId),
}

/// A transaction in progress.
#[derive(Clone, Debug)]
pub struct Local {
    /// Where.
    pub node: NodeId,
    /// Its id there.
    pub xid: Xid,
    /// What is left to do.
    pub statements: VecDeque<Statement>,
    /// How often in a row it had to wait.
    pub blocked: u32,
}

/// What the random transactions do.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Keys a table.
    pub keys: u8,
    /// The tables.
    pub tables: Vec<TableId>,
    /// Different values of the unique column; none leaves it NULL.
    pub uniques: u8,
    /// How often of a thousand statements one changes a key.
    pub moves: usize,
    /// How often one truncates.
    pub truncates: usize,
    /// How often a body is TOASTed.
    pub toasted: usize,
    /// How often of a hundred other statements one deletes.
    pub deletes: usize,
    /// Whether statements that set the plain column edit the notes, too; else those stay NULL.
    pub appends: bool,
    /// The last value given; each is given once.
    pub last: u32,
}

impl Workload {
    /// A row with fresh values.
    pub fn row(&mut self, random: &mut Random) -> Row {
        let value = self.fresh();
        let notes = if self.appends { Notes::default().edited(value) } else { Notes::default() };
        Row { value, unique: self.unique(random), body: self.body(random), notes }
    }

    fn fresh(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    fn unique(&mut self, random: &mut Random) -> Option<u8> {
        (self.uniques > 0 && random.permille(600)).then(|| random.below(self.uniques.into()) as u8)
    }

    fn body(&mut self, random: &mut Random) -> Body {
        Body { text: self.fresh(), toasted: random.permille(self.toasted) }
    }

    fn key(&self, random: &mut Random) -> Key {
        Key { table: *random.pick(&self.tables), id: random.below(self.keys.into()) as u8 }
    }

    /// One statement.
    pub fn statement(&mut self, random: &mut Random) -> Statement {
        let key = self.key(random);
        if random.permille(self.truncates) {
            return Statement::Truncate(key.table);
        }
        if random.permille(self.moves) {
            let to = Key { id: random.below(self.keys.into()) as u8, ..key };
            return Statement::Move(key, to, self.fresh());
        }
        match random.below(100) {
            at if at < self.deletes => Statement::Delete(key),
            at if at < self.deletes + 30 => Statement::Insert(key, self.row(random)),
            _ => {
                let only_body = random.permille(100);
                let value = (!only_body).then(|| self.fresh());
                Statement::Update {
                    key,
                    value,
                    entry: value.filter(|_| self.appends),
                    unique: random.permille(300).then(|| self.unique(random)),
                    body: (only_body || random.permille(350)).then(|| self.body(random)),
                }
            }
        }
    }
}

/// Runs one statement; a failed one is as if behind a savepoint.
pub fn run(node: &mut Node, xid: Xid, statement: &Statement) -> Done {
    match *statement {
        Statement::Insert(key, row) => node.insert(xid, key, row),
        Statement::Update { key, value, entry, unique, body } => node.update(xid, key, key, Guard::Open, |old| Row {
            value: value.unwrap_or(old.value),
            unique: unique.unwrap_or(old.unique),
            body: body.unwrap_or(old.body),
            notes: entry.map_or(old.notes, |entry| old.notes.edited(entry)),
        }),
        Statement::Move(from, to, value) if from != to => {
            node.update(xid, from, to, Guard::Open, |old| Row { value, ..old })
        }
        Statement::Move(..) => Done::Nothing,
        Statement::Delete(key) => node.delete(xid, key, Guard::Open),
        Statement::DeleteIf(key, unique) | Statement::RenameIf(key, unique) => match node.lock(xid, key) {
            Done::Written if node.see(xid, key).is_some_and(|row| row.unique == Some(unique)) => match statement {
                Statement::RenameIf(..) => node.update(xid, key, key, Guard::Open, |old| old.renamed()),
                _ => node.delete(xid, key, Guard::Open),
            },
            done => done,
        },
        Statement::Truncate(table) => node.truncate(xid, table),
    }
}
