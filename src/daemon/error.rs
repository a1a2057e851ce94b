//! Why the daemon, or a node's supervision, ended.

use crate::model::{Class, Classify};

/// An error of the daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A control connection.
    #[error("{node}: {error}")]
    Node {
        /// The node.
        node: String,
        /// The cause.
        #[source]
        error: crate::node::NodeError,
    },
    /// The stream of a node.
    #[error("{node}: {error}")]
    Source {
        /// The node.
        node: String,
        /// The cause.
        #[source]
        error: crate::stream::SourceError,
    },
    /// Another process reads the slot.
    #[error(
        "{node}: replication slot {slot} is in use by process {pid} there: another pgconcord runs, or the server has \
         not noticed yet that an earlier one has gone; waiting until it is free"
    )]
    SlotInUse {
        /// The node.
        node: String,
        /// The slot.
        slot: String,
        /// Its reader at the server.
        pid: i32,
    },
    /// An apply session.
    #[error(transparent)]
    Apply(#[from] crate::apply::ApplyError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
    /// The HTTP address.
    #[error(transparent)]
    Http(#[from] crate::http::HttpError),
    /// The spill directory.
    #[error(transparent)]
    Spill(#[from] crate::stream::spill::SpillError),
    /// A spilled transaction can't be read.
    #[error("cannot read a spilled transaction: {0}; free or repair the spill directory and restart the daemon")]
    Window(#[from] std::io::Error),
    /// Somebody must act.
    #[error("{0}")]
    Operator(String),
    /// A task ended that never should.
    #[error("a task of the daemon ended unexpectedly ({0}); report this, and restart the daemon: nothing is lost")]
    Task(String),
}

impl Classify for DaemonError {
    fn class(&self) -> Class {
        match self {
            DaemonError::Node { error, .. } => error.class(),
            DaemonError::Source { error, .. } => error.class(),
            DaemonError::Apply(error) => error.class(),
            DaemonError::Journal(error) => error.class(),
            DaemonError::Http(error) => error.class(),
            DaemonError::SlotInUse { .. } => Class::Transient,
            DaemonError::Spill(_) | DaemonError::Window(_) | DaemonError::Operator(_) | DaemonError::Task(_) => {
                Class::Operator
            }
        }
    }
}
