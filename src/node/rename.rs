//! Whether a node takes what a rule gives rows that lose a unique value.

use crate::model::{Class, Rename, Table};
use crate::node::NodeError;
use crate::node::connect::connect;
use crate::node::error::class_of;
use crate::wire::Conninfo;

/// Somebody may be changing the table; then it is not waited for long.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '2s'";

/// What is wrong with an expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong<'r> {
    /// Which of the renames that were asked about.
    pub at: usize,
    /// The column that it is for.
    pub column: &'r str,
    /// The server's words.
    pub said: String,
}

/// What is wrong with the expressions: each is prepared by itself, as the UPDATE that is made of it, on a connection of its
/// own, for that waits for the table's lock. What can't be told now passes.
///
/// # Errors
/// If the node can't be reached.
pub async fn check<'r>(info: &Conninfo, renames: &[(&'r Table, &'r Rename)]) -> Result<Vec<Wrong<'r>>, NodeError> {
    let mut wrong = Vec::new();
    if renames.is_empty() {
        return Ok(wrong);
    }
    let lost = || NodeError::doing("check what rules rename");
    let client = connect(info, "pgconcord rules").await?;
    client.batch_execute(LOCK_TIMEOUT).await.map_err(lost())?;
    for (at, (table, rename)) in renames.iter().enumerate() {
        for (column, value) in &rename.0 {
            let alone = Rename([(column.clone(), value.clone())].into()).all(table);
            let text = format!("UPDATE {} AS t SET {} WHERE false", table.sql_only(), alone.assignments(table));
            let error = match client.prepare(&text).await {
                Ok(statement) if statement.params().is_empty() => continue,
                Ok(_) => {
                    wrong.push(Wrong { at, column, said: "there are no parameters to be had".to_owned() });
                    continue;
                }
                Err(error) => error,
            };
            match error.as_db_error() {
                Some(said) if class_of(said.code()) == Class::Transient => {
                    tracing::warn!(%table, column, said = said.message(), "what `rename` gives is not checked");
                }
                Some(said) => wrong.push(Wrong { at, column, said: said.message().to_owned() }),
                None => return Err(lost()(error)),
            }
        }
    }
    Ok(wrong)
}
