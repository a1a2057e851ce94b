//! A server in memory: row versions, row and table locks, statements under READ COMMITTED, commit, crash.
//!
//! A statement that must wait answers [`Done::Blocked`] and is tried again later against the newest committed
//! version, which is what READ COMMITTED does after a lock wait.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Cut, Lsn, NodeId, TableId, Xid};
use crate::simulate::held::{Changes, Refused};
use crate::simulate::random::Random;
use crate::simulate::rows::{Commit, Key, Row, Schema, Write};
use crate::simulate::wal::{Entry, Kind, Wal};

/// Who wrote a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Author {
    /// An application.
    Local,
    /// The daemon.
    Ours,
}

/// A committed row version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// The row.
    pub row: Row,
    /// The transaction that wrote it.
    pub xmin: Xid,
    /// Whose transaction that was.
    pub author: Author,
}

/// Which versions a statement of ours may touch (R4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Any: the row is locked and everything about it is known.
    Open,
    /// Only what the window knows.
    Known {
        /// Older transactions have all been decoded.
        horizon: Xid,
        /// The newest decoded local change of the key.
        decoded: Option<Xid>,
    },
}

impl Guard {
    fn admits(self, version: &Version) -> bool {
        match self {
            Guard::Open => true,
            Guard::Known { horizon, decoded } => {
                version.author == Author::Ours || version.xmin.0 < horizon.0 || Some(version.xmin) == decoded
            }
        }
    }
}

/// What came of a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// It did what it says.
    Written,
    /// There is no such row.
    Nothing,
    /// Another transaction holds a lock.
    Blocked(Xid),
    /// The guard refused the row.
    Refused,
    /// A row of that key exists.
    Exists,
    /// Another row holds the unique value.
    Duplicate(Key),
}

/// A transaction in progress.
#[derive(Clone, Debug, Default)]
pub struct Open {
    pending: BTreeMap<Key, Option<Row>>,
    locks: BTreeSet<Key>,
    shared: BTreeSet<TableId>,
    exclusive: BTreeSet<TableId>,
    writes: Vec<Write>,
}

/// The server.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its place.
    pub id: NodeId,
    /// Its log.
    pub wal: Wal,
    /// Its clock less the true time.
    pub skew: i64,
    /// What its slot has confirmed.
    pub slot: Lsn,
    /// What the slot's file says: where it is after a crash.
    pub slot_saved: Lsn,
    /// What all slots may confirm, as last written here, durably, before any of them did.
    pub cut: Option<Cut>,
    base: BTreeMap<Key, Version>,
    rows: BTreeMap<Key, Version>,
    open: BTreeMap<u32, Open>,
    held: BTreeMap<Key, Refused>,
    progress: Vec<Lsn>,
    next_xid: u32,
}

/// How far a batch moves progress.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Of which source.
    pub source: NodeId,
    /// From there.
    pub from: Lsn,
    /// To there.
    pub to: Lsn,
}

const FIRST_XID: u32 = 10;

impl Node {
    /// A server with rows that every node has.
    pub fn new(id: NodeId, nodes: usize, base: &BTreeMap<Key, Row>) -> Node {
        let start = Lsn(1000 * (u64::from(id.0) + 1));
        let old = |row: &Row| Version { row: *row, xmin: Xid(FIRST_XID - 1), author: Author::Local };
        let rows: BTreeMap<Key, Version> = base.iter().map(|(key, row)| (*key, old(row))).collect();
        Node {
            id,
            wal: Wal::new(start),
            skew: 0,
            slot: start,
            slot_saved: start,
            cut: None,
            base: rows.clone(),
            rows,
            open: BTreeMap::new(),
            held: BTreeMap::new(),
            progress: vec![Lsn::ZERO; nodes],
            next_xid: FIRST_XID,
        }
    }

    /// The committed rows.
    pub fn rows(&self) -> &BTreeMap<Key, Version> {
        &self.rows
    }

    /// The row that every node had before all logs.
    pub fn base(&self, key: Key) -> Option<Row> {
        self.base.get(&key).map(|version| version.row)
    }

