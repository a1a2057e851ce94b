//! What can go wrong with the journal's file, each with the sentence that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::model::{Class, Classify};

/// The journal could not be opened, read or written. Nothing was recorded, so the caller must not commit.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is no file.
    #[error("there is no conflict journal at {path}: the daemon creates it when it first runs; name another with --journal or [journal] path", path = .0.display())]
    Missing(PathBuf),
    /// The file can't be opened or created.
    #[error("the conflict journal {path} cannot be opened: {reason}", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The disk or the quota is full.
    #[error("the conflict journal {path} cannot grow, its disk is full: free space there (conflicts are not applied meanwhile, nothing is lost, and pgconcord goes on by itself)", path = .0.display())]
    Full(PathBuf),
    /// The file or its directory may not be written.
    #[error("the conflict journal {path} is read-only: let this user write the file and its directory (SQLite keeps two files beside it)", path = .0.display())]
    ReadOnly(PathBuf),
    /// Another process holds it for longer than we wait.
    #[error("the conflict journal {path} is locked by another process", path = .0.display())]
    Busy(PathBuf),
    /// It is a file of something else.
    #[error("{path} is not a conflict journal of pgconcord: name another file in [journal] path", path = .0.display())]
    NotAJournal(PathBuf),
    /// It was written by a later version.
    #[error("the conflict journal {path} has format {found}, this pgconcord knows up to {known}: run the newer pgconcord, or name another file in [journal] path", path = .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format that this program knows.
        known: i64,
    },
    /// Its pages contradict each other.
    #[error("the conflict journal {path} is damaged: move it and its -wal and -shm files aside, a new one is begun then ({source})", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// One row's JSON is longer than SQLite takes, 1 GB.
    #[error("a conflict's rows are too large for the conflict journal {path}: SQLite takes 1 GB a value; shorten the row at its node", path = .0.display())]
    TooLarge(PathBuf),
    /// Anything else that SQLite or the system reports.
    #[error("the conflict journal {path} failed: {source}; see that its disk is mounted and healthy", path = .path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Old entries could not be removed; everything else goes on.
    #[error("the conflict journal {path} was not pruned: {reason}", path = .path.display())]
    NotPruned {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The writer has ended: the daemon is stopping.
    #[error("the conflict journal {path} is closed", path = .0.display())]
    Closed(PathBuf),
}

impl Classify for JournalError {
    fn class(&self) -> Class {
        match self {
            JournalError::Busy(_) | JournalError::Closed(_) => Class::Transient,
            _ => Class::Operator,
        }
    }
}

impl JournalError {
    /// What SQLite reported about the journal at `path`.
    pub(super) fn sqlite(path: &Path, source: rusqlite::Error) -> JournalError {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => JournalError::Full(path),
            Some(ErrorCode::ReadOnly) => JournalError::ReadOnly(path),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => JournalError::Busy(path),
            Some(ErrorCode::NotADatabase) => JournalError::NotAJournal(path),
            Some(ErrorCode::DatabaseCorrupt) => JournalError::Damaged { path, source },
            Some(ErrorCode::TooBig) => JournalError::TooLarge(path),
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                let reason = "this user may not open it or the files beside it; run as its owner, or let this user \
                              read them and write the directory";
                JournalError::Open { path, reason: reason.to_owned() }
            }
            _ => JournalError::Failed { path, source },
        }
    }

    /// What the system reported about the journal at `path`.
    pub(super) fn system(path: &Path, error: &io::Error) -> JournalError {
        let path = path.to_owned();
        let directory = path.parent().unwrap_or(Path::new("")).display().to_string();
        let reason = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => return JournalError::Full(path),
            io::ErrorKind::ReadOnlyFilesystem => return JournalError::ReadOnly(path),
            io::ErrorKind::NotFound => {
                format!("its directory {directory} does not exist; create it, or name another in [journal] path")
            }
            io::ErrorKind::PermissionDenied => {
                "permission denied; let this user read and write the file and its directory".to_owned()
            }
            _ => error.to_string(),
        };
        JournalError::Open { path, reason }
    }
}
