//! Unique values (R7, R12): change by change after a violation, and what to do when two rows claim one value.
//!
//! Values that merely swap within a batch come right in the order of the source. Where another row still holds
//! the value the older row loses and is removed by an ordinary DELETE at its home node, without origin, so that it
//! is replicated and ordered like any other change; its whole row is in the journal.

use crate::apply::batch::Pieces;
use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::net::{Content, Net, Row};
use crate::apply::record::{Conflict, Recorder, Side};
use crate::apply::{note, sql};
use crate::conflict::Operation;
use crate::model::table::{Table, UniqueIndex, quote_identifier};
use crate::model::{Cell, ConflictType, NodeId, Resolution, Tuple};
use crate::node::NodeError;
use crate::wire::Param;

/// A row that holds a unique value which an incoming row wants.
#[derive(Debug)]
struct Holder {
    row: Row,
    index: UniqueIndex,
    /// The change that stands there, if the window has it.
    side: Option<Side>,
    home: NodeId,
}

/// Who must go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loser {
    /// The row that holds the value.
    There,
    /// The row that wants it, whose home is this node.
    Incoming(NodeId),
}

impl<R: Recorder> Execution<'_, R> {
    /// Writes the batch change by change, each behind a savepoint.
    pub(super) async fn write_one_by_one(&mut self) -> Result<(), ApplyError> {
        self.begin_alone().await?;
        let shared = self.shared;
        let mut pieces = Pieces::new(self.batch, 1);
        while let Some(folded) = pieces.next(&shared.catalog.hasher)? {
            self.command("SAVEPOINT pgconcord").await?;
            let nets = folded.nets.clone();
            match self.write_piece(folded).await {
                Ok(()) => self.command("RELEASE SAVEPOINT pgconcord").await?,
                Err(error) if matches!(error.code(), Some("23505" | "23P01")) => {
                    self.command("ROLLBACK TO SAVEPOINT pgconcord").await?;
                    for net in nets.iter().filter(|net| matches!(net.content, Content::Put(_))) {
                        self.settle_unique(net, &error).await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn command(&mut self, text: &str) -> Result<(), ApplyError> {
        let mut pipeline = self.session.pipeline();
        pipeline.query(text, &[], []);
        pipeline.run().await.map(drop).map_err(ApplyError::pipeline(text.to_lowercase()))
    }

    /// The incoming row can't be written: decides who loses.
    async fn settle_unique(&mut self, net: &Net, error: &ApplyError) -> Result<(), ApplyError> {
        let Content::Put(row) = &net.content else { return Ok(()) };
        let holders = self.holders(row).await?;
        if holders.is_empty() {
            return Err(ApplyError::Operator {
                what: format!("a replicated row cannot be written: {error}"),
                advice: "the index is not a plain unique index over columns, so pgconcord cannot tell which row is in \
                         the way; change or remove the row at this node that stands against it"
                    .into(),
            });
        }
        let transaction = &self.batch.transactions[usize::try_from(net.place.0 - self.batch.first).unwrap_or(0)];
        let newest = holders.iter().filter_map(|holder| holder.side.as_ref()?.stamp).max();
        let incoming_wins = newest.is_none_or(|newest| transaction.stamp > newest);
        if incoming_wins {
            // The batch is rolled back, but the removals stand: the entries are settled with what is committed.
            let batch = self.session.progress.batch;
            let lost = |holder| Ok(Conflict { batch, ..self.unique_conflict(net, &holders, holder, Loser::There)? });
            let conflicts = holders.iter().map(lost).collect::<Result<_, ApplyError>>()?;
            self.recorder.pending(conflicts).await?;
            let mut home = self.batch.link.target;
            for holder in &holders {
                home = holder.home;
                self.remove_at(holder.home, &holder.row, &holder.index).await?;
            }
            return Err(ApplyError::UniqueLoser {
                table: net.table.to_string(),
                home: self.shared.node(home).name.clone(),
            });
        }
        let conflict = self.unique_conflict(net, &holders, &holders[0], Loser::Incoming(transaction.stamp.node))?;
        self.recorder.pending(vec![conflict]).await?;
        self.applied.conflicts += 1;
        self.remove_at(self.batch.link.source, row, &holders[0].index).await
    }

    /// The conflict with one of the holders. Where several lose there is one entry for each, by the loser's key, so
    /// that every row that goes is on record.
    fn unique_conflict(
        &self,
        net: &Net,
        holders: &[Holder],
        holder: &Holder,
        loser: Loser,
    ) -> Result<Conflict, ApplyError> {
        let kind = match (holders.len(), net.operation()) {
            (2.., _) => ConflictType::MultipleUniqueConflicts,
            (_, Operation::Insert) if !net.rekeyed => ConflictType::InsertExists,
            _ => ConflictType::UpdateExists,
        };
        let (resolution, result, who, home) = match loser {
            Loser::There => (Resolution::ApplyRemote, net.content.clone(), "the row there", holder.home),
            Loser::Incoming(home) => {
                (Resolution::KeepLocal, Content::Put(holder.row.clone()), "the incoming row", home)
            }
        };
        let local = holder.side.clone().unwrap_or(Side {
            stamp: None,
            lsn: crate::model::Lsn::ZERO,
            xid: crate::model::Xid(0),
            operation: Operation::Insert,
            row: None,
            old: None,
        });
        let local = Side { row: Some(holder.row.clone()), ..local };
        let coordinator = self.shared.coordinator();
        let mut conflict = self.conflict(&coordinator, net, kind, resolution, Some(local), Some(result));
        if loser == Loser::There && holders.len() > 1 {
            conflict.key = holder.row.clone();
        }
        let indexes: Vec<_> = holders.iter().map(|holder| holder.index.name.as_str()).collect();
        conflict.note = Some(format!(
            "rows claim one value of {}; {who} is older and is removed at {}",
            indexes.join(", "),
            self.shared.node(home).name
        ));
        Ok(conflict)
    }

    /// The rows that hold a unique value of `row`, other than the row of its own key.
    async fn holders(&mut self, row: &Row) -> Result<Vec<Holder>, ApplyError> {
        let table = row.table().clone();
        let mut holders: Vec<Holder> = Vec::new();
        for index in &table.unique {
            let cells: Vec<_> = index.columns.iter().map(|column| row.cell(*column)).collect();
            if cells.iter().any(|cell| sql::text_of(*cell).is_none()) && !index.nulls_not_distinct {
                continue;
            }
            let mut pipeline = self.session.pipeline();
            let own: Vec<_> = row.key_cells().map(|cell| sql::text_of(Some(cell))).collect();
            let values = cells.iter().map(|cell| sql::text_of(*cell)).chain(own);
            let params = values.map(|value| value.map_or(Param::Null, Param::Text));
            pipeline.query(&holder_query(&table, index), &[], params);
            let outcomes = pipeline.run().await.map_err(ApplyError::pipeline("looking for a unique value's holder"))?;
            for found in &outcomes[0].rows {
                let origin = found.cell(0).map(|name| String::from_utf8_lossy(name).into_owned());
                let cells: Vec<_> = (1..found.len()).map(|i| found.cell(i).map_or(Cell::Null, Cell::Text)).collect();
                holders.push(self.holder(row, index, origin.as_deref(), &cells)?);
            }
        }
        Ok(holders)
    }

    fn holder(
        &self,
        like: &Row,
        index: &UniqueIndex,
        origin: Option<&str>,
        cells: &[Cell<'_>],
    ) -> Result<Holder, ApplyError> {
        let cell_of =
            |column: &Option<usize>| column.and_then(|column| cells.get(column).copied()).unwrap_or(Cell::Null);
        let tuple = Tuple::from_cells(like.relation.column_of.iter().map(cell_of).collect::<Vec<_>>().into_iter());
        let row = Row { relation: like.relation.clone(), tuple };
        let target = self.batch.link.target;
        let key = row.key(&self.shared.catalog.hasher);
        let coordinator = self.shared.coordinator();
        let standing = coordinator.standing(target, row.table().id, key)?;
        let by_origin = || {
            let ours = self.session.settings.all_origins.iter().zip(self.session.settings.origin_nodes.iter());
            ours.filter(|(name, _)| Some(name.as_str()) == origin).map(|(_, node)| *node).next()
        };
        let home = standing.map(|change| change.source).or_else(by_origin).unwrap_or(target);
        let side = standing.map(|change| note::side(&coordinator, change)).transpose()?;
        Ok(Holder { row, index: index.clone(), side, home })
    }

    /// Removes a row at its home by an ordinary DELETE, if it still has the value.
    async fn remove_at(&mut self, home: NodeId, row: &Row, index: &UniqueIndex) -> Result<(), ApplyError> {
        let node = self.shared.node(home);
        let control = node.control().ok_or_else(|| ApplyError::NodeDown {
            node: node.name.clone(),
            what: format!("removing a row of {} whose unique value another row has", row.table()),
        })?;
        let table = row.table();
        let columns: Vec<_> = table.key.iter().chain(&index.columns).copied().collect();
        let texts: Vec<Option<String>> = columns
            .iter()
            .map(|column| sql::text_of(row.cell(*column)).map(|text| String::from_utf8_lossy(text).into_owned()))
            .collect();
        let parameters: Vec<_> = texts.iter().map(|text| text as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
        let text = format!("DELETE FROM {} AS t WHERE {}", table.sql_name(), matches(table, &columns, 1));
        let removed = control.client().execute(&text, &parameters).await;
        let removed = removed.map_err(NodeError::doing("remove a row whose unique value another row has"))?;
        tracing::info!(node = node.name, table = %table, removed, "removed the older of two rows with one unique value");
        Ok(())
    }
}

/// `t.a IS NOT DISTINCT FROM $n::…` for each column.
fn matches(table: &Table, columns: &[usize], first: usize) -> String {
    let each = |(i, column): (usize, &usize)| {
        let column = &table.columns[*column];
        format!(
            "t.{} IS NOT DISTINCT FROM ${}::pg_catalog.text::{}",
            quote_identifier(&column.name),
            first + i,
            column.sql_type
        )
    };
    columns.iter().enumerate().map(each).collect::<Vec<_>>().join(" AND ")
}

/// The rows with these values of the index but another key: the name of the origin that wrote them, all columns.
fn holder_query(table: &Table, index: &UniqueIndex) -> String {
    let columns: Vec<_> =
        table.columns.iter().map(|column| format!("t.{}::pg_catalog.text", quote_identifier(&column.name))).collect();
    format!(
        "SELECT (SELECT o.roname FROM pg_catalog.pg_replication_origin AS o \
         WHERE o.roident = (pg_catalog.pg_xact_commit_timestamp_origin(t.xmin)).roident), {} \
         FROM {} AS t WHERE {} AND NOT ({})",
        columns.join(", "),
        table.sql_name(),
        matches(table, &index.columns, 1),
        matches(table, &table.key, 1 + index.columns.len())
    )
}

/// Whether an error calls for the batch to be written change by change.
pub fn calls_for_one_by_one(error: &ApplyError) -> bool {
    matches!(error.code(), Some("23505" | "23P01" | "23503"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableId;
    use crate::model::table::{Column, KeyForm};

    #[test]
    fn a_holder_is_looked_for_by_value_and_not_by_its_own_key() {
        let column = |name: &str, sql_type: &str| Column {
            name: name.into(),
            sql_type: sql_type.into(),
            identity_always: false,
            key_form: KeyForm::Bytes,
        };
        let index = UniqueIndex { name: "t_e".into(), columns: vec![1], nulls_not_distinct: false };
        let table = Table {
            id: TableId(0),
            schema: "s".into(),
            name: "t".into(),
            columns: vec![column("k", "pg_catalog.int4"), column("e\"x", "pg_catalog.text")],
            key: vec![0],
            unique: vec![index.clone()],
        };
        let text = holder_query(&table, &index);
        assert!(text.contains(r#"WHERE t."e""x" IS NOT DISTINCT FROM $1::pg_catalog.text::pg_catalog.text AND NOT"#));
        assert!(text.ends_with(r#"(t."k" IS NOT DISTINCT FROM $2::pg_catalog.text::pg_catalog.int4)"#), "{text}");
    }
}
