//! What the daemon does at one target, step by step: look up, write guarded, lock what was refused, barrier,
//! decide again, commit. Anything may happen between two steps.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use crate::apply::batch::Pieces;
use crate::apply::net::{Folded, Net};
use crate::conflict::window::Seq;
use crate::conflict::{Batch, ChangeRef, Decision, Reopened};
use crate::model::{Link, Lsn, NodeId, Resolvers, TableId, TouchKind, Xid};
use crate::simulate::ahead::Ahead;
use crate::simulate::complete::{Value, value};
use crate::simulate::held::Changes;
use crate::simulate::node::{Done, Guard};
use crate::simulate::rows::{Key, Row};
use crate::simulate::world::{World, tell};
use crate::simulate::{Failure, Mutation};

mod commit;

/// Why there is a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To apply transactions, or to move the progress row.
    Apply,
    /// To write what came out of a decision that was taken again.
    Reopen(Reopened),
    /// To try a row again that the node refused.
    Retry,
}

/// Where a batch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Locks the tables that it truncates.
    Tables,
    /// Looks a key up.
    Look,
    /// Writes what was decided, guarded.
    Fast,
    /// Locks the rows that were refused.
    Lock,
    /// Waits for this barrier.
    Barrier(u64),
    /// Empties tables.
    Empty,
    /// Decides again and writes.
    Slow,
    /// Is about to send COMMIT.
    Commit,
    /// Has sent it.
    Sent,
    /// The server has committed; the answer is under way.
    Answered(Lsn),
}

/// A write that was decided.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    key: Key,
    value: Value,
    decoded: Option<Xid>,
}

/// Truncated tables, each with the place of its last truncation.
type Emptied = BTreeMap<TableId, (Seq, u64)>;

/// One batch in progress.
#[derive(Clone, Debug)]
pub struct Job {
    /// The batch.
    pub batch: Batch,
    /// What for.
    pub purpose: Purpose,
    /// What decides about each table, as of the beginning.
    pub resolvers: Arc<Resolvers>,
    /// Its transaction at the target.
    pub xid: Xid,
    /// Where it is.
    pub stage: Stage,
    /// The guard's horizon as of the look-up.
    pub horizon: Xid,
    /// Tables to truncate.
    pub tables: Emptied,
    /// Its net changes.
    pub folded: Folded,
    /// Keys to look up.
    pub keys: VecDeque<Key>,
    /// Writes to do guarded.
    pub ready: VecDeque<Ready>,
    /// Keys to lock and to decide again.
    pub slow: VecDeque<Key>,
    /// Rows that stand in the way of a unique value, locked with them.
    pub holders: Vec<Key>,
    /// What it does to the record of refused rows.
    pub held: Changes,
    /// Rows that gave up their unique value until their turn comes.
    pub parked: BTreeMap<Key, Row>,
    /// It goes to the node in one window with its COMMIT, if all rows can be written as they were decided about.
    at_once: bool,
    /// Keys that it has written before it decides about the rest.
    written: Vec<Key>,
    /// It does so: COMMIT is on its way before the rows are written.
    on_its_way: bool,
    next: Stage,
    blocked: u32,
}

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is more to do.
    Next(Stage),
    /// A lock is waited for.
    Wait,
    /// Rolled back, to be tried again.
    Abort,
    /// Committed.
    Finished,
}

impl Job {
    /// A barrier's message came.
    pub fn arrived(&mut self, nonce: u64) {
        if self.stage == Stage::Barrier(nonce) {
            self.stage = self.next;
        }
    }
}

impl World {
    /// Begins something at the node or goes on with what it does.
    ///
    /// # Errors
    /// If the coordinator has one or an invariant is broken.
    pub fn step_job(&mut self, target: NodeId) -> Result<bool, Failure> {
        let Some(mut job) = self.jobs[target.index()].take() else {
            return Ok(self.step_ahead(target)? || self.begin_job(target)?);
        };
        let decides = matches!(job.stage, Stage::Look | Stage::Empty | Stage::Slow);
        let step = match job.stage {
            _ if decides && !self.daemon.coordinator.decides_by(&job.resolvers) => Step::Abort,
            Stage::Tables => self.lock_tables(&mut job),
            Stage::Look => self.look(&mut job)?,
            Stage::Fast => self.write_guarded(&mut job),
            Stage::Lock => self.lock_rows(&mut job),
            Stage::Barrier(_) => Step::Next(job.stage),
            Stage::Empty => self.empty_tables(&mut job)?,
            Stage::Slow => self.write_slowly(&mut job)?,
            Stage::Commit | Stage::Sent | Stage::Answered(_) => self.commit(&mut job)?,
        };
        match step {
            Step::Next(stage) => {
                job.blocked = 0;
                job.stage = stage;
            }
            Step::Wait => job.blocked += 1,
            Step::Abort | Step::Finished => {}
        }
        if step == Step::Abort || job.blocked > 6 {
            tell!(self, "n{}: x{} rolls back", target.0, job.xid);
            self.nodes[target.index()].roll_back(job.xid);
            match job.on_its_way {
                true => self.daemon.coordinator.commit_failed(job.batch.link)?,
                false => self.daemon.coordinator.aborted(job.batch.link),
            }
        } else if step != Step::Finished {
            self.jobs[target.index()] = Some(job);
        }
        Ok(true)
    }

