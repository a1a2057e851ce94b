//! The coordinator: told what was decoded and committed, it answers what to write, what to decide again and what
//! may be forgotten. No I/O but the reading of spilled keys, no clock.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::conflict::history::History;
use crate::conflict::marks::{Mark, Marks};
use crate::conflict::resolve::{Candidate, Resolver};
use crate::conflict::window::{ChangeRef, KeyMap, KeySet, Seq, Window};
use crate::model::{KeyId, Link, Lsn, NodeId, TableId, TouchKind, Transaction};

/// What a node's stream delivered, in stream order.
#[derive(Clone, Debug)]
pub enum Event {
    /// A local transaction.
    Transaction(Arc<Transaction>),
    /// A commit of ours, seen in the stream.
    OwnCommit {
        /// The source whose changes it applied.
        source: NodeId,
        /// The position of the source up to which they were applied.
        applied: Lsn,
        /// Where the commit record ended at this node.
        at: Lsn,
    },
    /// A barrier's message.
    Barrier(u64),
    /// Everything that committed before this has been delivered.
    Position(Lsn),
}

/// One direction's state.
#[derive(Debug, Default)]
struct LinkState {
    /// Number of the next transaction to apply.
    cursor: Seq,
    /// The position in the target's progress row.
    applied: Lsn,
    in_flight: Option<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    end: Seq,
    end_lsn: Lsn,
    /// Keys of the batch that a local change touched which was decoded after the batch decided on them.
    suspects: KeyMap<TableId>,
}

/// Consecutive transactions of one link, to be applied as one.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The link.
    pub link: Link,
    /// Number of the first transaction.
    pub first: Seq,
    /// The transactions; none if the batch only moves the progress row.
    pub transactions: Vec<Arc<Transaction>>,
    /// For each transaction a number that changes when its author's node had applied something since the one before.
    pub views: Vec<u64>,
    /// Progress before.
    pub start_lsn: Lsn,
    /// Progress afterwards.
    pub end_lsn: Lsn,
}

impl Batch {
    /// The number after the last transaction.
    pub fn end(&self) -> Seq {
        self.first + self.transactions.len() as Seq
    }
}

/// What is to become of one key at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The batch's last change of the key.
    pub incoming: ChangeRef,
    /// The change whose value the key has now, if it is in the window.
    pub before: Option<ChangeRef>,
    /// The change whose value it must have.
    pub winner: ChangeRef,
    /// The change present that conflicts with the incoming one.
    pub rival: Option<ChangeRef>,
    /// The value must be written.
    pub write: bool,
}

/// What a truncation meets at one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Survivor {
    /// The key.
    pub key: KeyId,
    /// The change that put a row which the truncation's author had not seen.
    pub rival: Option<ChangeRef>,
    /// The change whose value must come out.
    pub outcome: ChangeRef,
    /// The change whose value the key has now.
    pub standing: Option<ChangeRef>,
}

/// A decision that is taken again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redecision {
    /// The change whose value must come out; none if the window has no change of the key any more.
    pub winner: Option<ChangeRef>,
    /// The local change and the remote one that did not see each other.
    pub conflict: Option<(ChangeRef, ChangeRef)>,
    /// For [`Coordinator::reopen_done`].
    pub ticket: u64,
}

/// A key that must be decided again at a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reopened {
    /// Its table.
    pub table: TableId,
    /// The key.
    pub key: KeyId,
}

/// See the module.
#[derive(Debug)]
pub struct Coordinator {
    window: Window,
    marks: Vec<Marks>,
    links: Vec<LinkState>,
    confirmed: Vec<Lsn>,
    /// Whether the node's stream has been read again up to where it was when we connected.
    rebuilt: Vec<bool>,
    /// Whether that was so for every node at one time since the start.
    complete: bool,
    /// While a commit of ours at the node is on its way, what its later changes had seen is not known.
    committing: Vec<usize>,
    waiting: Vec<VecDeque<Event>>,
    arrived: Vec<(NodeId, u64)>,
    /// By node: the keys to decide again, with a count of the reasons.
    reopened: Vec<KeyMap<(TableId, u64)>>,
    reasons: u64,
    resolver: Resolver,
}

