//! What can go wrong between the bytes of a stream and its transactions.

use std::io;

use crate::model::{Class, Classify};
use crate::stream::decode::DecodeError;
use crate::stream::keys::KeyError;
use crate::stream::relations::MissingKeyColumn;
use crate::stream::spill::SpillError;

/// A stream that can't be assembled; the transactions delivered before are whole.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// Bytes that are no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A message where it can't be.
    #[error(
        "the replication stream is out of order: {0}. Nothing of that transaction was applied; report it with the \
         server's version"
    )]
    OutOfOrder(String),
    /// The slot decodes at PREPARE TRANSACTION.
    #[error(
        "the replication slot delivers prepared transactions ({0}), but it must deliver them when they commit. \
         Make the slot again without two_phase: `pgconcord teardown`, compare the nodes, `pgconcord setup`"
    )]
    Prepared(&'static str),
    /// A table lacks a part of its key.
    #[error(transparent)]
    MissingKeyColumn(#[from] MissingKeyColumn),
    /// A change does not say which row it is about.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No room for what exceeds the memory budget.
    #[error(transparent)]
    Spill(#[from] SpillError),
    /// What was written there does not come back.
    #[error("cannot read back a transaction that exceeded the memory budget: {0}. Check the disk it was written to")]
    ReadBack(#[source] io::Error),
}

impl Classify for AssembleError {
    fn class(&self) -> Class {
        Class::Operator
    }
}
