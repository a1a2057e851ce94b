//! The changes of one key and who had seen whom (R1).
//!
//! What an author had seen grows along its own history, so of each source only the latest change present can be
//! maximal, and what a change supersedes is a position a source: its *reach*. Changes seen through others count,
//! so the reach is closed over the changes of the key.

use smallvec::SmallVec;

use crate::conflict::window::{ChangeRef, Seq, Window};
use crate::model::NodeId;

/// For each source the number below which its changes of the key are superseded.
pub type Reach = SmallVec<[Seq; 4]>;

/// A list of changes for each source, in order; most keys were changed once or twice.
pub type Lists = SmallVec<[SmallVec<[ChangeRef; 2]>; 4]>;

/// All changes of one key in the window, a list a source, in order.
#[derive(Debug)]
pub struct History {
    lists: Lists,
}

impl History {
    /// Takes the lists, one a source, each in order.
    pub fn new(lists: Lists) -> History {
        debug_assert!(lists.iter().all(|list| list.is_sorted()));
        History { lists }
    }

    /// The changes of one source.
    pub fn of(&self, source: NodeId) -> &[ChangeRef] {
        &self.lists[source.index()]
    }

    /// The last change of `source` in a transaction numbered below `end`.
    pub fn latest(&self, source: NodeId, end: Seq) -> Option<ChangeRef> {
        let list = self.of(source);
        list.partition_point(|change| change.seq < end).checked_sub(1).map(|last| list[last])
    }

    /// The last change of the key that the transaction of `change` made before it.
    pub fn before_in_transaction(&self, change: ChangeRef) -> Option<ChangeRef> {
        let own = self.of(change.source);
        let earlier = own.partition_point(|other| *other < change);
        earlier.checked_sub(1).map(|last| own[last]).filter(|other| other.seq == change.seq)
    }

    /// What `change` supersedes: whatever its author had seen, directly or through changes of this key.
    pub fn reach(&self, window: &Window, change: ChangeRef) -> Reach {
        let mut reach: Reach = SmallVec::from_elem(0, self.lists.len());
        reach[change.source.index()] = change.seq;
        let mut followed: Reach = SmallVec::from_elem(0, self.lists.len());
        let mut next = Some(change);
        while let Some(current) = next {
            for (source, seen) in NodeId::all(self.lists.len()).zip(&window.transaction(current).seen) {
                if source != current.source {
                    let below = window.log(source).seq_at(*seen);
                    reach[source.index()] = reach[source.index()].max(below);
                }
            }
            next = NodeId::all(self.lists.len()).find_map(|source| {
                let i = source.index();
                let grown = reach[i] > followed[i];
                followed[i] = reach[i];
                grown.then(|| self.latest(source, reach[i])).flatten()
            });
        }
        reach
    }

    /// Of the changes present the causally maximal ones: `present` gives for each source the number below which
    /// its transactions are present. At most one a source.
    pub fn maximal(&self, window: &Window, present: &[Seq]) -> SmallVec<[ChangeRef; 4]> {
        let latest: SmallVec<[ChangeRef; 4]> =
            NodeId::all(self.lists.len()).filter_map(|source| self.latest(source, present[source.index()])).collect();
        if latest.len() < 2 {
            return latest;
        }
        let reaches: SmallVec<[Reach; 4]> = latest.iter().map(|change| self.reach(window, *change)).collect();
        let superseded = |change: &ChangeRef| {
            latest
                .iter()
                .zip(&reaches)
                .any(|(other, reach)| other.source != change.source && reach[change.source.index()] > change.seq)
        };
        latest.iter().filter(|change| !superseded(change)).copied().collect()
    }

    /// Whether neither of two changes of this key had seen the other.
    pub fn concurrent(&self, window: &Window, a: ChangeRef, b: ChangeRef) -> bool {
        a.source != b.source
            && self.reach(window, a)[b.source.index()] <= b.seq
            && self.reach(window, b)[a.source.index()] <= a.seq
    }
}
