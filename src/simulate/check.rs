//! Coming to rest, and what must be true then.

use std::io;

use crate::conflict::{ChangeRef, Decision};
use crate::model::{Link, Lsn, NodeId, TableId, TableRule};
use crate::simulate::node::{Moved, Version};
use crate::simulate::oracle::Truth;
use crate::simulate::rows::{Key, Row};
use crate::simulate::world::{World, tell};
use crate::simulate::{Failure, Mutation, appends};

/// Rounds in which everything gets a turn; far more than any schedule needs.
const ROUNDS: usize = 3000;

impl World {
    /// Delivers and applies everything.
    ///
    /// # Errors
    /// If it does not come to an end.
    pub fn come_to_rest(&mut self) -> Result<(), Failure> {
        tell!(self, "the applications stop");
        self.now += 10_000;
        self.lag.fill(0);
        self.settings.refusals = 0; // whatever was wrong with the servers is mended
        for _ in 0..ROUNDS {
            if self.is_at_rest() {
                return Ok(());
            }
            self.round()?;
        }
        Err(Failure::Stuck)
    }

    fn round(&mut self) -> Result<(), Failure> {
        self.now += 1;
        self.end_switch();
        for node in NodeId::all(self.nodes.len()) {
            self.connect(node)?;
            self.nodes[node.index()].wal.flush();
            while self.deliver(node)? {}
            self.read_horizon(node);
            self.step_local();
            for _ in 0..5 {
                self.step_job(node)?;
            }
            if self.random.permille(200) {
                self.settle_loser()?;
            }
        }
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        let coordinator = &self.daemon.coordinator;
        let read = self.nodes.iter().zip(&self.daemon.streams).all(|(node, stream)| {
            stream.connected && coordinator.window().log(node.id).decoded >= node.wal.insert_lsn()
        });
        let idle = self.locals.is_empty() && self.losers.is_empty() && self.jobs.iter().all(Option::is_none);
        let applied = self.links().all(|link| coordinator.queued(link) == 0);
        let held = self.nodes.iter().any(|node| !node.held().is_empty());
        read && idle && applied && !held && coordinator.is_rebuilt() && coordinator.all_reopened().next().is_none()
    }

    /// Every direction.
    pub fn links(&self) -> impl Iterator<Item = Link> + use<> {
        let count = self.nodes.len();
        let all = NodeId::all(count).flat_map(move |source| NodeId::all(count).map(move |target| (source, target)));
        all.filter(|(source, target)| source != target).map(|(source, target)| Link { source, target })
    }

