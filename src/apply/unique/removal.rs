//! Removing the loser of a unique value at its home, or giving it another one there.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::apply::error::ApplyError;
use crate::apply::net::Row;
use crate::apply::shared::Shared;
use crate::apply::sql;
use crate::apply::unique::query::{removal_lock, removal_query, rename_query, still_stands_query};
use crate::model::key::KeyHasher;
use crate::model::table::UniqueIndex;
use crate::model::{Class, Classify, KeyId, Lsn, NewValues, NodeId};
use crate::node::NodeError;

/// The session that removes rows comes soon after a node's others.
const PATIENCE: Duration = Duration::from_secs(2);

/// A row to be removed at its home by an ordinary DELETE, or given other values by an ordinary UPDATE, if it is still the
/// one that lost.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Its home.
    pub home: NodeId,
    pub(super) row: Row,
    /// By which it loses, to which rows; at least one.
    pub(super) lost: Vec<(UniqueIndex, Row)>,
    /// What it gets, if it need not go, and by which rule.
    pub(super) renamed: Option<(NewValues, String)>,
    /// Where the change committed that lost, if it is in the window.
    pub(super) lsn: Option<Lsn>,
}

/// Removals that have been made, or were not needed any more, by home, key and where the change that lost had committed;
/// each with a position of the home's log by which the DELETE or UPDATE had been decoded.
pub type Removed = HashMap<(NodeId, KeyId, Option<Lsn>), Lsn>;

impl Removal {
    /// By which it is known that it has been made.
    pub(super) fn id(&self, hasher: &KeyHasher) -> (NodeId, KeyId, Option<Lsn>) {
        (self.home, self.row.key(hasher), self.lsn)
    }
}

/// Removes losers at their homes by ordinary DELETEs, or gives them other values; call with no transaction open that could hold
/// their locks.
///
/// # Errors
/// If a home is not connected or refuses, or what stands there is not known yet.
pub async fn remove(shared: &Shared, removals: &[Removal]) -> Result<(), ApplyError> {
    for removal in removals {
        let removed = remove_one(shared, removal).await?;
        let (node, table) = (&shared.node(removal.home).name, removal.row.table());
        match (removed, &removal.renamed) {
            (0, _) => tracing::debug!(node, %table, "a row that lost a unique value has changed or gone"),
            (_, None) => tracing::info!(node, %table, "removed a row that lost a unique value to another"),
            (_, Some((values, _))) => {
                let columns = values.names(table);
                tracing::info!(node, %table, columns, "gave another one to a row that lost a unique value");
            }
        }
        shared.barrier(removal.home).await?;
        let decoded = shared.coordinator().window().log(removal.home).decoded;
        shared.removed().insert(removal.id(&shared.catalog.hasher), decoded);
    }
    Ok(())
}

/// How many rows went or were changed: none where a later change has taken the loser's place, which is decided about when it
/// arrives.
async fn remove_one(shared: &Shared, removal: &Removal) -> Result<u64, ApplyError> {
    let Removal { home, row, lost, renamed, .. } = removal;
    let (node, table, index) = (shared.node(*home), row.table(), &lost[0].0);
    let remover = node.remover(PATIENCE).await.ok_or_else(|| ApplyError::NodeDown {
        node: node.name.clone(),
        what: format!("settling a row of {table} whose unique value another row has"),
    })?;
    let texts = texts_of(row, index, row);
    let parameters = parameters(&texts);
    let doing = || NodeError::doing("settle a row whose unique value another row has");
    // a stream that lags is waited for with nothing locked
    shared.barrier(*home).await?;
    let mut client = remover.lock().await;
    let transaction = client.transaction().await.map_err(doing())?;
    let locked = transaction.query(&removal_lock(table, index, row), &parameters).await.map_err(doing())?;
    if locked.is_empty() {
        return Ok(0);
    }
    // it can't change now, and what it is has been decoded then
    shared.barrier(*home).await?;
    if has_moved_on(shared, removal)? {
        return Ok(0);
    }
    let removed = match renamed {
        None => transaction.execute(&removal_query(table, index, row), &parameters).await.map_err(doing())?,
        Some((values, rule)) => rename(&transaction, removal, (values, rule), &node.name).await?,
    };
    transaction.commit().await.map_err(doing())?;
    if removed == 0 {
        let statement = if renamed.is_some() { "UPDATE" } else { "DELETE" };
        return Err(ApplyError::Operator {
            what: format!("{} keeps a row of {table} that lost its unique value to another", node.name),
            advice: format!(
                "a BEFORE {statement} trigger there takes its {statement} back; change or delete the row, or change the trigger"
            ),
        });
    }
    Ok(removed)
}

