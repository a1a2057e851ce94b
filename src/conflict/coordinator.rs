//! The coordinator: told what was decoded and committed, it answers what to write, what to decide again and what
//! may be forgotten. No I/O but the reading of spilled keys, no clock.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::conflict::condition::{Met, holds};
use crate::conflict::held::Held;
use crate::conflict::history::History;
use crate::conflict::marks::{Mark, Marks};
use crate::conflict::order::Ordered;
use crate::conflict::reopen::{Due, Rewritten};
use crate::conflict::resolve::{Candidate, choose};
use crate::conflict::window::{ChangeRef, KeyMap, KeySet, Seq, Window};
use crate::model::{
    Condition, Cut, Deciding, KeyId, Link, Lsn, NodeId, Resolver, Resolvers, TableId, TableRule, TouchKind, Transaction,
};

mod connecting;

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
pub(super) struct LinkState {
    /// Number of the next transaction to apply.
    pub(super) cursor: Seq,
    /// The position in the target's progress row.
    pub(super) applied: Lsn,
    /// It has been read since the start.
    is_known: bool,
    /// It has been read since the target was connected.
    is_current: bool,
    pub(super) in_flight: Option<InFlight>,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) end: Seq,
    pub(super) end_lsn: Lsn,
    /// Keys of the batch that a local change touched which was decoded after the batch decided on them; with its place.
    pub(super) suspects: KeyMap<(TableId, Lsn)>,
    /// The key that the batch decides again, and the newest reason that it answers.
    pub(super) again: Option<(KeyId, u64)>,
}

/// What the row of a key is at a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The change that the window says; none if it has no change of the key that is present there.
    pub change: Option<ChangeRef>,
    /// No change that is forgotten may stand there instead.
    pub is_certain: bool,
}

