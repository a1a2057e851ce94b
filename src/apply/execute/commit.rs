//! The end of a batch: the journal, COMMIT, and what the coordinator is told.

use crate::apply::batch::{COPY_ROWS, SET_ROWS};
use crate::apply::error::ApplyError;
use crate::apply::execute::plan::Plan;
use crate::apply::execute::{Applied, Execution, Opened};
use crate::apply::manner::{Committing, Inserting};
use crate::apply::net::Folded;
use crate::apply::record::Recorder;
use crate::apply::sets::{Judging, in_order, queue_set, writes_rows};
use crate::apply::sql;
use crate::conflict::Operation;
use crate::model::{Lsn, Stamp, Xid};

/// Tuples that go with their COMMIT, at most, in bytes: the node's stream is held back meanwhile.
const AT_ONCE_BYTES: usize = 64 << 10;

impl<R: Recorder> Execution<'_, R> {
    /// Commits what was written, or rolls back.
    pub(in crate::apply) async fn end(mut self, written: Result<(), ApplyError>) -> Result<Applied, ApplyError> {
        let prepared = match written {
            Ok(()) => self.record().await,
            Err(error) => Err(error),
        };
        if let Err(error) = prepared {
            self.shared.coordinator().aborted(self.batch.link);
            if !error.loses_session() {
                self.session.rollback().await?;
            }
            return Err(error);
        }
        let link = self.batch.link;
        self.shared.coordinator().commit_begins(link);
        let committed = self.session.commit(self.batch.end_lsn, self.stamp(), self.rows == 0).await;
        self.settle_commit(committed).await
    }

    /// Whether the piece, which is all that is left of its batch, can go to the target together with COMMIT: nothing is written
    /// yet, there is nothing for the journal, and statements can tell by themselves whether all went as expected.
    pub(super) fn goes_at_once(&self, folded: &Folded, plan: &Plan) -> bool {
        let Plan { deletes, updates, inserts, incomplete, slow, .. } = plan;
        let writes = deletes.len() + updates.len() + inserts.len();
        self.manner.committing == Committing::AtOnce
            && self.opened == Opened::Nothing
            && folded.truncations.is_empty()
            && (1..=SET_ROWS).contains(&writes)
            && (inserts.len() < COPY_ROWS || self.manner.inserting == Inserting::Skipping)
            && folded.bytes <= AT_ONCE_BYTES
            // what was inserted and deleted again is not there
            && !deletes.iter().any(|write| folded.nets[write.net].first == Operation::Insert)
            && incomplete.is_empty()
            && slow.is_empty()
            && self.conflicts.is_empty()
            && self.refusals.is_empty()
            && self.held_changes.is_empty()
            && self.healing.is_empty()
            && !folded.nets.iter().any(|net| net.table.defers())
    }

    /// Writes the batch and commits it in one window.
    pub(super) async fn write_and_commit(mut self, folded: &Folded, plan: Plan) -> Result<Applied, ApplyError> {
        let (stamp, end_lsn) = (self.stamp(), self.batch.end_lsn);
        let horizon = sql::xid_text(plan.horizon.unwrap_or(Xid(3)));
        let ours = self.session.ours.clone();
        let sets = in_order(folded, [plan.deletes, plan.updates, plan.inserts]);
        let mark = !sets.iter().any(|(kind, set)| writes_rows(*kind, set));
        self.applied.at_once = true;
        self.shared.coordinator().commit_begins(self.batch.link);
        let committed = self.session.write_and_commit(end_lsn, stamp, mark, |pipeline| {
            for (kind, set) in &sets {
                queue_set(pipeline, *kind, set, &set.writes, Some((&horizon, &ours)), Judging::ByItself);
            }
        });
        let committed = committed.await;
        self.settle_commit(committed).await
    }

    async fn record(&mut self) -> Result<(), ApplyError> {
        self.conflicts.extend(self.refusals.drain());
        if self.conflicts.is_empty() {
            return Ok(());
        }
        // The journal asks the rules of now which one it was, and what becomes of it.
        drop(self.deciding()?);
        let conflicts: Vec<_> = self.conflicts.drain().map(|(_, conflict)| conflict).collect();
        self.applied.conflicts = conflicts.len() as u64;
        self.recorder.pending(conflicts).await
    }

    /// Tells the coordinator what became of the COMMIT, and cleans up after one that failed.
    async fn settle_commit(mut self, committed: Result<Lsn, ApplyError>) -> Result<Applied, ApplyError> {
        let link = self.batch.link;
        let target = &self.shared.node(link.target).name;
        let not_taken_in = |error| ApplyError::NotTakenIn { node: target.clone(), error };
        let arrived = {
            let mut coordinator = self.shared.coordinator();
            match &committed {
                Ok(at) => {
                    coordinator.change_held(link.target, std::mem::take(&mut self.held_changes));
                    coordinator.committed(link, *at).map_err(not_taken_in)?;
                }
                Err(error) if !error.loses_session() => coordinator.commit_failed(link).map_err(not_taken_in)?,
                Err(_) => {} // in doubt: the node is connected again and its progress row read
            }
            coordinator.take_barriers()
        };
        self.shared.release(arrived);
        self.shared.wake_all(); // what was held back is known now
        if let Err(error) = &committed
            && !error.loses_session()
        {
            self.session.rollback().await?;
            if self.applied.conflicts > 0 {
                self.recorder.discard_after(link, self.session.progress.batch).await?;
            }
        }
        self.applied.at = committed?;
        self.applied.transactions = self.batch.transactions.len() as u64;
        Ok(self.applied)
    }

    fn stamp(&self) -> Stamp {
        let last = self.batch.transactions.last().map(|last| last.stamp);
        last.unwrap_or(Stamp { micros: crate::node::clock::now_micros(), node: self.batch.link.source })
    }
}
