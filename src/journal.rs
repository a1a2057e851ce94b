//! The record of every decision, in SQLite (R10).
//!
//! An entry is written pending before the target commits, and settled once the target has the batch. What a crash
//! leaves pending is settled or discarded by the link's progress row when the link starts again:
//!
//! ```text
//! pending(entries of batch 8) ─► target commits batch 8 ─► settle(lane, 8)
//!                             └► target rolled back      ─► discard_after(lane, 7), before batch 8 is tried again
//! start: progress row says 7  ─► settle(lane, 7), discard_after(lane, 7)
//! ```
//!
//! One thread writes; `conflicts` reads the file without it, whether the daemon runs or not ([`Reader`]).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

mod decide;
mod entry;
mod error;
mod follow;
mod keys;
mod numbers;
mod prune;
mod query;
mod reader;
mod record;
mod states;
mod stats;
mod store;
mod writer;

pub use decide::decide;
pub use entry::{JsonRow, Lane, LocalSide, MASK, NewEntry, Operation, Side, Status, json_cell, json_key, json_row};
pub use error::JournalError;
pub use prune::{Prunable, prune};
pub use query::{Entry, EntryLocal, EntryRemote, Filter, KeyFilter, TableFilter};
pub use reader::Reader;
pub use stats::{By, Count};

use store::Store;
use writer::{Command, Request, Shared, Writer};

/// How long, and in how much space, resolved entries are kept. Pending and held ones stay until they are dealt with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Since they were found; `None`: for ever.
    pub age: Option<Duration>,
    /// Bytes that the file's contents may take; beyond, the oldest go until an eighth of it is free. `None`: any.
    pub size: Option<u64>,
}

impl Retention {
    /// Nothing is removed.
    pub const FOREVER: Retention = Retention { age: None, size: None };
}

/// What `status` shows of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Entries in the file.
    pub entries: u64,
    /// Those whose batch is not known to be committed.
    pub pending: u64,
    /// Rows that wait for a person, as of some seconds ago.
    pub held: u64,
    /// Bytes on disk, the write-ahead file included.
    pub bytes: u64,
    /// Why the last request failed; `None` once one succeeds again.
    pub error: Option<String>,
}

/// A handle on the writer; clones share it. The thread ends when the last one is dropped.
#[derive(Clone)]
pub struct Journal {
    path: PathBuf,
    requests: mpsc::Sender<Request>,
    shared: Arc<Mutex<Shared>>,
}

impl Journal {
    /// Opens the journal at `path`, making it if there is none, and starts its writer, which prunes at once,
    /// every hour, and when the file is larger than it may be. Blocks for the time that takes.
    pub fn open(path: &Path, retention: Retention) -> Result<Journal, JournalError> {
        let store = Store::open(path)?;
        let (sender, receiver) = mpsc::channel(writer::QUEUE);
        let (writer, shared) = Writer::new(path.to_owned(), store, retention, receiver)?;
        let system = |error| JournalError::system(path, &error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(system)?;
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(&runtime)).map_err(system)?;
        Ok(Journal { path: path.to_owned(), requests: sender, shared })
    }

    /// Records `entries` as pending. They are on disk when this returns `Ok`; on an error none of them is, and the
    /// batch must not commit. An entry that is there already is replaced while it is pending, and left alone when
    /// it is settled.
    ///
    /// After an error the handle goes on working: call again when the cause may have passed.
    pub async fn pending(&self, entries: Vec<NewEntry>) -> Result<(), JournalError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.ask(Command::Pending(entries)).await.map(|_| ())
    }

    /// Settles the pending entries of `lane` whose batch is at most `batch`: they become resolved, or held where
    /// the resolution is `hold`. Returns how many.
    pub async fn settle(&self, lane: &Lane, batch: u64) -> Result<u64, JournalError> {
        self.ask(Command::Settle(lane.clone(), batch)).await
    }

    /// Removes the pending entries of `lane` whose batch is beyond `batch`: what they tell of did not happen.
    /// Returns how many. Call it before a batch is tried again, since that may decide differently.
    pub async fn discard_after(&self, lane: &Lane, batch: u64) -> Result<u64, JournalError> {
        self.ask(Command::DiscardAfter(lane.clone(), batch)).await
    }

    /// Of the changes that `target` refused only those of these rows, by schema, table and key, are still held: the others
    /// could be written, or a later change took their place. Returns how many are resolved by that.
    pub async fn still_held(&self, target: &str, rows: Vec<(String, String, JsonRow)>) -> Result<u64, JournalError> {
        self.ask(Command::StillHeld(target.to_owned(), rows)).await
    }

    /// Removes resolved entries beyond their retention now instead of within the hour. Returns how many.
    pub async fn prune(&self) -> Result<u64, JournalError> {
        self.ask(Command::Prune).await
    }

    /// Ends the writer after what was asked before, and leaves one file without a write-ahead file. Later requests
    /// through other handles get [`JournalError::Closed`].
    pub async fn close(self) -> Result<(), JournalError> {
        self.ask(Command::Close).await.map(|_| ())
    }

    /// Numbers for `status`; takes no lock that a write holds.
    pub fn counters(&self) -> Counters {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        Counters {
            entries: shared.entries,
            pending: shared.pending,
            held: shared.held,
            bytes: size(&self.path) + size(Path::new(&wal)),
            error: shared.error,
        }
    }

    async fn ask(&self, command: Command) -> Result<u64, JournalError> {
        let closed = || JournalError::Closed(self.path.clone());
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { command, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

#[cfg(test)]
mod tests;
