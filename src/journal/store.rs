//! The journal's file, opened for writing: created, migrated, changed in transactions that are durable when they end.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::journal::error::JournalError;

/// Marks the file as ours (`application_id`): "pgcc".
pub(super) const APPLICATION_ID: i64 = 0x7067_6363;

/// One script a format, the first makes the file; applied in order, each in a transaction with its `user_version`.
const MIGRATIONS: &[&str] = &[
    include_str!("../../sql/journal_1.sql"),
    include_str!("../../sql/journal_2.sql"),
    include_str!("../../sql/journal_3.sql"),
    include_str!("../../sql/journal_4.sql"),
    include_str!("../../sql/journal_5.sql"),
];

/// The format from which on a decision and a prune by hand write the same: so much of [`MIGRATIONS`].
const OLDEST_ALIKE: usize = 4;

/// How long another writer may hold the file before we say so: a manual prune's portions take far less.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// Pages of 4 kB in the write-ahead file before it is folded into the database, and its size afterwards: a quarter
/// of SQLite's own, so that on a disk that fills up there is still room to fold it in.
const WAL_PAGES: i64 = 256;

/// Free pages of 4 kB that are given back in one transaction: milliseconds, as for a portion of pruning.
const GIVEN_BACK: u32 = 1000;

/// The newest format that this program knows.
pub(super) fn format() -> i64 {
    i64::try_from(MIGRATIONS.len()).expect("a handful of migrations")
}

/// The open file.
pub(super) struct Store {
    path: PathBuf,
    file: FileId,
    connection: Connection,
}

/// Which file a name stands for.
#[derive(PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> std::io::Result<FileId> {
        fs::metadata(path).map(|found| FileId { device: found.dev(), inode: found.ino() })
    }
}

impl Store {
    /// Opens the file, makes it if there is none, brings it to the newest format.
    pub(super) fn open(path: &Path) -> Result<Store, JournalError> {
        Store::open_in(path, MIGRATIONS)
    }

    /// Opens the file beside a daemon, which may be of the version before: it is brought to no format that such a one
    /// does not write.
    pub(super) fn open_beside(path: &Path) -> Result<Store, JournalError> {
        Store::open_in(path, &MIGRATIONS[..OLDEST_ALIKE])
    }

    fn open_in(path: &Path, migrations: &[&str]) -> Result<Store, JournalError> {
        create(path)?;
        let sqlite = |error| JournalError::sqlite(path, error);
        let file = FileId::of(path).map_err(|error| JournalError::system(path, &error))?;
        let mut connection =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
                .map_err(sqlite)?;
        connection.busy_timeout(BUSY).map_err(sqlite)?;
        prepare(path, &mut connection, migrations)?;
        Ok(Store { path: path.to_owned(), file, connection })
    }

    /// Whether the file's name still stands for the file that is open.
    pub(super) fn is_in_place(&self) -> bool {
        FileId::of(&self.path).is_ok_and(|file| file == self.file)
    }

    /// Runs `work` in one transaction; what it did is on disk when this returns `Ok`, and undone when it does not.
    ///
    /// On a full disk the write-ahead file is folded in, which may make room, and `work` runs once more.
    pub(super) fn write<T>(
        &mut self,
        work: impl Fn(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, JournalError> {
        let attempt = |connection: &mut Connection| -> rusqlite::Result<T> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        let done = match attempt(&mut self.connection) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) && self.truncate_wal().is_ok() => {
                attempt(&mut self.connection)
            }
            done => done,
        };
        done.map_err(|error| JournalError::sqlite(&self.path, error))
    }

    fn truncate_wal(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Gives some of the pages that are free back to the file system, and tells whether there are more. Best effort,
    /// since free pages are used again anyway.
    pub(super) fn shrink(&self) -> bool {
        match self.give_back() {
            Ok(more) => more,
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "the journal's free pages stay");
                false
            }
        }
    }

    fn give_back(&self) -> rusqlite::Result<bool> {
        let free = || self.connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, u32>(0));
        let before = free()?;
        // each step of the statement frees one page: it has to be run to its end
        let mut vacuum = self.connection.prepare_cached(&format!("PRAGMA incremental_vacuum({GIVEN_BACK})"))?;
        let mut steps = vacuum.query([])?;
        while steps.next()?.is_some() {}
        let left = free()?;
        if left == 0 {
            self.connection.execute_batch("PRAGMA optimize")?;
        }
        Ok(left > 0 && left < before)
    }

    /// Folds the write-ahead file into the database, wherever that was moved to: SQLite's own close would not.
    pub(super) fn fold(self) {
        if let Err(error) = self.truncate_wal() {
            tracing::warn!(%error, path = %self.path.display(), "the newest entries are not in the journal that was moved");
        }
    }

    /// The connection, for reading.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Makes the file if there is none: it holds users' rows, so only its owner and group may read it.
