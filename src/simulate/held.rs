//! Nodes that refuse rows: what is held instead, tried again, given up.

use std::collections::BTreeMap;

use crate::conflict::window::KeyMap;
use crate::conflict::{Held, HeldChange};
use crate::model::{Cell, Lsn, NodeId, Tuple};
use crate::simulate::job::{Job, Stage, Step};
use crate::simulate::rows::{Key, Row};
use crate::simulate::slow::By;
use crate::simulate::world::{World, tell};
use crate::simulate::{Failure, Mutation};

/// A row that a node has on record as refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Its number.
    pub id: i64,
    /// What should stand.
    pub row: Option<Row>,
    /// Whose change that is.
    pub by: By,
    /// Where the node's log was.
    pub at: Lsn,
}

/// What a commit does to the record.
pub type Changes = Vec<(Key, Option<Refused>)>;

impl World {
    /// Whether the node refuses what a session of ours is about to write just now.
    pub fn refuses(&mut self, key: Key) -> bool {
        self.settings.refusals > 0 && !self.merges(key.table) && self.random.permille(self.settings.refusals)
    }

    /// Puts what a key should be on record; its lock goes with the savepoint.
    pub fn hold(&mut self, job: &mut Job, key: Key, row: Option<Row>, by: By) {
        self.held_numbers += 1;
        let node = &mut self.nodes[job.batch.link.target.index()];
        node.unlock(job.xid, key);
        let refused = Refused { id: self.held_numbers, row, by, at: node.wal.insert_lsn() };
        tell!(self, "n{}: {key} is refused and held: {row:?}", job.batch.link.target.0);
        job.held.push((key, Some(refused)));
    }

    /// Takes a key off the record, for it has been written.
    pub fn release(&mut self, job: &mut Job, key: Key) {
        if self.daemon.coordinator.held(job.batch.link.target, self.schema.key_id(key)).is_some() {
            job.held.push((key, None));
        }
    }

    /// What the record says, as the coordinator takes it.
    pub fn held_of(&self, records: &BTreeMap<Key, Refused>) -> KeyMap<Held> {
        records.iter().map(|(key, refused)| (self.schema.key_id(*key), held(*key, refused))).collect()
    }

    /// What a commit did, as the coordinator takes it.
    pub fn held_changes(&self, changes: &Changes) -> Vec<HeldChange> {
        let change = |(key, refused): &(Key, Option<Refused>)| {
            let id = self.schema.key_id(*key);
            match refused {
                Some(refused) => HeldChange::Held(id, held(*key, refused)),
                None => HeldChange::Released(id),
            }
        };
        changes.iter().map(change).collect()
    }

    /// Gives up what later local changes have taken the place of.
    pub fn give_up_superseded(&mut self, node: NodeId) {
        let records: Vec<(Key, Refused)> = self.nodes[node.index()].held().iter().map(|(k, r)| (*k, *r)).collect();
        for (key, refused) in records {
            let id = self.schema.key_id(key);
            let superseded = self.daemon.coordinator.held(node, id).and_then(|held| held.superseded);
            let Some(before) = superseded else { continue };
            if refused.at <= before {
                let changes = vec![(key, None)];
                self.nodes[node.index()].write_held(changes, &mut self.random);
                tell!(self, "n{}: gives up what is held of {key}", node.0);
            }
            let number = self.daemon.coordinator.held(node, id).map_or(0, |held| held.id);
            self.daemon.coordinator.give_up_held(node, id, number);
        }
    }

    /// Lets the coordinator believe that everything superseded is off the record.
    pub fn forget_superseded(&mut self) {
        let all = NodeId::all(self.nodes.len());
        for node in all.filter(|_| self.settings.mutation == Some(Mutation::ForgetSuperseding)) {
            let keys: Vec<Key> = self.nodes[node.index()].held().keys().copied().collect();
            for id in keys.into_iter().map(|key| self.schema.key_id(key)) {
                let number = self.daemon.coordinator.held(node, id).map_or(0, |held| held.id);
                self.daemon.coordinator.give_up_held(node, id, number);
            }
        }
    }

    /// A key of which something is held at the node.
    pub fn any_held(&mut self, node: NodeId) -> Option<Key> {
        let keys: Vec<Key> = self.nodes[node.index()].held().keys().copied().collect();
        (!keys.is_empty()).then(|| *self.random.pick(&keys))
    }

    /// Writes what is held of a locked key, if it is still what should stand there.
    pub(super) fn write_held(&mut self, job: &mut Job, key: Key) -> Result<Step, Failure> {
        let (link, id) = (job.batch.link, self.schema.key_id(key));
        let Some(refused) = self.nodes[link.target.index()].held().get(&key).copied() else {
            return Ok(Step::Next(Stage::Commit));
        };
        let still = self.daemon.coordinator.is_still_held(link.target, id);
        if !still && self.settings.mutation != Some(Mutation::HeldIsLasting) {
            return Ok(Step::Next(Stage::Commit));
        }
        if self.random.permille(self.settings.refusals) {
            return Ok(Step::Abort);
        }
        tell!(self, "n{}: writes what is held of {key}: {:?}", link.target.0, refused.row);
        self.put(job, key, refused.row, refused.by)
    }
}

fn held(key: Key, refused: &Refused) -> Held {
    let id = key.id.to_string();
    let key_cells = Tuple::from_cells([Cell::Text(id.as_bytes())].into_iter());
    Held { id: refused.id, table: key.table, key: key_cells, at: refused.at, superseded: None }
}
