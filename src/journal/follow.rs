//! What `conflicts tail` asks of the journal: which numbers are new, and which still wait for their batch.

use rusqlite::params;

use crate::journal::error::JournalError;
use crate::journal::reader::Reader;
use crate::journal::states;

impl Reader {
    /// The greatest number of an entry, 0 where there is none.
    pub fn newest(&self) -> Result<i64, JournalError> {
        let newest = self.connection.query_row("SELECT coalesce(max(id), 0) FROM entry", [], |row| row.get(0));
        newest.map_err(|error| JournalError::sqlite(&self.path, error))
    }

    /// The numbers of pending entries, in order.
    pub fn pending(&self) -> Result<Vec<i64>, JournalError> {
        self.numbers(&format!("{} AND id > ?1 ORDER BY id", states::PENDING), 0)
    }

    /// The numbers beyond `id`, in order.
    pub fn after(&self, id: i64) -> Result<Vec<i64>, JournalError> {
        self.numbers("SELECT id FROM entry WHERE id > ?1 ORDER BY id", id)
    }

    fn numbers(&self, sql: &str, beyond: i64) -> Result<Vec<i64>, JournalError> {
        let run = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_map(params![beyond], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()
        };
        run().map_err(|error| JournalError::sqlite(&self.path, error))
    }
}
