//! From decisions to the target's rows: batches, SQL, the apply session, progress (R3, R4, R7, R8, R12, R15).
//!
//! A batch is one transaction at the target. Its changes are folded to one net change a key, decided, written in
//! sets under the guard; what the guard refuses is locked, known through a barrier, decided again and written one
//! by one.

pub mod batch;
pub mod busy;
mod call;
pub mod complete;
mod deferred;
pub mod error;
pub mod execute;
mod fit;
pub mod hold;
pub mod manner;
pub mod merge;
pub mod net;
mod note;
pub mod record;
pub mod reopen;
pub mod session;
mod sets;
pub mod shared;
pub mod slow;
pub mod sql;
pub mod truncate;
pub mod unique;
pub mod worker;

pub use error::ApplyError;
pub use record::{Conflict, Recorder, Side};
pub use shared::{NodeShared, Shared};
