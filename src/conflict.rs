//! The window, and what comes out of a set of changes: pure, no I/O and no clock.
//!
//! A [`Coordinator`] is told what was decoded and what was committed, and answers what to write, what to decide
//! again and what may be forgotten. Everything it holds can be rebuilt from the slots and the progress rows.

pub mod append;
pub mod batch;
pub mod condition;
pub mod coordinator;
pub mod detect;
mod family;
pub mod frontier;
pub mod held;
pub mod history;
pub mod json;
pub mod marks;
pub mod merge;
pub mod order;
mod put;
pub mod reopen;
pub mod resolve;
pub mod switch;
mod unique;
pub mod window;

pub use batch::{Batch, Decision, Survivor};
pub use coordinator::{Coordinator, Event, Standing};
pub use detect::{LocalRow, Operation, conflict_type};
pub use held::{Held, HeldChange};
pub use marks::Marks;
pub use merge::{ColumnPlan, Made};
pub use reopen::{Redecision, Reopened};
pub use resolve::Candidate;
pub use window::{ChangeRef, Window};