    fn begin_job(&mut self, target: NodeId) -> io::Result<bool> {
        if !self.daemon.streams[target.index()].connected || !self.daemon.coordinator.is_ready(target) {
            return Ok(false);
        }
        let source = NodeId(self.random.below(self.nodes.len()) as u8);
        let link = Link { source, target };
        if source == target || self.random.permille(self.lag_of(link)) {
            return Ok(false);
        }
        if self.random.permille(400)
            && let Some(reopened) = self.daemon.coordinator.next_reopened(target)
        {
            self.drop_ahead(target);
            return Ok(self.begin_reopen(link, reopened));
        }
        if self.settings.refusals > 0 || !self.nodes[target.index()].held().is_empty() {
            if self.random.permille(200) {
                self.give_up_superseded(target);
            }
            if self.random.permille(150)
                && let Some(key) = self.any_held(target)
                && let Some(batch) = self.daemon.coordinator.plan_reopen(link)
            {
                self.drop_ahead(target);
                let job = self.job(batch, Purpose::Retry, Stage::Lock);
                self.start(Job { slow: [key].into(), ..job });
                return Ok(true);
            }
        }
        let eager = std::mem::take(&mut self.eager[target.index()]);
        let limit = if eager { u64::MAX } else { 1 + self.random.below(8) as u64 };
        let mut batch = self.daemon.coordinator.plan(link, limit);
        if batch.is_none() && self.aheads[target.index()].is_none() && self.random.permille(100) {
            batch = self.daemon.coordinator.plan_progress(link, 1);
        }
        let Some(batch) = batch else { return Ok(false) };
        if self.must_wait(&batch) {
            self.daemon.coordinator.aborted(link);
            return Ok(false);
        }
        let ahead = self.take_over(&batch)?;
        let (folded, tables, keys) = self.net(&batch, ahead.as_ref().map_or(0, |ahead| ahead.offset))?;
        let first = if tables.is_empty() { Stage::Look } else { Stage::Tables };
        let mut job = self.job(batch, Purpose::Apply, first);
        let at_once = ahead.is_none() && self.settings.at_once && self.random.permille(600);
        if let Some(Ahead { xid, written, .. }) = ahead {
            self.nodes[target.index()].roll_back(std::mem::replace(&mut job.xid, xid));
            job.written = written;
        }
        self.start(Job { folded, tables, keys, at_once, ..job });
        Ok(true)
    }

    fn begin_reopen(&mut self, link: Link, reopened: Reopened) -> bool {
        if self.settings.mutation == Some(Mutation::NoReopen) {
            self.daemon.coordinator.drop_reopened(link.target, reopened.key);
            return false;
        }
        let Some(batch) = self.daemon.coordinator.plan_reopen(link) else { return false };
        let key = self.key_of(reopened);
        let job = self.job(batch, Purpose::Reopen(reopened), Stage::Lock);
        self.start(Job { slow: [key].into(), ..job });
        true
    }

    fn job(&mut self, batch: Batch, purpose: Purpose, stage: Stage) -> Job {
        let target = batch.link.target;
        let horizon = self.horizon(target);
        let xid = self.nodes[target.index()].begin();
        Job {
            batch,
            purpose,
            resolvers: self.daemon.coordinator.resolvers().clone(),
            xid,
            stage,
            horizon,
            tables: BTreeMap::new(),
            folded: Folded::default(),
            keys: VecDeque::new(),
            ready: VecDeque::new(),
            slow: VecDeque::new(),
            holders: Vec::new(),
            held: Vec::new(),
            parked: BTreeMap::new(),
            at_once: false,
            written: Vec::new(),
            on_its_way: false,
            next: Stage::Slow,
            blocked: 0,
        }
    }

