//! Whether a node takes what a rule gives rows that lose a unique value.

use tokio_postgres::Client;

use crate::model::{Rename, Table};
use crate::node::NodeError;

/// What is wrong with the expressions, in the server's words: each is prepared by itself, as the UPDATE that is made of it.
///
/// # Errors
/// If the server is lost.
pub async fn check(client: &Client, table: &Table, rename: &Rename) -> Result<Vec<(String, String)>, NodeError> {
    let mut wrong = Vec::new();
    for (column, value) in &rename.0 {
        let alone = Rename([(column.clone(), value.clone())].into()).all(table);
        let text = format!("UPDATE {} AS t SET {} WHERE false", table.sql_only(), alone.assignments(table));
        match client.prepare(&text).await {
            Ok(statement) if statement.params().is_empty() => {}
            Ok(_) => wrong.push((column.clone(), "there are no parameters to be had".to_owned())),
            Err(error) => match error.as_db_error() {
                Some(said) => wrong.push((column.clone(), said.message().to_owned())),
                None => return Err(NodeError::doing("check what a rule renames")(error)),
            },
        }
    }
    Ok(wrong)
}
