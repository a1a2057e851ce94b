//! The slow path: with the rows locked and everything delivered, decide again and write; unique values (R12).

use std::io;

use crate::conflict::{ChangeRef, Decision, Redecision};
use crate::model::{Lsn, NodeId, Stamp};
use crate::simulate::complete::{Value, read, value};
use crate::simulate::job::{Job, Purpose, Stage, Step};
use crate::simulate::node::{Author, Done, Guard, Version};
use crate::simulate::rows::{Body, Key, Row, Sent};
use crate::simulate::world::{Loser, World, tell};
use crate::simulate::{Failure, Mutation};

/// Who made a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct By {
    /// When and where.
    pub stamp: Stamp,
    /// Where it committed in that node's log.
    pub at: Lsn,
}

/// What a key is to become, by whose change, and whether that must be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    pub winner: ChangeRef,
    write: bool,
}

impl World {
    /// Writes one of the keys on the slow path.
    ///
    /// # Errors
    /// If the coordinator has one or an invariant is broken.
    pub fn write_slowly(&mut self, job: &mut Job) -> Result<Step, Failure> {
        let Some(key) = job.slow.front().copied() else { return Ok(Step::Next(Stage::Commit)) };
        let target = job.batch.link.target;
        let node = &self.nodes[target.index()];
        let existing = node.see(job.xid, key);
        if existing.is_some() && !node.holds(job.xid, key) {
            return Ok(Step::Next(Stage::Lock)); // it appeared meanwhile
        }
        if self.merges(key.table) {
            return self.write_merged(job, key, existing);
        }
        if job.purpose == Purpose::Retry {
            return self.write_held(job, key);
        }
        let existing = job.parked.get(&key).copied().or(existing);
        let Some(verdict) = self.verdict(job, key)? else {
            job.slow.pop_front();
            return Ok(Step::Next(Stage::Slow));
        };
        if !verdict.write {
            return self.put(job, key, existing, self.by(verdict.winner)); // parked, and stays as it was
        }
        let (coordinator, link) = (&self.daemon.coordinator, job.batch.link);
        let value = value(coordinator, &self.schema, link, key, verdict.winner, &job.folded)?;
        let row = match (value, existing) {
            (Value::Gone, _) => None,
            (Value::Whole(row), _) => Some(row),
            (Value::KeepsBody(sent), Some(old)) => Some(sent.with(old.body)),
            (Value::AtSource(sent) | Value::KeepsBody(sent), _) => {
                match self.at_source(target, key, verdict, sent, existing) {
                    Fetched::Row(row) => Some(row),
                    Fetched::TryLater => {
                        self.eager[target.index()] = true;
                        return Ok(Step::Abort);
                    }
                    Fetched::LeftOut => None,
                    Fetched::Held => return Err(Failure::Held { key }),
                }
            }
        };
        if row == self.nodes[target.index()].see(job.xid, key) {
            self.release(job, key);
            job.slow.pop_front();
            return Ok(Step::Next(Stage::Slow));
        }
        self.put(job, key, row, self.by(verdict.winner))
    }

    /// Who made the row that a change left.
    pub(super) fn by(&self, change: ChangeRef) -> By {
        let transaction = &self.daemon.coordinator.window().transaction(change).transaction;
        By { stamp: transaction.stamp, at: transaction.commit_lsn }
    }

    pub(super) fn verdict(&mut self, job: &mut Job, key: Key) -> Result<Option<Verdict>, Failure> {
        let link = job.batch.link;
        let Purpose::Reopen(reopened) = job.purpose else {
            let decision = self.decide(job, key)?;
            let Decision { winner, write, .. } = decision;
            return Ok((write || job.parked.contains_key(&key)).then_some(Verdict { winner, write }));
        };
        let Redecision { winner, .. } = self.daemon.coordinator.decide_again(link, reopened)?;
        tell!(self, "n{}: {key} decided again: {}", link.target.0, self.name(winner));
        Ok(winner.map(|winner| Verdict { winner, write: true }))
    }

