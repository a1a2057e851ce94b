//! Reopening (R4): a local change came to light that a decision at its node did not know.
//!
//! A missing row can be neither locked nor guarded, so decisions go on without; when a local change is decoded that
//! lies before a batch which decided on its key, the key is decided again. Nothing of it is stable before that.

use std::io;
use std::ops::RangeInclusive;

use smallvec::SmallVec;

use crate::conflict::coordinator::{Coordinator, LinkState};
use crate::conflict::history::History;
use crate::conflict::window::{ChangeRef, Seq};
use crate::model::{Deciding, KeyId, Link, Lsn, NodeId, TableId};

/// A decision that is taken again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redecision {
    /// The change whose value must come out; none if the window has no change of the key any more.
    pub winner: Option<ChangeRef>,
    /// The local change and the remote one that did not see each other.
    pub conflict: Option<(ChangeRef, ChangeRef)>,
    /// Which of the table's cases decided.
    pub by: Deciding,
}

/// A key that must be decided again at a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reopened {
    /// Its table.
    pub table: TableId,
    /// The key.
    pub key: KeyId,
}

/// Why and since when a key waits to be decided again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) table: TableId,
    /// The number of the newest reason.
    reason: u64,
    /// No decision about the key at the node is in doubt that was committed there before this.
    pub(super) since: Lsn,
}

/// A key that was decided again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewritten {
    pub(super) table: TableId,
    /// Where the commit ended that did so.
    pub(super) at: Lsn,
    /// As in [`Due`].
    pub(super) since: Lsn,
}

impl Coordinator {
    /// The node's stream has been read again as far as decisions there are settled: what is applied there and is not may not have known
    /// every local change.
    pub(super) fn reopen_unknown(&mut self, node: NodeId) -> io::Result<()> {
        let contested: Vec<KeyId> = self.window.contested().collect();
        for key in contested {
            self.reopen_contested(key, node)?;
        }
        let truncates: Vec<_> = self.window.truncates().filter(|(_, change)| change.source == node).collect();
        truncates
            .into_iter()
            .try_for_each(|(table, change)| self.reopen_after_truncate(table, change, self.settled[node.index()]))
    }