/// Gives a row other values; how many rows were changed.
async fn rename(
    transaction: &Transaction<'_>,
    removal: &Removal,
    (values, rule): (&NewValues, &str),
    node: &str,
) -> Result<u64, ApplyError> {
    let Removal { row, lost, .. } = removal;
    let table = row.table();
    let columns = values.names(table);
    let advice = "have its `rename` make values that no other row has, for instance of the key, and that the table takes, and \
                  run `pgconcord rules reload`";
    let cannot = |why: String| ApplyError::Operator {
        what: format!("{node} can't give a row of {table} another {columns} by the rule {rule:?}: {why}"),
        advice: advice.into(),
    };
    // Without DETAIL, which may tell values that are masked.
    let refused = |error: tokio_postgres::Error| {
        let said = error.as_db_error().map(|said| (said.code().clone(), said.message().to_owned()));
        let error = NodeError::doing("give another value to a row whose unique value another row has")(error);
        match said {
            Some((SqlState::UNIQUE_VIOLATION | SqlState::EXCLUSION_VIOLATION, _)) => {
                cannot("another row has the one that it makes".to_owned())
            }
            Some((_, said)) if error.class() != Class::Transient => cannot(said),
            _ => error.into(),
        }
    };
    transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await.map_err(&refused)?;
    let texts = texts_of(row, &lost[0].0, row);
    let query = rename_query(table, &lost[0].0, row, values);
    let renamed = transaction.execute(&query, &parameters(&texts)).await.map_err(&refused)?;
    if renamed == 0 {
        return Ok(0);
    }
    for (index, winner) in lost {
        for other in [row, winner] {
            let query = still_stands_query(table, index, row, other);
            let texts = texts_of(row, index, other);
            if transaction.query_opt(&query, &parameters(&texts)).await.map_err(&refused)?.is_some() {
                return Err(cannot(format!("the one that it makes is the same one to {}", index.name)));
            }
        }
    }
    Ok(renamed)
}

/// The texts of what the index looks at of `other`, then of the key of `row`.
fn texts_of<'r>(row: &'r Row, index: &UniqueIndex, other: &'r Row) -> Vec<Option<&'r [u8]>> {
    let key = row.table().key.iter().map(|column| sql::text_of(row.cell(*column)));
    index.columns.iter().map(|column| sql::text_of(other.cell(*column))).chain(key).collect()
}

fn parameters<'t>(texts: &'t [Option<&[u8]>]) -> Vec<&'t (dyn ToSql + Sync)> {
    texts.iter().map(|text| text as &(dyn ToSql + Sync)).collect()
}

/// Whether what stands at the loser's home is another change than the one that lost.
fn has_moved_on(shared: &Shared, removal: &Removal) -> Result<bool, ApplyError> {
    let Removal { home, row, lsn, .. } = removal;
    let (table, key) = (row.table(), row.key(&shared.catalog.hasher));
    let coordinator = shared.coordinator();
    if !coordinator.is_ready(*home) {
        return Err(ApplyError::InDoubt { table: table.to_string(), node: shared.node(*home).name.clone() });
    }
    Ok(coordinator.has_moved_on(*home, table.id, key, *lsn)?)
}
