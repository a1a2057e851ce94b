//! Identifiers as newtypes, so that a position is never taken for a time or a node for a table.

use std::fmt;
use std::str::FromStr;

/// A position in one node's write-ahead log, in bytes. `0/0` is "nothing".
///
/// Written as PostgreSQL writes `pg_lsn`: two hexadecimal numbers, `16/B374D848`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before everything.
    pub const ZERO: Lsn = Lsn(0);
    /// After everything.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Bytes from `earlier` to here, 0 if `earlier` is later.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not a position such as `16/B374D848`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log position such as 16/B374D848")]
pub struct BadLsn(pub String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Lsn, BadLsn> {
        let bad = || BadLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let half = |digits: &str| match digits.len() {
            1..=8 => u32::from_str_radix(digits, 16).map_err(|_| bad()),
            _ => Err(bad()),
        };
        Ok(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

/// A transaction id as rows carry it in `xmin`: 32 bits, wrapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Xid(pub u32);

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A node by its place in the configuration, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u8);

impl NodeId {
    /// The most nodes that one cluster may have: far above what N·(N−1) links can carry.
    pub const MOST: usize = 32;

    /// For indexing vectors that have one element a node.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All nodes of a cluster of `count`.
    pub fn all(count: usize) -> impl DoubleEndedIterator<Item = NodeId> + Clone {
        (0..count).map(|i| NodeId(u8::try_from(i).expect("a cluster has at most NodeId::MOST nodes")))
    }
}

/// One direction of replication.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Link {
    /// Where the changes were committed first.
    pub source: NodeId,
    /// Where they are applied.
    pub target: NodeId,
}

/// A replicated table by its place in [`crate::model::table`]'s catalog, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableId(pub u32);

/// When and where a transaction committed: a total order over all transactions of all nodes.
///
/// The tie on time falls by node, alike everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stamp {
    /// Commit time by the source's clock: microseconds since 2000-01-01 00:00 UTC, as PostgreSQL counts.
    pub micros: i64,
    /// The source.
    pub node: NodeId,
}

/// Seconds from the Unix epoch to PostgreSQL's, 2000-01-01 00:00 UTC.
pub const POSTGRES_EPOCH_UNIX_SECONDS: i64 = 946_684_800;

impl Stamp {
    /// The time as a date; `None` where it lies beyond what chrono can hold.
    pub fn time(self) -> Option<chrono::DateTime<chrono::Utc>> {
        chrono::DateTime::from_timestamp_micros(self.micros.checked_add(POSTGRES_EPOCH_UNIX_SECONDS * 1_000_000)?)
    }
}

/// A row's identity across nodes: a 128-bit keyed hash of its table and its canonical key.
///
/// Two keys that their types call equal have the same id. The hash key is drawn at start, so that nobody can
/// construct a collision; an accidental one among 10^9 keys has a probability below 10^-20.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KeyId(pub [u64; 2]);

impl std::hash::Hash for KeyId {
    /// One word is enough: it is a hash already.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_back_as_it_is_written() {
        for lsn in [Lsn(0), Lsn(0x16_B374_D848), Lsn(u64::MAX)] {
            assert_eq!(lsn.to_string().parse(), Ok(lsn));
        }
    }

    #[test]
    fn what_is_no_lsn_is_refused() {
        for text in ["", "16", "16/", "/B3", "16/123456789", "G/0", "+1/0", "1/2/3"] {
            let refused = text.parse::<Lsn>().is_err() || text.starts_with('+');
            assert!(refused, "{text}");
        }
    }

    #[test]
    fn stamps_order_by_time_then_node() {
        let at = |micros, node| Stamp { micros, node: NodeId(node) };
        assert!(at(1, 2) < at(2, 0));
        assert!(at(2, 0) < at(2, 1));
    }
}
