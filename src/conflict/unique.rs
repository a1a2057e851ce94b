//! Which of two rows that claim one unique value keeps it (R12).
//!
//! Both nodes must say the same, whichever row they look at first. So what tells is the two changes that made the rows, and
//! nothing of the node.

use crate::conflict::coordinator::Coordinator;
use crate::conflict::window::{ChangeRef, Logged};
use crate::model::{Lsn, NodeId, Stamp, TableId, UniqueWinner};

impl Coordinator {
    /// Whether the row that a change with this stamp made, which committed at `lsn`, takes a unique value from a row that
    /// stands and that `holder` made. A holder that is not in the window has been seen by everybody.
    pub fn takes_unique(&self, table: TableId, stamp: Stamp, lsn: Lsn, holder: Option<ChangeRef>) -> bool {
        let Some(holder) = holder else { return true };
        let Logged { transaction: held_by, seen: seen_by_holder, .. } = self.window().transaction(holder);
        match &self.resolvers.rule(table).unique {
            UniqueWinner::LastUpdateWins => stamp > held_by.stamp,
            UniqueWinner::OriginPriority(order) => {
                let log = self.window().log(stamp.node);
                let incoming = log.get(log.seq_at(lsn)).filter(|logged| logged.transaction.commit_lsn == lsn);
                let one_source = holder.source == stamp.node;
                let saw_holder = match incoming {
                    _ if one_source => held_by.commit_lsn <= lsn,
                    Some(logged) => logged.seen[holder.source.index()] > held_by.commit_lsn,
                    None => false,
                };
                let was_seen = match incoming {
                    _ if one_source => !saw_holder,
                    Some(_) => seen_by_holder[stamp.node.index()] > lsn,
                    None => self.window().saw_all_forgotten(holder),
                };
                let place = |node: NodeId| order.iter().position(|each| *each == node);
                let comes_first = place(stamp.node) < place(holder.source);
                // Whose author had seen the other row has taken a value that was free at his node: what freed it is under way.
                saw_holder || !was_seen && comes_first
            }
        }
    }
}
