//! What may be forgotten: the stable frontier of each source (R5).
//!
//! Everything below it is applied at every node, and whatever any node committed before it had applied it is
//! itself applied everywhere; all of that by commits that are settled, so that no decision in which a forgotten change
//! could win is ever taken again. Of a stream that is being read again no more is stable than has been read: the marks behind
//! that are not known. Then it is lowered until
//! - no change of a truncated table goes while a concurrent truncation stays, or the other way;
//! - where rows are made from several changes, or will be by a rule that waits, no delete goes while a change stays that it
//!   takes away, not having been seen by it, or an update with which a row that it took away begins anew;
//! - no local change goes while a row that it supersedes is on record as refused;
//! - it is a consistent cut: a node's log is kept from the commit on that applied the first change which another
//!   node's log still holds. So marks, too, come back whole when the streams are read again from here.
//!
//! A change may go while a concurrent one of its key stays. What comes later has seen it, so it wins nowhere again; only
//! what stands *now* may be unknown: see [`Standing`](crate::conflict::coordinator::Standing). So a key that is changed
//! everywhere without a pause holds nothing back.

use std::io;

use crate::conflict::coordinator::Coordinator;
use crate::conflict::window::{ChangeRef, Logged};
use crate::model::{Cut, KeyId, Link, Lsn, NodeId, TouchKind};