    /// Looks at the rows, then lets everything be forgotten.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn check(&mut self) -> Result<(), Failure> {
        let tables: Vec<_> = self.schema.tables().collect();
        for table in tables {
            for id in 0..self.workload.keys {
                self.check_key(Key { table, id })?;
            }
            for unique in 0..self.workload.uniques {
                self.check_unique(table, unique)?;
            }
        }
        self.check_forgotten()
    }

    fn check_key(&self, key: Key) -> Result<(), Failure> {
        let rows: Vec<Option<Row>> =
            self.nodes.iter().map(|node| node.rows().get(&key).map(|version| version.row)).collect();
        let differ = self.settings.rule.diverges() || self.settings.later.as_ref().is_some_and(TableRule::diverges);
        if !differ && rows.iter().any(|row| *row != rows[0]) {
            return Err(Failure::Diverged { key, rows });
        }
        if self.settings.later.is_some() {
            return Ok(()); // which rule decided is not known to the truth
        }
        let truth = Truth::of(&self.nodes, key);
        if let Some(row) = rows[0].filter(|_| appends(&self.settings.rule))
            && let Some(entry) = truth.lost_entry(&row)
        {
            return Err(Failure::LostEntry { key, row: Box::new(row), entry });
        }
        for (node, row) in NodeId::all(rows.len()).zip(rows) {
            match truth.outcome(&self.settings.rule, node) {
                Some(expected) if expected != row && !self.gave_way(key, row, expected) => {
                    return Err(Failure::Lost { node, key, row: row.map(Box::new), expected: expected.map(Box::new) });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Of the rows that would have a unique value if none had been removed for its sake one must have it, unless one of
    /// another key was the winner for a while. Not so among three, nor where a clock was set back: docs/design.md, "What
    /// it does not do yet".
    fn check_unique(&self, table: TableId, unique: u8) -> Result<(), Failure> {
        if self.nodes.len() > 2 || self.stepped_back {
            return Ok(());
        }
        let removals = self.removals.iter().filter(|(_, of)| **of == unique).map(|(commit, _)| *commit).collect();
        let keys = (0..self.workload.keys).map(|id| Key { table, id });
        let truths: Vec<Truth> = keys
            .map(|key| Truth::without(&self.nodes, key, &removals))
            .filter(|truth| truth.ever_had(unique))
            .collect();
        let has = |row: Option<Row>| row.is_some_and(|row| row.unique == Some(unique));
        let all_would = !truths.is_empty() && truths.iter().all(|truth| has(truth.end(&self.settings.rule, NodeId(0))));
        let rows = self.nodes[0].rows();
        let nobody_has = !rows.iter().any(|(key, version)| key.table == table && has(Some(version.row)));
        if all_would && nobody_has {
            return Err(Failure::NobodyHas { table, unique });
        }
        Ok(())
    }

    /// Whether the row is gone everywhere and another one has its unique value (R12); none goes that gets another value.
    fn gave_way(&self, key: Key, row: Option<Row>, expected: Option<Row>) -> bool {
        let Some(unique) = expected.and_then(|expected| expected.unique) else { return false };
        let holds = |(other, version): (&Key, &Version)| {
            other.table == key.table && *other != key && version.row.unique == Some(unique)
        };
        row.is_none() && !self.settings.renames && self.nodes.iter().all(|node| node.rows().iter().any(holds))
    }

    fn check_forgotten(&mut self) -> Result<(), Failure> {
        for _ in 0..12 {
            for link in self.links().collect::<Vec<_>>() {
                self.bump(link)?;
            }
            self.forget_quietly()?;
        }
        let window = self.daemon.coordinator.window();
        let left: usize = NodeId::all(self.nodes.len()).map(|node| window.log(node).iter().count()).sum();
        if left > 0 || window.keys() > 0 || window.contested().next().is_some() {
            return Err(Failure::Leak { transactions: left, keys: window.keys() });
        }
        Ok(())
    }

    /// Brings the progress row up and reads the commit back.
    fn bump(&mut self, link: Link) -> io::Result<()> {
        if let Some(batch) = self.daemon.coordinator.plan_progress(link, 1) {
            let node = &mut self.nodes[link.target.index()];
            let xid = node.begin();
            self.daemon.coordinator.commit_begins(link);
            let moved = Moved { source: link.source, from: batch.start_lsn, to: batch.end_lsn };
            let at = node.commit_own(xid, moved, Vec::new(), &mut self.random);
            self.daemon.coordinator.committed(link, at)?;
        }
        for node in NodeId::all(self.nodes.len()) {
            self.nodes[node.index()].wal.flush();
            while self.deliver(node)? {}
        }
        Ok(())
    }

    fn forget_quietly(&mut self) -> io::Result<()> {
        let frontier = self.daemon.coordinator.frontier()?;
        tell!(self, "confirms {frontier:?}");
        self.daemon.coordinator.forget(&frontier.confirmed)
    }

    /// Changes that were made one after the other are no rivals.
    ///
    /// # Errors
    /// If the decision says so.
    pub fn check_decision(&self, link: Link, key: Key, decision: &Decision) -> Result<(), Failure> {
        let Some(rival) = decision.rival else { return Ok(()) };
        if self.settings.mutation == Some(Mutation::ForgetMarks) {
            return Ok(());
        }
        let (incoming, rival) = (self.commit_of(decision.incoming), self.commit_of(rival));
        let truth = Truth::of(&self.nodes, key);
        if truth.saw(incoming, rival) || truth.saw(rival, incoming) {
            return Err(Failure::FalseConflict { target: link.target, key, incoming, rival });
        }
        Ok(())
    }

    /// Rivals by a column may have heard of each other, but neither had applied the other's change.
    ///
    /// # Errors
    /// If one had.
    pub fn check_apart(&self, key: Key, target: NodeId, incoming: ChangeRef, rival: ChangeRef) -> Result<(), Failure> {
        let (incoming, rival) = (self.commit_of(incoming), self.commit_of(rival));
        let truth = Truth::of(&self.nodes, key);
        if self.settings.mutation != Some(Mutation::ForgetMarks)
            && (truth.had(incoming, rival) || truth.had(rival, incoming))
        {
            return Err(Failure::FalseConflict { target, key, incoming, rival });
        }
        Ok(())
    }

    fn commit_of(&self, change: ChangeRef) -> (NodeId, Lsn) {
        (change.source, self.daemon.coordinator.window().transaction(change).transaction.commit_lsn)
    }
}
