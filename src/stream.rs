//! From bytes to whole transactions: source, decode, assemble, spill.

pub mod assemble;
pub mod chars;
pub mod decode;
pub mod draft;
pub mod error;
pub mod feedback;
pub mod keys;
pub mod log;
pub mod message;
pub mod numbered;
pub mod pace;
pub mod relations;
pub mod source;
pub mod source_error;
pub mod spill;
pub mod start;
#[cfg(test)]
pub(crate) mod testing;
pub mod touch_log;

pub use assemble::{Assembler, SourceEvent};
pub use error::AssembleError;
pub use source::{Echo, SourceSettings, stream};
pub use source_error::SourceError;
pub use spill::Spill;
pub use start::{Connected, connect};