    /// The progress rows.
    pub fn progress(&self) -> &[Lsn] {
        &self.progress
    }

    /// Sets the progress rows that setup writes.
    pub fn set_up(&mut self, progress: Vec<Lsn>) {
        self.progress = progress;
    }

    /// The oldest transaction in progress: `pg_snapshot_xmin(pg_current_snapshot())`.
    pub fn oldest_running(&self) -> Xid {
        Xid(self.open.keys().next().copied().unwrap_or(self.next_xid))
    }

    /// Begins a transaction.
    pub fn begin(&mut self) -> Xid {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.open.insert(xid, Open::default());
        Xid(xid)
    }

    /// Ends a transaction without effect.
    pub fn roll_back(&mut self, xid: Xid) {
        self.open.remove(&xid.0);
    }

    /// The row as the transaction sees it.
    pub fn see(&self, xid: Xid, key: Key) -> Option<Row> {
        match self.open(xid).pending.get(&key) {
            Some(pending) => *pending,
            None => self.rows.get(&key).map(|version| version.row),
        }
    }

    /// Whether the transaction holds the row's lock.
    pub fn holds(&self, xid: Xid, key: Key) -> bool {
        self.open(xid).locks.contains(&key) || self.open(xid).exclusive.contains(&key.table)
    }

    fn open(&self, xid: Xid) -> &Open {
        self.open.get(&xid.0).expect("a statement runs in an open transaction")
    }

    fn open_mut(&mut self, xid: Xid) -> &mut Open {
        self.open.get_mut(&xid.0).expect("a statement runs in an open transaction")
    }

    fn others(&self, xid: Xid) -> impl Iterator<Item = (Xid, &Open)> {
        self.open.iter().filter(move |(other, _)| **other != xid.0).map(|(other, open)| (Xid(*other), open))
    }

    fn locked(&self, xid: Xid, key: Key) -> Option<Xid> {
        self.others(xid).find(|(_, open)| open.locks.contains(&key)).map(|(other, _)| other)
    }

    /// Takes the lock that every statement takes on its table.
    fn share(&mut self, xid: Xid, table: TableId) -> Option<Done> {
        if let Some((other, _)) = self.others(xid).find(|(_, open)| open.exclusive.contains(&table)) {
            return Some(Done::Blocked(other));
        }
        self.open_mut(xid).shared.insert(table);
        None
    }

    /// Locks the whole table: LOCK TABLE … IN ACCESS EXCLUSIVE MODE.
    pub fn lock_table(&mut self, xid: Xid, table: TableId) -> Done {
        let taken = |open: &Open| open.shared.contains(&table) || open.exclusive.contains(&table);
        if let Some((other, _)) = self.others(xid).find(|(_, open)| taken(open)) {
            return Done::Blocked(other);
        }
        self.open_mut(xid).exclusive.insert(table);
        Done::Written
    }

    /// SELECT … FOR UPDATE.
    pub fn lock(&mut self, xid: Xid, key: Key) -> Done {
        if let Some(blocked) = self.share(xid, key.table) {
            return blocked;
        }
        if self.see(xid, key).is_none() {
            return Done::Nothing;
        }
        if let Some(other) = self.locked(xid, key) {
            return Done::Blocked(other);
        }
        self.open_mut(xid).locks.insert(key);
        Done::Written
    }

    /// INSERT.
    pub fn insert(&mut self, xid: Xid, key: Key, row: Row) -> Done {
        if let Some(blocked) = self.share(xid, key.table) {
            return blocked;
        }
        let pending = self.others(xid).find(|(_, open)| open.pending.contains_key(&key));
        if let Some((other, _)) = pending {
            return Done::Blocked(other);
        }
        if self.see(xid, key).is_some() {
            return Done::Exists;
        }
        if let Some(refused) = self.taken(xid, key, row.unique) {
            return refused;
        }
        self.record(xid, key, Some(row), Write::Insert(key, row))
    }

