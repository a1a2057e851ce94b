//! The rows that have a unique value which an incoming row wants.

use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::net::Row;
use crate::apply::record::{Recorder, Side};
use crate::apply::unique::query::{Lock, holder_query};
use crate::apply::unique::{Claimant, row_of};
use crate::apply::{note, sql};
use crate::conflict::ChangeRef;
use crate::model::table::UniqueIndex;
use crate::model::{Cell, NodeId};
use crate::wire::Param;

/// A row that has a unique value which an incoming row wants.
#[derive(Debug)]
pub(in crate::apply) struct Found {
    row: Row,
    index: UniqueIndex,
    /// The name of the origin that wrote it.
    origin: Option<String>,
}

/// The same, locked, with who made it.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) row: Row,
    pub(super) index: UniqueIndex,
    /// The change that stands there, if the window has it.
    pub(super) side: Option<Side>,
    pub(super) home: NodeId,
    /// The newest change of it that was made at the target.
    pub(super) newest_here: Option<ChangeRef>,
    /// It loses the value to the row that wants it.
    pub(super) loses: bool,
}

impl<R: Recorder> Execution<'_, R> {
    /// The rows that have a unique value of `row`, other than the row of its own key.
    pub(in crate::apply) async fn holders(&mut self, row: &Row) -> Result<Vec<Found>, ApplyError> {
        self.find_holders(row, Lock::None).await
    }

    /// The same rows and who made them. They are locked, for what is found may be changed or removed at any moment, by
    /// the decision of another node too, and the change that is looked up then would not be that of the row found.
    pub(super) async fn lock_holders(&mut self, row: &Row, by: &Claimant) -> Result<Vec<Holder>, ApplyError> {
        let found = self.find_holders(row, Lock::Rows).await?;
        if !found.is_empty() {
            self.shared.barrier(self.batch.link.target).await?;
        }
        found.into_iter().map(|found| self.holder(found, by)).collect()
    }

    async fn find_holders(&mut self, row: &Row, lock: Lock) -> Result<Vec<Found>, ApplyError> {
        let table = row.table().clone();
        let mut holders: Vec<Found> = Vec::new();
        for index in &table.unique {
            let cells: Vec<_> = index.columns.iter().map(|column| row.cell(*column)).collect();
            let is_null = || cells.iter().any(|cell| sql::text_of(*cell).is_none());
            if index.rule.is_none() && !index.nulls_not_distinct && is_null() {
                continue;
            }
            let mut pipeline = self.session.pipeline();
            let own: Vec<_> = row.key_cells().map(|cell| sql::text_of(Some(cell))).collect();
            let values = cells.iter().map(|cell| sql::text_of(*cell)).chain(own);
            let params = values.map(|value| value.map_or(Param::Null, Param::Text));
            pipeline.query(&holder_query(&table, index, row, lock), &[], params);
            let outcomes = pipeline.run().await.map_err(ApplyError::pipeline("looking for a unique value's holder"))?;
            for found in &outcomes[0].rows {
                let origin = found.cell(0).map(|name| String::from_utf8_lossy(name).into_owned());
                let cells: Vec<_> = (1..found.len()).map(|i| found.cell(i).map_or(Cell::Null, Cell::Text)).collect();
                holders.push(Found { row: row_of(row, &cells), index: index.clone(), origin });
            }
        }
        Ok(holders)
    }

    fn holder(&self, Found { row, index, origin }: Found, by: &Claimant) -> Result<Holder, ApplyError> {
        let target = self.batch.link.target;
        let (table, key) = (row.table().id, row.key(&self.shared.catalog.hasher));
        let coordinator = self.shared.coordinator();
        let standing = coordinator.standing_during(self.batch.link, table, key)?;
        let by_origin = || {
            let ours = self.session.settings.all_origins.iter().zip(self.session.settings.origin_nodes.iter());
            ours.filter(|(name, _)| Some(*name) == origin.as_ref()).map(|(_, node)| *node).next()
        };
        let home = standing.map(|change| change.source).or_else(by_origin).unwrap_or(target);
        let side = standing.map(|change| note::side(&coordinator, change)).transpose()?;
        let newest_here = coordinator.newest_at(target, table, key)?;
        let Side { stamp, lsn, .. } = by.remote;
        let loses = stamp.is_some_and(|stamp| coordinator.takes_unique(table, stamp, lsn, standing));
        Ok(Holder { row, index, side, home, newest_here, loses })
    }
}