    fn start(&mut self, job: Job) {
        let Link { source, target } = job.batch.link;
        let (from, to, xid) = (job.batch.start_lsn, job.batch.end_lsn, job.xid);
        tell!(self, "n{}: x{xid} begins n{} {from}..{to} {:?} {:?}", target.0, source.0, job.purpose, job.keys);
        self.jobs[target.index()] = Some(job);
    }

    /// Apply-wait (R2), up to the largest skew that is waited for.
    pub(super) fn must_wait(&self, batch: &Batch) -> bool {
        let clock = self.now + self.nodes[batch.link.target.index()].skew;
        let behind = batch.transactions.iter().map(|transaction| transaction.stamp.micros - clock).max();
        behind.is_some_and(|behind| behind >= 0 && behind < self.settings.max_skew)
    }

    /// The net changes of a batch from that offset of its first transaction on: its truncations, with the place of each table's last one, and its keys.
    fn net(&self, batch: &Batch, offset: u64) -> io::Result<(Folded, Emptied, VecDeque<Key>)> {
        let mut pieces = Pieces::from(batch, u64::MAX, offset);
        let folded = pieces.next(self.schema.hasher())?.unwrap_or_default();
        debug_assert!(matches!(pieces.next(self.schema.hasher()), Ok(None)), "simulated batches are small");
        let mut tables = BTreeMap::new();
        for truncation in &folded.truncations {
            tables.extend(truncation.tables.iter().map(|table| (*table, truncation.place)));
        }
        let key = |net: &Net| self.schema.key_of(net.table.id, &net.key_row.tuple);
        let keys = folded.nets.iter().map(key).collect::<io::Result<_>>()?;
        Ok((folded, tables, keys))
    }

    fn key_of(&self, reopened: Reopened) -> Key {
        let mut keys = (0..self.workload.keys).map(|id| Key { table: reopened.table, id });
        keys.find(|key| self.schema.key_id(*key) == reopened.key).expect("only the tables' keys are reopened")
    }

    fn lock_tables(&mut self, job: &mut Job) -> Step {
        let node = &mut self.nodes[job.batch.link.target.index()];
        for table in job.tables.keys() {
            if let Done::Blocked(_) = node.lock_table(job.xid, *table) {
                return Step::Wait;
            }
        }
        self.barrier(job, Stage::Empty)
    }

    /// Sends a barrier's message from another session.
    fn barrier(&mut self, job: &mut Job, next: Stage) -> Step {
        if self.settings.mutation == Some(Mutation::NoBarrier) {
            return Step::Next(next);
        }
        self.nonce += 1;
        job.next = next;
        self.nodes[job.batch.link.target.index()].emit(self.nonce, &mut self.random);
        Step::Next(Stage::Barrier(self.nonce))
    }

    /// Leaves of the truncated tables the rows that survive.
    fn empty_tables(&mut self, job: &mut Job) -> io::Result<Step> {
        let link = job.batch.link;
        for (table, place) in job.tables.clone() {
            let mut left = Vec::new();
            for met in self.daemon.coordinator.survivors(link, table, place)? {
                if self.merges(table) {
                    left.extend(self.merged_survivor(link, met, table, place)?);
                    continue;
                }
                if met.outcome.kind() == TouchKind::Put {
                    left.push(crate::simulate::complete::read(&self.daemon.coordinator, &self.schema, met.outcome)?.0);
                    if met.standing != Some(met.outcome) {
                        self.daemon.coordinator.reopen_key(link.target, table, met.key);
                    }
                }
            }
            let node = &mut self.nodes[link.target.index()];
            for id in 0..self.workload.keys {
                let key = Key { table, id };
                if !left.contains(&key) {
                    node.delete(job.xid, key, Guard::Open);
                    if node.held().contains_key(&key) {
                        job.held.push((key, None));
                    }
                }
            }
            left.retain(|key| !job.keys.contains(key) && self.settings.mutation != Some(Mutation::SurvivorsLater));
            job.slow.extend(left);
        }
        let emptied = |key: &Key| job.tables.contains_key(&key.table);
        job.slow.extend(job.keys.iter().copied().filter(emptied));
        job.keys.retain(|key| !job.tables.contains_key(&key.table));
        Ok(Step::Next(Stage::Look))
    }