    /// UPDATE of the row at `key`, which may move to another key.
    pub fn update(&mut self, xid: Xid, key: Key, to: Key, guard: Guard, set: impl FnOnce(Row) -> Row) -> Done {
        let old = match self.existing(xid, key, guard) {
            Ok(old) => old,
            Err(done) => return done,
        };
        let new = set(old);
        if to != key {
            let pending = self.others(xid).find(|(_, open)| open.pending.contains_key(&to));
            if let Some((other, _)) = pending {
                return Done::Blocked(other);
            }
            if self.see(xid, to).is_some() {
                return Done::Exists;
            }
        }
        if let Some(refused) = self.taken_but(xid, &[key, to], new.unique) {
            return refused;
        }
        if to != key {
            let open = self.open_mut(xid);
            open.pending.insert(key, None);
            open.locks.insert(key);
        }
        self.record(xid, to, Some(new), Write::Update { from: key, to, old, new })
    }

    /// DELETE.
    pub fn delete(&mut self, xid: Xid, key: Key, guard: Guard) -> Done {
        match self.existing(xid, key, guard) {
            Ok(old) => self.record(xid, key, None, Write::Delete(key, old)),
            Err(done) => done,
        }
    }

    /// TRUNCATE.
    pub fn truncate(&mut self, xid: Xid, table: TableId) -> Done {
        let done = self.lock_table(xid, table);
        if done != Done::Written {
            return done;
        }
        let open = self.open_mut(xid);
        open.pending.iter_mut().filter(|(key, _)| key.table == table).for_each(|(_, row)| *row = None);
        open.writes.push(Write::Truncate(table));
        for key in self.rows.keys().filter(|key| key.table == table).copied().collect::<Vec<_>>() {
            self.open_mut(xid).pending.insert(key, None);
        }
        Done::Written
    }

    /// The row that a statement finds and may touch, now locked.
    fn existing(&mut self, xid: Xid, key: Key, guard: Guard) -> Result<Row, Done> {
        if let Some(blocked) = self.share(xid, key.table) {
            return Err(blocked);
        }
        let row = self.see(xid, key).ok_or(Done::Nothing)?;
        if let Some(other) = self.locked(xid, key) {
            return Err(Done::Blocked(other));
        }
        let own = self.open(xid).pending.contains_key(&key);
        if !own && self.rows.get(&key).is_some_and(|version| !guard.admits(version)) {
            return Err(Done::Refused);
        }
        Ok(row)
    }

    fn taken(&self, xid: Xid, key: Key, unique: Option<u8>) -> Option<Done> {
        self.taken_but(xid, &[key], unique)
    }

    /// Whether a row other than `but` holds the unique value, or may by a transaction in progress.
    fn taken_but(&self, xid: Xid, but: &[Key], unique: Option<u8>) -> Option<Done> {
        let unique = unique?;
        let holds = |row: Option<Row>| row.is_some_and(|row| row.unique == Some(unique));
        let committed = |key: &Key| self.rows.get(key).map(|version| version.row);
        let table = but[0].table;
        for (other, open) in self.others(xid) {
            for (key, row) in open.pending.iter().filter(|(key, _)| key.table == table && !but.contains(key)) {
                if holds(*row) || holds(committed(key)) {
                    return Some(Done::Blocked(other));
                }
            }
        }
        let own = &self.open(xid).pending;
        let keys = self.rows.keys().chain(own.keys());
        let mut holders = keys.filter(|key| key.table == table && !but.contains(key));
        holders.find(|key| holds(self.see(xid, **key))).map(|key| Done::Duplicate(*key))
    }

    fn record(&mut self, xid: Xid, key: Key, row: Option<Row>, write: Write) -> Done {
        let open = self.open_mut(xid);
        open.pending.insert(key, row);
        open.locks.insert(key);
        open.writes.push(write);
        Done::Written
    }

