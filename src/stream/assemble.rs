//! Messages → whole transactions, in commit order. No socket and no clock.
//!
//! A transaction comes in one piece between Begin and Commit, or streamed: in chunks, before its outcome is known,
//! mixed with chunks of others. Either way what leaves here is the same: the changes that committed, in the order
//! in which they were made. What our own apply sessions wrote leaves as a mark of its commit only.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use rustc_hash::FxHashMap;

use crate::model::table::Catalog;
use crate::model::{Growing, Growth, Lsn, NodeId, Op, Relation, Stamp, TableId, Transaction, Tuple, Xid};
use crate::stream::chars;
use crate::stream::decode::{self, Place};
use crate::stream::draft::Draft;
use crate::stream::error::AssembleError;
use crate::stream::message::{Bond, Chunk, CommitPoint, Message, Old};
use crate::stream::numbered::numbered;
use crate::stream::relations::Relations;
use crate::stream::spill::Spill;

/// The prefix of pgconcord's own logical messages.
pub const BARRIER_PREFIX: &str = "pgconcord";

/// What a source's stream tells, in its order.
#[derive(Clone, Debug)]
pub enum SourceEvent {
    /// A transaction that was written at this node, by its users or by somebody else's replication; never empty.
    Transaction(Arc<Transaction>),
    /// A transaction that pgconcord wrote there. One that changed no replicated table may not be told.
    OwnCommit {
        /// The node whose changes it brought.
        origin: NodeId,
        /// What the apply session set as its position there; 0/0 if the server streamed the transaction.
        origin_lsn: Lsn,
        /// Begin of its commit record here.
        commit_lsn: Lsn,
        /// End of its commit record here.
        end_lsn: Lsn,
    },
    /// A transaction that sent the barrier `nonce` has committed.
    Barrier {
        /// What `pg_logical_emit_message` was given.
        nonce: u64,
        /// End of its commit record.
        lsn: Lsn,
    },
    /// Everything that committed before it has been delivered.
    Position(Lsn),
    /// What has come of a large transaction, of which more will come; one at a time is told of.
    Growing(Growing),
    /// What was told of it does not count: it was rolled back, or some of it was.
    Withdrawn(Growth),
}

/// The state of one stream; see [`Assembler::feed`].
#[derive(Debug)]
pub struct Assembler {
    source: NodeId,
    own_origins: HashMap<String, NodeId>,
    spill: Arc<Spill>,
    relations: Relations,
    /// Streamed transactions whose outcome is not known yet, by top xid.
    streamed: FxHashMap<Xid, Box<Pending>>,
    /// The transaction that is told of while it comes.
    telling: Option<Growth>,
    state: State,
}

/// Which transaction the next change belongs to.
#[derive(Debug)]
enum State {
    /// None.
    Between,
    /// The one between Begin and Commit.
    Whole { pending: Box<Pending>, commit_lsn: Lsn, micros: i64 },
    /// The streamed one of which a chunk is open.
    Chunk(Xid),
}

/// A transaction under way.
#[derive(Debug)]
struct Pending {
    xid: Xid,
    author: Author,
    draft: Draft,
    barriers: Vec<(Xid, u64)>,
    aborted: HashSet<Xid>,
    /// Has changes of a subtransaction, which may be rolled back by itself.
    is_mixed: bool,
    growth: Option<Growth>,
}

/// Who wrote a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Author {
    /// Anybody else.
    Local,
    /// An apply session of ours.
    Own { origin: NodeId, lsn: Lsn },
}

impl Assembler {
    /// At the begin of a stream. `own_origins` are the names of the replication origins that our apply sessions use at
    /// this node, and whose changes they bring.
    pub fn new(
        source: NodeId,
        catalog: Arc<Catalog>,
        own_origins: HashMap<String, NodeId>,
        spill: Arc<Spill>,
    ) -> Assembler {
        let relations = Relations::new(catalog);
        let (streamed, telling, state) = (FxHashMap::default(), None, State::Between);
        Assembler { source, own_origins, spill, relations, streamed, telling, state }
    }

