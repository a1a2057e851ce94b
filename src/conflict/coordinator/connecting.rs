//! Nodes that are connected: what they have applied, how far their streams have been read again, and when batches may be applied
//! at them (R6).

use std::io;

use crate::conflict::coordinator::{Coordinator, LinkState};
use crate::conflict::reopen::Rewritten;
use crate::conflict::window::Seq;
use crate::model::{Link, Lsn, NodeId};

impl Coordinator {
    /// The node is being connected (again): its stream will be read again from what it has confirmed. Marks come
    /// back from there; those of commits that the server may have lost are dropped.
    pub fn disconnected(&mut self, node: NodeId) {
        let slot = self.confirmed[node.index()];
        self.reread[node.index()] = slot;
        (self.rebuilt[node.index()], self.reviewed[node.index()]) = (false, false);
        self.waiting[node.index()].clear();
        self.committing[node.index()] = 0;
        self.marks[node.index()].cut(slot);
        for (key, Rewritten { table, since, .. }) in std::mem::take(&mut self.rewritten[node.index()]) {
            self.reopen(node, table, key, since);
        }
        for source in self.nodes().filter(|source| *source != node) {
            let link = self.link_mut(Link { source, target: node });
            (link.in_flight, link.is_current) = (None, false);
        }
    }

    /// The target's progress row for the link, as read after connecting; what it refused ([`Coordinator::set_held`]) is told before, for
    /// from the last such row on what that supersedes may be forgotten.
    pub fn set_progress(&mut self, link: Link, applied: Lsn) {
        let log = self.window.log(link.source);
        let cursor = log.iter().take_while(|logged| logged.transaction.end_lsn <= applied).count() as Seq + log.first();
        let state = self.link_mut(link);
        (state.applied, state.is_known, state.is_current) = (applied, true, true);
        state.cursor = cursor;
    }

    /// The node's stream has been read again up to a barrier sent after connecting.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn rebuilt(&mut self, node: NodeId) -> io::Result<()> {
        self.rebuilt[node.index()] = true;
        self.come_up()
    }

    /// Once of every stream that is read which was applied anywhere (an author may have seen it, and through it what he did not
    /// apply himself), decisions that may not have known of a local change are looked for: at a node whose stream has been read
    /// again up to where that was done before. Once it has been read again altogether, too, the node is ready.
    pub(super) fn come_up(&mut self) -> io::Result<()> {
        let is_read = |link: &Link| {
            let LinkState { is_known, applied, .. } = self.link(*link);
            *is_known && self.window.log(link.source).decoded >= *applied
        };
        if !self.all_links().iter().all(is_read) {
            return Ok(());
        }
        for target in self.nodes() {
            let place = target.index();
            let is_far_enough = self.rebuilt[place] || self.reread[place] >= self.settled[place];
            if !self.reviewed[place] && is_far_enough && self.is_current(target) {
                self.reopen_unknown(target)?;
                self.reviewed[place] = true;
            }
        }
        Ok(())
    }

    /// Whether all progress rows of the node have been read since it was connected.
    fn is_current(&self, node: NodeId) -> bool {
        self.nodes().filter(|source| *source != node).all(|source| self.link(Link { source, target: node }).is_current)
    }

    /// Whether a node may be reviewed by what its stream or another one delivers.
    pub(super) fn is_coming_up(&self) -> bool {
        self.nodes().any(|node| !self.reviewed[node.index()] && self.is_current(node))
    }

    /// Whether at every node the decisions that may not have known of a local change are known.
    pub(in crate::conflict) fn is_reviewed(&self) -> bool {
        self.reviewed.iter().all(|reviewed| *reviewed)
    }

    /// How far the node's stream has been read since it was connected.
    pub(in crate::conflict) fn reread(&self, node: NodeId) -> Lsn {
        self.reread[node.index()]
    }

    /// Whether every node's stream has been read again.
    pub fn is_rebuilt(&self) -> bool {
        self.rebuilt.iter().all(|rebuilt| *rebuilt)
    }

    /// Whether batches may be applied at the node: its own changes are in the window, and whatever any author may have seen
    /// (R6); and the rules are not just being changed.
    pub fn is_ready(&self, node: NodeId) -> bool {
        self.rebuilt[node.index()] && self.reviewed[node.index()] && !self.switching
    }

    /// At how many nodes batches may be applied.
    pub fn ready_nodes(&self) -> usize {
        self.nodes().filter(|node| self.is_ready(*node)).count()
    }
}
