//! Pruning by hand, beside a daemon that writes or without one.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::journal::error::JournalError;
use crate::journal::reader::Reader;
use crate::journal::record;
use crate::journal::store::Store;

/// Entries removed in one transaction, so that the daemon's writer waits milliseconds and not minutes.
pub(super) const PORTION: u32 = 500;

/// Removes the resolved entries found more than `age` before `now`, and gives their pages back. Returns how many.
pub fn prune_older(path: &Path, now: DateTime<Utc>, age: Duration) -> Result<u64, JournalError> {
    let mut store = Store::open(path)?;
    let mut removed = 0;
    loop {
        let changed = store.write(|transaction| record::prune(transaction, now, age, PORTION))?.changed;
        removed += changed;
        if changed < u64::from(PORTION) {
            break;
        }
    }
    if removed > 0 {
        store.shrink();
    }
    Ok(removed)
}

impl Reader {
    /// How many entries [`prune_older`] would remove.
    pub fn prunable(&self, now: DateTime<Utc>, age: Duration) -> Result<u64, JournalError> {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let before = now.timestamp_micros().saturating_sub(age);
        let sql = "SELECT count(*) FROM entry INDEXED BY entry_listing WHERE detected_at < ?1 AND status = 'resolved'";
        let counted = self.connection.query_row(sql, [before], |row| row.get::<_, i64>(0));
        counted.map(i64::unsigned_abs).map_err(|error| JournalError::sqlite(&self.path, error))
    }
}
