//! Rows that a node does not have because it refused them (R11): what is known of each, and which a later change there has
//! overtaken.
//!
//! A refused outcome counts as present: its link goes on, and what the node commits from then on has seen it. So a later
//! local change of the row supersedes it everywhere, and what is held is given up: durably, before that change is forgotten,
//! or a start would take it for what should stand.

use std::io;

use crate::conflict::coordinator::Coordinator;
use crate::conflict::window::{KeyMap, Seq};
use crate::model::{KeyId, Lsn, NodeId, TableId, Tuple};

/// A row that is held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its number at the node.
    pub id: i64,
    /// Its table.
    pub table: TableId,
    /// The key's cells, in key order.
    pub key: Tuple,
    /// The node's position when it was refused: what commits there later has seen it.
    pub at: Lsn,
    /// Where the local change committed that supersedes it.
    pub superseded: Option<Lsn>,
}

/// What becomes of a held row by a commit of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeldChange {
    /// It is held, or another one instead.
    Held(KeyId, Held),
    /// Its key was written.
    Released(KeyId),
}

impl Coordinator {
    /// What the node has on record, as read after connecting.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn set_held(&mut self, node: NodeId, held: KeyMap<Held>) -> io::Result<()> {
        self.held[node.index()] = held;
        let log = self.window.log(node);
        (log.first()..log.end()).try_for_each(|seq| self.supersede_held(node, seq))
    }

    /// A batch of ours is about to be known as committed at the node; before [`Coordinator::committed`], which takes in what
    /// the node committed after it.
    pub fn change_held(&mut self, node: NodeId, changes: Vec<HeldChange>) {
        let held = &mut self.held[node.index()];
        for change in changes {
            match change {
                HeldChange::Held(key, row) => drop(held.insert(key, row)),
                HeldChange::Released(key) => drop(held.remove(&key)),
            }
        }
    }

    /// What is held at the node under that key.
    pub fn held(&self, node: NodeId, key: KeyId) -> Option<&Held> {
        self.held[node.index()].get(&key)
    }

    /// All that is held at the node.
    pub fn all_held(&self, node: NodeId) -> &KeyMap<Held> {
        &self.held[node.index()]
    }

    /// Whether what is held under a key is still what should stand there: to be asked after a barrier, while no local change
    /// of the key can be committed. To decide again from the window would not do, for it may have forgotten the change.
    pub fn is_still_held(&self, node: NodeId, key: KeyId) -> bool {
        self.held(node, key).is_some_and(|row| row.superseded.is_none()) && !self.is_reopened(node, key)
    }

    /// What was superseded is no longer on record at the node, durably.
    pub fn give_up_held(&mut self, node: NodeId, key: KeyId, id: i64) {
        let held = &mut self.held[node.index()];
        if held.get(&key).is_some_and(|row| row.id == id && row.superseded.is_some()) {
            held.remove(&key);
        }
    }

    /// A local transaction came to light.
    pub(super) fn supersede_held(&mut self, node: NodeId, seq: Seq) -> io::Result<()> {
        if self.held[node.index()].is_empty() {
            return Ok(());
        }
        let Some(logged) = self.window.log(node).get(seq) else { return Ok(()) };
        let transaction = logged.transaction.clone();
        let at = transaction.commit_lsn;
        let held = &mut self.held[node.index()];
        let supersede = |row: &mut Held| {
            if row.at <= at {
                row.superseded.get_or_insert(at);
            }
        };
        transaction.each_key(|key| {
            if let Some(row) = held.get_mut(&key) {
                supersede(row);
            }
        })?;
        for (table, _) in &transaction.truncates {
            held.values_mut().filter(|row| row.table == *table).for_each(supersede);
        }
        Ok(())
    }

    /// A local change stays as long as what it supersedes is on record.
    pub(super) fn keep_superseding(&self, frontier: &mut [Lsn]) {
        for (held, place) in self.held.iter().zip(frontier) {
            if let Some(first) = held.values().filter_map(|row| row.superseded).min() {
                *place = (*place).min(first);
            }
        }
    }
}
