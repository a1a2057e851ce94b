//! Pruning: by age and by size, in portions, by the daemon's writer or by hand beside it.

use std::path::Path;

use chrono::{DateTime, Utc};
use rusqlite::{Row, Transaction, params_from_iter};

use crate::journal::Retention;
use crate::journal::entry::Status;
use crate::journal::error::JournalError;
use crate::journal::query::Filter;
use crate::journal::reader::Reader;
use crate::journal::record::{self, Tally};
use crate::journal::store::Store;

/// Entries removed in one transaction, so that the daemon's writer waits milliseconds and not minutes.
pub(super) const PORTION: u32 = 500;
/// Entries removed before the size is looked at again: wide rows take hundreds of kilobytes each.
const STEP: u32 = 50;
/// This part of the allowed size is made free at once, so that not every entry has to make its own room.
const HEADROOM: u64 = 8;

/// One pruning: what it removes is settled when it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pruning {
    /// Microseconds since 1970: what was found before goes.
    before: i64,
    /// The oldest go until the contents take no more bytes than this.
    goal: Option<u64>,
}

/// What one portion did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portion {
    pub(super) tally: Tally,
    pub(super) after: After,
}

/// What is left after a portion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    /// More to remove.
    More,
    /// Nothing beyond the retention.
    Done,
    /// Too much, and all of it pending or held.
    Stuck,
}

impl Pruning {
    /// What `retention` lets nobody keep at `now`, where the contents take `used` bytes.
    pub(super) fn new(now: DateTime<Utc>, retention: Retention, used: u64) -> Pruning {
        let age = retention.age.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        Pruning {
            before: age.map_or(i64::MIN, |age| now.timestamp_micros().saturating_sub(age)),
            goal: retention.size.filter(|size| used > *size).map(|size| size - size / HEADROOM),
        }
    }

    /// Whether free pages go back to the file system afterwards, where the file has `length` bytes. What is removed to
    /// make room is about to be used again, unless the file is larger than `retention` allows.
    pub(super) fn gives_back(self, retention: Retention, length: u64) -> bool {
        self.goal.is_none() || retention.size.is_some_and(|size| length > size)
    }

    /// Removes up to `most` entries.
    pub(super) fn portion(self, transaction: &Transaction<'_>, most: u32) -> rusqlite::Result<Portion> {
        let mut tally = record::prune(transaction, self.before, most)?;
        let room = |tally: &Tally| u32::try_from(tally.changed).map_or(0, |changed| most.saturating_sub(changed));
        let Some(goal) = self.goal else {
            let after = if room(&tally) == 0 { After::More } else { After::Done };
            return Ok(Portion { tally, after });
        };
        while record::used(transaction)? > goal {
            let step = room(&tally).min(STEP);
            if step == 0 {
                return Ok(Portion { tally, after: After::More });
            }
            let removed = record::prune(transaction, i64::MAX, step)?;
            if removed.changed == 0 {
                return Ok(Portion { tally, after: After::Stuck });
            }
            tally.changed += removed.changed;
            tally.entries += removed.entries;
        }
        Ok(Portion { tally, after: if room(&tally) == 0 { After::More } else { After::Done } })
    }
}

/// Removes the resolved entries beyond `retention` at `now`, and gives their pages back. Returns how many.
///
/// # Errors
/// If the file can't be opened or written.
pub fn prune(path: &Path, now: DateTime<Utc>, retention: Retention) -> Result<u64, JournalError> {
    let mut store = Store::open_beside(path)?;
    let used = record::used(store.connection()).map_err(|error| JournalError::sqlite(path, error))?;
    let pruning = Pruning::new(now, retention, used);
    let mut removed = 0;
    loop {
        let portion = store.write(|transaction| pruning.portion(transaction, PORTION))?;
        removed += portion.tally.changed;
        if portion.after != After::More {
            break;
        }
    }
    while removed > 0 && store.shrink() {}
    Ok(removed)
}

/// How many entries [`prune`] would remove.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prunable {
    /// Because they are old; exact.
    pub old: u64,
    /// The oldest of the others, because the file is large; by the mean size of an entry.
    pub for_room: u64,
}

impl Reader {
    /// How many entries [`prune`] would remove.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn prunable(&self, now: DateTime<Utc>, retention: Retention) -> Result<Prunable, JournalError> {
        let run = || {
            let used = record::used(&self.connection)?;
            let pruning = Pruning::new(now, retention, used);
            let old = self.resolved_before(pruning.before)?;
            let Some(goal) = pruning.goal else { return Ok(Prunable { old, for_room: 0 }) };
            let (entries, _) = record::count(&self.connection)?;
            let mean = (used / entries.max(1)).max(1);
            let others = self.resolved_before(i64::MAX)? - old;
            let too_many = used.saturating_sub(goal).div_ceil(mean);
            Ok(Prunable { old, for_room: too_many.saturating_sub(old).min(others) })
        };
        run().map_err(|error| JournalError::sqlite(&self.path, error))
    }

    fn resolved_before(&self, before: i64) -> rusqlite::Result<u64> {
        let resolved = Filter { statuses: vec![Status::Resolved], ..Filter::default() };
        let (source, mut values) = self.admitted(&resolved)?;
        values.push(Box::new(before));
        let sql = format!("SELECT count(*) FROM {source} AND detected_at < ?");
        let counted = |row: &Row<'_>| row.get::<_, i64>(0).map(i64::unsigned_abs);
        self.connection.query_row(&sql, params_from_iter(values), counted)
    }
}
