//! The changes of one transaction while they come in: records, touches and the relations that they refer to.
//!
//! Holds a bounded amount of memory, whatever the transaction's size, and accounts for it in the budget.

use std::collections::HashSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::key::KeyHasher;
use crate::model::transaction::encode_record;
use crate::model::{Lsn, NodeId, Op, Relation, Stamp, TableId, Touch, Touches, Transaction, Xid};
use crate::stream::error::AssembleError;
use crate::stream::keys;
use crate::stream::log::{Home, Log};
use crate::stream::message::CommitPoint;
use crate::stream::spill::{Reservation, Spill};
use crate::stream::touch_log::{Pressure, TouchLog};

/// A transaction of more bytes goes to disk even if the budget has room: one must not starve the others, and what is there can
/// be applied while the rest comes.
const MOST_IN_MEMORY: u64 = 2 << 20;
/// So many more bytes on disk are worth being told of.
const GROWN: u64 = 1 << 20;
/// What a transaction takes beside its records and touches: its own fields, its place in queues.
const BASE: u64 = 512;

/// Changes in the order in which they came.
#[derive(Debug)]
pub struct Draft {
    spill: Arc<Spill>,
    hasher: KeyHasher,
    relations: Vec<Arc<Relation>>,
    /// OID → place of its latest version in `relations`.
    places: FxHashMap<u32, u32>,
    log: Log,
    touches: TouchLog,
    truncates: Vec<(TableId, u64)>,
    changes: u64,
    /// How many bytes have been told of, see [`Draft::so_far`].
    told: u64,
    reservation: Reservation,
}

impl Draft {
    /// No change yet.
    pub fn new(spill: Arc<Spill>, hasher: KeyHasher) -> Draft {
        Draft {
            relations: Vec::new(),
            places: FxHashMap::default(),
            log: Log::new(spill.clone()),
            touches: TouchLog::new(spill.clone()),
            truncates: Vec::new(),
            changes: 0,
            told: 0,
            reservation: spill.reservation(),
            hasher,
            spill,
        }
    }

    /// Whether there is no change.
    pub fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// Appends a change of `relation`, which must be one that replicates.
    pub fn push(&mut self, relation: &Arc<Relation>, xid: Xid, mut op: Op) -> Result<(), AssembleError> {
        let offset = self.log.end();
        for (key, kind) in keys::touched(&self.hasher, relation, &mut op)? {
            self.touches.push(Touch { key, offset, kind });
        }
        if let Op::Truncate { .. } = op {
            self.truncates.push((relation.table_id(), offset));
        }
        let place = self.place(relation);
        self.log.append(|out| encode_record(out, place, xid, &op))?;
        self.changes += 1;
        self.keep_within_budget()
    }

    /// Whether much has come since [`Draft::so_far`].
    pub fn has_grown(&self) -> bool {
        self.log.written_len() >= self.told + GROWN
    }

    /// What of it is on disk, as if it were a transaction, without its keys and its commit.
    pub fn so_far(&mut self, source: NodeId, xid: Xid) -> Transaction {
        self.told = self.log.written_len();
        Transaction {
            source,
            xid,
            commit_lsn: Lsn::ZERO,
            end_lsn: Lsn::ZERO,
            stamp: Stamp { micros: 0, node: source },
            changes: self.changes,
            relations: self.relations.clone(),
            touches: Touches::List(Vec::new()),
            truncates: self.truncates.clone(),
            payload: self.log.written(),
            growth: None,
        }
    }

    fn place(&mut self, relation: &Arc<Relation>) -> u32 {
        if let Some(place) = self.places.get(&relation.oid)
            && Arc::ptr_eq(&self.relations[*place as usize], relation)
        {
            return *place;
        }
        let place = u32::try_from(self.relations.len()).expect("fewer relations than 2^32");
        self.relations.push(relation.clone());
        self.places.insert(relation.oid, place);
        place
    }

    fn memory(&self) -> u64 {
        BASE + self.log.buffered() + self.touches.memory()
    }

    fn keep_within_budget(&mut self) -> Result<(), AssembleError> {
        let within = self.reservation.cover(self.memory());
        let pressure = if within.is_ok() { Pressure::None } else { Pressure::UsedUp };
        if self.log.home() == Home::Memory && (pressure == Pressure::UsedUp || self.log.end() > MOST_IN_MEMORY) {
            self.log.leave_memory()?;
            self.reservation.set(self.memory());
        }
        self.touches.settle(pressure)?;
        if pressure == Pressure::UsedUp {
            self.reservation.set(self.memory());
        }
        Ok(())
    }

    /// The transaction.
    pub fn finish(self, source: NodeId, xid: Xid, point: CommitPoint) -> Result<Transaction, AssembleError> {
        let (touches, memory) = self.touches.finish()?;
        let payload = self.log.finish(BASE + memory, self.reservation)?;
        Ok(Transaction {
            source,
            xid,
            commit_lsn: point.lsn,
            end_lsn: point.end_lsn,
            stamp: Stamp { micros: point.micros, node: source },
            changes: self.changes,
            relations: self.relations,
            touches,
            truncates: self.truncates,
            payload,
            growth: None,
        })
    }

    /// The same changes in the same order, but for those of `aborted`: one pass over the records.
    pub fn without(self, aborted: &HashSet<Xid>) -> Result<Draft, AssembleError> {
        let mut kept = Draft::new(self.spill.clone(), self.hasher);
        let nowhere = CommitPoint { lsn: Default::default(), end_lsn: Default::default(), micros: 0 };
        let all = self.finish(NodeId(0), Xid(0), nowhere)?;
        for change in all.changes() {
            let (_, change) = change.map_err(AssembleError::ReadBack)?;
            if !aborted.contains(&change.xid) {
                kept.push(&change.relation, change.xid, change.op)?;
            }
        }
        Ok(kept)
    }
}