impl Standing {
    /// The change, if it is certain.
    pub fn certain(self) -> Option<ChangeRef> {
        self.change.filter(|_| self.is_certain)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Coordinator {
    pub(super) window: Window,
    pub(super) marks: Vec<Marks>,
    pub(super) links: Vec<LinkState>,
    confirmed: Vec<Lsn>,
    /// By node: see [`Cut::settled`].
    pub(super) settled: Vec<Lsn>,
    /// By node: how far its stream has been read since it was connected.
    reread: Vec<Lsn>,
    /// By node: whether that is up to where it was then.
    rebuilt: Vec<bool>,
    /// By node: decisions there that may not have known of a local change have been looked for, and are since.
    reviewed: Vec<bool>,
    /// While a commit of ours at the node is on its way, what its later changes had seen is not known.
    pub(super) committing: Vec<usize>,
    pub(super) waiting: Vec<VecDeque<Event>>,
    arrived: Vec<(NodeId, u64)>,
    /// By node: the keys to decide again.
    pub(super) reopened: Vec<KeyMap<Due>>,
    /// By node: keys that were decided again, by a commit that the server may still lose, and before which local
    /// changes may lie that are not decoded yet.
    pub(super) rewritten: Vec<KeyMap<Rewritten>>,
    pub(super) reasons: u64,
    /// By node: rows that it refused.
    pub(super) held: Vec<KeyMap<Held>>,
    pub(super) resolvers: Arc<Resolvers>,
    /// Keys whose rows began anew with an update, while the delete before it is in the window.
    pub(super) anew: KeySet,
    /// Between two rules: nothing is decided.
    pub(super) switching: bool,
    /// Tables the rows of which are to be made from several changes, with what of each source was forgotten when that became
    /// known.
    pub(super) will_merge: BTreeMap<TableId, Box<[Lsn]>>,
}

impl Coordinator {
    /// Starts with nothing.
    pub fn new(start: Cut, resolvers: Resolvers) -> Coordinator {
        let Cut { confirmed, settled, seen } = start;
        let nodes = confirmed.len();
        let mut marks: Vec<_> = NodeId::all(nodes).map(|node| Marks::new(node, nodes)).collect();
        for ((marks, seen), &at) in marks.iter_mut().zip(seen).zip(&confirmed) {
            let known = NodeId::all(nodes).zip(seen).filter(|(_, applied)| *applied > Lsn::ZERO);
            known.for_each(|(source, applied)| marks.add(source, Mark { at, applied }));
        }
        Coordinator {
            window: Window::new(&confirmed),
            marks,
            links: (0..nodes * nodes).map(|_| LinkState::default()).collect(),
            reread: confirmed.clone(),
            confirmed,
            settled,
            rebuilt: vec![false; nodes],
            reviewed: vec![false; nodes],
            committing: vec![0; nodes],
            waiting: vec![VecDeque::new(); nodes],
            arrived: Vec::new(),
            reopened: vec![KeyMap::default(); nodes],
            rewritten: vec![KeyMap::default(); nodes],
            reasons: 0,
            held: vec![KeyMap::default(); nodes],
            resolvers: Arc::new(resolvers),
            anew: KeySet::default(),
            switching: false,
            will_merge: BTreeMap::new(),
        }
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

    pub(super) fn admit(&mut self, node: NodeId, event: Event) -> io::Result<()> {
        let reached = match event {
            Event::Position(lsn) => lsn,
            Event::Barrier(nonce) => {
                self.arrived.push((node, nonce));
                Lsn::ZERO
            }
            Event::OwnCommit { source, applied, at } => {
                self.marks[node.index()].add(source, Mark { at, applied });
                at
            }
            Event::Transaction(transaction) => {
                let end_lsn = transaction.end_lsn;
                self.admit_transaction(transaction)?;
                end_lsn
            }
        };
        self.window.advance(node, reached);
        let reread = &mut self.reread[node.index()];
        *reread = reached.max(*reread);
        if self.is_coming_up() { self.come_up() } else { Ok(()) }
    }

    fn admit_transaction(&mut self, transaction: Arc<Transaction>) -> io::Result<()> {
        let source = transaction.source;
        if transaction.commit_lsn < self.window.log(source).decoded {
            return Ok(()); // read again after a reconnect
        }
        let seen = self.marks[source.index()].seen(transaction.commit_lsn);
        let (end_lsn, since) = (transaction.end_lsn, transaction.commit_lsn);
        let seq = self.window.push(transaction, seen)?;
        for target in self.nodes().filter(|target| *target != source) {
            let link = self.link_mut(Link { source, target });
            if link.cursor == seq && end_lsn <= link.applied {
                link.cursor = seq + 1;
            }
        }
        self.supersede_held(source, seq)?;
        if !self.reviewed[source.index()] {
            return Ok(()); // looked at when it is
        }
        self.reopen_decided(source, seq)?;
        self.renew_reopened(source, seq)?;
        let own = |change: &ChangeRef| change.source == source && change.seq == seq;
        let truncates: Vec<_> = self.window.truncates().filter(|(_, change)| own(change)).collect();
        truncates.into_iter().try_for_each(|(table, change)| self.reopen_after_truncate(table, change, since))
    }

    /// The barriers that arrived since the last call.
    pub fn take_barriers(&mut self) -> Vec<(NodeId, u64)> {
        std::mem::take(&mut self.arrived)
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
            let decoded = self.window.log(node).decoded;
            self.rewritten[node.index()].retain(|_, rewritten| rewritten.at > decoded);
        }
        Ok(())
    }

    /// For each source the position below which everything is forgotten.
    pub fn confirmed(&self) -> &[Lsn] {
        &self.confirmed
    }

    // === looking ===

    /// How conflicts of each table are resolved.
    pub fn resolvers(&self) -> &Arc<Resolvers> {
        &self.resolvers
    }

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

    /// Whether so many changes of the node wait for each other one, but for those in flight; those of a large transaction count as a
    /// thousand.
    pub fn is_ample(&self, source: NodeId, changes: u64) -> bool {
        let log = self.window.log(source);
        let mut links =
            self.nodes().filter(|target| *target != source).map(|target| self.link(Link { source, target }));
        links.all(|LinkState { cursor, in_flight, .. }| {
            log.changes_from(in_flight.as_ref().map_or(*cursor, |batch| batch.end)) >= changes
        })
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

    pub(super) fn all_links(&self) -> Vec<Link> {
        self.nodes()
            .flat_map(|source| self.nodes().map(move |target| Link { source, target }))
            .filter(|link| link.source != link.target)
            .collect()
    }

    pub(super) fn link(&self, link: Link) -> &LinkState {
        &self.links[link.source.index() * self.marks.len() + link.target.index()]
    }

    pub(super) fn link_mut(&mut self, link: Link) -> &mut LinkState {
        let nodes = self.marks.len();
        &mut self.links[link.source.index() * nodes + link.target.index()]
    }

    /// For each source the number below which its transactions are present at the node.
    pub(super) fn present(&self, node: NodeId) -> SmallVec<[Seq; 4]> {
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

    /// The change whose value a key of the table must have at the node, with these present there.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub(super) fn outcome(
        &self,
        node: NodeId,
        table: TableId,
        history: &History,
        present: &[Seq],
    ) -> io::Result<Option<ChangeRef>> {
        Ok(self.decided(node, table, history, present)?.0)
    }

    /// The same, and which of the table's cases decide.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub(super) fn decided(
        &self,
        node: NodeId,
        table: TableId,
        history: &History,
        present: &[Seq],
    ) -> io::Result<(Option<ChangeRef>, Deciding)> {
        let maximal = history.maximal(&self.window, present);
        match maximal.as_slice() {
            [] => Ok((None, Deciding::default())),
            [only] => Ok((Some(*only), Deciding::default())),
            several => {
                let rule = self.resolvers.rule(table);
                let deciding = self.deciding(rule, several)?;
                let resolver = rule.resolver_of(deciding);
                let candidates = several.iter().map(|change| self.candidate(resolver, *change));
                let candidates = candidates.collect::<io::Result<SmallVec<[Candidate; 4]>>>()?;
                Ok((choose(resolver, rule.deletes_of(deciding), &candidates, node), deciding))
            }
        }
    }

    /// Which of a rule's cases decide about these changes, none of which had seen another.
    fn deciding(&self, rule: &TableRule, changes: &[ChangeRef]) -> io::Result<Deciding> {
        if rule.cases.is_empty() {
            return Ok(Deciding::default());
        }
        let mut met = Vec::with_capacity(changes.len());
        let mut table = None;
        for change in changes {
            let transaction = &self.window.transaction(*change).transaction;
            let record = transaction.change_at(change.offset())?;
            met.push(Met::new(rule, change.kind(), transaction.stamp, &record));
            table.get_or_insert_with(|| record.relation.table().clone());
        }
        let holds = |condition: &Condition| table.as_ref().is_some_and(|table| holds(condition, table, &met));
        Ok(rule.deciding(holds))
    }

    /// The change whose value the key has at the node, with these present there.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub(super) fn standing_of(
        &self,
        node: NodeId,
        table: TableId,
        history: &History,
        present: &[Seq],
    ) -> io::Result<Standing> {
        let maximal = history.maximal(&self.window, present);
        // Whoever supersedes a change supersedes what its author had seen.
        let mut latest = self.nodes().filter_map(|source| history.latest(source, present[source.index()]));
        let is_certain = maximal.is_empty() || latest.any(|change| self.window.saw_all_forgotten(change));
        Ok(Standing { change: self.outcome(node, table, history, present)?, is_certain })
    }

    pub(super) fn latest_stamp(&self, changes: &[ChangeRef]) -> Option<ChangeRef> {
        changes.iter().max_by_key(|change| self.window.transaction(**change).transaction.stamp).copied()
    }

    fn candidate(&self, resolver: &Resolver, change: ChangeRef) -> io::Result<Candidate> {
        let transaction = &self.window.transaction(change).transaction;
        let value = match resolver.by() {
            Some(column) if change.kind() == TouchKind::Put => {
                transaction.change_at(change.offset())?.value_of(column).and_then(Ordered::read)
            }
            _ => None,
        };
        Ok(Candidate { change, stamp: transaction.stamp, value })
    }
}

#[cfg(test)]
mod tests;
