//! Which of the causally maximal changes comes out (R1). A resolver is a function of the set alone.

use crate::conflict::order::Ordered;
use crate::conflict::window::ChangeRef;
use crate::model::{Deletes, Resolution, Resolver, Stamp, TouchKind};

/// One of the changes to choose from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The change.
    pub change: ChangeRef,
    /// When and where it committed.
    pub stamp: Stamp,
    /// What its row has in the column of [`Resolver::by`]; `None` for NULL, of a delete, and where no column decides.
    pub value: Option<Ordered>,
}

/// The change that comes out of the set, alike at every node that has the same set. There is at most one of each source.
pub fn choose(resolver: &Resolver, deletes: Deletes, candidates: &[Candidate]) -> Option<ChangeRef> {
    let preferred = match deletes {
        _ if matches!(resolver, Resolver::Merge(_)) => Some(TouchKind::Delete),
        Deletes::ByResolver => None,
        Deletes::DeleteWins => Some(TouchKind::Delete),
        Deletes::UpdateWins => Some(TouchKind::Put),
    };
    let is_preferred = |candidate: &&Candidate| preferred.is_none_or(|kind| candidate.change.kind() == kind);
    let any = candidates.iter().any(|candidate| is_preferred(&candidate));
    let each = candidates.iter().filter(|candidate| !any || is_preferred(candidate));
    match resolver {
        // Of a merged row the latest change gives what no other one does.
        Resolver::LastUpdateWins | Resolver::Merge(_) => each.max_by_key(|candidate| candidate.stamp),
        Resolver::FirstUpdateWins => each.min_by_key(|candidate| candidate.stamp),
        Resolver::LastByColumn(_) => each.max_by_key(|candidate| (&candidate.value, candidate.stamp)),
        Resolver::FirstByColumn(_) => {
            each.min_by_key(|candidate| (candidate.value.is_none(), &candidate.value, candidate.stamp))
        }
        Resolver::OriginPriority(order) => {
            each.min_by_key(|candidate| order.iter().position(|node| *node == candidate.change.source))
        }
    }
    .map(|candidate| candidate.change)
}

/// What a decision about an incoming change was, seen from the target.
pub fn resolution(incoming: ChangeRef, winner: ChangeRef, same_outcome: bool) -> Resolution {
    match (winner == incoming, same_outcome) {
        (_, true) => Resolution::Skip,
        (true, false) => Resolution::ApplyRemote,
        (false, false) => Resolution::KeepLocal,
    }
}