    /// The row with the body that the source's row has, if that is still the row which the change left there.
    fn at_source(&mut self, target: NodeId, key: Key, verdict: Verdict, sent: Sent, existing: Option<Row>) -> Fetched {
        let alike = |row: &Row| sent.with(row.body) == *row;
        let in_doubt = self.daemon.coordinator.is_reopened(target, self.schema.key_id(key));
        if let (true, Some(row)) = (in_doubt, existing.filter(alike)) {
            return Fetched::Row(row);
        }
        let Verdict { winner, .. } = verdict;
        if winner.source == target {
            return Fetched::Held;
        }
        if !self.daemon.streams[winner.source.index()].connected {
            return Fetched::TryLater;
        }
        match self.at_home(winner, key, sent) {
            AtHome::Stands(row) => Fetched::Row(row),
            // More of the source's changes may settle it; but to wait could be to wait for a link that waits for
            // this one.
            AtHome::MovedOn if self.random.permille(500) => Fetched::LeftOut,
            AtHome::Unclear if self.settings.mutation == Some(Mutation::LeftOutInDoubt) => Fetched::LeftOut,
            AtHome::MovedOn | AtHome::Unclear => Fetched::TryLater,
        }
    }

    /// What has become of a change at its home. Only if something else stands there is more under way.
    fn at_home(&self, change: ChangeRef, key: Key, sent: Sent) -> AtHome {
        let coordinator = &self.daemon.coordinator;
        let (home, id) = (change.source, self.schema.key_id(key));
        let Ok(standing) = coordinator.standing(home, key.table, id) else { return AtHome::Unclear };
        let version = self.nodes[home.index()].rows().get(&key);
        if let (Some(Mutation::AnyBody), Some(version)) = (self.settings.mutation, version) {
            return AtHome::Stands(sent.with(version.row.body));
        }
        let settled = standing.is_certain && coordinator.is_ready(home) && !coordinator.is_reopened(home, id);
        // A row that nobody has decoded yet says nothing: the server may still lose it.
        if settled && standing.change != Some(change) {
            return AtHome::MovedOn;
        }
        let quiet = self.jobs[home.index()].is_none();
        match version {
            Some(Version { row, xmin, author: Author::Local })
                if *xmin == coordinator.window().transaction(change).transaction.xid =>
            {
                AtHome::Stands(sent.with(row.body))
            }
            Some(Version { row, author: Author::Ours, .. }) if settled && quiet && sent.with(row.body) == *row => {
                AtHome::Stands(*row)
            }
            _ => AtHome::Unclear,
        }
    }

    pub(super) fn put(&mut self, job: &mut Job, key: Key, row: Option<Row>, by: By) -> Result<Step, Failure> {
        if !job.parked.contains_key(&key) && job.purpose != Purpose::Retry && self.refuses(key) {
            self.hold(job, key, row, by);
            job.slow.pop_front();
            return Ok(Step::Next(Stage::Slow));
        }
        let node = &mut self.nodes[job.batch.link.target.index()];
        let done = match (row, node.see(job.xid, key)) {
            (None, None) => Done::Nothing,
            (None, Some(_)) => node.delete(job.xid, key, Guard::Open),
            (Some(row), Some(_)) => node.update(job.xid, key, key, Guard::Open, |_| row),
            (Some(row), None) => node.insert(job.xid, key, row),
        };
        match (done, row) {
            (Done::Blocked(_), _) => return Ok(Step::Wait),
            (Done::Exists, _) => return Ok(Step::Next(Stage::Lock)),
            (Done::Duplicate(holder), Some(row)) => return self.contend(job, key, row, by, holder),
            _ => self.release(job, key),
        }
        job.slow.pop_front();
        Ok(Step::Next(Stage::Slow))
    }