    fn look(&mut self, job: &mut Job) -> Result<Step, Failure> {
        let Some(key) = job.keys.pop_front() else {
            job.on_its_way = job.at_once && job.tables.is_empty() && job.slow.is_empty();
            if job.on_its_way {
                self.daemon.coordinator.commit_begins(job.batch.link);
            }
            return Ok(Step::Next(Stage::Fast));
        };
        let id = self.schema.key_id(key);
        if self.merges(key.table) && !self.daemon.coordinator.writes_whole(key.table, id) {
            job.slow.push_back(key); // is made under its lock
            return Ok(Step::Next(Stage::Look));
        }
        if self.daemon.coordinator.held(job.batch.link.target, id).is_some() {
            job.slow.push_back(key);
            return Ok(Step::Next(Stage::Look));
        }
        let decision = self.decide(job, key)?;
        if decision.write {
            let (coordinator, link) = (&self.daemon.coordinator, job.batch.link);
            let value = value(coordinator, &self.schema, link, key, decision.winner, &job.folded)?;
            let window = self.daemon.coordinator.window();
            let history = window.history(key.table, self.schema.key_id(key))?;
            let newest = history.of(job.batch.link.target).last();
            let decoded = newest.map(|newest| window.transaction(*newest).transaction.xid);
            job.ready.push_back(Ready { key, value, decoded });
        }
        Ok(Step::Next(Stage::Look))
    }

    /// Asks for a decision and looks at it with the truth in hand.
    ///
    /// # Errors
    /// If the coordinator has one or calls changes rivals that were made one after the other.
    pub fn decide(&mut self, job: &Job, key: Key) -> Result<Decision, Failure> {
        let (link, id) = (job.batch.link, self.schema.key_id(key));
        let coordinator = &mut self.daemon.coordinator;
        let own = job.folded.get(id).map(|net| ChangeRef::at(link.source, net.place, net.kind()));
        let alone = own.and_then(|own| coordinator.decide_alone(link, key.table, id, own));
        let mut decision = match alone {
            Some(decision) => decision,
            None => coordinator.decide(link, key.table, id)?,
        };
        if job.written.contains(&key) && self.settings.mutation != Some(Mutation::TouchedStands) {
            decision.write = true; // what stood before does not stand any more
        }
        self.decisions += 1;
        self.conflicts += u64::from(decision.rival.is_some());
        self.check_decision(link, key, &decision)?;
        if self.settings.mutation == Some(Mutation::Pairwise) {
            self.decide_pairwise(&mut decision);
        }
        tell!(self, "n{}: {key} decided {}", link.target.0, self.describe(&decision));
        Ok(decision)
    }

    fn write_guarded(&mut self, job: &mut Job) -> Step {
        let Some(Ready { key, value, decoded }) = job.ready.pop_front() else {
            return match job.slow.iter().any(|key| !job.tables.contains_key(&key.table)) {
                _ if job.on_its_way => Step::Next(Stage::Sent),
                true => Step::Next(Stage::Lock),
                false => Step::Next(Stage::Slow),
            };
        };
        if self.refuses(key) {
            return refused(job, key);
        }
        let guard = match self.settings.mutation {
            Some(Mutation::NoGuard) => Guard::Open,
            _ => Guard::Known { horizon: job.horizon, decoded },
        };
        let node = &mut self.nodes[job.batch.link.target.index()];
        let done = match value {
            Value::Gone => node.delete(job.xid, key, guard),
            Value::Whole(row) => match node.update(job.xid, key, key, guard, |_| row) {
                Done::Nothing if self.random.permille(500) => node.insert(job.xid, key, row),
                done => done,
            },
            Value::KeepsBody(sent) => node.update(job.xid, key, key, guard, |old| sent.with(old.body)),
            Value::AtSource(_) => Done::Refused,
        };
        match (done, value) {
            (Done::Written, _) => {}
            // a statement that is to delete a row fails by itself if there is none
            (Done::Nothing, Value::Gone) if !job.on_its_way => {}
            (Done::Blocked(_), _) => {
                job.ready.push_front(Ready { key, value, decoded });
                return Step::Wait;
            }
            _ => return refused(job, key),
        }
        Step::Next(Stage::Fast)
    }

    fn lock_rows(&mut self, job: &mut Job) -> Step {
        let node = &mut self.nodes[job.batch.link.target.index()];
        for key in job.slow.iter().chain(&job.holders) {
            let done = match node.lock(job.xid, *key) {
                // what is not there can't be locked, and nobody may make and remove it unseen
                Done::Nothing if job.purpose == Purpose::Retry => node.lock_table(job.xid, key.table),
                done => done,
            };
            if let Done::Blocked(_) = done {
                return Step::Wait;
            }
        }
        self.barrier(job, Stage::Slow)
    }
}

/// A row that was not as expected: it is decided about under its lock, unless COMMIT is on its way; that is refused, too, then.
fn refused(job: &mut Job, key: Key) -> Step {
    if job.on_its_way {
        return Step::Abort;
    }
    job.slow.push_back(key);
    Step::Next(Stage::Fast)
}
