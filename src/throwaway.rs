//! Throwaway PostgreSQL servers on this machine, for the demo and the tests.
//!
//! [`Servers`] owns one directory under the system's temporary directory; every [`Server`] is a real `postgres`
//! in it, on a random loopback port and a unix socket, ready for logical replication. Nothing outlives the
//! owner: `Drop` stops the servers and removes the directory, and if the owner dies without it (kill -9), a
//! small shell process that reads from a pipe of ours sees the end of file and does the same.
//!
//! PostgreSQL refuses to run as root; then the servers run as the user `postgres` (or `nobody`). Logins need a
//! password that is drawn anew each time, because anyone on the machine can reach a loopback port.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::model::error::{Class, Classify};

mod binaries;
mod owner;
mod server;
mod servers;
mod templates;

pub use binaries::Binaries;
pub use server::{Options, Server, Stop, free_port};
pub use servers::Servers;

/// The superuser of every throwaway server.
pub const SUPERUSER: &str = "postgres";

/// Why a throwaway server cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable binaries.
    #[error(
        "no PostgreSQL server binaries, version 14 or later, found in {searched}; \
         install them (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server) \
         or name their directory in PGCONCORD_PG_BIN"
    )]
    NoBinaries {
        /// Where we looked.
        searched: String,
    },
    /// The named directory does not hold usable binaries.
    #[error("{directory} does not hold usable PostgreSQL server binaries: {why}")]
    BadBinaries {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Root runs us and there is no other user to run the servers as.
    #[error("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody to run it as")]
    NoOwner,
    /// A helper program failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        output: String,
    },
    /// The server ended instead of coming up.
    #[error("the throwaway server {name} did not start: {log}")]
    NotStarted {
        /// The server's name.
        name: String,
        /// The end of its log.
        log: String,
    },
    /// A statement failed.
    #[error("the throwaway server {name} refused a statement: {}", describe(.source))]
    Sql {
        /// The server's name.
        name: String,
        /// What it said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A file or process operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        Class::Operator
    }
}

/// A server's error with its message; `tokio_postgres` prints "db error" only.
fn describe(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Adds to an I/O error what was being done.
fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what: what.into(), source }
}

/// The last lines of a log file, for an error message.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_survives_every_kind_of_stop_and_leaves_nothing() {
        let servers = Servers::new().unwrap();
        let root = servers.root().to_owned();
        let mut server = servers.start("one", Options::new(Binaries::find().unwrap())).unwrap();
        server.sql("postgres", "CREATE TABLE t (v text); INSERT INTO t VALUES ('kept'), (NULL)").await.unwrap();
        for stop in [Stop::Fast, Stop::Immediate, Stop::Kill] {
            server.restart(stop).unwrap();
            let rows = server.sql("postgres", "SELECT v FROM t ORDER BY v").await.unwrap();
            assert_eq!(rows, [[Some("kept".to_owned())], [None]]);
        }
        let level = server.sql("postgres", "SHOW wal_level; SHOW track_commit_timestamp").await.unwrap();
        assert_eq!(level, [[Some("logical".to_owned())], [Some("on".to_owned())]]);
        drop(server);
        drop(servers);
        assert!(!root.exists(), "{} is still there", root.display());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_one_server_at_a_time_is_a_copy_of_a_cluster() {
        let servers = Servers::copying().unwrap();
        let start = |name| servers.start(name, Options::new(Binaries::find().unwrap())).unwrap();
        let identifier = async |server: &Server| {
            server.sql("postgres", "SELECT system_identifier FROM pg_control_system()").await.unwrap()
        };
        let (one, other) = (start("one"), start("other"));
        let (first, second) = (identifier(&one).await, identifier(&other).await);
        assert_ne!(first, second);
        one.sql("postgres", "CREATE TABLE t ()").await.unwrap();
        drop(one);
        let next = start("next");
        assert_eq!(identifier(&next).await, first);
        assert!(next.sql("postgres", "SELECT FROM t").await.is_err(), "as it was initialised");
        drop(next);
        let template = servers.root().join("template-0");
        std::fs::rename(template.join("data"), template.join("unfinished")).unwrap();
        assert_ne!(identifier(&start("after a failure")).await, first);
    }

    #[test]
    fn a_server_that_cannot_start_says_why() {
        let servers = Servers::new().unwrap();
        let options = Options::new(Binaries::find().unwrap()).with("shared_buffers", "much");
        let error = servers.start("wrong", options).unwrap_err().to_string();
        assert!(error.contains("invalid value for parameter \"shared_buffers\""), "{error}");
    }
}