    /// A local change came to light: where a change that its author had not seen is applied at its node already,
    /// the decision there did not know it.
    pub(super) fn reopen_decided(&mut self, node: NodeId, seq: Seq) -> io::Result<()> {
        let local = self.window.log(node).get(seq).expect("just pushed");
        let since = local.transaction.commit_lsn;
        let unseen = |link: Link| {
            let LinkState { cursor, in_flight, .. } = self.link(link);
            let end = in_flight.as_ref().map_or(*cursor, |batch| batch.end);
            (link, self.window.log(link.source).seq_at(local.seen[link.source.index()])..end)
        };
        let links = self.nodes().filter(|source| *source != node).map(|source| Link { source, target: node });
        let unseen: SmallVec<[_; 4]> = links.map(unseen).filter(|(_, unseen)| !unseen.is_empty()).collect();
        if unseen.is_empty() {
            return Ok(()); // mostly
        }
        for key in self.contested_keys(node, seq)? {
            for (link, unseen) in &unseen {
                let cursor = self.link(*link).cursor.clamp(unseen.start, unseen.end);
                let decided = self.window.is_changed_by(link.source, unseen.start..cursor, key)?;
                let is_suspect = self.window.is_changed_by(link.source, cursor..unseen.end, key)?;
                if !decided && !is_suspect {
                    continue;
                }
                let Some(local) = self.window.indexed(key)?.latest(node, seq + 1) else { continue };
                let table = self.table_of(local)?;
                if decided {
                    self.reopen(node, table, key, since);
                }
                if is_suspect && let Some(batch) = &mut self.link_mut(*link).in_flight {
                    batch.suspects.entry(key).or_insert((table, since));
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

    /// Once a stream has been read again: wherever two changes of a key did not see each other, the node of one
    /// may have decided on the other without knowing its own.
    pub(super) fn reopen_contested(&mut self, key: KeyId, node: NodeId) -> io::Result<()> {
        let history = self.window.indexed(key)?;
        for link in self.all_links().into_iter().filter(|link| link.target == node) {
            let Some(theirs) = history.latest(link.source, self.link(link).cursor) else { continue };
            let Some(local) = history.latest(link.target, self.window.log(link.target).end()) else { continue };
            let unsettled = self.settled_end(link);
            if theirs.seq >= unsettled && self.apart(&history, unsettled..=theirs.seq, local, link.source) {
                let table = self.table_of(local)?;
                self.reopen(link.target, table, key, self.settled[link.target.index()]);
            }
        }
        Ok(())
    }

    /// The number below which the link's transactions were applied by commits that are settled.
    pub(super) fn settled_end(&self, link: Link) -> Seq {
        let log = self.window.log(link.source);
        let marks = self.marks[link.target.index()].of(link.source);
        let settled = marks.partition_point(|mark| mark.at <= self.settled[link.target.index()]);
        // What is kept of a log was applied by commits that are kept of the other logs.
        let Some(last) = settled.checked_sub(1) else { return log.first() };
        log.seq_ended_by(marks[last].applied)
    }

    /// Whether any of these changes of `source` and a change of the node where `local` was made did not see each other.
    fn apart(&self, history: &History, theirs: RangeInclusive<Seq>, local: ChangeRef, source: NodeId) -> bool {
        let lists = (history.of(source), history.of(local.source));
        let any_local = |change: &ChangeRef| {
            let seen = &self.window.transaction(*change).seen;
            let unseen = self.window.log(local.source).seq_at(seen[local.source.index()]);
            let missed = |local: &ChangeRef| {
                let seen = self.window.transaction(*local).seen[change.source.index()];
                self.window.log(change.source).seq_at(seen) <= change.seq
            };
            lists.1.get(lists.1.partition_point(|local| local.seq < unseen)).is_some_and(missed)
        };
        lists.0.iter().filter(|change| theirs.contains(&change.seq)).any(any_local)
    }

    /// A local truncation came to light: rows that were put meanwhile without knowing it are decided again.
    pub(super) fn reopen_after_truncate(&mut self, table: TableId, truncate: ChangeRef, since: Lsn) -> io::Result<()> {
        let node = truncate.source;
        let mut keys = Vec::new();
        for source in self.nodes().filter(|source| *source != node) {
            let log = self.window.log(source);
            let unseen = log.seq_at(self.window.transaction(truncate).seen[source.index()]);
            let unseen = unseen.max(self.settled_end(Link { source, target: node }));
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
                    batch.suspects.entry(key).or_insert((table, since));
                }
                _ => self.reopen(node, table, key, since),
            }
        }
        Ok(())
    }

    pub(super) fn reopen(&mut self, node: NodeId, table: TableId, key: KeyId, since: Lsn) {
        self.reasons += 1;
        let since = self.reopened[node.index()].get(&key).map_or(since, |due| due.since.min(since));
        self.reopened[node.index()].insert(key, Due { table, reason: self.reasons, since });
    }

    /// A key to decide again at the node, if there is one.
    pub fn next_reopened(&self, node: NodeId) -> Option<Reopened> {
        self.reopened[node.index()].iter().next().map(|(key, due)| Reopened { table: due.table, key: *key })
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

    /// Every key that waits to be decided again, at any node, or was and is not known to be durable.
    pub fn all_reopened(&self) -> impl Iterator<Item = (TableId, KeyId)> + '_ {
        let suspects = self.links.iter().filter_map(|link| link.in_flight.as_ref()).flat_map(|batch| &batch.suspects);
        let suspects = suspects.map(|(key, (table, _))| (*table, *key));
        let at_risk = self.nodes().flat_map(|node| self.at_risk(node));
        let at_risk = at_risk.map(|(key, rewritten)| (rewritten.table, *key));
        self.reopened.iter().flatten().map(|(key, due)| (due.table, *key)).chain(suspects).chain(at_risk)
    }

    /// What was decided again at the node by a commit that it may still lose.
    fn at_risk(&self, node: NodeId) -> impl Iterator<Item = (&KeyId, &Rewritten)> {
        let decoded = self.window.log(node).decoded;
        self.rewritten[node.index()].iter().filter(move |(_, rewritten)| rewritten.at > decoded)
    }

    /// Brings up what is settled: everything decoded, but for the keys that wait to be decided again.
    pub(super) fn settle(&mut self) {
        for node in self.nodes() {
            let reopened = self.reopened[node.index()].values().map(|due| due.since);
            let in_flight =
                self.nodes().filter_map(|source| self.link(Link { source, target: node }).in_flight.as_ref());
            let suspects = in_flight.flat_map(|batch| batch.suspects.values().map(|(_, since)| *since));
            let at_risk = self.at_risk(node).map(|(_, rewritten)| rewritten.since);
            let held = reopened.chain(suspects).chain(at_risk).min().unwrap_or(Lsn::MAX);
            let settled = held.min(self.window.log(node).decoded);
            self.settled[node.index()] = self.settled[node.index()].max(settled);
        }
    }

    /// What a reopened key must be at the target: the outcome of all that is present, to be asked after a barrier
    /// under the row's lock. The batch in flight answers every reason that is known now.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    ///
    /// # Panics
    /// If no batch of the link is in flight.
    pub fn decide_again(&mut self, link: Link, reopened: Reopened) -> io::Result<Redecision> {
        let reason = self.reopened[link.target.index()].get(&reopened.key).map_or(0, |due| due.reason);
        let batch = self.link_mut(link).in_flight.as_mut().expect("decisions are asked for a batch in flight");
        batch.again = Some((reopened.key, reason));
        self.redecision(link.target, reopened)
    }

    /// What [`Coordinator::decide_again`] would answer now.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn redecision(&self, node: NodeId, reopened: Reopened) -> io::Result<Redecision> {
        let history = self.window.history(reopened.table, reopened.key)?;
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
        let (winner, by) = self.decided(node, reopened.table, &history, &present)?;
        Ok(Redecision { winner, conflict, by })
    }

    /// Has a key decided again at the node.
    pub fn reopen_key(&mut self, node: NodeId, table: TableId, key: KeyId) {
        self.reopen(node, table, key, self.settled[node.index()]);
    }

    /// The outcome has been written by the commit that ends at `at`; a reason that came up since the decision
    /// keeps the key open. Until the commit is durable nothing of the key is forgotten.
    pub(super) fn reopen_done(&mut self, node: NodeId, key: KeyId, reason: u64, at: Lsn) {
        let keys = &mut self.reopened[node.index()];
        if let Some(due) = keys.get(&key).copied().filter(|due| due.reason <= reason) {
            keys.remove(&key);
            let before = self.at_risk(node).find(|(other, _)| **other == key).map(|(_, rewritten)| rewritten.since);
            let since = before.map_or(due.since, |before| before.min(due.since));
            self.rewritten[node.index()].insert(key, Rewritten { table: due.table, at, since });
        }
    }

    /// A local change came to light: of a missing row, which can't be locked, it may lie between the barrier of a
    /// decision that was taken again and the commit that wrote it, and be nobody's rival. Then that decision, too,
    /// did not know it.
    pub(super) fn renew_reopened(&mut self, node: NodeId, seq: Seq) -> io::Result<()> {
        let place = node.index();
        if self.reopened[place].is_empty() && self.rewritten[place].is_empty() {
            return Ok(());
        }
        let transaction = self.window.log(node).get(seq).expect("just pushed").transaction.clone();
        let at = transaction.commit_lsn;
        let (reopened, rewritten) = (&self.reopened[place], &self.rewritten[place]);
        let waits = |key: &KeyId| reopened.get(key).map(|due| (due.table, due.since));
        let undone = |key: &KeyId| {
            let undone = rewritten.get(key).filter(|rewritten| rewritten.at > at);
            undone.map(|rewritten| (rewritten.table, rewritten.since))
        };
        let mut met: Vec<(TableId, KeyId, Lsn)> = Vec::new();
        let why = |key: &KeyId| waits(key).or_else(|| undone(key));
        transaction.each_key(|key| met.extend(why(&key).map(|(table, since)| (table, key, since))))?;
        for (emptied, _) in &transaction.truncates {
            let all = reopened.keys().chain(rewritten.keys());
            let of_table = |key: &KeyId| why(key).filter(|(table, _)| table == emptied);
            met.extend(all.filter_map(|key| of_table(key).map(|(table, since)| (table, *key, since))));
        }
        met.into_iter().for_each(|(table, key, since)| self.reopen(node, table, key, since.min(at)));
        Ok(())
    }

    /// Forgets that the key must be decided again: for the simulation, to show what that leads to.
    pub fn drop_reopened(&mut self, node: NodeId, key: KeyId) {
        self.reopened[node.index()].remove(&key);
    }

    /// Forgets which decisions taken again may be lost: for the simulation, to show what that leads to.
    pub fn drop_rewritten(&mut self, node: NodeId) {
        self.rewritten[node.index()].clear();
    }
}
