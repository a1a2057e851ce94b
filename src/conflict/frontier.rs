//! What may be forgotten: the stable frontier of each source (R5).
//!
//! Everything below it is applied at every node, and whatever any node committed before it had applied it is
//! itself applied everywhere. Then it is lowered until
//! - no change goes while a concurrent one of the same key stays;
//! - no key that waits to be decided again loses a change;
//! - it is a consistent cut: a node's log is kept from the commit on that applied the first change which another
//!   node's log still holds. So marks, too, come back whole when the streams are read again from here.

use std::io;

use crate::conflict::coordinator::Coordinator;
use crate::conflict::window::{ChangeRef, Logged};
use crate::model::{Lsn, NodeId};

impl Coordinator {
    /// For each source the position below which everything is stable; never below what it was.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn frontier(&self) -> io::Result<Vec<Lsn>> {
        if !self.is_rebuilt() {
            return Ok(self.confirmed().to_vec());
        }
        let mut frontier: Vec<Lsn> = self.nodes().map(|source| self.stable(source)).collect();
        self.hold_reopened(&mut frontier)?;
        loop {
            let before = frontier.clone();
            self.hold_rivals(&mut frontier)?;
            self.hold_truncates(&mut frontier);
            self.hold_marks(&mut frontier);
            if frontier == before {
                break;
            }
        }
        let bounded = frontier.iter().zip(self.confirmed()).map(|(new, old)| *new.max(old));
        Ok(bounded.collect())
    }

    fn stable(&self, source: NodeId) -> Lsn {
        let peers = self.nodes().filter(|peer| *peer != source);
        let at_peer = |peer: NodeId| {
            let delivered =
                self.nodes().filter(|node| *node != peer).map(|node| self.applied_through(peer, node)).min();
            let delivered = delivered.unwrap_or(Lsn::MAX).min(self.window().log(peer).decoded);
            let marks = self.marks(peer).of(source);
            let known = marks.partition_point(|mark| mark.at <= delivered);
            known.checked_sub(1).map_or(Lsn::ZERO, |last| marks[last].applied)
        };
        peers.map(at_peer).min().unwrap_or(Lsn::ZERO).min(self.window().log(source).decoded)
    }

    fn hold_reopened(&self, frontier: &mut [Lsn]) -> io::Result<()> {
        for (table, key) in self.all_reopened() {
            let history = self.window().history(table, key)?;
            for source in self.nodes() {
                if let Some(first) = history.of(source).first() {
                    self.lower(frontier, *first);
                }
            }
        }
        Ok(())
    }

    fn lower(&self, frontier: &mut [Lsn], change: ChangeRef) {
        let held = &mut frontier[change.source.index()];
        *held = (*held).min(self.window().transaction(change).transaction.commit_lsn);
    }

    /// For each change that stays, the first concurrent one of another source stays too.
    fn hold_rivals(&self, frontier: &mut [Lsn]) -> io::Result<()> {
        let window = self.window();
        for key in window.contested() {
            let history = window.indexed(key)?;
            for stays_at in self.nodes() {
                let first = window.log(stays_at).seq_at(frontier[stays_at.index()]);
                let list = history.of(stays_at);
                let stay = &list[list.partition_point(|change| change.seq < first)..];
                for source in self.nodes().filter(|source| *source != stays_at) {
                    let rival = stay.iter().find_map(|stays| {
                        let stays = window.transaction(*stays);
                        let unseen = window.log(source).seq_at(stays.seen[source.index()]);
                        let list = history.of(source);
                        let rival = list.get(list.partition_point(|change| change.seq < unseen))?;
                        (!saw(window.transaction(*rival), stays)).then_some(*rival)
                    });
                    if let Some(rival) = rival {
                        self.lower(frontier, rival);
                    }
                }
            }
        }
        Ok(())
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
