//! One row at one node, read and written like by a user: without origin, so that it replicates.

use anyhow::{Context, bail};
use serde_json::Value;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::apply::sql;
use crate::config::{Config, NodeConfig};
use crate::journal::JsonRow;
use crate::model::Table;
use crate::model::table::{quote_identifier, quote_literal};
use crate::node::NodeError;
use crate::node::catalog::ClusterCatalog;
use crate::node::connect::connect;

/// The row's table at the node. A transaction begins with [`Site::lock`] and ends with [`Site::run`], or with the
/// connection.
pub(super) struct Site {
    client: Client,
    table: Table,
    node: String,
}

impl Site {
    /// Connects and reads the table, `schema.name`, as it is there.
    pub(super) async fn open(config: &Config, node: &NodeConfig, table: &str) -> anyhow::Result<Site> {
        let client = connect(&node.conninfo, "pgconcord conflicts").await.with_context(|| node.name.clone())?;
        let read = ClusterCatalog::read(&config.tables, &config.object_name(), &[(&node.name, &client)]).await;
        let catalog = read.with_context(|| node.name.clone())?.catalog;
        let Some(found) = catalog.tables().iter().find(|found| found.to_string() == table) else {
            bail!("{table} does not replicate at {}: see `pgconcord doctor`", node.name);
        };
        Ok(Site { table: Table::clone(found), node: node.name.clone(), client })
    }

    /// Whether the table has the column.
    pub(super) fn has(&self, column: &str) -> bool {
        self.table.column(column).is_some()
    }

    /// The column that may be meant.
    pub(super) fn like(&self, column: &str) -> String {
        crate::daemon::resolvers::fit::like(column, &self.table)
    }

    /// Locks the row of that key, if it is there, and reads it as the types write their values.
    pub(super) async fn lock(&self, key: &JsonRow) -> anyhow::Result<Option<JsonRow>> {
        let names = || self.table.columns.iter().map(|column| column.name.as_str());
        let columns: Vec<_> = names().map(quote_identifier).collect();
        if self.table.key.iter().any(|column| !key.contains_key(&self.table.columns[*column].name)) {
            bail!("{} has another key at {} than when the conflict was found", self.table, self.node);
        }
        let text = format!(
            "BEGIN; SELECT {} FROM {} WHERE {} FOR UPDATE",
            columns.join(", "),
            self.table.sql_only(),
            self.is(key)
        );
        let answers = self.client.simple_query(&text).await.map_err(NodeError::doing("read the row"));
        let answers = answers.with_context(|| self.node.clone())?;
        let mut rows = answers.iter().filter_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let Some(row) = rows.next() else { return Ok(None) };
        let mut read = JsonRow::new();
        for (at, name) in names().enumerate() {
            let value = row.try_get(at).with_context(|| format!("{name} of {} is no UTF-8", self.table))?;
            read.insert(name.to_owned(), value.map_or(Value::Null, Value::from));
        }
        Ok(Some(read))
    }

    /// Runs the statement, which changes one row, and commits.
    pub(super) async fn run(&self, statement: &str) -> anyhow::Result<()> {
        let failed = |error| NodeError::doing("write the row")(error).at(&self.node);
        let answers = self.client.simple_query(statement).await.map_err(failed)?;
        let changed = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        if changed != Some(1) {
            bail!(
                "{}: a trigger or a rule of {} keeps the row from being written; nothing is changed",
                self.node,
                self.table
            );
        }
        self.client.batch_execute("COMMIT").await.map_err(failed)?;
        Ok(())
    }

    /// `UPDATE` of these columns.
    pub(super) fn update(&self, key: &JsonRow, changes: &JsonRow) -> String {
        let set: Vec<_> =
            self.values(changes).map(|(name, value)| format!("{} = {value}", quote_identifier(name))).collect();
        format!("UPDATE {} SET {} WHERE {}", self.table.sql_only(), set.join(", "), self.is(key))
    }

    /// `UPDATE` that changes nothing, and replicates all the same.
    pub(super) fn touch(&self, key: &JsonRow) -> String {
        let settable = self.table.columns.iter().find(|column| !column.identity_always);
        let name = quote_identifier(&settable.unwrap_or(&self.table.columns[0]).name);
        format!("UPDATE {} SET {name} = {name} WHERE {}", self.table.sql_only(), self.is(key))
    }

    /// `INSERT` of the columns that the table has.
    pub(super) fn insert(&self, row: &JsonRow) -> String {
        let (names, values): (Vec<_>, Vec<_>) =
            self.values(row).map(|(name, value)| (quote_identifier(name), value)).unzip();
        let always = self.table.columns.iter().any(|column| column.identity_always);
        let overriding = if always { " OVERRIDING SYSTEM VALUE" } else { "" };
        let (names, values) = (names.join(", "), values.join(", "));
        format!("INSERT INTO {} ({names}){overriding} VALUES ({values})", self.table.sql_name())
    }

    /// `DELETE`.
    pub(super) fn delete(&self, key: &JsonRow) -> String {
        format!("DELETE FROM {} WHERE {}", self.table.sql_only(), self.is(key))
    }

    fn is(&self, key: &JsonRow) -> String {
        let each = self.values(key).map(|(name, value)| {
            let equals = self.table.column(name).map_or("=", |at| &self.table.columns[at].equals);
            format!("{} {equals} {value}", quote_identifier(name))
        });
        each.collect::<Vec<_>>().join(" AND ")
    }

    /// The row's columns that the table has, with their values as SQL.
    fn values<'a>(&'a self, row: &'a JsonRow) -> impl Iterator<Item = (&'a str, String)> {
        row.iter().filter_map(|(name, value)| {
            let column = &self.table.columns[self.table.column(name)?];
            Some((name.as_str(), column.value(&format!("{}::pg_catalog.text", literal(value)))))
        })
    }
}

/// A value of the journal as an expression.
fn literal(value: &Value) -> String {
    match (value, value.get("bytes").and_then(Value::as_str)) {
        (Value::Null, _) => "NULL".to_owned(),
        (Value::String(text), _) => quote_literal(text),
        (_, Some(hex)) => sql::text_of_bytes(&quote_literal(&format!("\\x{hex}"))),
        (other, None) => quote_literal(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_quoted_and_bytes_pass_as_they_are() {
        assert_eq!(literal(&json!("it's")), "'it''s'");
        assert_eq!(literal(&Value::Null), "NULL");
        assert!(literal(&json!({ "bytes": "ff00" })).contains(r"'\xff00'::pg_catalog.bytea"));
    }
}
