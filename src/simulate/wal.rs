//! A node's write-ahead log as logical decoding sees it: commit records in order, and what was flushed of them.

use std::sync::Arc;

use crate::model::{Lsn, NodeId, Transaction, Xid};
use crate::simulate::held::Changes;
use crate::simulate::node::Version;
use crate::simulate::random::Random;
use crate::simulate::rows::{Key, Write};

/// What a commit record stands for.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A local transaction.
    Local(Arc<Transaction>),
    /// A commit of ours.
    Own {
        /// The source it applied.
        source: NodeId,
        /// The progress it wrote.
        applied: Lsn,
    },
    /// A barrier's message.
    Message(u64),
}

/// One commit.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where its record begins.
    pub begin: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// The transaction.
    pub xid: Xid,
    /// What it is.
    pub kind: Kind,
    /// What it did to the record of refused rows.
    pub held: Changes,
    /// The rows it left.
    pub redo: Vec<(Key, Option<Version>)>,
    /// What its statements did; empty unless local.
    pub writes: Vec<Write>,
    /// The truth about what its author had seen: the progress rows when it committed.
    pub seen: Vec<Lsn>,
}

/// The log.
#[derive(Clone, Debug)]
pub struct Wal {
    entries: Vec<Entry>,
    flushed: usize,
    insert: Lsn,
    flush: Lsn,
}

const RECORD: u64 = 8;

impl Wal {
    /// Where our last commit ends, flushed or not; 0/0 if there is none.
    pub fn last_own(&self) -> Lsn {
        let own = self.entries.iter().rev().find(|entry| matches!(entry.kind, Kind::Own { .. }));
        own.map_or(Lsn::ZERO, |entry| entry.end)
    }

    /// An empty log that begins at `insert`.
    pub fn new(insert: Lsn) -> Wal {
        Wal { entries: Vec::new(), flushed: 0, insert, flush: insert }
    }

    /// Begin and end of the next commit record; sometimes it begins where the last one ended.
    pub fn place(&mut self, random: &mut Random) -> (Lsn, Lsn) {
        if random.permille(600) {
            self.insert.0 += RECORD * (1 + random.below(3) as u64);
        }
        (self.insert, Lsn(self.insert.0 + RECORD))
    }

    /// Appends the commit that [`Wal::place`] made room for.
    pub fn append(&mut self, entry: Entry) {
        self.insert = entry.end;
        self.entries.push(entry);
    }

    /// All commits, flushed or not.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The commits that decoding may read.
    pub fn flushed(&self) -> &[Entry] {
        &self.entries[..self.flushed]
    }

    /// Where the next record begins at the earliest.
    pub fn insert_lsn(&self) -> Lsn {
        self.insert
    }

    /// Up to where the log is safe.
    pub fn flush_lsn(&self) -> Lsn {
        self.flush
    }

    /// Makes everything safe.
    pub fn flush(&mut self) {
        self.flushed = self.entries.len();
        self.flush = self.insert;
    }

    /// Loses what was not flushed; later records take its place.
    pub fn crash(&mut self) -> Vec<Entry> {
        self.insert = self.flush;
        self.entries.split_off(self.flushed)
    }

    /// The first commit whose record begins at or after `lsn`: where a server starts to send.
    pub fn at(&self, lsn: Lsn) -> usize {
        self.entries.partition_point(|entry| entry.begin < lsn)
    }
}
