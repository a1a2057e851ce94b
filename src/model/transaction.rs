//! A source transaction, whole: who, when, which keys it touched, and its changes as a [`Payload`].
//!
//! A payload is a sequence of records: `u32` length of what follows, `u32` index into
//! [`Transaction::relations`], `u32` xid, a tag byte, the tuples as `pgoutput` sent them. Integers are
//! little-endian. The payload of a large transaction lies in a spill file; nobody holds it in memory whole.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use crate::model::change::{Change, Op, Relation};
use crate::model::ids::{KeyId, Lsn, NodeId, Stamp, TableId, Xid};
use crate::model::payload::Payload;
use crate::model::run::Run;
use crate::model::tuple::Tuple;

/// What a change does to one key. An update that changes the key is two touches of the same offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TouchKind {
    /// There is a row afterwards.
    Put,
    /// There is none.
    Delete,
}

/// One change of one key: where in the payload its record begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touch {
    /// The key.
    pub key: KeyId,
    /// Byte offset of the record; orders the changes of a transaction.
    pub offset: u64,
    /// What it does.
    pub kind: TouchKind,
}

impl Touch {
    /// Offset and kind in one word, ordered by offset.
    pub fn pack(self) -> u64 {
        self.offset << 1 | u64::from(self.kind == TouchKind::Put)
    }

    /// The inverse of [`Touch::pack`].
    pub fn unpack(key: KeyId, word: u64) -> Touch {
        Touch { key, offset: word >> 1, kind: if word & 1 == 1 { TouchKind::Put } else { TouchKind::Delete } }
    }
}

/// The keys of a transaction: a list for most, sorted runs for a large one (entry value: `[0, Touch::pack]`).
#[derive(Debug)]
pub enum Touches {
    /// In order of the changes.
    List(Vec<Touch>),
    /// Each run is sorted by key.
    Runs(Vec<Run>),
}

/// A transaction that was told of while it came; alike for all that was told of it.
#[derive(Clone, Default, Debug)]
pub struct Growth(Arc<()>);

impl PartialEq for Growth {
    fn eq(&self, other: &Growth) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A committed transaction of one source.
#[derive(Debug)]
pub struct Transaction {
    /// Where it committed.
    pub source: NodeId,
    /// Its top transaction id there.
    pub xid: Xid,
    /// Where its commit record begins: its place in the order of the source.
    pub commit_lsn: Lsn,
    /// Where its commit record ends: progress once it is applied.
    pub end_lsn: Lsn,
    /// When it committed, by the source's clock.
    pub stamp: Stamp,
    /// Number of records in the payload.
    pub changes: u64,
    /// The shapes that the payload's records refer to by index.
    pub relations: Vec<Arc<Relation>>,
    /// The keys touched.
    pub touches: Touches,
    /// The tables emptied, with the offset of the record.
    pub truncates: Vec<(TableId, u64)>,
    /// The records.
    pub payload: Payload,
    /// If it was told of while it came: its payload begins with all that was told.
    pub growth: Option<Growth>,
}

/// What has come of a transaction whose end has not come yet.
#[derive(Clone, Debug)]
pub struct Growing {
    /// Its changes so far, from the first one on; no keys, and of its commit only the position, if that is known.
    pub so_far: Arc<Transaction>,
    /// Which transaction it is.
    pub growth: Growth,
    /// When it committed, if that is known: else it may yet be rolled back.
    pub committed: Option<Stamp>,
}

/// Bytes read from a spilled payload at a time when it is walked.
const WALK_READ: usize = 1 << 20;
const HEADER: usize = 4;

impl Transaction {
    /// A relation with a column that the catalog does not know, if there is one: see
    /// [`Relation::unknown_column`].
    pub fn misfit(&self) -> Option<&Relation> {
        self.relations.iter().find(|relation| relation.unknown_column().is_some()).map(Arc::as_ref)
    }

    /// The change whose record begins at `offset`.
    pub fn change_at(&self, offset: u64) -> io::Result<Change> {
        let len = self.payload.read(offset, HEADER)?.try_get_u32_le().map_err(|_| cut())?;
        self.decode(self.payload.read(offset + HEADER as u64, len as usize)?)
    }

    /// All changes in order, each with the offset of its record.
    pub fn changes(&self) -> impl Iterator<Item = io::Result<(u64, Change)>> + '_ {
        self.changes_from(0)
    }

