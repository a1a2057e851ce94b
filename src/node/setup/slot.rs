//! The cluster's slot at one node. Its creation waits for running transactions; that wait is bounded and the
//! error names who was waited for.

use std::time::Duration;

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

use crate::model::Lsn;
use crate::node::NodeError;
use crate::node::control::SlotInfo;

const BLOCKERS: &str = include_str!("../../../sql/blockers.sql");

/// Where a slot that exists begins; refuses one that is not ours.
pub(super) async fn usable(name: &str, slot: &SlotInfo, client: &Client) -> Result<Lsn, NodeError> {
    let row = client.query_one("SELECT current_database()::text", &[]).await;
    let database: String = row.map_err(NodeError::doing("read the database's name"))?.get(0);
    let ours = slot.plugin.as_deref() == Some("pgoutput") && slot.database.as_ref() == Some(&database);
    match slot.confirmed_flush_lsn {
        Some(lsn) if ours => Ok(lsn),
        _ => Err(NodeError::Operator(format!(
            "the slot {name} exists, but it is for {} in the database {}: drop it with \
             SELECT pg_drop_replication_slot('{name}'), or rename the cluster",
            slot.plugin.as_deref().unwrap_or("physical replication"),
            slot.database.as_deref().unwrap_or("-"),
        ))),
    }
}

/// Creates the slot and gives its consistent point.
pub(super) async fn create(client: &Client, name: &str, wait: Duration) -> Result<Lsn, NodeError> {
    let doing = NodeError::doing("create the replication slot");
    let ms = wait.as_millis();
    let limit = format!("SET lock_timeout = {ms}; SET statement_timeout = {ms}");
    client.batch_execute(&limit).await.map_err(&doing)?;
    let created =
        client.query_one("SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput')", &[&name]).await;
    let error = match created {
        Ok(row) => {
            client.batch_execute("RESET lock_timeout; RESET statement_timeout").await.map_err(&doing)?;
            return Ok(Lsn(row.get::<_, PgLsn>(0).into()));
        }
        Err(error) => doing(error),
    };
    match error.sqlstate().map(|state| state.code()) {
        Some("55P03" | "57014") => Err(waited(client, name, wait).await),
        Some("53400") => Err(NodeError::Operator(format!(
            "there is no replication slot left for {name}: raise max_replication_slots and restart the server"
        ))),
        _ => Err(error),
    }
}

async fn waited(client: &Client, name: &str, wait: Duration) -> NodeError {
    let rows = match client.query(BLOCKERS, &[]).await {
        Ok(rows) => rows,
        Err(error) => return NodeError::doing("find out what the slot waits for")(error),
    };
    let who = match rows.iter().map(blocker).collect::<Vec<_>>() {
        none if none.is_empty() => "a transaction that has ended meanwhile".to_owned(),
        some => some.join("; "),
    };
    NodeError::Operator(format!(
        "the slot {name} could not be created within {} s: it waits for transactions that were running before it. \
         Oldest: {who}. End them, or wait, and run setup again",
        wait.as_secs_f64()
    ))
}

fn blocker(row: &Row) -> String {
    let text = |column: &str| row.get::<_, Option<String>>(column);
    if let Some(gid) = text("gid") {
        return format!("prepared transaction '{gid}' of {}", text("prepared").unwrap_or_default());
    }
    let pid = row.get::<_, Option<i32>>("pid").unwrap_or_default();
    let role = text("role").unwrap_or_else(|| "unknown".to_owned());
    let since = text("since").map_or_else(String::new, |since| format!(", in transaction since {since}"));
    let query = text("query").filter(|query| !query.is_empty()).map_or_else(String::new, |query| format!(": {query}"));
    format!("pid {pid} (user {role}{since}{query})")
}
