//! The messages of a replication stream as values; [`crate::stream::decode`] makes them from bytes.
//!
//! <https://www.postgresql.org/docs/current/protocol-replication.html> and
//! <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>

use bytes::Bytes;

use crate::model::{Lsn, RelationColumn, Tuple, Xid};

/// What one CopyData of a replication connection carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// `w`: a piece of the stream, which is one `pgoutput` message.
    XLogData {
        /// Where the record that it comes from begins.
        wal_start: Lsn,
        /// The same again for logical streams; says nothing of what has been sent.
        wal_end: Lsn,
        /// The server's clock, microseconds since 2000-01-01 00:00 UTC.
        micros: i64,
        /// The message.
        body: Bytes,
    },
    /// `k`: the server lives, and has sent everything that committed before `wal_end`.
    Keepalive {
        /// How far the server has decoded and sent.
        wal_end: Lsn,
        /// The server's clock, microseconds since 2000-01-01 00:00 UTC.
        micros: i64,
        /// Whether it wants to hear from us at once.
        reply: Reply,
    },
}

/// Whether a keepalive asks for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// At once, or the server may take us for dead.
    AtOnce,
    /// Whenever it suits.
    Whenever,
}

/// Whether a logical message belongs to its transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bond {
    /// Sent if and when the transaction commits.
    Transactional,
    /// Sent at once, whatever becomes of the transaction.
    Immediate,
}

/// Which chunk of a streamed transaction begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chunk {
    /// The first: what was known of that xid before is void.
    First,
    /// Another one.
    Later,
}

/// The row before an update or delete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Old {
    /// `K`: the columns of the replica identity; the others are null, whatever they were.
    Key(Tuple),
    /// `O`: the whole row, under REPLICA IDENTITY FULL.
    Row(Tuple),
}

impl Old {
    /// The cells, of either.
    pub fn into_tuple(self) -> Tuple {
        match self {
            Old::Key(tuple) | Old::Row(tuple) => tuple,
        }
    }
}

/// Where and when a transaction committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitPoint {
    /// Begin of the commit record.
    pub lsn: Lsn,
    /// End of the commit record.
    pub end_lsn: Lsn,
    /// By the source's clock, microseconds since 2000-01-01 00:00 UTC.
    pub micros: i64,
}

/// What the messages about a prepared transaction have in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// Where the prepare, commit or rollback record lies, and when it was written.
    pub point: CommitPoint,
    /// The transaction.
    pub xid: Xid,
    /// The name that the user gave it.
    pub gid: String,
}

/// A table's shape as the source announces it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelationShape {
    /// OID at the source.
    pub oid: u32,
    /// Schema; the protocol's empty string for `pg_catalog` is written out.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Columns in tuple order.
    pub columns: Vec<RelationColumn>,
}

/// One `pgoutput` message. `xid` is there inside stream blocks only: the (sub)transaction that wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// `B`
    Begin {
        /// Begin of the commit record.
        commit_lsn: Lsn,
        /// Commit time, microseconds since 2000-01-01 00:00 UTC.
        micros: i64,
        /// The transaction.
        xid: Xid,
    },
    /// `C`
    Commit(CommitPoint),
    /// `O`: the transaction came to this server from elsewhere.
    Origin {
        /// Its commit there; 0/0 for a streamed one.
        lsn: Lsn,
        /// The replication origin's name.
        name: String,
    },
    /// `M`: of `pg_logical_emit_message`.
    Logical {
        /// In a stream block: the top transaction, also if a subtransaction sent it.
        xid: Option<Xid>,
        /// Whether it waits for the commit.
        bond: Bond,
        /// Its position.
        lsn: Lsn,
        /// Whose message it is.
        prefix: String,
        /// What it says.
        content: Bytes,
    },
    /// `R`
    Relation {
        /// Who wrote.
        xid: Option<Xid>,
        /// The table.
        shape: RelationShape,
    },
    /// `Y`: the name of a column's type that is not built in.
    Type {
        /// Who wrote.
        xid: Option<Xid>,
        /// OID at the source.
        oid: u32,
        /// Schema.
        schema: String,
        /// Name.
        name: String,
    },
    /// `I`
    Insert {
        /// Who wrote.
        xid: Option<Xid>,
        /// The relation's OID.
        oid: u32,
        /// The row.
        new: Tuple,
    },
    /// `U`
    Update {
        /// Who wrote.
        xid: Option<Xid>,
        /// The relation's OID.
        oid: u32,
        /// The row before, if its key changed (or is wide), or under FULL.
        old: Option<Old>,
        /// The row after.
        new: Tuple,
    },
    /// `D`
    Delete {
        /// Who wrote.
        xid: Option<Xid>,
        /// The relation's OID.
        oid: u32,
        /// The row before.
        old: Old,
    },
    /// `T`
    Truncate {
        /// Who wrote.
        xid: Option<Xid>,
        /// The relations of the statement that are published.
        oids: Vec<u32>,
        /// The options CASCADE (bit 0) and RESTART IDENTITY (bit 1).
        options: TruncateOptions,
    },
    /// `S`
    StreamStart {
        /// The top transaction.
        xid: Xid,
        /// Which chunk.
        chunk: Chunk,
    },
    /// `E`
    StreamStop,
    /// `c`
    StreamCommit {
        /// The top transaction.
        xid: Xid,
        /// Where and when.
        point: CommitPoint,
    },
    /// `A`
    StreamAbort {
        /// The top transaction.
        xid: Xid,
        /// What was rolled back: a subtransaction, or the top one itself.
        subxid: Xid,
        /// Where and when, in microseconds; sent under `streaming 'parallel'` only.
        at: Option<(Lsn, i64)>,
    },
    /// `b`
    BeginPrepare(Prepared),
    /// `P`
    Prepare(Prepared),
    /// `K`
    CommitPrepared(Prepared),
    /// `r`; the point is the rollback's: end of prepare, end of rollback, time of the rollback.
    RollbackPrepared(Prepared),
    /// `p`
    StreamPrepare(Prepared),
}

/// What TRUNCATE was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TruncateOptions {
    /// CASCADE: the tables it led to are in the message.
    pub cascade: bool,
    /// RESTART IDENTITY.
    pub restart_identity: bool,
}