impl Coordinator {
    /// Starts with nothing but what the slots have confirmed.
    pub fn new(confirmed: Vec<Lsn>, resolver: Resolver) -> Coordinator {
        let nodes = confirmed.len();
        Coordinator {
            window: Window::new(&confirmed),
            marks: NodeId::all(nodes).map(|node| Marks::new(node, nodes)).collect(),
            links: (0..nodes * nodes).map(|_| LinkState::default()).collect(),
            confirmed,
            rebuilt: vec![false; nodes],
            complete: false,
            committing: vec![0; nodes],
            waiting: vec![VecDeque::new(); nodes],
            arrived: Vec::new(),
            reopened: vec![KeyMap::default(); nodes],
            reasons: 0,
            resolver,
        }
    }

    // === connecting ===

    /// The node is being connected (again): its stream will be read again from what it has confirmed. Marks come
    /// back from there; those of commits that the server may have lost are dropped.
    pub fn disconnected(&mut self, node: NodeId) {
        let slot = self.confirmed[node.index()];
        self.rebuilt[node.index()] = false;
        self.waiting[node.index()].clear();
        self.committing[node.index()] = 0;
        self.marks[node.index()].cut(slot);
        for source in self.nodes().filter(|source| *source != node) {
            self.link_mut(Link { source, target: node }).in_flight = None;
        }
    }

    /// The target's progress row for the link, as read after connecting.
    pub fn set_progress(&mut self, link: Link, applied: Lsn) {
        let log = self.window.log(link.source);
        let cursor = log.iter().take_while(|logged| logged.transaction.end_lsn <= applied).count() as Seq + log.first();
        let state = self.link_mut(link);
        state.applied = applied;
        state.cursor = cursor;
    }

