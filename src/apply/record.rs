//! What is handed to the journal: each decision about a conflict, before the target commits (R10).

use std::sync::Arc;

use crate::apply::error::ApplyError;
use crate::apply::net::{Content, Row};
use crate::conflict::Operation;
use crate::model::{ConflictType, Deciding, Link, Lsn, Rename, Resolution, Resolvers, Stamp, Table, Xid};

/// One of the two changes of a conflict.
#[derive(Clone, Debug)]
pub struct Side {
    /// When and where it committed; unknown for a row that no change in the window explains.
    pub stamp: Option<Stamp>,
    /// Where its commit record begins at its node.
    pub lsn: Lsn,
    /// Its transaction there.
    pub xid: Xid,
    /// What it did.
    pub operation: Operation,
    /// The row it left; none if it deleted.
    pub row: Option<Row>,
    /// The row before, as far as its server sent it.
    pub old: Option<Row>,
}

/// A conflict and what was decided.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The link whose change met something.
    pub link: Link,
    /// The number that the progress row has once the decision is committed.
    pub batch: u64,
    /// What kind it is.
    pub conflict_type: ConflictType,
    /// What it is about.
    pub subject: Subject,
    /// The table.
    pub table: Arc<Table>,
    /// A row that has the key's cells.
    pub key: Row,
    /// What was done.
    pub resolution: Resolution,
    /// Which of the table's cases decided.
    pub by: Deciding,
    /// The name of the resolver that decided.
    pub resolver: &'static str,
    /// The incoming change.
    pub remote: Side,
    /// What it met.
    pub local: Option<Side>,
    /// What comes out; none if nothing is known of it.
    pub result: Option<Content>,
    /// Offset of the incoming change in its transaction: with its LSN the conflict's identity.
    pub offset: u64,
    /// Something a person should know beside.
    pub note: Option<String>,
    /// Why the target does not take the change, which is held.
    pub refusal: Option<Refusal>,
}

impl Conflict {
    /// The same, decided by these cases of its table.
    pub fn decided(self, resolvers: &Resolvers, by: Deciding) -> Conflict {
        let resolver = resolvers.rule(self.table.id).resolver_of(by).name();
        Conflict { by, resolver, ..self }
    }
}

/// What two changes are in conflict about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A row.
    Row,
    /// A unique value that two rows claim.
    UniqueValue,
}

/// Why a server refuses a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Its message, which may tell values.
    pub message: String,
    /// What kind of error it is, which tells none.
    pub kind: String,
}

/// Takes conflicts.
pub trait Recorder: Send + Sync {
    /// Writes them as pending; returns once they are durable.
    fn pending(&self, conflicts: Vec<Conflict>) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// Whether a rule lets a target do without rows of the table that it refuses.
    fn holds(&self, table: &Table) -> bool;

    /// What a rule gives rows of the table that lose a unique value, so that they need not be deleted; and the rule's name.
    fn rename(&self, table: &Table) -> Option<(Rename, String)>;

    /// What is pending for batches of the link after number `batch` did not happen.
    fn discard_after(&self, link: Link, batch: u64) -> impl Future<Output = Result<(), ApplyError>> + Send;
}
