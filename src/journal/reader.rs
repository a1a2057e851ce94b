//! The journal's file, opened for reading: while the daemon writes it, after it stopped or crashed, and by a user
//! who may read the file but write nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tempfile::TempDir;

use crate::journal::error::JournalError;
use crate::journal::store::{self, BUSY};

/// The journal, to be read.
pub struct Reader {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    /// Where the copy lies that is read instead; removed with the reader.
    _copy: Option<TempDir>,
}

impl Reader {
    /// Opens the journal at `path` and leaves nothing beside it.
    ///
    /// A WAL-mode file is read through its `-wal` and `-shm` files. Where the first is missing or empty nobody has
    /// written since the last clean end, and the file alone is read, as it is (SQLite would otherwise make both
    /// files, in this user's name, and lock the daemon out; <https://www.sqlite.org/wal.html#readonly>). Where
    /// they can't be used because a crash left a `-wal` file in a directory that this user may not write, a copy is
    /// read.
    pub fn open(path: &Path) -> Result<Reader, JournalError> {
        let wal = beside(path, "-wal");
        fs::metadata(path).map_err(|error| absent(path, &error))?;
        let settled =
            fs::metadata(&wal).map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |it| it.len() == 0);
        if settled {
            return Reader::over(path, immutable(path), None);
        }
        match Reader::over(path, read_only(path), None) {
            Err(JournalError::Open { .. } | JournalError::ReadOnly(_)) => Reader::copy(path, &wal),
            opened => opened,
        }
    }

    /// Reads a copy in a directory of our own. No daemon runs: it would hold a `-shm` file that can be read.
    fn copy(path: &Path, wal: &Path) -> Result<Reader, JournalError> {
        let system = |error: io::Error| JournalError::system(path, &error);
        let directory = tempfile::tempdir().map_err(system)?;
        let copied = directory.path().join("journal.db");
        fs::copy(path, &copied).map_err(system)?;
        fs::copy(wal, beside(&copied, "-wal")).map_err(system)?;
        Reader::over(path, Connection::open(&copied), Some(directory))
    }

    /// The format of the file, which a daemon may bring to a newer one meanwhile.
    pub(super) fn format(&self) -> rusqlite::Result<i64> {
        self.connection.query_row("PRAGMA user_version", [], |row| row.get(0))
    }

    fn over(path: &Path, opened: rusqlite::Result<Connection>, copy: Option<TempDir>) -> Result<Reader, JournalError> {
        let sqlite = |error| JournalError::sqlite(path, error);
        let connection = opened.map_err(sqlite)?;
        connection.busy_timeout(BUSY).map_err(sqlite)?;
        match store::check(path, &connection)? {
            0 => Err(JournalError::Missing(path.to_owned())), // a daemon is just making it
            _ => Ok(Reader { path: path.to_owned(), connection, _copy: copy }),
        }
    }
}

fn absent(path: &Path, error: &io::Error) -> JournalError {
    match error.kind() {
        io::ErrorKind::NotFound => JournalError::Missing(path.to_owned()),
        io::ErrorKind::PermissionDenied => JournalError::sqlite(
            path,
            rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error { code: ErrorCode::CannotOpen, extended_code: rusqlite::ffi::SQLITE_CANTOPEN },
                None,
            ),
        ),
        _ => JournalError::system(path, error),
    }
}

fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn immutable(path: &Path) -> rusqlite::Result<Connection> {
    let name: String = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)
}

/// The path of a file that SQLite keeps beside the database.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::store::Store;

    fn new_journal(directory: &TempDir) -> (PathBuf, Store) {
        let path = directory.path().join("odd %41?name#.db");
        let store = Store::open(&path).unwrap();
        (path, store)
    }

    fn files(directory: &TempDir) -> usize {
        fs::read_dir(directory.path()).unwrap().count()
    }

    fn add(store: &mut Store, name: &str) {
        store
            .write(|transaction| {
                transaction.execute("INSERT INTO relation (schema_name, table_name) VALUES ('s', ?1)", [name])
            })
            .unwrap();
    }

    fn tables(reader: &Reader) -> i64 {
        reader.connection.query_row("SELECT count(*) FROM relation", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn reading_a_closed_journal_makes_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut store) = new_journal(&directory);
        add(&mut store, "a");
        drop(store);
        let reader = Reader::open(&path).unwrap();
        assert_eq!((tables(&reader), files(&directory)), (1, 1));
    }

    #[test]
    fn a_reader_sees_what_the_writer_has_not_yet_folded_in() {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut store) = new_journal(&directory);
        add(&mut store, "a");
        let reader = Reader::open(&path).unwrap();
        assert_eq!(tables(&reader), 1);
        add(&mut store, "b");
        assert_eq!(tables(&reader), 2);
        assert!(reader.connection.execute("DELETE FROM relation", []).is_err(), "a reader must not write");
    }

    #[test]
    fn a_copy_has_what_a_crash_left_in_the_wal() {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut store) = new_journal(&directory);
        add(&mut store, "a");
        let reader = Reader::copy(&path, &beside(&path, "-wal")).unwrap();
        assert_eq!(tables(&reader), 1);
        let copy = reader._copy.as_ref().unwrap().path().to_owned();
        drop(reader);
        assert!(!copy.exists());
    }

    /// Root may write anywhere, so this needs an ordinary user; the copy itself is tested above.
    #[test]
    fn a_journal_in_a_directory_that_may_not_be_written_is_read() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (path, mut store) = new_journal(&directory);
        add(&mut store, "a");
        let crashed = directory.path().join("crashed");
        fs::create_dir(&crashed).unwrap();
        fs::copy(&path, crashed.join("j.db")).unwrap();
        fs::copy(beside(&path, "-wal"), crashed.join("j.db-wal")).unwrap();
        drop(store);
        let closed = directory.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::copy(&path, closed.join("j.db")).unwrap();
        for place in [&crashed, &closed] {
            fs::set_permissions(place, fs::Permissions::from_mode(0o555)).unwrap();
            assert_eq!(tables(&Reader::open(&place.join("j.db")).unwrap()), 1, "{}", place.display());
            fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn a_missing_journal_and_a_foreign_file_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(Reader::open(&directory.path().join("none.db")), Err(JournalError::Missing(_))));
        let foreign = directory.path().join("foreign.db");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
        assert!(matches!(Reader::open(&foreign), Err(JournalError::NotAJournal(_))));
    }
}