    /// The node's stream has been read again up to a barrier sent after connecting. Decisions there that may not
    /// have known of a local change are taken again; the first time once every node's stream is read.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn rebuilt(&mut self, node: NodeId) -> io::Result<()> {
        self.rebuilt[node.index()] = true;
        if self.complete {
            return self.reopen_unknown(|target| target == node);
        }
        self.complete = self.is_rebuilt();
        if self.complete { self.reopen_unknown(|_| true) } else { Ok(()) }
    }

    fn reopen_unknown(&mut self, at: impl Fn(NodeId) -> bool) -> io::Result<()> {
        let contested: Vec<KeyId> = self.window.contested().collect();
        for key in contested {
            self.reopen_contested(key, &at)?;
        }
        let truncates: Vec<_> = self.window.truncates().filter(|(_, change)| at(change.source)).collect();
        truncates.into_iter().try_for_each(|(table, change)| self.reopen_after_truncate(table, change))
    }

    /// Whether every node's stream has been read again.
    pub fn is_rebuilt(&self) -> bool {
        self.rebuilt.iter().all(|rebuilt| *rebuilt)
    }

    /// Whether batches may be applied at the node: its own stream has been read again, and every stream had been
    /// once, for no decision is taken with a window that is not whole (R6).
    pub fn is_ready(&self, node: NodeId) -> bool {
        self.complete && self.rebuilt[node.index()]
    }

    // === what was decoded ===

    /// Takes what a node's stream delivered. What the node committed while a commit of ours is on its way there
    /// waits until that is known.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn deliver(&mut self, node: NodeId, event: Event) -> io::Result<()> {
        if self.committing[node.index()] > 0 {
            self.waiting[node.index()].push_back(event);
            return Ok(());
        }
        self.admit(node, event)
    }

    fn admit(&mut self, node: NodeId, event: Event) -> io::Result<()> {
        match event {
            Event::Position(lsn) => self.window.advance(node, lsn),
            Event::Barrier(nonce) => self.arrived.push((node, nonce)),
            Event::OwnCommit { source, applied, at } => {
                self.marks[node.index()].add(source, Mark { at, applied });
                self.window.advance(node, at);
            }
            Event::Transaction(transaction) => self.admit_transaction(transaction)?,
        }
        Ok(())
    }

    fn admit_transaction(&mut self, transaction: Arc<Transaction>) -> io::Result<()> {
        let source = transaction.source;
        if transaction.commit_lsn < self.window.log(source).decoded {
            return Ok(()); // read again after a reconnect
        }
        let seen = self.marks[source.index()].seen(transaction.commit_lsn);
        let end_lsn = transaction.end_lsn;
        let seq = self.window.push(transaction, seen)?;
        for target in self.nodes().filter(|target| *target != source) {
            let link = self.link_mut(Link { source, target });
            if link.cursor == seq && end_lsn <= link.applied {
                link.cursor = seq + 1;
            }
        }
        if !self.complete {
            return Ok(());
        }
        self.reopen_decided(source, seq)?;
        let own = |change: &ChangeRef| change.source == source && change.seq == seq;
        let truncates: Vec<_> = self.window.truncates().filter(|(_, change)| own(change)).collect();
        truncates.into_iter().try_for_each(|(table, change)| self.reopen_after_truncate(table, change))
    }

    /// The barriers that arrived since the last call.
    pub fn take_barriers(&mut self) -> Vec<(NodeId, u64)> {
        std::mem::take(&mut self.arrived)
    }

    // === reopening (R4) ===

    /// A local change came to light: where a change that its author had not seen is applied at its node already,
    /// the decision there did not know it.
    fn reopen_decided(&mut self, node: NodeId, seq: Seq) -> io::Result<()> {
        let keys = self.contested_keys(node, seq)?;
        for key in keys {
            let history = self.window.indexed(key)?;
            let Some(local) = history.latest(node, seq + 1) else { continue };
            for source in self.nodes().filter(|source| *source != node) {
                let link = self.link(Link { source, target: node });
                let in_flight = link.in_flight.as_ref().map_or(link.cursor, |batch| batch.end);
                let unseen = self.window.log(source).seq_at(self.window.transaction(local).seen[source.index()]);
                let Some(last) = history.latest(source, in_flight).filter(|last| last.seq >= unseen) else { continue };
                let decided = history.latest(source, link.cursor).is_some_and(|last| last.seq >= unseen);
                let table = self.table_of(local)?;
                if decided {
                    self.reopen(node, table, key);
                }
                if last.seq >= self.link(Link { source, target: node }).cursor
                    && let Some(batch) = &mut self.link_mut(Link { source, target: node }).in_flight
                {
                    batch.suspects.insert(key, table);
                }
            }
        }
        Ok(())
    }

    /// The keys of a transaction that other sources changed too.
    fn contested_keys(&self, node: NodeId, seq: Seq) -> io::Result<Vec<KeyId>> {
        let mut keys = Vec::new();
        let transaction = &self.window.log(node).get(seq).expect("just pushed").transaction;
        transaction.each_key(|key| {
            if self.window.is_contested(key) {
                keys.push(key);
            }
        })?;
        Ok(keys)
    }

    fn table_of(&self, change: ChangeRef) -> io::Result<TableId> {
        Ok(self.window.transaction(change).transaction.change_at(change.offset())?.relation.table_id())
    }

    /// After the window was built again: wherever two changes of a key did not see each other, the node of one
    /// may have decided on the other without knowing its own.
    fn reopen_contested(&mut self, key: KeyId, at: &impl Fn(NodeId) -> bool) -> io::Result<()> {
        let history = self.window.indexed(key)?;
        for link in self.all_links().into_iter().filter(|link| at(link.target)) {
            let Some(theirs) = history.latest(link.source, self.link(link).cursor) else { continue };
            let Some(local) = history.latest(link.target, self.window.log(link.target).end()) else { continue };
            if self.apart(&history, theirs, local) {
                let table = self.table_of(local)?;
                self.reopen(link.target, table, key);
            }
        }
        Ok(())
    }

    fn apart(&self, history: &History, theirs: ChangeRef, local: ChangeRef) -> bool {
        let lists = (history.of(theirs.source), history.of(local.source));
        let any_local = |change: &ChangeRef| {
            let seen = &self.window.transaction(*change).seen;
            let unseen = self.window.log(local.source).seq_at(seen[local.source.index()]);
            let missed = |local: &ChangeRef| {
                let seen = self.window.transaction(*local).seen[change.source.index()];
                self.window.log(change.source).seq_at(seen) <= change.seq
            };
            lists.1.get(lists.1.partition_point(|local| local.seq < unseen)).is_some_and(missed)
        };
        lists.0.iter().take_while(|change| change.seq <= theirs.seq).any(any_local)
    }

    /// A local truncation came to light: rows that were put meanwhile without knowing it are decided again.
    fn reopen_after_truncate(&mut self, table: TableId, truncate: ChangeRef) -> io::Result<()> {
        let node = truncate.source;
        let mut keys = Vec::new();
        for source in self.nodes().filter(|source| *source != node) {
            let log = self.window.log(source);
            let unseen = log.seq_at(self.window.transaction(truncate).seen[source.index()]);
            let link = self.link(Link { source, target: node });
            let end = link.in_flight.as_ref().map_or(link.cursor, |batch| batch.end);
            for seq in unseen..end.max(unseen) {
                if let Some(logged) = log.get(seq) {
                    logged.transaction.each_key_of(table, |key| keys.push((source, seq, key)))?;
                }
            }
        }
        for (source, seq, key) in keys {
            let link = self.link_mut(Link { source, target: node });
            match &mut link.in_flight {
                Some(batch) if seq >= link.cursor => {
                    batch.suspects.insert(key, table);
                }
                _ => self.reopen(node, table, key),
            }
        }
        Ok(())
    }

    fn reopen(&mut self, node: NodeId, table: TableId, key: KeyId) {
        self.reasons += 1;
        self.reopened[node.index()].insert(key, (table, self.reasons));
    }

    /// A key to decide again at the node, if there is one.
    pub fn next_reopened(&self, node: NodeId) -> Option<Reopened> {
        self.reopened[node.index()].iter().next().map(|(key, (table, _))| Reopened { table: *table, key: *key })
    }

    /// Whether the key waits to be decided again at the node, or will once the batch in flight there commits.
    pub fn is_reopened(&self, node: NodeId, key: KeyId) -> bool {
        let suspect = |source| {
            let in_flight = self.link(Link { source, target: node }).in_flight.as_ref();
            in_flight.is_some_and(|batch| batch.suspects.contains_key(&key))
        };
        self.reopened[node.index()].contains_key(&key) || self.nodes().any(suspect)
    }

    /// How many keys wait to be decided again at the node.
    pub fn reopened_count(&self, node: NodeId) -> usize {
        self.reopened[node.index()].len()
    }

    /// Every key that waits to be decided again, at any node.
    pub fn all_reopened(&self) -> impl Iterator<Item = (TableId, KeyId)> + '_ {
        let suspects = self.links.iter().filter_map(|link| link.in_flight.as_ref()).flat_map(|batch| &batch.suspects);
        let suspects = suspects.map(|(key, table)| (*table, *key));
        self.reopened.iter().flatten().map(|(key, (table, _))| (*table, *key)).chain(suspects)
    }

    /// What a reopened key must be at the node: the outcome of all that is present, to be asked after a barrier
    /// under the row's lock.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn decide_again(&self, node: NodeId, reopened: Reopened) -> io::Result<Redecision> {
        let history = self.window.history(reopened.table, reopened.key)?;
        let ticket = self.reopened[node.index()].get(&reopened.key).map_or(0, |(_, reason)| *reason);
        let present = self.present(node);
        let local = history.latest(node, present[node.index()]);
        let conflict = local.and_then(|local| {
            let others = self.nodes().filter(|source| *source != node);
            let theirs: SmallVec<[ChangeRef; 4]> = others
                .filter_map(|source| history.latest(source, present[source.index()]))
                .filter(|theirs| history.concurrent(&self.window, local, *theirs))
                .collect();
            Some((local, self.latest_stamp(&theirs)?))
        });
        Ok(Redecision { winner: self.outcome(&history, &present), conflict, ticket })
    }

    /// Has a key decided again at the node.
    pub fn reopen_key(&mut self, node: NodeId, table: TableId, key: KeyId) {
        self.reopen(node, table, key);
    }

    /// The outcome has been written; a reason that came up since the decision keeps the key open.
    pub fn reopen_done(&mut self, node: NodeId, key: KeyId, ticket: u64) {
        let keys = &mut self.reopened[node.index()];
        if keys.get(&key).is_some_and(|(_, reason)| *reason <= ticket) {
            keys.remove(&key);
        }
    }

    // === batches ===

    /// The next batch of the link: at most about `changes` changes, at least one transaction. `None` if nothing
    /// waits, a batch is in flight, or the target is not ready.
    pub fn plan(&mut self, link: Link, changes: u64) -> Option<Batch> {
        if !self.is_ready(link.target) {
            return None;
        }
        let state = self.link(link);
        if state.in_flight.is_some() {
            return None;
        }
        let (first, start_lsn) = (state.cursor, state.applied);
        let mut count = 0;
        let (mut transactions, mut views) = (Vec::new(), Vec::new());
        let mut last_seen: Option<&[Lsn]> = None;
        while let Some(logged) = self.window.log(link.source).get(first + transactions.len() as Seq) {
            count += logged.transaction.changes;
            if !transactions.is_empty() && (count > changes || logged.transaction.misfit().is_some()) {
                break; // what comes before a transaction that can't be written is not held up by it
            }
            transactions.push(logged.transaction.clone());
            let others = |seen: &[Lsn]| {
                seen.iter().enumerate().filter(|(n, _)| *n != link.source.index()).map(|(_, l)| *l).collect::<Vec<_>>()
            };
            let changed = last_seen.is_some_and(|before| others(before) != others(&logged.seen));
            views.push(views.last().copied().unwrap_or(0) + u64::from(changed));
            last_seen = Some(&logged.seen);
        }
        let end_lsn = transactions.last()?.end_lsn;
        let batch = Batch { link, first, transactions, views, start_lsn, end_lsn };
        self.take_off(&batch);
        Some(batch)
    }

    /// A batch without transactions that brings the progress row to where the source has nothing to apply;
    /// `None` unless that moves it by at least `bytes`.
    pub fn plan_progress(&mut self, link: Link, bytes: u64) -> Option<Batch> {
        let through = self.applied_through(link.source, link.target);
        let state = self.link(link);
        let idle = self.window.log(link.source).end() == state.cursor;
        if !idle || state.in_flight.is_some() || through.bytes_since(state.applied) < bytes.max(1) {
            return None;
        }
        if !self.is_ready(link.target) {
            return None;
        }
        let (first, start_lsn) = (state.cursor, state.applied);
        let batch = Batch { link, first, transactions: Vec::new(), views: Vec::new(), start_lsn, end_lsn: through };
        self.take_off(&batch);
        Some(batch)
    }

    /// A batch that changes neither rows of its own nor progress: the frame of a reopened decision.
    pub fn plan_reopen(&mut self, link: Link) -> Option<Batch> {
        let state = self.link(link);
        if state.in_flight.is_some() || !self.is_ready(link.target) {
            return None;
        }
        let (first, applied) = (state.cursor, state.applied);
        let batch =
            Batch { link, first, transactions: Vec::new(), views: Vec::new(), start_lsn: applied, end_lsn: applied };
        self.take_off(&batch);
        Some(batch)
    }

    fn take_off(&mut self, batch: &Batch) {
        self.link_mut(batch.link).in_flight =
            Some(InFlight { end: batch.end(), end_lsn: batch.end_lsn, suspects: KeyMap::default() });
    }

    /// What the batch in flight makes of one key at its target, by all that is known now.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    ///
    /// # Panics
    /// If no batch of the link is in flight or it has no change of the key.
    pub fn decide(&mut self, link: Link, table: TableId, key: KeyId) -> io::Result<Decision> {
        let waits = self.reopened[link.target.index()].contains_key(&key);
        let batch = self.link_mut(link).in_flight.as_mut().expect("decisions are asked for a batch in flight");
        batch.suspects.remove(&key);
        let end = batch.end;
        if let Some(incoming) = self.window.only_change(table, key) {
            return Ok(Decision { incoming, before: None, winner: incoming, rival: None, write: true });
        }
        let history = self.window.history(table, key)?;
        let mut present = self.present(link.target);
        let before = self.outcome(&history, &present);
        let here = history.maximal(&self.window, &present);
        present[link.source.index()] = end;
        let incoming = history.latest(link.source, end).expect("the batch changes the key");
        let winner = self.outcome(&history, &present).expect("the batch's change is present");
        let reach = history.reach(&self.window, incoming);
        let superseded = |change: &ChangeRef| {
            change.source != incoming.source
                && history.reach(&self.window, *change)[incoming.source.index()] > incoming.seq
        };
        let rivals: SmallVec<[ChangeRef; 4]> = here
            .iter()
            .filter(|change| change.source != incoming.source && change.seq >= reach[change.source.index()])
            .copied()
            .collect();
        let rival = if here.iter().any(superseded) {
            None
        } else {
            before.filter(|before| rivals.contains(before)).or_else(|| self.latest_stamp(&rivals))
        };
        Ok(Decision { incoming, before, winner, rival, write: waits || before != Some(winner) })
    }

    /// Whether the author of `change` had applied a change of the key that is still on its way to the target of the
    /// batch in flight: then a row that is missing there is no conflict (R8).
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn is_ahead(&self, link: Link, table: TableId, key: KeyId, change: ChangeRef) -> io::Result<bool> {
        let history = self.window.history(table, key)?;
        let reach = history.reach(&self.window, change);
        let present = self.present(link.target);
        let missing = |source: NodeId| {
            let seen = history.latest(source, reach[source.index()]);
            source != change.source && seen.is_some_and(|seen| seen.seq >= present[source.index()])
        };
        Ok(self.nodes().any(missing))
    }

    /// The change of the key whose record begins at `offset` of that transaction.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn find_change(
        &self,
        table: TableId,
        key: KeyId,
        source: NodeId,
        place: (Seq, u64),
    ) -> io::Result<Option<ChangeRef>> {
        let history = self.window.history(table, key)?;
        Ok(history.of(source).iter().rfind(|change| (change.seq, change.offset()) == place).copied())
    }

    /// The change whose value the author of `change` had before it, if that is in the window.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn predecessor(&self, table: TableId, key: KeyId, change: ChangeRef) -> io::Result<Option<ChangeRef>> {
        let history = self.window.history(table, key)?;
        let own = history.of(change.source);
        let earlier = own.partition_point(|other| *other < change);
        if let Some(same) = earlier.checked_sub(1).map(|last| own[last]).filter(|other| other.seq == change.seq) {
            return Ok(Some(same));
        }
        Ok(self.outcome(&history, &history.reach(&self.window, change)))
    }

    /// The change whose value a key has at the node, if that is in the window.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn standing(&self, node: NodeId, table: TableId, key: KeyId) -> io::Result<Option<ChangeRef>> {
        Ok(self.outcome(&self.window.history(table, key)?, &self.present(node)))
    }

    /// What a truncation of `table` at `place` of the batch in flight meets: each key of the table in the window
    /// that another change present at the target touched, with what must come out (R15).
    ///
    /// # Errors
    /// If the keys or changes of a spilled transaction can't be read.
    pub fn survivors(&self, link: Link, table: TableId, place: (Seq, u64)) -> io::Result<Vec<Survivor>> {
        let before = self.present(link.target);
        let mut present = before.clone();
        // Rows that the batch puts after the truncation are written after it.
        present[link.source.index()] = place.0 + 1;
        let mut keys = KeySet::default();
        for source in self.nodes().filter(|source| *source != link.source) {
            let log = self.window.log(source);
            for logged in (log.first()..present[source.index()]).filter_map(|seq| log.get(seq)) {
                logged.transaction.each_key_of(table, |key| {
                    keys.insert(key);
                })?;
            }
        }
        let mut met = Vec::new();
        for key in keys {
            let history = self.window.history(table, key)?;
            let standing = self.outcome(&history, &before);
            let Some(outcome) = self.outcome(&history, &present) else { continue };
            let own = history.of(link.source).iter().rfind(|change| (change.seq, change.offset()) == place).copied();
            let maximal = history.maximal(&self.window, &before);
            let rival = own.and_then(|own| {
                let apart = |change: &&ChangeRef| {
                    change.kind() == TouchKind::Put && history.concurrent(&self.window, **change, own)
                };
                self.latest_stamp(&maximal.iter().filter(apart).copied().collect::<Vec<_>>())
            });
            met.push(Survivor { key, rival, outcome, standing });
        }
        Ok(met)
    }

    /// COMMIT is about to be sent.
    pub fn commit_begins(&mut self, link: Link) {
        self.committing[link.target.index()] += 1;
    }

    /// The batch in flight has committed; its commit record ends at `at` in the target's WAL. Call after
    /// [`Coordinator::commit_begins`].
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn committed(&mut self, link: Link, at: Lsn) -> io::Result<()> {
        let state = self.link_mut(link);
        let batch = state.in_flight.take().expect("a batch that commits is in flight");
        state.cursor = batch.end;
        state.applied = batch.end_lsn;
        self.marks[link.target.index()].add(link.source, Mark { at, applied: batch.end_lsn });
        for (key, table) in batch.suspects {
            self.reopen(link.target, table, key);
        }
        self.release(link.target)
    }

    /// The batch in flight was rolled back before COMMIT was sent.
    pub fn aborted(&mut self, link: Link) {
        self.link_mut(link).in_flight = None;
    }

    /// The server answered the COMMIT that [`Coordinator::commit_begins`] announced by rolling back.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn commit_failed(&mut self, link: Link) -> io::Result<()> {
        self.aborted(link);
        self.release(link.target)
    }

    fn release(&mut self, node: NodeId) -> io::Result<()> {
        let committing = &mut self.committing[node.index()];
        *committing = committing.saturating_sub(1);
        while self.committing[node.index()] == 0
            && let Some(event) = self.waiting[node.index()].pop_front()
        {
            self.admit(node, event)?;
        }
        Ok(())
    }

    // === forgetting ===

    /// Forgets what is stable; `frontier` comes from [`Coordinator::frontier`] and is now safe in the slots.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn forget(&mut self, frontier: &[Lsn]) -> io::Result<()> {
        for (node, lsn) in NodeId::all(frontier.len()).zip(frontier) {
            self.confirmed[node.index()] = self.confirmed[node.index()].max(*lsn);
            self.window.prune(node, *lsn)?;
            self.marks[node.index()].prune(*lsn);
        }
        Ok(())
    }

    /// For each source the position below which everything is forgotten.
    pub fn confirmed(&self) -> &[Lsn] {
        &self.confirmed
    }

    // === looking ===

    /// The window.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The marks of a node.
    pub fn marks(&self, node: NodeId) -> &Marks {
        &self.marks[node.index()]
    }

    /// All nodes.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + Clone + use<> {
        NodeId::all(self.marks.len())
    }

    /// The target's progress row for the link.
    pub fn applied(&self, link: Link) -> Lsn {
        self.link(link).applied
    }

    /// How many transactions wait for the link.
    pub fn queued(&self, link: Link) -> u64 {
        self.window.log(link.source).end().saturating_sub(self.link(link).cursor)
    }

    /// The first transaction that waits for the link.
    pub fn next_queued(&self, link: Link) -> Option<&Arc<Transaction>> {
        self.window.log(link.source).get(self.link(link).cursor).map(|logged| &logged.transaction)
    }

    /// Everything that committed at `source` before this is applied at `target`.
    pub fn applied_through(&self, source: NodeId, target: NodeId) -> Lsn {
        match self.next_queued(Link { source, target }) {
            Some(transaction) => transaction.commit_lsn,
            None => self.window.log(source).decoded,
        }
    }

    fn all_links(&self) -> Vec<Link> {
        self.nodes()
            .flat_map(|source| self.nodes().map(move |target| Link { source, target }))
            .filter(|link| link.source != link.target)
            .collect()
    }

    fn link(&self, link: Link) -> &LinkState {
        &self.links[link.source.index() * self.marks.len() + link.target.index()]
    }

    fn link_mut(&mut self, link: Link) -> &mut LinkState {
        let nodes = self.marks.len();
        &mut self.links[link.source.index() * nodes + link.target.index()]
    }

    /// For each source the number below which its transactions are present at the node.
    fn present(&self, node: NodeId) -> SmallVec<[Seq; 4]> {
        self.nodes()
            .map(|source| {
                if source == node {
                    self.window.log(node).end()
                } else {
                    self.link(Link { source, target: node }).cursor
                }
            })
            .collect()
    }

    fn outcome(&self, history: &History, present: &[Seq]) -> Option<ChangeRef> {
        let maximal = history.maximal(&self.window, present);
        match maximal.as_slice() {
            [] => None,
            [only] => Some(*only),
            several => self.resolver.choose(&self.candidates(several)),
        }
    }

    fn latest_stamp(&self, changes: &[ChangeRef]) -> Option<ChangeRef> {
        Resolver::LastUpdateWins.choose(&self.candidates(changes))
    }

    fn candidates(&self, changes: &[ChangeRef]) -> SmallVec<[Candidate; 4]> {
        let candidate = |change: &ChangeRef| Candidate {
            change: *change,
            stamp: self.window.transaction(*change).transaction.stamp,
        };
        changes.iter().map(candidate).collect()
    }
}
