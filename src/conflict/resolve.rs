//! Which of the causally maximal changes comes out (R1). A resolver is a function of the set alone.

use crate::conflict::window::ChangeRef;
use crate::model::{Resolution, Stamp};

/// One of the changes to choose from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The change.
    pub change: ChangeRef,
    /// When and where it committed.
    pub stamp: Stamp,
}

/// How a table's conflicts are resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Resolver {
    /// The greatest stamp: the latest commit time; the tie falls by node.
    #[default]
    LastUpdateWins,
}

impl Resolver {
    /// The name as rules write it.
    pub fn name(self) -> &'static str {
        match self {
            Resolver::LastUpdateWins => "last_update_wins",
        }
    }

    /// The change that comes out of the set, alike at every node that has the same set.
    pub fn choose(self, candidates: &[Candidate]) -> Option<ChangeRef> {
        match self {
            Resolver::LastUpdateWins => candidates.iter().max_by_key(|candidate| candidate.stamp),
        }
        .map(|candidate| candidate.change)
    }
}

/// What a decision about an incoming change was, seen from the target.
pub fn resolution(incoming: ChangeRef, winner: ChangeRef, same_outcome: bool) -> Resolution {
    match (winner == incoming, same_outcome) {
        (_, true) => Resolution::Skip,
        (true, false) => Resolution::ApplyRemote,
        (false, false) => Resolution::KeepLocal,
    }
}
