//! Reopened decisions (R4): a local change came to light that lies before a batch which decided on its key without
//! knowing it. The key is locked, a barrier makes everything known, and the outcome is written.

use crate::apply::batch::{Write, into_sets};
use crate::apply::complete::{self, Completed};
use crate::apply::error::ApplyError;
use crate::apply::execute::{Applied, Execution};
use crate::apply::merge::{Merged, Merging};
use crate::apply::net::{Content, Row};
use crate::apply::record::{Conflict, Recorder};
use crate::apply::session::ApplySession;
use crate::apply::sets::{Judging, Kind, queue_set, rows_written};
use crate::apply::shared::Shared;
use crate::apply::unique::{Claim, Outcome};
use crate::apply::{note, slow, sql, unique};
use crate::conflict::{Batch, Redecision, Reopened};
use crate::conflict::{ChangeRef, LocalRow, conflict_type};
use crate::model::{Resolution, TouchKind};
use crate::wire::Param;

/// Rounds of locking before the key is left for later.
const ROUNDS: usize = 16;

/// What a key must become, and how its row is completed if a value was left out.
type Due = (Content, Option<Completed>);

/// Decides a key again and writes what comes out, in a transaction of its own.
///
/// # Errors
/// As [`crate::apply::execute::apply`].
pub async fn reopen<R: Recorder>(
    shared: &Shared,
    session: &mut ApplySession,
    recorder: &R,
    batch: &Batch,
    reopened: Reopened,
) -> Result<Applied, ApplyError> {
    let mut execution = Execution::new(shared, session, recorder, batch);
    let written = execution.write_again(reopened).await;
    execution.end(written).await
}

