//! Deferrable constraints: `session_replication_role = replica` switches off the triggers that recheck them
//! (`unique_key_recheck` in src/backend/commands/constraint.c), so duplicates would go in. We look for them ourselves,
//! when the whole batch is written: within it values may move in any order.

use std::sync::Arc;

use crate::apply::batch::Pieces;
use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::manner::Mode;
use crate::apply::net::{Net, Row};
use crate::apply::record::Recorder;
use crate::apply::unique::{self, Claim, Outcome, ROUNDS};
use crate::apply::{slow, sql};
use crate::conflict::ChangeRef;
use crate::model::{Cell, Transaction};
use crate::wire::Param;

/// Why a row was written.
#[derive(Clone, Copy, Debug)]
enum Written<'n> {
    /// As the outcome of this net change.
    For(&'n Net),
    /// As what this change had made of it.
    Of(ChangeRef),
}

impl<R: Recorder> Execution<'_, R> {
    /// Looks at every row that the batch wrote into a table with a deferrable constraint. In sets a duplicate is an error,
    /// as of a constraint that is checked at once; change by change the loser is settled.
    pub(super) async fn recheck(&mut self) -> Result<(), ApplyError> {
        let defers = |transaction: &Arc<Transaction>| {
            transaction.relations.iter().filter_map(|relation| relation.table.as_ref()).any(|table| table.defers())
        };
        if !self.batch.transactions.iter().any(defers) {
            return Ok(());
        }
        let shared = self.shared;
        let mut pieces = Pieces::new(self.batch, u64::MAX);
        while let Some(folded) = pieces.next(&shared.catalog.hasher)? {
            for net in folded.nets.iter().filter(|net| net.table.defers()) {
                self.recheck_row(&net.key_row, Written::For(net)).await?;
            }
        }
        for (row, change) in std::mem::take(&mut self.rewritten) {
            if row.table().defers() {
                self.recheck_row(&row, Written::Of(change)).await?;
            }
        }
        Ok(())
    }

    async fn recheck_row(&mut self, key_row: &Row, written: Written<'_>) -> Result<(), ApplyError> {
        for _ in 0..ROUNDS {
            let Some(row) = self.duplicate(key_row).await? else { return Ok(()) };
            let duplicate = ApplyError::Duplicate { table: key_row.table().to_string() };
            if self.manner.mode != Mode::OneByOne {
                return Err(duplicate);
            }
            let by = {
                let mut coordinator = self.deciding()?;
                match written {
                    Written::Of(change) => self.claimant_of(&coordinator, key_row, change)?,
                    Written::For(net) => {
                        let winner = coordinator.decide(self.batch.link, net.table.id, net.key)?.winner;
                        self.claimant(&coordinator, net, winner)?
                    }
                }
            };
            let claim = Claim { row, key_row: key_row.clone(), by };
            if self.settle_unique(&claim, &duplicate).await? == Outcome::Yields {
                return Ok(());
            }
        }
        Err(unique::taken_in_turn())
    }

    /// The row with that key, if this transaction wrote it and another row stands against it.
    pub(super) async fn duplicate(&mut self, key_row: &Row) -> Result<Option<Row>, ApplyError> {
        let arrays = slow::key_arrays(key_row.table(), &[key_row]);
        let types = vec![sql::TEXT_ARRAY; arrays.len()];
        let mut pipeline = self.begin();
        let written = sql::written(key_row.table());
        let at = pipeline.query(&written, &types, arrays.iter().map(|array| Param::Binary(array)));
        let outcomes = pipeline.run().await.map_err(ApplyError::pipeline("reading a row that was written"))?;
        let outcomes = self.begun(outcomes)?;
        let Some(found) = outcomes[at].rows.first() else { return Ok(None) };
        let cells: Vec<_> = (1..found.len()).map(|i| found.cell(i).map_or(Cell::Null, Cell::Text)).collect();
        let row = unique::row_of(key_row, &cells);
        Ok((!self.holders(&row).await?.is_empty()).then_some(row))
    }
}