fn create(path: &Path) -> Result<(), JournalError> {
    let system = |error: std::io::Error| JournalError::system(path, &error);
    match OpenOptions::new().write(true).create_new(true).mode(0o640).open(path) {
        Ok(file) => {
            file.sync_all().map_err(system)?;
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(system)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(system(error)),
    }
}

/// Settings and migrations. Two processes may do this at once: each step is looked at again under the lock.
fn prepare(path: &Path, connection: &mut Connection, migrations: &[&str]) -> Result<(), JournalError> {
    let sqlite = |error| JournalError::sqlite(path, error);
    if check(path, connection)? == 0 {
        // Before the first table, or it has no effect; lets pruning shrink the file.
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL").map_err(sqlite)?;
    }
    to_wal(connection).map_err(sqlite)?;
    // FULL: a commit is on disk when it returns, which R10 needs before the target commits.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON").map_err(sqlite)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES).map_err(sqlite)?;
    connection.pragma_update(None, "journal_size_limit", WAL_PAGES * 4096).map_err(sqlite)?;
    migrate(path, connection, migrations)
}

/// SQLite does not wait for a lock when it switches to WAL, so we do.
fn to_wal(connection: &Connection) -> rusqlite::Result<()> {
    let until = Instant::now() + BUSY;
    loop {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done.map(|_| ()),
        }
    }
}

fn migrate(path: &Path, connection: &mut Connection, migrations: &[&str]) -> Result<(), JournalError> {
    let sqlite = |error| JournalError::sqlite(path, error);
    loop {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sqlite)?;
        let version = check(path, &transaction)?;
        let Some(script) = usize::try_from(version).ok().and_then(|done| migrations.get(done)) else {
            return Ok(());
        };
        transaction.execute_batch(script).map_err(sqlite)?;
        transaction.pragma_update(None, "user_version", version + 1).map_err(sqlite)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
    }
}

/// The file's format, 0 for an empty file; an error if it is somebody else's or of a later program.
pub(super) fn check(path: &Path, connection: &Connection) -> Result<i64, JournalError> {
    let sqlite = |error| JournalError::sqlite(path, error);
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(sqlite);
    let version = number("PRAGMA user_version")?;
    let empty = number("SELECT count(*) FROM sqlite_schema")? == 0;
    if !empty && number("PRAGMA application_id")? != APPLICATION_ID {
        return Err(JournalError::NotAJournal(path.to_owned()));
    }
    match empty {
        true => Ok(0),
        false if version > format() => {
            Err(JournalError::TooNew { path: path.to_owned(), found: version, known: format() })
        }
        false => Ok(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgconcord.db");
        (directory, path)
    }

    #[test]
    fn a_new_file_is_durable_private_and_of_the_newest_format() {
        let (_directory, path) = file();
        let store = Store::open(&path).unwrap();
        let pragma = |name: &str| {
            store
                .connection
                .query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0))
                .unwrap()
        };
        assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
        assert_eq!(pragma("synchronous"), 2.into());
        assert_eq!(pragma("auto_vacuum"), 2.into());
        assert_eq!(pragma("user_version"), format().into());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o007, 0, "others may not read users' rows");
    }

    #[test]
    fn opening_again_changes_nothing() {
        let (_directory, path) = file();
        drop(Store::open(&path).unwrap());
        let before = fs::read(&path).unwrap();
        drop(Store::open(&path).unwrap());
        assert_eq!(before, fs::read(&path).unwrap());
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let (directory, path) = file();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
        assert!(matches!(Store::open(&path), Err(JournalError::NotAJournal(_))));
        let text = directory.path().join("notes.txt");
        fs::write(&text, "no database at all, but longer than a header of one hundred bytes. ".repeat(4)).unwrap();
        assert!(matches!(Store::open(&text), Err(JournalError::NotAJournal(_))));
    }

    #[test]
    fn a_file_of_a_later_format_is_left_alone() {
        let (_directory, path) = file();
        Store::open(&path).unwrap().connection.pragma_update(None, "user_version", format() + 1).unwrap();
        assert!(matches!(Store::open(&path), Err(JournalError::TooNew { found, .. }) if found == format() + 1));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Store::open(Path::new("/nonexistent/deep/pgconcord.db")).err().unwrap().to_string();
        assert!(error.contains("/nonexistent/deep does not exist"), "{error}");
    }
}
