//! Entries by status. Nearly all are resolved, so only what is pending or held is in an index by that.

use crate::journal::entry::Status;

/// The numbers of the pending entries.
pub(super) const PENDING: &str = "SELECT id FROM entry INDEXED BY entry_pending WHERE status = 'pending'";
/// The numbers of the held ones.
pub(super) const HELD: &str = "SELECT id FROM entry INDEXED BY entry_held WHERE status = 'held'";

/// The index of the held ones in time order.
pub(super) const HELD_IN_ORDER: &str = "INDEXED BY entry_held_listing";

/// The condition that an entry is in one of these states, of which there is at least one.
pub(super) fn any_of(statuses: &[Status]) -> String {
    if *statuses == [Status::Held] {
        return "status = 'held'".to_owned();
    }
    let others = [(Status::Pending, PENDING), (Status::Held, HELD)];
    if statuses.contains(&Status::Resolved) {
        let excluded: Vec<String> = others
            .iter()
            .filter(|(status, _)| !statuses.contains(status))
            .map(|(_, numbers)| format!("id NOT IN ({numbers})"))
            .collect();
        if excluded.is_empty() { "TRUE".to_owned() } else { excluded.join(" AND ") }
    } else {
        let wanted: Vec<&str> =
            others.iter().filter(|(status, _)| statuses.contains(status)).map(|(_, numbers)| *numbers).collect();
        format!("id IN ({})", wanted.join(" UNION ALL "))
    }
}
