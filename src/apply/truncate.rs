//! TRUNCATE is a change of every key of its tables (R15).
//!
//! Under the table's lock and after a barrier every local change is known; if rows stand that win over the
//! truncation, all but those are deleted.

use crate::apply::complete;
use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::net::{Content, Row, Truncation};
use crate::apply::record::{Conflict, Recorder, Side};
use crate::apply::{note, slow, sql};
use crate::conflict::Operation;
use crate::conflict::Survivor;
use crate::model::{KeyId, Resolution, TableId, TouchKind};
use crate::wire::Param;

impl<R: Recorder> Execution<'_, R> {
    /// Empties the tables of one statement but for the rows that win over it.
    pub(super) async fn truncate(&mut self, truncation: &Truncation) -> Result<(), ApplyError> {
        let shared = self.shared;
        let tables: Vec<_> = truncation.tables.iter().map(|id| shared.catalog.table(*id).clone()).collect();
        let names: Vec<_> = tables.iter().map(|table| format!("ONLY {}", table.sql_name())).collect();
        let names = names.join(", ");
        let mut pipeline = self.begin();
        pipeline.query(&format!("LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE"), &[], []);
        let outcomes = pipeline.run().await.map_err(ApplyError::pipeline(format!("locking {names} to truncate")))?;
        self.begun(outcomes)?;
        shared.barrier(self.batch.link.target).await?;

        let mut kept: Vec<Vec<Row>> = Vec::new();
        for id in &truncation.tables {
            kept.push(self.survivors(truncation, *id)?);
        }
        if kept.iter().all(Vec::is_empty) {
            let restart = if truncation.restart_identity { " RESTART IDENTITY" } else { "" };
            let mut pipeline = self.begin();
            pipeline.query(&format!("TRUNCATE {names}{restart}"), &[], []);
            pipeline.run().await.map_err(ApplyError::pipeline(format!("truncating {names}")))?;
            self.rows += 1;
            return Ok(());
        }
        for (table, kept) in tables.iter().zip(&kept) {
            let rows: Vec<_> = kept.iter().collect();
            let arrays = slow::key_arrays(table, &rows);
            let types = vec![sql::TEXT_ARRAY; arrays.len()];
            let mut pipeline = self.begin();
            pipeline.query(&sql::delete_others(table), &types, arrays.iter().map(|array| Param::Binary(array)));
            let deleting = ApplyError::pipeline(format!("truncating {table} but for newer rows"));
            let outcomes = pipeline.run().await.map_err(deleting)?;
            self.rows += outcomes[0].tag.rows;
        }
        Ok(())
    }

    /// The rows that stay; notes what the truncation and a change that it had not seen made of each key.
    fn survivors(&mut self, truncation: &Truncation, table: TableId) -> Result<Vec<Row>, ApplyError> {
        let link = self.batch.link;
        let hasher = &self.shared.catalog.hasher;
        let mut coordinator = self.shared.coordinator();
        let mut kept = Vec::new();
        let mut conflicts = Vec::new();
        for Survivor { key, rival, outcome, standing } in coordinator.survivors(link, table, truncation.place)? {
            let stays = outcome.kind() == TouchKind::Put;
            if let Some(rival) = rival {
                let local = note::side(&coordinator, rival)?;
                let result = complete::content_of(&coordinator, outcome, key, hasher)?;
                conflicts.extend(self.truncate_conflict(truncation, key, local, result));
            }
            if !stays {
                continue;
            }
            if let Content::Put(row) = complete::content_of(&coordinator, outcome, key, hasher)? {
                kept.push(row);
            }
            if standing != Some(outcome) {
                coordinator.reopen_key(link.target, table, key);
            }
        }
        drop(coordinator);
        self.conflicts.extend(conflicts);
        Ok(kept)
    }

    fn truncate_conflict(
        &self,
        truncation: &Truncation,
        key: KeyId,
        local: Side,
        result: Content,
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
            resolution: if stays { Resolution::KeepLocal } else { Resolution::ApplyRemote },
            local: Some(local),
            result: Some(result),
            ..self.conflict(&key_row, remote, truncation.place.1)
        };
        Some((key, conflict))
    }
}
