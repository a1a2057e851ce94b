//! What is done at the target to a row that lost a unique value: what was done to it at its home.

use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::net::Row;
use crate::apply::record::Recorder;
use crate::apply::sql::{Guard, Variant};
use crate::apply::unique::holders::Holder;
use crate::apply::unique::query::rename_here;
use crate::apply::unique::removal::Removal;
use crate::apply::{sets, slow, sql};
use crate::conflict::ChangeRef;
use crate::model::table::UniqueIndex;
use crate::model::{KeyId, Lsn, NewValues, NodeId};
use crate::wire::Param;

/// Bytes of text in a row, and of its new values, that are stored in the row for certain: a tuple is looked at for values to be
/// stored out of line above 2 kB (`TOAST_TUPLE_THRESHOLD` in src/include/access/heaptoast.h).
const INLINE: usize = 900;

impl<R: Recorder> Execution<'_, R> {
    /// The holders, each once, as losers, with the newest change of each that was made at the target.
    pub(super) fn there(&self, holders: &[Holder], winner: &Row) -> Vec<(Option<ChangeRef>, Removal)> {
        let hasher = self.shared.catalog.hasher;
        let mut losers: Vec<(KeyId, Vec<&Holder>)> = Vec::new();
        for holder in holders {
            let key = holder.row.key(&hasher);
            match losers.iter_mut().find(|(of, _)| *of == key) {
                Some((_, found)) => found.push(holder),
                None => losers.push((key, vec![holder])),
            }
        }
        let removal = |(_, found): (KeyId, Vec<&Holder>)| {
            let Holder { row, home, side, newest_here, .. } = found[0];
            let lost = found.iter().map(|holder| (holder.index.clone(), winner.clone())).collect();
            (*newest_here, self.removal(*home, row.clone(), lost, side.as_ref().map(|side| side.lsn)))
        };
        losers.into_iter().map(removal).collect()
    }

    /// A loser, with what it gets if a rule says so.
    pub(super) fn removal(&self, home: NodeId, row: Row, lost: Vec<(UniqueIndex, Row)>, lsn: Option<Lsn>) -> Removal {
        let table = row.table();
        let indexes = lost.iter().map(|(index, _)| index);
        let renamed = self.recorder.rename(table);
        let renamed = renamed.and_then(|(rename, rule)| Some((rename.for_indexes(table, indexes)?, rule)));
        Removal { home, row, lost, renamed, lsn }
    }

    /// Does to a row at the target what was done to it at its home, unless a local change of it came to light after `newest`:
    /// removes it, or gives it other values. Those are not quite what its home gave, so where a change could leave them out as
    /// unchanged it is removed all the same, until the UPDATE of its home brings it; nobody would recheck it where a constraint
    /// is deferrable.
    pub(super) async fn give_way_here(
        &mut self,
        key_row: &Row,
        newest: Option<ChangeRef>,
        loser: &Removal,
    ) -> Result<bool, ApplyError> {
        let (target, key) = (self.batch.link.target, key_row.key(&self.shared.catalog.hasher));
        let table = key_row.table().clone();
        let arrays = slow::key_arrays(&table, &[key_row]);
        let types = vec![sql::TEXT_ARRAY; arrays.len()];
        let params = || arrays.iter().map(|array| Param::Binary(array));
        let mut pipeline = self.begin();
        pipeline.query(&sql::lock(&table, &[]), &types, params());
        pipeline.run().await.map_err(ApplyError::pipeline("locking a row whose unique value another row has"))?;
        self.shared.barrier(target).await?;
        if self.shared.coordinator().newest_at(target, table.id, key)? != newest {
            return Ok(false);
        }
        let stays_inline = table.sends_old_rows || loser.row.tuple.as_bytes().len() < INLINE;
        if let Some((values, _)) = loser.renamed.as_ref().filter(|_| stays_inline && !table.defers())
            && self.rename_here(&loser.row, values).await?
        {
            return Ok(true);
        }
        let mut pipeline = self.begin();
        let at = pipeline.query(&sql::delete(&table, Variant::of_texts(Guard::Locked)), &types, params());
        let outcomes = pipeline.run().await.map_err(ApplyError::pipeline("removing a row that lost a unique value"))?;
        self.rows += sets::rows_written(&outcomes[at]);
        Ok(true)
    }

    /// Whether the row with the key of `row` has become `row` with other values.
    async fn rename_here(&mut self, row: &Row, values: &NewValues) -> Result<bool, ApplyError> {
        let (text, columns) = rename_here(row, values);
        self.savepoint().await?;
        let mut pipeline = self.begin();
        let params = columns.iter().map(|column| sql::text_of(row.cell(*column)));
        let at = pipeline.query(&text, &[], params.map(|text| text.map_or(Param::Null, Param::Text)));
        let written = pipeline.run().await.map_err(ApplyError::pipeline("giving a row another unique value"));
        let is_inline = match &written {
            Ok(outcomes) => {
                let length = outcomes[at].rows.first().map(|row| row.parse::<usize>(0));
                let length = length.transpose().map_err(ApplyError::wire("reading how long a unique value is"))?;
                length.is_some_and(|length| row.table().sends_old_rows || length < INLINE)
            }
            Err(error) if error.loses_session() => return written.map(|_| false),
            Err(error) => {
                tracing::debug!(code = error.code(), "a row gets its other value by its home");
                false
            }
        };
        if is_inline {
            self.rows += 1;
            self.commands(&["RELEASE SAVEPOINT pgconcord"]).await?;
        } else {
            self.commands(&["ROLLBACK TO SAVEPOINT pgconcord", "RELEASE SAVEPOINT pgconcord"]).await?;
        }
        Ok(is_inline)
    }
}
