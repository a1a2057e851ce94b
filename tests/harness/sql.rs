//! SQL from a synchronous test.

use futures_util::TryStreamExt;
use pgconcord::throwaway::Server;
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

use super::runtime;

/// Rows as text; NULL is `None`.
pub type Rows = Vec<Vec<Option<String>>>;

/// A session.
pub struct Sql {
    client: Client,
}

impl Sql {
    /// Connects as the superuser, past any proxy.
    pub fn connect(server: &Server, database: &str) -> Result<Sql, Error> {
        Sql::connect_to(&server.dsn(pgconcord::throwaway::SUPERUSER, database))
    }

    /// Connects with a connection string.
    pub fn connect_to(dsn: &str) -> Result<Sql, Error> {
        runtime().block_on(async {
            let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
            tokio::spawn(connection);
            Ok(Sql { client })
        })
    }

    /// Runs statements and gives the rows of them all.
    pub fn try_rows(&self, sql: &str) -> Result<Rows, Error> {
        let messages = runtime().block_on(self.client.simple_query(sql))?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
                _ => None,
            })
            .collect())
    }

    /// As [`Sql::try_rows`]; a failure ends the test.
    pub fn rows(&self, sql: &str) -> Rows {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{}: {sql}", message(&error)))
    }

    /// The only value of the only row; empty for NULL.
    pub fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert!(rows.len() == 1 && rows[0].len() == 1, "{sql} gave {rows:?}");
        rows[0][0].clone().unwrap_or_default()
    }

    /// What a `COPY ... TO STDOUT` sends.
    pub fn copy_out(&self, sql: &str) -> Vec<u8> {
        let failed = |error: Error| -> Vec<u8> { panic!("{}: {sql}", message(&error)) };
        let sent = runtime().block_on(async {
            let pieces: Vec<_> = self.client.copy_out(sql).await?.try_collect().await?;
            Ok(pieces.concat())
        });
        sent.unwrap_or_else(failed)
    }

    /// That value as a number.
    pub fn number(&self, sql: &str) -> u64 {
        let value = self.value(sql);
        value.parse().unwrap_or_else(|_| panic!("{sql} gave {value:?}, no number"))
    }
}

/// The server's message with its detail.
pub fn message(error: &Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| format!("{db} {}", db.detail().unwrap_or_default()))
}