impl<R: Recorder> Execution<'_, R> {
    async fn write_again(&mut self, reopened: Reopened) -> Result<(), ApplyError> {
        let link = self.batch.link;
        self.begin_alone().await?;
        let Some(key_row) = self.key_row(reopened)? else {
            self.shared.coordinator().decide_again(link, reopened)?;
            return Ok(()); // stable meanwhile: nothing is left to decide
        };
        for _ in 0..ROUNDS {
            let there = self.lock_one(&key_row).await?;
            self.shared.barrier(link.target).await?;
            let (decision, content) = self.decide_reopened(reopened)?;
            let merges = self.resolvers.merge(reopened.table).is_some();
            let content = if merges { self.merge_reopened(reopened, &key_row).await? } else { content };
            let made = content.as_ref().filter(|_| merges).map(|(content, _)| content.clone());
            if merges && made.is_none() {
                return Ok(()); // decided with all that is known, and on record
            }
            let done = match content {
                None => true,
                Some((Content::Delete, _)) if !there => {
                    self.release(&[reopened.key]).await?;
                    true
                }
                Some((content, completed)) => {
                    self.write_or_make_room(&key_row, content, completed, decision.winner, there).await?
                }
            };
            if done {
                self.note_reopened(reopened, decision)?;
                if let (Some(made), Some(conflict)) = (made, self.conflicts.get_mut(&reopened.key)) {
                    if matches!(made, Content::Put(_)) {
                        conflict.resolution = Resolution::Merge;
                    }
                    conflict.result = Some(made);
                }
                return Ok(());
            }
        }
        Err(ApplyError::NotCommitted(format!("{} comes and goes", slow::describe(&key_row))))
    }

    /// A row with the key's cells, from any change of it in the window.
    fn key_row(&self, reopened: Reopened) -> Result<Option<Row>, ApplyError> {
        let coordinator = self.shared.coordinator();
        let history = coordinator.window().indexed(reopened.key)?;
        for node in coordinator.nodes() {
            if let Some(change) = history.of(node).last() {
                let record = coordinator.window().transaction(*change).transaction.change_at(change.offset())?;
                return Ok(match change.kind() {
                    TouchKind::Put => complete::new_row(&record),
                    TouchKind::Delete => complete::old_row(&record),
                });
            }
        }
        Ok(None)
    }

    pub(super) async fn lock_one(&mut self, key_row: &Row) -> Result<bool, ApplyError> {
        let arrays = slow::key_arrays(key_row.table(), &[key_row]);
        let types = vec![sql::TEXT_ARRAY; arrays.len()];
        let mut pipeline = self.begin();
        let at =
            pipeline.query(&sql::lock(key_row.table(), &[]), &types, arrays.iter().map(|array| Param::Binary(array)));
        let outcomes = pipeline.run().await.map_err(ApplyError::pipeline("locking a row to decide again"))?;
        Ok(!outcomes[at].rows.is_empty())
    }

    fn decide_reopened(&self, reopened: Reopened) -> Result<(Redecision, Option<Due>), ApplyError> {
        let target = self.batch.link.target;
        let hasher = &self.shared.catalog.hasher;
        let mut coordinator = self.deciding()?;
        let decision = coordinator.decide_again(self.batch.link, reopened)?;
        let Some(winner) = decision.winner else { return Ok((decision, None)) };
        let content = complete::content_of(&coordinator, winner, reopened.key, hasher)?;
        self.fits(&content, winner)?;
        let completed = match &content {
            Content::Put(row) if row.has_unchanged() => {
                // What stands is in doubt: only the window and the source are trusted.
                Some(match complete::complete(&coordinator, target, row.clone(), reopened.key, winner, hasher)? {
                    Completed::AtTarget(row) => Completed::AtSource(row, winner),
                    completed => completed,
                })
            }
            _ => None,
        };
        Ok((decision, Some((content, completed))))
    }

    /// What a row becomes that is made from several changes, if that is not what stands.
    async fn merge_reopened(&mut self, reopened: Reopened, key_row: &Row) -> Result<Option<Due>, ApplyError> {
        let table = key_row.table();
        let made = self.deciding()?.merge_again(self.batch.link.target, table, reopened.key)?;
        let plan = Merging { made, key_row: key_row.clone(), standing: None };
        Ok(match self.merged(&[plan]).await?.pop() {
            Some(Merged::Write(content, _)) => Some((content, None)),
            Some(Merged::Stands) | None => None,
        })
    }

    /// Whether it is written, or left out because it lost its unique value to another row; otherwise look again.
    async fn write_or_make_room(
        &mut self,
        key_row: &Row,
        content: Content,
        completed: Option<Completed>,
        winner: Option<ChangeRef>,
        there: bool,
    ) -> Result<bool, ApplyError> {
        let row = match (content, completed) {
            (Content::Delete, _) => None,
            (Content::Put(_), Some(Completed::AtSource(row, change))) => {
                Some(complete::read_at_source(self.shared, &row, change).await?)
            }
            (Content::Put(_), Some(Completed::Whole(row) | Completed::AtTarget(row))) => Some(row),
            (Content::Put(row), None) => Some(row),
        };
        self.savepoint().await?;
        let mut written = self.write_outcome(key_row, row.clone(), there).await;
        let table = key_row.table().clone();
        if matches!(written, Ok(true)) && table.defers() && self.duplicate(key_row).await?.is_some() {
            written = Err(ApplyError::Duplicate { table: table.to_string() });
        }
        let error = match self.end_savepoint(written, Some(&table)).await? {
            Ok(true) => return self.release(&[key_row.key(&self.shared.catalog.hasher)]).await.map(|()| true),
            Ok(false) => return Ok(false),
            Err(error) => error,
        };
        let Some(winner) = winner else { return Err(error) };
        if !unique::is_violation(&error) {
            let content = row.map_or(Content::Delete, Content::Put);
            return self.hold_again(key_row, content, winner, &error).await.map(|()| true);
        }
        let Some(row) = row else { return Err(error) };
        let by = self.claimant_of(&self.shared.coordinator(), key_row, winner)?;
        let claim = Claim { row, key_row: key_row.clone(), by };
        Ok(self.settle_unique(&claim, &error).await? == Outcome::Yields)
    }

    /// Whether it could be written; not if a row turned up.
    pub(super) async fn write_outcome(
        &mut self,
        key_row: &Row,
        row: Option<Row>,
        there: bool,
    ) -> Result<bool, ApplyError> {
        let (kind, row) = match row {
            None => (Kind::Delete, key_row.clone()),
            Some(row) if there => (Kind::Update, row),
            Some(row) => (Kind::Insert, row),
        };
        let sets = into_sets(vec![Write { net: 0, row, known: None }]);
        let mut pipeline = self.begin();
        let at = queue_set(&mut pipeline, kind, &sets[0], &sets[0].writes, None, Judging::Told);
        let outcomes = pipeline.run().await.map_err(ApplyError::pipeline("writing a decision taken again"))?;
        self.rows += rows_written(&outcomes[at]);
        Ok(outcomes[at].tag.rows == 1)
    }

    fn note_reopened(&mut self, reopened: Reopened, decision: Redecision) -> Result<(), ApplyError> {
        let (Some((local, theirs)), Some(winner)) = (decision.conflict, decision.winner) else { return Ok(()) };
        let coordinator = self.shared.coordinator();
        let hasher = &self.shared.catalog.hasher;
        let remote = note::side(&coordinator, theirs)?;
        let met = if local.kind() == TouchKind::Put { LocalRow::Written } else { LocalRow::Deleted };
        let local_side = note::side(&coordinator, local)?;
        let result = complete::content_of(&coordinator, winner, reopened.key, hasher)?;
        let both_delete = remote.row.is_none() && local_side.row.is_none();
        let resolution = match winner == theirs {
            _ if both_delete => Resolution::Skip,
            true => Resolution::ApplyRemote,
            false => self.stays(reopened.table, decision.by),
        };
        let Some(key) = remote.row.clone().or(remote.old.clone()).or(local_side.row.clone()).or(local_side.old.clone())
        else {
            return Ok(());
        };
        let conflict = Conflict {
            conflict_type: conflict_type(remote.operation, met),
            resolution,
            local: Some(local_side),
            result: Some(result),
            note: Some("decided again: the local change was not known yet when the incoming one was applied".into()),
            ..self.conflict(&key, remote, theirs.offset()).decided(&self.resolvers, decision.by)
        };
        drop(coordinator);
        self.conflicts.insert(reopened.key, conflict);
        Ok(())
    }
}
