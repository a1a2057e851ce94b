//! Removing the loser of a unique value at its home.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;

use crate::apply::error::ApplyError;
use crate::apply::net::Row;
use crate::apply::shared::Shared;
use crate::apply::sql;
use crate::apply::unique::query::{removal_lock, removal_query};
use crate::model::key::KeyHasher;
use crate::model::table::UniqueIndex;
use crate::model::{KeyId, Lsn, NodeId};
use crate::node::NodeError;

/// A row to be removed at its home by an ordinary DELETE, if it is still the one that lost.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Its home.
    pub home: NodeId,
    pub(super) row: Row,
    pub(super) index: UniqueIndex,
    /// Where the change committed that lost, if it is in the window.
    pub(super) lsn: Option<Lsn>,
}

/// Removals that have been made, or were not needed any more, by home, key and where the change that lost had committed;
/// each with a position of the home's log by which the DELETE had been decoded.
pub type Removed = HashMap<(NodeId, KeyId, Option<Lsn>), Lsn>;

impl Removal {
    /// By which it is known that it has been made.
    pub(super) fn id(&self, hasher: &KeyHasher) -> (NodeId, KeyId, Option<Lsn>) {
        (self.home, self.row.key(hasher), self.lsn)
    }
}

/// Removes losers at their homes by ordinary DELETEs; call with no transaction open that could hold their locks.
///
/// # Errors
/// If a home is not connected or refuses, or what stands there is not known yet.
pub async fn remove(shared: &Shared, removals: &[Removal]) -> Result<(), ApplyError> {
    for removal in removals {
        let removed = remove_one(shared, removal).await?;
        let (node, table) = (&shared.node(removal.home).name, removal.row.table());
        match removed {
            0 => tracing::debug!(node, %table, "the older of two rows with one unique value has changed or gone"),
            _ => tracing::info!(node, %table, "removed the older of two rows with one unique value"),
        }
        shared.barrier(removal.home).await?;
        let decoded = shared.coordinator().window().log(removal.home).decoded;
        shared.removed().insert(removal.id(&shared.catalog.hasher), decoded);
    }
    Ok(())
}

/// How many rows went: none where a later change has taken the loser's place, which is decided about when it arrives.
async fn remove_one(shared: &Shared, removal: &Removal) -> Result<u64, ApplyError> {
    let Removal { home, row, index, .. } = removal;
    let (node, table) = (shared.node(*home), row.table());
    let remover = node.remover().ok_or_else(|| ApplyError::NodeDown {
        node: node.name.clone(),
        what: format!("removing a row of {table} whose unique value another row has"),
    })?;
    let texts: Vec<Option<&[u8]>> =
        index.columns.iter().chain(&table.key).map(|column| sql::text_of(row.cell(*column))).collect();
    let parameters: Vec<_> = texts.iter().map(|text| text as &(dyn ToSql + Sync)).collect();
    let doing = || NodeError::doing("remove a row whose unique value another row has");
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
    let removed = transaction.execute(&removal_query(table, index, row), &parameters).await.map_err(doing())?;
    transaction.commit().await.map_err(doing())?;
    if removed == 0 {
        return Err(ApplyError::Operator {
            what: format!("{} keeps a row of {table} whose unique value a newer row has", node.name),
            advice: "a BEFORE DELETE trigger there takes its DELETE back; delete the row, or change the trigger".into(),
        });
    }
    Ok(removed)
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
