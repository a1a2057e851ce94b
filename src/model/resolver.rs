//! How conflicts are resolved, as rules name it. What comes out of a set of changes is `conflict`'s.

use std::sync::Arc;

use crate::model::{NodeId, TableId};

/// How a table's conflicts are resolved: a function of the causally maximal changes (R1).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Resolver {
    /// The greatest stamp: the latest commit time; the tie falls by node.
    #[default]
    LastUpdateWins,
    /// The smallest stamp.
    FirstUpdateWins,
    /// The change of the node that comes first here; every node is in it once.
    OriginPriority(Arc<[NodeId]>),
}

impl Resolver {
    /// The names that rules may write.
    pub const NAMES: [&str; 3] = ["last_update_wins", "first_update_wins", "origin_priority"];

    /// The name as rules write it.
    pub fn name(&self) -> &'static str {
        match self {
            Resolver::LastUpdateWins => Resolver::NAMES[0],
            Resolver::FirstUpdateWins => Resolver::NAMES[1],
            Resolver::OriginPriority(_) => Resolver::NAMES[2],
        }
    }
}

/// The resolver of each table.
#[derive(Clone, Debug, Default)]
pub struct Resolvers(Vec<Resolver>);

impl Resolvers {
    /// By [`TableId`]; the last update wins in tables beyond the list.
    pub fn new(by_table: Vec<Resolver>) -> Resolvers {
        Resolvers(by_table)
    }

    /// How conflicts of the table are resolved.
    pub fn of(&self, table: TableId) -> &Resolver {
        self.0.get(table.0 as usize).unwrap_or(&Resolver::LastUpdateWins)
    }
}