    /// Another row holds the unique value: one of the two goes.
    fn contend(&mut self, job: &mut Job, key: Key, row: Row, by: By, holder: Key) -> Result<Step, Failure> {
        let link = job.batch.link;
        let node = &mut self.nodes[link.target.index()];
        if !node.holds(job.xid, holder) {
            job.holders.push(holder);
            return Ok(Step::Next(Stage::Lock));
        }
        if job.slow.contains(&holder) {
            let old = node.see(job.xid, holder);
            job.parked.extend(old.map(|old| (holder, old)));
            node.update(job.xid, holder, holder, Guard::Open, |old| Row { unique: None, ..old }); // written later
            return Ok(Step::Next(Stage::Slow));
        }
        let unique = row.unique.expect("a row without a unique value stands in nobody's way");
        let held_by = self.daemon.coordinator.standing_during(link, holder.table, self.schema.key_id(holder))?;
        if self.daemon.coordinator.takes_unique(key.table, by.stamp, by.at, held_by) {
            let home = held_by.map_or(link.target, |change| change.source);
            tell!(self, "n{}: {key} takes u{unique} from {holder}, at home at n{}", link.target.0, home.0);
            let at = held_by.map_or(Lsn::ZERO, |change| self.commit_lsn(change));
            if !self.is_settled(Loser { node: home, key: holder, unique, at }) {
                return Ok(Step::Abort);
            }
            let node = &mut self.nodes[link.target.index()];
            match self.settings.renames {
                true => node.update(job.xid, holder, holder, Guard::Open, |old| old.renamed()),
                false => node.delete(job.xid, holder, Guard::Open),
            };
            return Ok(Step::Next(Stage::Slow));
        }
        tell!(self, "n{}: {key} yields u{unique} to {holder}", link.target.0);
        if !self.is_settled(Loser { node: by.stamp.node, key, unique, at: by.at }) {
            return Ok(Step::Abort);
        }
        let row = self.settings.renames.then(|| row.renamed());
        self.put(job, key, row, by)
    }

    /// Whether the loser has been deleted or renamed at its home, or had changed there already. Then that may be done at the
    /// target, too, before it arrives: waiting for it could wait for another link that waits for this one.
    fn is_settled(&mut self, loser: Loser) -> bool {
        if self.settled.insert(loser) {
            self.losers.push(loser);
        }
        !self.losers.contains(&loser) || self.settings.mutation == Some(Mutation::UnsettledLosers)
    }

    fn commit_lsn(&self, change: ChangeRef) -> Lsn {
        self.daemon.coordinator.window().transaction(change).transaction.commit_lsn
    }

    /// Decides between the incoming change and the one that stands, as a system does that knows no sets.
    pub fn decide_pairwise(&self, decision: &mut Decision) {
        let Some(before) = decision.before else { return };
        let incoming = self.daemon.coordinator.window().transaction(decision.incoming);
        let standing = self.daemon.coordinator.window().transaction(before);
        let saw = standing.transaction.commit_lsn < incoming.seen[before.source.index()];
        let newer = incoming.transaction.stamp > standing.transaction.stamp;
        decision.winner = if saw || newer { decision.incoming } else { before };
        decision.write = decision.winner != before;
    }

    /// A change, for the story.
    pub fn name(&self, change: Option<ChangeRef>) -> String {
        let Some(change) = change else { return "nothing".to_owned() };
        let row = read(&self.daemon.coordinator, &self.schema, change).map_or("gone".to_owned(), |(_, sent)| {
            let body = sent.body.unwrap_or(Body { text: 0, toasted: true });
            sent.with(body).to_string()
        });
        format!("n{}@{} {row}", change.source.0, self.commit_lsn(change))
    }

    /// A decision, for the story.
    pub fn describe(&self, decision: &Decision) -> String {
        let Decision { incoming, before, winner, rival, write, .. } = *decision;
        let [incoming, before, winner, rival] = [Some(incoming), before, Some(winner), rival].map(|c| self.name(c));
        format!("{winner} of incoming {incoming}, standing {before}, rival {rival}, write {write}")
    }
}

/// What a change has come to at its home.
enum AtHome {
    /// Its row is there.
    Stands(Row),
    /// Another change is.
    MovedOn,
    /// Perhaps its row, perhaps one that something under way is about to replace.
    Unclear,
}

/// What reading the source's row came to.
enum Fetched {
    Row(Row),
    /// The source is not there, or more must be known first.
    TryLater,
    /// The source has moved on: what did so is under way and brings the whole row. Until then there is none, for
    /// somebody might change a wrong one.
    LeftOut,
    /// The value was here and has been written over.
    Held,
}

/// Whether the error is the coordinator's.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Error(error.to_string())
    }
}