    /// The changes from the record at `offset` on.
    pub fn changes_from(&self, offset: u64) -> impl Iterator<Item = io::Result<(u64, Change)>> + '_ {
        let mut next = offset;
        let mut buffered = Bytes::new();
        std::iter::from_fn(move || {
            (next < self.payload.len()).then(|| {
                let at = next;
                let record = self.next_record(&mut buffered, &mut next)?;
                Ok((at, self.decode(record)?))
            })
        })
    }

    /// Calls `found` with each key touched; in order of the changes for a small transaction, else by run.
    ///
    /// # Errors
    /// If a run on disk can't be read.
    pub fn each_key(&self, mut found: impl FnMut(KeyId)) -> io::Result<()> {
        self.each_touch(|touch| found(touch.key))
    }

    /// Calls `found` with each key of `table` touched. Walks the payload.
    ///
    /// # Errors
    /// If the payload or a run on disk can't be read.
    pub fn each_key_of(&self, table: TableId, mut found: impl FnMut(KeyId)) -> io::Result<()> {
        let mut records = std::collections::HashSet::new();
        for change in self.changes() {
            let (offset, change) = change?;
            if change.relation.table_id() == table {
                records.insert(offset);
            }
        }
        self.each_touch(|touch| {
            if records.contains(&touch.offset) {
                found(touch.key);
            }
        })
    }

    fn each_touch(&self, mut found: impl FnMut(Touch)) -> io::Result<()> {
        match &self.touches {
            Touches::List(touches) => touches.iter().for_each(|touch| found(*touch)),
            Touches::Runs(runs) => {
                for entry in runs.iter().flat_map(Run::entries) {
                    let entry = entry?;
                    found(Touch::unpack(entry.key, entry.value[1]));
                }
            }
        }
        Ok(())
    }

    fn next_record(&self, buffered: &mut Bytes, next: &mut u64) -> io::Result<Bytes> {
        if buffered.len() < HEADER {
            *buffered = self.payload.read(*next, WALK_READ)?;
        }
        let len = HEADER + buffered.get(..HEADER).ok_or_else(cut)?.get_u32_le() as usize;
        if buffered.len() < len {
            *buffered = self.payload.read(*next, len.max(WALK_READ))?;
        }
        if buffered.len() < len {
            return Err(cut());
        }
        *next += len as u64;
        let mut record = buffered.split_to(len);
        record.advance(HEADER);
        Ok(record)
    }

    fn decode(&self, mut record: Bytes) -> io::Result<Change> {
        if record.len() < 9 {
            return Err(cut());
        }
        let relation = self.relations.get(record.get_u32_le() as usize).ok_or_else(cut)?.clone();
        let xid = Xid(record.get_u32_le());
        let tuple = |record: &mut Bytes| Tuple::parse(record).map_err(io::Error::other);
        let op = match record.get_u8() {
            b'I' => Op::Insert { new: tuple(&mut record)? },
            b'U' => Op::Update { old: None, new: tuple(&mut record)? },
            b'O' => Op::Update { old: Some(tuple(&mut record)?), new: tuple(&mut record)? },
            b'D' => Op::Delete { old: tuple(&mut record)? },
            b'T' if record.len() > 1 => Op::Truncate {
                restart_identity: record.get_u8() != 0,
                group: record.chunks_exact(4).map(|mut id| TableId(id.get_u32_le())).collect(),
            },
            _ => return Err(cut()),
        };
        Ok(Change { relation, xid, op })
    }
}

/// Appends the record of one change; `relation` is its index into [`Transaction::relations`].
pub fn encode_record(out: &mut Vec<u8>, relation: u32, xid: Xid, op: &Op) {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u32_le(relation);
    out.put_u32_le(xid.0);
    match op {
        Op::Insert { new } => {
            out.put_u8(b'I');
            out.put_slice(new.as_bytes());
        }
        Op::Update { old, new } => {
            out.put_u8(if old.is_some() { b'O' } else { b'U' });
            out.put_slice(old.as_ref().map_or(&[], Tuple::as_bytes));
            out.put_slice(new.as_bytes());
        }
        Op::Delete { old } => {
            out.put_u8(b'D');
            out.put_slice(old.as_bytes());
        }
        Op::Truncate { group, restart_identity } => {
            out.put_u8(b'T');
            out.put_u8(u8::from(*restart_identity));
            group.iter().for_each(|table| out.put_u32_le(table.0));
        }
    }
    let len = u32::try_from(out.len() - start - HEADER).expect("a row is at most 1 GB by the protocol");
    out[start..start + HEADER].copy_from_slice(&len.to_le_bytes());
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a record of a spilled transaction is damaged")
}