    /// Takes the next `pgoutput` message; appends what it completes to `events`.
    pub fn feed(&mut self, body: Bytes, events: &mut Vec<SourceEvent>) -> Result<(), AssembleError> {
        let (place, pending) = match &self.state {
            State::Chunk(xid) => (Place::InStream, self.streamed.get(xid)),
            State::Whole { pending, .. } => (Place::Outside, Some(pending)),
            State::Between => (Place::Outside, None),
        };
        // What we wrote ourselves comes too, always before version 16.
        if matches!(body.first(), Some(b'I' | b'U' | b'D'))
            && pending.is_some_and(|pending| pending.author != Author::Local)
        {
            return Ok(());
        }
        self.take(decode::message(body, place)?, events)
    }

    fn take(&mut self, message: Message, events: &mut Vec<SourceEvent>) -> Result<(), AssembleError> {
        match message {
            Message::Insert { xid, oid, new } => self.row(xid, oid, Op::Insert { new }, events),
            Message::Update { xid, oid, old, new } => {
                self.row(xid, oid, Op::Update { old: old.map(Old::into_tuple), new }, events)
            }
            Message::Delete { xid, oid, old } => self.row(xid, oid, Op::Delete { old: old.into_tuple() }, events),
            Message::Truncate { xid, oids, options } => self.truncate(xid, &oids, options.restart_identity),
            Message::Relation { shape, .. } => Ok(self.relations.announce(shape)?),
            Message::Type { .. } => Ok(()),
            Message::Origin { lsn, name } => self.origin(lsn, &name),
            Message::Logical { xid, bond: Bond::Transactional, prefix, content, .. } if prefix == BARRIER_PREFIX => {
                self.barrier(xid, &content)
            }
            Message::Logical { .. } => Ok(()),
            Message::Begin { commit_lsn, xid, micros } => self.begin(commit_lsn, micros, xid),
            Message::Commit(point) => self.commit(point, events),
            Message::StreamStart { xid, chunk } => self.stream_start(xid, chunk),
            Message::StreamStop => self.stream_stop(),
            Message::StreamCommit { xid, point } => self.stream_commit(xid, point, events),
            Message::StreamAbort { xid, subxid, .. } => self.stream_abort(xid, subxid, events),
            Message::BeginPrepare(_) => Err(AssembleError::Prepared("Begin Prepare")),
            Message::Prepare(_) => Err(AssembleError::Prepared("Prepare")),
            Message::CommitPrepared(_) => Err(AssembleError::Prepared("Commit Prepared")),
            Message::RollbackPrepared(_) => Err(AssembleError::Prepared("Rollback Prepared")),
            Message::StreamPrepare(_) => Err(AssembleError::Prepared("Stream Prepare")),
        }
    }

    fn fresh(&self, xid: Xid) -> Box<Pending> {
        let draft = Draft::new(self.spill.clone(), self.relations.catalog().hasher);
        Box::new(Pending {
            xid,
            author: Author::Local,
            draft,
            barriers: Vec::new(),
            aborted: HashSet::new(),
            is_mixed: false,
            growth: None,
        })
    }

    /// The transaction that the next change belongs to, and the relations known.
    fn current(&mut self) -> Result<(&mut Pending, &Relations), AssembleError> {
        let pending = match &mut self.state {
            State::Whole { pending, .. } => Some(pending),
            State::Chunk(xid) => self.streamed.get_mut(xid),
            State::Between => None,
        };
        match pending {
            Some(pending) => Ok((pending, &self.relations)),
            None => Err(AssembleError::OutOfOrder("a change stands outside of any transaction".to_owned())),
        }
    }

    fn require_between(&self, what: &str) -> Result<(), AssembleError> {
        match &self.state {
            State::Between => Ok(()),
            State::Whole { pending, .. } => {
                Err(AssembleError::OutOfOrder(format!("{what} within transaction {}", pending.xid)))
            }
            State::Chunk(xid) => {
                Err(AssembleError::OutOfOrder(format!("{what} within a chunk of the streamed transaction {xid}")))
            }
        }
    }

    fn begin(&mut self, commit_lsn: Lsn, micros: i64, xid: Xid) -> Result<(), AssembleError> {
        self.require_between("Begin")?;
        self.state = State::Whole { pending: self.fresh(xid), commit_lsn, micros };
        Ok(())
    }

