//! What goes wrong while applying, and what is to be done about it.

use std::io;

use crate::apply::unique::Removal;
use crate::model::{Class, Classify, Lsn};
use crate::wire::{PipelineError, WireError};

/// An error of the apply stage.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The session or a statement failed.
    #[error("{context}: {error}")]
    Wire {
        /// What was being done.
        context: String,
        /// The cause.
        #[source]
        error: WireError,
    },
    /// A control statement failed.
    #[error(transparent)]
    Node(#[from] crate::node::NodeError),
    /// A spilled transaction can't be read.
    #[error("cannot read a spilled transaction: {0}; free or repair the spill directory and restart the daemon")]
    Spill(#[from] io::Error),
    /// The same, when what a node had committed while a COMMIT of ours was on its way there was to be taken in: that is read again.
    #[error(
        "cannot take in what {node} committed meanwhile, for a spilled transaction can't be read: {error}; its stream is read \
         again. Free or repair the spill directory and restart the daemon"
    )]
    NotTakenIn {
        /// The node.
        node: String,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The progress row is not what we left: another daemon writes it, or the node was restored.
    #[error(
        "the progress row for {source_name} at {target} is not at {expected} as this daemon left it: another pgconcord \
         is running against the same nodes, or the node was restored from a backup; stop the other daemon, or run \
         `pgconcord teardown`, compare the nodes and run `pgconcord setup`"
    )]
    Fenced {
        /// The source.
        source_name: String,
        /// The target.
        target: String,
        /// What the row should have said.
        expected: Lsn,
    },
    /// The barrier did not arrive in time; the batch was rolled back.
    #[error("the stream of {0} did not deliver a barrier in time; the batch is rolled back and tried again")]
    BarrierTimeout(String),
    /// Another node is needed for this decision and is not there.
    #[error("{node} is not connected, and {what} needs it; waiting")]
    NodeDown {
        /// The node.
        node: String,
        /// What needs it.
        what: String,
    },
    /// A value that a change left out can't be read any more, for its row has been changed since.
    #[error("a value of {table} that a change left out has been changed at {node} since; waiting for that change")]
    MovedOn {
        /// The table.
        table: String,
        /// The node.
        node: String,
    },
    /// Whether a row is still the one that a change left is not known yet.
    #[error("what stands in a row of {table} at {node}, of which a value is needed, is being decided again; waiting")]
    InDoubt {
        /// The table.
        table: String,
        /// The node.
        node: String,
    },
    /// The batch began with other rules than those that count now.
    #[error("the conflict rules are being changed; the batch is rolled back and tried again")]
    RulesChanged,
    /// Rows can't be written by COPY; the batch is written without.
    #[error("{0}; the rows are written without COPY")]
    CopyFailed(Box<ApplyError>),
    /// A batch that was sent with its COMMIT was rolled back: some row was not as expected.
    #[error("{0}; COMMIT waits for what the statements did")]
    NotAtOnce(Box<ApplyError>),
    /// A row was not as expected, and what depends on it in the batch, or may, had been sent.
    #[error("a row of {table} was not as expected, and what depends on it had been sent; the batch is sent in turn")]
    Overtaken {
        /// The table.
        table: String,
    },
    /// Two rows have what a deferrable constraint forbids.
    #[error("{table} has two rows that a deferrable constraint forbids")]
    Duplicate {
        /// The table.
        table: String,
    },
    /// A unique value's loser is being removed at its home; the batch waits for that.
    #[error("{table} has two rows with one unique value; the one that loses it is removed at its home first")]
    UniqueLoser {
        /// The table.
        table: String,
        /// The losers.
        removals: Vec<Removal>,
    },
    /// Somebody must act.
    #[error("{what}; {advice}")]
    Operator {
        /// What is wrong.
        what: String,
        /// What to do.
        advice: String,
    },
    /// A batch was committed, but not where: what later local changes had seen must be read from the stream.
    #[error(
        "{0} does not tell where our last commit ended (pg_replication_origin_status); run `pgconcord doctor` and give \
         the missing privileges"
    )]
    Unmarked(String),
    /// The server rolled back what was to be committed.
    #[error("the server answered COMMIT with {0}")]
    NotCommitted(String),
    /// The journal could not take a decision; nothing is applied unlogged.
    #[error("the conflict journal cannot be written: {0}")]
    Journal(String),
}

impl ApplyError {
    /// A failed statement, with what it was for.
    pub fn pipeline(context: impl Into<String>) -> impl FnOnce(PipelineError) -> ApplyError {
        |failed| ApplyError::Wire { context: context.into(), error: failed.error }
    }

    /// A failed session call, with what it was for.
    pub fn wire(context: impl Into<String>) -> impl FnOnce(WireError) -> ApplyError {
        |error| ApplyError::Wire { context: context.into(), error }
    }

    /// The SQLSTATE, where the server gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            ApplyError::Wire { error, .. } => error.code(),
            _ => None,
        }
    }

    /// Whether the session is lost, so that the outcome of a COMMIT on its way is in doubt.
    pub fn loses_session(&self) -> bool {
        match self {
            ApplyError::Wire { error, .. } => !matches!(error, WireError::Server(_)),
            ApplyError::Unmarked(_) | ApplyError::NotTakenIn { .. } => true,
            _ => false,
        }
    }
}

impl Classify for ApplyError {
    fn class(&self) -> Class {
        match self {
            ApplyError::Wire { error, .. } => error.class(),
            ApplyError::Node(error) => error.class(),
            ApplyError::BarrierTimeout(_)
            | ApplyError::NodeDown { .. }
            | ApplyError::MovedOn { .. }
            | ApplyError::InDoubt { .. }
            | ApplyError::RulesChanged
            | ApplyError::CopyFailed(_)
            | ApplyError::NotAtOnce(_)
            | ApplyError::Overtaken { .. }
            | ApplyError::UniqueLoser { .. }
            | ApplyError::Duplicate { .. }
            | ApplyError::NotCommitted(_) => Class::Transient,
            ApplyError::Spill(_)
            | ApplyError::NotTakenIn { .. }
            | ApplyError::Fenced { .. }
            | ApplyError::Operator { .. }
            | ApplyError::Journal(_)
            | ApplyError::Unmarked(_) => Class::Operator,
        }
    }
}
