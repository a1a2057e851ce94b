//! The wire session: PostgreSQL's protocol 3 over TCP, unix sockets and TLS, shared by source and apply.
//!
//! ```text
//! Conninfo ─► stream ─► tls ─► startup ─► Session ─┬─► simple      a statement or a replication command
//!                                                   ├─► Pipeline    a window of statements with one Sync
//!                                                   └─► CopyReader + CopyWriter   after START_REPLICATION
//! ```
//!
//! A session is always in a known place of the protocol, or says that it is not and refuses to go on: a request
//! that was abandoned midway leaves it unusable rather than out of step.

pub mod cancel;
pub mod conninfo;
mod copy;
pub mod error;
mod exchange;
mod inbox;
pub mod outcome;
mod output;
mod pinned;
pub mod pipeline;
pub mod replication;
pub mod session;
mod startup;
mod statements;
mod stream;
pub mod tls;

pub use cancel::CancelHandle;
pub use conninfo::{Conninfo, ConninfoError};
pub use copy::{BinaryRows, CopiedRows, TextRows};
pub use error::{ServerError, Severity, WireError};
pub use outcome::{CommandTag, Outcome, Row};
pub use pinned::pin;
pub use pipeline::{Param, Pipeline, PipelineError};
pub use replication::{CopyReader, CopyWriter};
pub use session::{Session, TransactionStatus};