    fn commit(&mut self, point: CommitPoint, events: &mut Vec<SourceEvent>) -> Result<(), AssembleError> {
        match std::mem::replace(&mut self.state, State::Between) {
            State::Whole { pending, commit_lsn, .. } if commit_lsn == point.lsn => self.deliver(pending, point, events),
            State::Whole { pending, commit_lsn, .. } => {
                let (xid, lsn) = (pending.xid, point.lsn);
                Err(AssembleError::OutOfOrder(format!("transaction {xid} began for {commit_lsn}, committed at {lsn}")))
            }
            State::Between | State::Chunk(_) => Err(AssembleError::OutOfOrder("Commit without Begin".to_owned())),
        }
    }

    fn stream_start(&mut self, xid: Xid, chunk: Chunk) -> Result<(), AssembleError> {
        self.require_between("Stream Start")?;
        if chunk == Chunk::First {
            let fresh = self.fresh(xid);
            self.streamed.insert(xid, fresh);
        } else if !self.streamed.contains_key(&xid) {
            return Err(AssembleError::OutOfOrder(format!("a later chunk of transaction {xid} came first")));
        }
        self.state = State::Chunk(xid);
        Ok(())
    }

    fn stream_stop(&mut self) -> Result<(), AssembleError> {
        match std::mem::replace(&mut self.state, State::Between) {
            State::Chunk(_) => Ok(()),
            State::Between | State::Whole { .. } => {
                Err(AssembleError::OutOfOrder("Stream Stop without Stream Start".to_owned()))
            }
        }
    }

    fn stream_commit(
        &mut self,
        xid: Xid,
        point: CommitPoint,
        events: &mut Vec<SourceEvent>,
    ) -> Result<(), AssembleError> {
        self.require_between("Stream Commit")?;
        let pending = self.streamed.remove(&xid);
        let unknown = || AssembleError::OutOfOrder(format!("Stream Commit of transaction {xid}, which never began"));
        self.deliver(pending.ok_or_else(unknown)?, point, events)
    }

    /// A transaction of which nothing was sent may be aborted all the same; there is nothing to forget then.
    fn stream_abort(&mut self, xid: Xid, subxid: Xid, events: &mut Vec<SourceEvent>) -> Result<(), AssembleError> {
        self.require_between("Stream Abort")?;
        if xid == subxid {
            let gone = self.streamed.remove(&xid).and_then(|pending| pending.growth);
            self.withdraw(gone, events);
        } else if let Some(pending) = self.streamed.get_mut(&xid) {
            pending.aborted.insert(subxid);
        }
        Ok(())
    }

    fn origin(&mut self, lsn: Lsn, name: &str) -> Result<(), AssembleError> {
        let own = self.own_origins.get(name).copied();
        let (pending, _) = self.current()?;
        pending.author = own.map_or(Author::Local, |origin| Author::Own { origin, lsn });
        Ok(())
    }

    /// The server gives a message in a streamed transaction the top xid, whichever subtransaction sent it.
    fn barrier(&mut self, xid: Option<Xid>, content: &[u8]) -> Result<(), AssembleError> {
        let (pending, _) = self.current()?;
        match std::str::from_utf8(content).ok().and_then(|text| text.parse().ok()) {
            Some(nonce) => pending.barriers.push((xid.unwrap_or(pending.xid), nonce)),
            None => tracing::debug!(xid = pending.xid.0, "a logical message with our prefix is no barrier"),
        }
        Ok(())
    }

    fn row(&mut self, xid: Option<Xid>, oid: u32, op: Op, events: &mut Vec<SourceEvent>) -> Result<(), AssembleError> {
        let (pending, relations) = self.current()?;
        let relation = known(relations, oid)?;
        let op = match (op, relation.table.as_ref().filter(|table| table.insert_only)) {
            (Op::Insert { new }, Some(table)) if table.key.is_empty() => Op::Insert { new: numbered(&new) },
            (Op::Update { .. } | Op::Delete { .. }, Some(_)) => return Ok(()),
            (op, _) => op,
        };
        for tuple in tuples(&op) {
            if tuple.len() != relation.columns.len() {
                let (has, is) = (relation.columns.len(), tuple.len());
                let name = format!("{}.{}", relation.schema, relation.name);
                return Err(AssembleError::OutOfOrder(format!("a row of {name} has {is} columns instead of {has}")));
            }
        }
        if relation.table.is_none() || pending.author != Author::Local {
            return Ok(());
        }
        let xid = xid.unwrap_or(pending.xid);
        pending.is_mixed |= xid != pending.xid;
        pending.draft.push(relation, xid, chars::spelled(relation, op))?;
        if pending.draft.has_grown() && !pending.is_mixed {
            self.tell(events)?;
        }
        Ok(())
    }

