//! What a person decided about a row, put on record beside a daemon that writes or without one.

use std::path::Path;

use crate::journal::error::JournalError;
use crate::journal::record;
use crate::journal::store::Store;

/// Adds `what` to the notes of entry `id` and of those held about the same row, which are resolved then: each link has an
/// entry of its own about one conflict. Returns how many these are; 0 if `id` is not there or still pending.
///
/// # Errors
/// If the file can't be opened or written.
pub fn decide(path: &Path, id: i64, what: &str) -> Result<usize, JournalError> {
    Store::open_beside(path)?.write(|transaction| record::decide(transaction, id, what))
}
