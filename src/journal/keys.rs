//! The keys of entries, for `conflicts list --key`. Keys come in no order, so taking each into the index as it comes would
//! write a page for every entry; many at a time, in order, share their pages.

use rusqlite::{Connection, Transaction};

/// Entries that may wait to be taken in: looking at so many keys one by one takes some tens of milliseconds.
pub(super) const WAITING: i64 = 20_000;
/// More than these are taken in when there is time.
pub(super) const WORTH_IT: i64 = 500;

/// The numbers of the entries of which a key column is the first mark's value, or is the second's and has the third's name.
pub(super) const LOOKED_UP: &str = "SELECT entry FROM key_cell WHERE value = ? UNION ALL \
     SELECT entry FROM key_cell WHERE value = ? AND name = ?";

/// The same for what waits to be taken in.
pub(super) const SEARCHED: &str = "SELECT late.id FROM entry AS late, json_each(late.key) AS cell \
     WHERE late.id > (SELECT up_to FROM keyed) AND cell.type = 'text' \
     AND (cell.value = ? OR cell.value = ? AND cell.key = ?)";

/// Entries whose keys wait to be taken in; what was discarded counts, too.
pub(super) fn waiting(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT coalesce((SELECT max(id) FROM entry), 0) - (SELECT up_to FROM keyed)")?
        .query_row([], |row| row.get(0))
}

/// Takes the keys of all entries in that wait, of which there are some.
pub(super) fn take_in(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO key_cell (value, name, entry)
             SELECT cell.value, cell.key, late.id FROM entry AS late, json_each(late.key) AS cell
             WHERE late.id > (SELECT up_to FROM keyed) AND cell.type = 'text' ORDER BY 1, 2, 3",
        )?
        .execute([])?;
    transaction.prepare_cached("UPDATE keyed SET up_to = (SELECT max(id) FROM entry)")?.execute([])?;
    Ok(())
}
