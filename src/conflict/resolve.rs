//! Which of the causally maximal changes comes out (R1). A resolver is a function of the set alone.

use crate::conflict::order::Ordered;
use crate::conflict::window::ChangeRef;
use crate::model::{Deletes, NodeId, Resolver, Stamp, TouchKind};

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

/// The change that comes out of the set at a node: alike at every one that has the same set, unless the resolver
/// [diverges](Resolver::diverges). There is at most one of each source.
pub fn choose(resolver: &Resolver, deletes: Deletes, candidates: &[Candidate], node: NodeId) -> Option<ChangeRef> {
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
        Resolver::KeepLocal | Resolver::Skip => {
            each.max_by_key(|candidate| (candidate.change.source == node, candidate.stamp))
        }
        Resolver::ApplyRemote => each.max_by_key(|candidate| (candidate.change.source != node, candidate.stamp)),
    }
    .map(|candidate| candidate.change)
}