    /// Tells what has come of the transaction under way, unless another one is told of and this may yet be rolled back.
    fn tell(&mut self, events: &mut Vec<SourceEvent>) -> Result<(), AssembleError> {
        let (source, telling) = (self.source, self.telling.take());
        let (committed, commit_lsn) = match self.state {
            State::Whole { micros, commit_lsn, .. } => (Some(Stamp { micros, node: source }), commit_lsn),
            State::Between | State::Chunk(_) => (None, Lsn::ZERO),
        };
        let (pending, _) = self.current()?;
        if telling.is_none() || telling == pending.growth || committed.is_some() {
            let growth = pending.growth.get_or_insert_default().clone();
            let so_far = Arc::new(Transaction { commit_lsn, ..pending.draft.so_far(source, pending.xid) });
            self.telling = Some(growth.clone());
            events.push(SourceEvent::Growing(Growing { so_far, growth, committed }));
        } else {
            self.telling = telling;
        }
        Ok(())
    }

    /// What was told of that transaction, if anything, does not count.
    fn withdraw(&mut self, growth: Option<Growth>, events: &mut Vec<SourceEvent>) {
        self.telling = self.telling.take().filter(|telling| Some(telling) != growth.as_ref());
        events.extend(growth.map(SourceEvent::Withdrawn));
    }

    fn truncate(&mut self, xid: Option<Xid>, oids: &[u32], restart_identity: bool) -> Result<(), AssembleError> {
        let (pending, relations) = self.current()?;
        let all = oids.iter().map(|oid| known(relations, *oid)).collect::<Result<Vec<_>, _>>()?;
        if pending.author != Author::Local {
            return Ok(());
        }
        let replicates = |relation: &&&Arc<Relation>| relation.table.as_ref().is_some_and(|table| !table.insert_only);
        let replicated = || all.iter().filter(replicates);
        let group: Vec<TableId> = replicated().map(|relation| relation.table_id()).collect();
        for relation in replicated() {
            let op = Op::Truncate { group: group.clone(), restart_identity };
            pending.draft.push(relation, xid.unwrap_or(pending.xid), op)?;
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        pending: Box<Pending>,
        point: CommitPoint,
        events: &mut Vec<SourceEvent>,
    ) -> Result<(), AssembleError> {
        let before = events.len();
        let Pending { xid, author, mut draft, barriers, aborted, mut growth, .. } = *pending;
        let mut withdrawn = None;
        if let Author::Own { origin, lsn } = author {
            let (commit_lsn, end_lsn) = (point.lsn, point.end_lsn);
            events.push(SourceEvent::OwnCommit { origin, origin_lsn: lsn, commit_lsn, end_lsn });
        }
        if !aborted.is_empty() && !draft.is_empty() {
            draft = draft.without(&aborted)?;
            withdrawn = growth.take();
        }
        if !draft.is_empty() {
            self.telling = self.telling.take().filter(|telling| Some(telling) != growth.as_ref());
            let transaction = Transaction { growth, ..draft.finish(self.source, xid, point)? };
            events.push(SourceEvent::Transaction(Arc::new(transaction)));
        }
        let live = barriers.into_iter().filter(|(xid, _)| !aborted.contains(xid));
        events.extend(live.map(|(_, nonce)| SourceEvent::Barrier { nonce, lsn: point.end_lsn }));
        if events.len() == before {
            events.push(SourceEvent::Position(point.end_lsn));
        }
        self.withdraw(withdrawn, events);
        Ok(())
    }
}

fn known(relations: &Relations, oid: u32) -> Result<&Arc<Relation>, AssembleError> {
    let unknown = || AssembleError::OutOfOrder(format!("a change of relation {oid}, which was never announced"));
    relations.get(oid).ok_or_else(unknown)
}

fn tuples(op: &Op) -> impl Iterator<Item = &Tuple> {
    let (old, new) = match op {
        Op::Insert { new } => (None, Some(new)),
        Op::Update { old, new } => (old.as_ref(), Some(new)),
        Op::Delete { old } => (Some(old), None),
        Op::Truncate { .. } => (None, None),
    };
    old.into_iter().chain(new)
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod telling;
#[cfg(test)]
mod tests;
