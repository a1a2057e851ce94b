//! TRUNCATE is a change of every key of its tables (R15).
//!
//! Under the table's lock and after a barrier every local change is known; if rows stand that win over the
//! truncation, all but those are deleted.

use crate::apply::batch::{Write, into_sets};
use crate::apply::complete::{self, Completed};
use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::manner::Mode;
use crate::apply::merge::{Merged, Merging};
use crate::apply::net::{Content, Row, Truncation};
use crate::apply::record::{Conflict, Recorder, Side};
use crate::apply::sets::{Judging, Kind, queue_set, rows_written};
use crate::apply::unique::{self, Claim, Outcome, ROUNDS};
use crate::apply::{note, slow, sql};
use crate::conflict::{ChangeRef, Operation, Survivor};
use crate::model::{Deciding, KeyId, Resolution, TableId, TouchKind};
use crate::wire::Param;

/// A row that stays.
#[derive(Debug)]
struct Kept {
    row: Row,
    /// What must be written, where something else stands.
    rewrite: Option<Completed>,
    outcome: ChangeRef,
}

impl<R: Recorder> Execution<'_, R> {
    /// Empties the tables of one statement but for the rows that win over it.
    pub(super) async fn truncate(&mut self, truncation: &Truncation) -> Result<(), ApplyError> {
        let shared = self.shared;
        let tables: Vec<_> = truncation.tables.iter().map(|id| shared.catalog.table(*id).clone()).collect();
        let names: Vec<_> = tables.iter().map(|table| table.sql_only()).collect();
        let names = names.join(", ");
        let mut pipeline = self.begin();
        pipeline.query(&format!("LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE"), &[], []);
        let outcomes = pipeline.run().await.map_err(ApplyError::pipeline(format!("locking {names} to truncate")))?;
        self.begun(outcomes)?;
        shared.barrier(self.batch.link.target).await?;

        let mut kept: Vec<Vec<Kept>> = Vec::new();
        for id in &truncation.tables {
            kept.push(match self.resolvers.merge(*id) {
                Some(_) => self.merged_survivors(truncation, *id).await?,
                None => self.survivors(truncation, *id)?,
            });
        }
        if kept.iter().all(Vec::is_empty) {
            let restart = if truncation.restart_identity { " RESTART IDENTITY" } else { "" };
            let mut pipeline = self.begin();
            pipeline.query(&format!("TRUNCATE {names}{restart}"), &[], []);
            pipeline.run().await.map_err(ApplyError::pipeline(format!("truncating {names}")))?;
            self.rows += 1;
            return self.release_emptied(&truncation.tables, &[]).await;
        }
        for (table, kept) in tables.iter().zip(&kept) {
            let rows: Vec<_> = kept.iter().map(|kept| &kept.row).collect();
            let arrays = slow::key_arrays(table, &rows);
            let types = vec![sql::TEXT_ARRAY; arrays.len()];
            let mut pipeline = self.begin();
            pipeline.query(&sql::delete_others(table), &types, arrays.iter().map(|array| Param::Binary(array)));
            let deleting = ApplyError::pipeline(format!("truncating {table} but for newer rows"));
            let outcomes = pipeline.run().await.map_err(deleting)?;
            self.rows += rows_written(&outcomes[0]);
        }
        let hasher = &shared.catalog.hasher;
        let stay: Vec<KeyId> = kept.iter().flatten().map(|kept| kept.row.key(hasher)).collect();
        for kept in kept.into_iter().flatten() {
            self.rewrite(kept).await?;
        }
        self.release_emptied(&truncation.tables, &stay).await
    }

    /// Takes off the record what is held of the tables, but for the rows that stay.
    async fn release_emptied(&mut self, tables: &[TableId], stay: &[KeyId]) -> Result<(), ApplyError> {
        let gone: Vec<KeyId> = {
            let coordinator = self.shared.coordinator();
            let held = coordinator.all_held(self.batch.link.target).iter();
            let gone = held.filter(|(key, row)| tables.contains(&row.table) && !stay.contains(key));
            gone.map(|(key, _)| *key).collect()
        };
        self.release(&gone).await
    }

    /// Gives a row that stays the value that comes out, where that is not what stands; in this transaction, for a
    /// later one might never come.
    async fn rewrite(&mut self, Kept { rewrite, outcome, .. }: Kept) -> Result<(), ApplyError> {
        let row = match rewrite {
            None => return Ok(()),
            Some(Completed::Whole(row)) => Some(row),
            Some(Completed::AtTarget(row)) => self.read_at_source(&row, outcome).await?,
            Some(Completed::AtSource(row, change)) => self.read_at_source(&row, change).await?,
        };
        let Some(row) = row else { return Ok(()) };
        for _ in 0..ROUNDS {
            self.savepoint().await?;
            let written = self.write_kept(&row).await;
            let error = match self.end_savepoint(written, None).await? {
                Ok(()) => {
                    self.rewritten.push((row, outcome));
                    return Ok(());
                }
                Err(error) if self.manner.mode == Mode::OneByOne => error,
                Err(error) => return Err(error),
            };
            let by = self.claimant_of(&self.shared.coordinator(), &row, outcome)?;
            let claim = Claim { row: row.clone(), key_row: row.clone(), by };
            if self.settle_unique(&claim, &error).await? == Outcome::Yields {
                return Ok(());
            }
        }
        Err(unique::taken_in_turn())
    }

    async fn write_kept(&mut self, row: &Row) -> Result<(), ApplyError> {
        let sets = into_sets(vec![Write { net: 0, row: row.clone(), known: None }]);
        for kind in [Kind::Update, Kind::Insert] {
            let mut pipeline = self.begin();
            let at = queue_set(&mut pipeline, kind, &sets[0], &sets[0].writes, None, Judging::Told);
            let outcomes = pipeline.run().await.map_err(ApplyError::pipeline("writing a row that a TRUNCATE left"))?;
            self.rows += rows_written(&outcomes[at]);
            if outcomes[at].tag.rows > 0 {
                break;
            }
        }
        Ok(())
    }

    /// The rows that stay; notes what the truncation and a change that it had not seen made of each key.
    fn survivors(&mut self, truncation: &Truncation, table: TableId) -> Result<Vec<Kept>, ApplyError> {
        let link = self.batch.link;
        let hasher = &self.shared.catalog.hasher;
        let coordinator = self.deciding()?;
        let mut kept = Vec::new();
        let mut conflicts = Vec::new();
        for Survivor { key, rival, outcome, standing, by } in coordinator.survivors(link, table, truncation.place)? {
            let stays = outcome.kind() == TouchKind::Put;
            if let Some(rival) = rival {
                let local = note::side(&coordinator, rival)?;
                let result = complete::content_of(&coordinator, outcome, key, hasher)?;
                conflicts.extend(self.truncate_conflict(truncation, key, local, result, by));
            }
            if !stays {
                continue;
            }
            let Content::Put(row) = complete::content_of(&coordinator, outcome, key, hasher)? else { continue };
            let stands = standing == Some(outcome) && !coordinator.is_reopened(link.target, key);
            // What the batch itself puts after the truncation is written after it.
            let rewrite = (!stands && !self.is_ours(outcome))
                .then(|| complete::complete(&coordinator, link.target, row.clone(), key, outcome, hasher));
            kept.push(Kept { row, rewrite: rewrite.transpose()?, outcome });
        }
        drop(coordinator);
        self.conflicts.extend(conflicts);
        Ok(kept)
    }

    /// The same where rows are made from several changes: those stay that have changes which had seen the truncation.
    async fn merged_survivors(&mut self, truncation: &Truncation, table: TableId) -> Result<Vec<Kept>, ApplyError> {
        let link = self.batch.link;
        let table = self.shared.catalog.table(table).clone();
        let mut plans = Vec::new();
        {
            let coordinator = self.deciding()?;
            let mut conflicts = Vec::new();
            for Survivor { key, rival, outcome, by, .. } in coordinator.survivors(link, table.id, truncation.place)? {
                let made = coordinator.merge_truncated(link, &table, key, truncation.place)?;
                if let Some(rival) = rival {
                    let local = note::side(&coordinator, rival)?;
                    conflicts.extend(self.truncate_conflict(truncation, key, local, Content::Delete, by));
                }
                if made.is_whole() && outcome.kind() == TouchKind::Put {
                    let hasher = &self.shared.catalog.hasher;
                    let Content::Put(key_row) = complete::content_of(&coordinator, outcome, key, hasher)? else {
                        continue;
                    };
                    plans.push((Merging { made, key_row, standing: None }, outcome));
                }
            }
            drop(coordinator);
            self.conflicts.extend(conflicts);
        }
        let (plans, outcomes): (Vec<_>, Vec<_>) = plans.into_iter().unzip();
        let merged = self.merged(&plans).await?.into_iter().zip(outcomes);
        let kept = |(merged, outcome)| match merged {
            Merged::Write(Content::Put(row), _) => {
                Some(Kept { row: row.clone(), rewrite: Some(Completed::Whole(row)), outcome })
            }
            _ => None,
        };
        Ok(merged.filter_map(kept).collect())
    }

    fn truncate_conflict(
        &self,
        truncation: &Truncation,
        key: KeyId,
        local: Side,
        result: Content,
        by: Deciding,
    ) -> Option<(KeyId, Conflict)> {
        let key_row = local.row.clone().or(local.old.clone())?;
        let transaction = &self.batch.transactions[usize::try_from(truncation.place.0 - self.batch.first).ok()?];
        let stays = matches!(result, Content::Put(_));
        let remote = Side {
            stamp: Some(transaction.stamp),
            lsn: transaction.commit_lsn,
            xid: transaction.xid,
            operation: Operation::Truncate,
            row: None,
            old: None,
        };
        let conflict = Conflict {
            resolution: if stays { self.stays(key_row.table().id, by) } else { Resolution::ApplyRemote },
            local: Some(local),
            result: Some(result),
            ..self.conflict(&key_row, remote, truncation.place.1).decided(&self.resolvers, by)
        };
        Some((key, conflict))
    }
}
