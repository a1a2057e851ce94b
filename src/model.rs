//! The ground that every stage stands on: identifiers, stamps, tables, rows, changes, transactions.
//!
//! Values only: no I/O but the reading of a spilled payload through [`payload::Spilled`], no clock.

pub mod binary;
pub mod bloom;
pub mod change;
pub mod condition;
pub mod conflict;
pub mod cut;
pub mod demand;
pub mod error;
pub mod function;
pub mod ids;
pub mod key;
pub mod key_form;
pub mod merge;
pub mod payload;
pub mod rename;
pub mod resolver;
pub mod run;
pub mod table;
pub mod transaction;
pub mod tuple;
pub mod when;

pub use binary::BinaryType;
pub use change::{Change, Op, Relation, RelationColumn};
pub use condition::Condition;
pub use conflict::{ConflictType, Resolution};
pub use cut::Cut;
pub use demand::Demand;
pub use error::{Class, Classify};
pub use function::{FunctionName, NoFunctionName};
pub use ids::{KeyId, Link, Lsn, NodeId, Stamp, TableId, Xid};
pub use key_form::{CaseMap, KeyForm};
pub use merge::{ColumnMerge, ColumnMerges, Merge};
pub use payload::Payload;
pub use rename::{NewValues, Rename};
pub use resolver::{Case, Deciding, Deletes, Resolver, Resolvers, TableRule, UniqueWinner};
pub use table::{Column, IndexKey, IndexRule, Input, Table, UniqueIndex};
pub use transaction::{Growing, Growth, Touch, TouchKind, Touches, Transaction};
pub use tuple::{Cell, Tuple};
pub use when::{Cells, Party, When};
