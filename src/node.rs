//! What a node is and needs: its tables, what `setup` creates there, what `doctor` checks, and the statements
//! that the daemon runs beside the streams.
//!
//! Everything here goes over plain connections of the control plane ([`connect`]); streams and batches have
//! their own sessions in [`crate::wire`].

pub mod catalog;
pub mod clock;
pub mod connect;
pub mod control;
pub mod doctor;
mod error;
pub mod expressions;
pub mod finding;
pub mod functions;
pub mod setup;
pub mod teardown;

pub use catalog::ClusterCatalog;
pub use connect::connect;
pub use control::Control;
pub use error::NodeError;
pub use finding::{Finding, Level};