    /// COMMIT of an application's transaction; `None` if it wrote nothing.
    pub fn commit_local(&mut self, xid: Xid, now: i64, schema: &Schema, random: &mut Random) -> Option<&Entry> {
        let open = self.open.remove(&xid.0)?;
        if open.writes.is_empty() {
            return None;
        }
        let (begin, end) = self.wal.place(random);
        let commit = Commit { source: self.id, xid, begin, end, micros: now + self.skew };
        let transaction = schema.transaction(commit, &open.writes);
        let seen = self.progress.clone();
        let redo = redo(&open, xid, Author::Local);
        let kind = Kind::Local(transaction.into());
        self.log(Entry { begin, end, xid, kind, held: Vec::new(), redo, writes: open.writes, seen });
        self.wal.entries().last()
    }

    /// COMMIT of a batch of ours: progress moves by compare-and-set in the same transaction.
    ///
    /// # Panics
    /// If progress is not what the batch began with: it would be applied twice.
    pub fn commit_own(&mut self, xid: Xid, link: Moved, held: Changes, random: &mut Random) -> Lsn {
        let Moved { source, from, to } = link;
        let open = self.open.remove(&xid.0).expect("a batch commits an open transaction");
        assert_eq!(self.progress[source.index()], from, "a batch was about to be applied twice");
        let (begin, end) = self.wal.place(random);
        let redo = redo(&open, xid, Author::Ours);
        let kind = Kind::Own { source, applied: to };
        self.log(Entry { begin, end, xid, kind, held, redo, writes: Vec::new(), seen: Vec::new() });
        end
    }

    /// A transaction of another session of ours that changes nothing but the record of refused rows, flushed at once.
    pub fn write_held(&mut self, held: Changes, random: &mut Random) {
        let xid = self.begin();
        self.open.remove(&xid.0);
        let (begin, end) = self.wal.place(random);
        let kind = Kind::Message(0);
        self.log(Entry { begin, end, xid, kind, held, redo: Vec::new(), writes: Vec::new(), seen: Vec::new() });
        self.wal.flush();
    }

    /// The record of refused rows.
    pub fn held(&self) -> &BTreeMap<Key, Refused> {
        &self.held
    }

    /// Gives back the lock of a row that the transaction did not change: by going back to a savepoint.
    pub fn unlock(&mut self, xid: Xid, key: Key) {
        let open = self.open_mut(xid);
        if !open.pending.contains_key(&key) {
            open.locks.remove(&key);
        }
    }

    /// A barrier's message, flushed at once.
    pub fn emit(&mut self, nonce: u64, random: &mut Random) {
        let xid = self.begin();
        self.open.remove(&xid.0);
        let (begin, end) = self.wal.place(random);
        let kind = Kind::Message(nonce);
        self.log(Entry {
            begin,
            end,
            xid,
            kind,
            held: Vec::new(),
            redo: Vec::new(),
            writes: Vec::new(),
            seen: Vec::new(),
        });
        self.wal.flush();
    }

    fn log(&mut self, entry: Entry) {
        self.redo(&entry);
        self.wal.append(entry);
    }

    fn redo(&mut self, entry: &Entry) {
        for (key, version) in &entry.redo {
            match version {
                Some(version) => self.rows.insert(*key, *version),
                None => self.rows.remove(key),
            };
        }
        if let Kind::Own { source, applied } = entry.kind {
            self.progress[source.index()] = applied;
        }
        for (key, refused) in &entry.held {
            match refused {
                Some(refused) => drop(self.held.insert(*key, *refused)),
                None => drop(self.held.remove(key)),
            }
        }
    }

    /// Loses open transactions and what was not flushed. `set_up` are the progress rows from before the log.
    pub fn crash(&mut self, set_up: Vec<Lsn>) {
        self.wal.crash();
        self.open.clear();
        self.rows = self.base.clone();
        self.held.clear();
        self.progress = set_up;
        let entries = self.wal.entries().to_vec();
        entries.iter().for_each(|entry| self.redo(entry));
        self.next_xid = entries.iter().map(|entry| entry.xid.0 + 1).max().unwrap_or(FIRST_XID);
    }
}

fn redo(open: &Open, xid: Xid, author: Author) -> Vec<(Key, Option<Version>)> {
    let version = |row: &Option<Row>| row.map(|row| Version { row, xmin: xid, author });
    open.pending.iter().map(|(key, row)| (*key, version(row))).collect()
}