impl Coordinator {
    /// For each source the position below which everything is stable; never below what it was.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn frontier(&mut self) -> io::Result<Cut> {
        if !self.is_reviewed() {
            return Ok(self.cut_at(self.confirmed().to_vec()));
        }
        self.settle();
        let mut frontier: Vec<Lsn> = self.nodes().map(|source| self.stable(source)).collect();
        loop {
            let before = frontier.clone();
            self.hold_truncates(&mut frontier);
            self.hold_deletes(&mut frontier)?;
            self.keep_superseding(&mut frontier);
            self.hold_marks(&mut frontier);
            if frontier == before {
                break;
            }
        }
        let bounded = frontier.iter().zip(self.confirmed()).map(|(new, old)| *new.max(old));
        Ok(self.cut_at(bounded.collect()))
    }

    fn cut_at(&self, confirmed: Vec<Lsn>) -> Cut {
        let seen = self.nodes().map(|node| self.marks(node).seen(confirmed[node.index()]).into_vec()).collect();
        Cut { confirmed, settled: self.settled.clone(), seen }
    }

    fn stable(&self, source: NodeId) -> Lsn {
        let peers = self.nodes().filter(|peer| *peer != source);
        let at_peer = |peer: NodeId| {
            let delivered =
                self.nodes().filter(|node| *node != peer).map(|node| self.settled_through(peer, node)).min();
            let delivered = delivered.unwrap_or(Lsn::MAX).min(self.settled[peer.index()]);
            let marks = self.marks(peer).of(source);
            let known = marks.partition_point(|mark| mark.at <= delivered);
            known.checked_sub(1).map_or(Lsn::ZERO, |last| marks[last].applied)
        };
        peers.map(at_peer).min().unwrap_or(Lsn::ZERO).min(self.settled[source.index()]).min(self.reread(source))
    }

    /// Everything that committed at `source` before this was applied at `target` by commits that are settled.
    fn settled_through(&self, source: NodeId, target: NodeId) -> Lsn {
        let log = self.window().log(source);
        let first_not = log.get(self.settled_end(Link { source, target }));
        first_not.map_or(log.decoded, |logged| logged.transaction.commit_lsn)
    }

    /// A truncation is a change of every key of its table; here, to be simple and safe, of every key.
    fn hold_truncates(&self, frontier: &mut [Lsn]) {
        let window = self.window();
        for (_, truncate) in window.truncates() {
            let emptied = window.transaction(truncate);
            for source in self.nodes().filter(|source| *source != truncate.source) {
                let log = window.log(source);
                let rivals = || {
                    let skip = log.seq_at(emptied.seen[source.index()]).saturating_sub(log.first());
                    let unseen = log.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX));
                    unseen.take_while(|logged| !saw(logged, emptied)).map(|logged| logged.transaction.commit_lsn)
                };
                let (Some(first), Some(last)) = (rivals().next(), rivals().last()) else { continue };
                let at = emptied.transaction.commit_lsn;
                if at >= frontier[truncate.source.index()] {
                    frontier[source.index()] = frontier[source.index()].min(first);
                } else if last >= frontier[source.index()] {
                    frontier[truncate.source.index()] = at;
                    frontier[source.index()] = frontier[source.index()].min(first);
                }
            }
        }
    }

    /// Deletes of merged rows stay as long as what they take away.
    fn hold_deletes(&mut self, frontier: &mut [Lsn]) -> io::Result<()> {
        if !self.resolvers().any_merges() && self.will_merge.is_empty() {
            self.anew.clear();
            return Ok(());
        }
        let mut known_anew = std::mem::take(&mut self.anew);
        let window = self.window();
        let ends = |change: ChangeRef| window.transaction(change).transaction.end_lsn;
        known_anew.retain(|key| window.is_deleted(*key));
        let others = known_anew.iter().copied().filter(|key| !window.is_contested(*key));
        let keys: Vec<KeyId> = window.contested_deletes().chain(others).collect();
        for key in keys {
            let history = window.indexed(key)?;
            let goes = |change: &ChangeRef| ends(*change) <= frontier[change.source.index()];
            let all = || self.nodes().flat_map(|source| history.of(source)).copied();
            let stay: Vec<ChangeRef> = all().filter(|change| !goes(change)).collect();
            let deaths: Vec<ChangeRef> =
                all().filter(|change| change.kind() == TouchKind::Delete && goes(change)).collect();
            if stay.is_empty() || !all().any(|change| goes(&change)) {
                continue;
            }
            let Some(any) = all().find(|change| change.kind() == TouchKind::Delete) else { continue };
            let table = window.transaction(any).transaction.change_at(any.offset())?.relation.table_id();
            if self.resolvers().merge(table).is_none() && !self.will_merge.contains_key(&table) {
                continue;
            }
            let anew = self.begins_anew(&window.history(table, key)?, &stay)?;
            if anew {
                known_anew.insert(key); // what the row was based on may go first, and nobody else has changed the key then
            }
            let pinned =
                |death: &&ChangeRef| anew || stay.iter().any(|change| history.concurrent(window, **death, *change));
            let Some(&first) = deaths.iter().filter(pinned).min_by_key(|death| ends(**death)) else { continue };
            let place = &mut frontier[first.source.index()];
            *place = (*place).min(window.transaction(first).transaction.commit_lsn);
        }
        self.anew = known_anew;
        Ok(())
    }

    /// A node's log is kept from the first commit of ours on that applied what another log still holds.
    fn hold_marks(&self, frontier: &mut [Lsn]) {
        for node in self.nodes() {
            for source in self.nodes().filter(|source| *source != node) {
                let marks = self.marks(node).of(source);
                let held = marks.partition_point(|mark| mark.applied <= frontier[source.index()]);
                if let Some(mark) = marks.get(held)
                    && mark.at <= frontier[node.index()]
                {
                    frontier[node.index()] = self.commit_end_before(node, mark.at);
                }
            }
        }
    }

    /// The end of the last commit at `node`, anybody's, that is known to lie before the one that ends at `at`:
    /// a server sends again whatever commit record *begins* at or after the position it is asked for.
    fn commit_end_before(&self, node: NodeId, at: Lsn) -> Lsn {
        let ours = self.nodes().filter_map(|source| {
            let marks = self.marks(node).of(source);
            marks.partition_point(|mark| mark.at < at).checked_sub(1).map(|last| marks[last].at)
        });
        let log = self.window().log(node);
        let theirs = log.seq_at(at).checked_sub(1).and_then(|seq| log.get(seq)).map(|last| last.transaction.end_lsn);
        ours.chain(theirs).max().unwrap_or(Lsn::ZERO)
    }
}

/// Whether the author of `later` had applied `earlier`, of another source.
fn saw(later: &Logged, earlier: &Logged) -> bool {
    earlier.transaction.commit_lsn < later.seen[earlier.transaction.source.index()]
}
