//! Whether a node takes the SQL expressions of rules.

use crate::model::{Class, Rename, Table};
use crate::node::NodeError;
use crate::node::connect::connect;
use crate::node::error::class_of;
use crate::wire::Conninfo;

/// Somebody may be changing the table; then it is not waited for long. Names are looked for where apply sessions do.
const SETTINGS: &str = "SET lock_timeout = '2s'; SET search_path = pg_catalog";
/// Whether the role may make temporary tables.
const MAY_MAKE_TABLES: &str = "SELECT has_database_privilege(current_database(), 'TEMPORARY')";

/// What an expression is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The new value of a row that loses a unique value: over its columns.
    Rename,
    /// The value of a merged column: over `local`, `remote` and `old`. It is evaluated at every node, so it must be immutable.
    Merge,
}

/// An expression of a rule, for a column that the table has.
#[derive(Clone, Copy, Debug)]
pub struct Expression<'r> {
    /// The table.
    pub table: &'r Table,
    /// Its column.
    pub column: &'r str,
    /// As the rule has it.
    pub text: &'r str,
    /// What for.
    pub role: Role,
}

/// What is to be said of one of the expressions that were asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remark {
    /// Which.
    pub at: usize,
    /// What.
    pub answer: Answer,
}

/// What a server says of an expression that it does not simply take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It does not take it; its words.
    Refused(String),
    /// Whether it does, or all that it has to be, can't be told; why.
    Untold(String),
}

/// What is to be said of the expressions, on a connection of its own, for that may wait for a table's lock.
///
/// # Errors
/// If the node can't be reached.
pub async fn check(info: &Conninfo, expressions: &[Expression<'_>]) -> Result<Vec<Remark>, NodeError> {
    let mut remarks = Vec::new();
    if expressions.is_empty() {
        return Ok(remarks);
    }
    let lost = || NodeError::doing("check the expressions of rules");
    let client = connect(info, "pgconcord rules").await?;
    client.batch_execute(SETTINGS).await.map_err(lost())?;
    for (at, expression) in expressions.iter().enumerate() {
        let answer = match expression.ask(&client).await {
            Ok(answer) => answer,
            Err(error) => match error.as_db_error() {
                Some(said) if class_of(said.code()) == Class::Transient => {
                    Some(Answer::Untold(said.message().to_owned()))
                }
                Some(said) => Some(Answer::Refused(said.message().to_owned())),
                None => return Err(lost()(error)),
            },
        };
        remarks.extend(answer.map(|answer| Remark { at, answer }));
    }
    Ok(remarks)
}

impl Expression<'_> {
    /// Asks the server; `None`: it takes the expression.
    async fn ask(&self, client: &tokio_postgres::Client) -> Result<Option<Answer>, tokio_postgres::Error> {
        match self.role {
            Role::Rename => {
                let alone = Rename([(self.column.to_owned(), self.text.to_owned())].into()).all(self.table);
                let assignments = alone.assignments(self.table);
                let text = format!("UPDATE {} AS t SET {assignments} WHERE false", self.table.sql_only());
                let statement = client.prepare(&text).await?;
                let refused = || Answer::Refused("there are no parameters to be had".to_owned());
                Ok((!statement.params().is_empty()).then(refused))
            }
            Role::Merge if client.query_one(MAY_MAKE_TABLES, &[]).await?.get(0) => {
                client.batch_execute("BEGIN").await?;
                let asked = client.execute(&self.as_generated_column(), &[]).await;
                client.batch_execute("ROLLBACK").await?;
                asked.map(|_| None)
            }
            Role::Merge => {
                let of_type = self.sql_type();
                let values = ["local", "remote", "old"].map(|name| format!("NULL::{of_type} AS {name}")).join(", ");
                let text = format!("SELECT ({}\n)::{of_type} FROM (SELECT {values}) AS v", self.text);
                client.prepare(&text).await?;
                let why = "whether it is immutable is told by a temporary table, which pgconcord's role may not make";
                Ok(Some(Answer::Untold(why.to_owned())))
            }
        }
    }

    fn sql_type(&self) -> &str {
        self.table.column(self.column).map_or("pg_catalog.text", |at| &self.table.columns[at].sql_type)
    }

    /// A table whose generated column is what the expression makes: the server takes only an immutable one.
    ///
    /// <https://www.postgresql.org/docs/18/ddl-generated-columns.html>
    fn as_generated_column(&self) -> String {
        let of_type = self.sql_type();
        format!(
            "CREATE TEMPORARY TABLE pgconcord_expression (local {of_type}, remote {of_type}, old {of_type}, \
             made {of_type} GENERATED ALWAYS AS (({}\n)::{of_type}) STORED)",
            self.text
        )
    }
}
