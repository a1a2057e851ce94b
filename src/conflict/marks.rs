//! What a node had applied of each peer by which of its own WAL positions (R4): exact, or earlier than the truth.
//!
//! A mark that is missing makes changes count as concurrent that were made one after the other; a mark that
//! claims too much would lose an update. So a mark is only taken from the commit itself: `local_lsn` of our
//! origin right after COMMIT, or the commit as it appears in the stream read with `origin any`.

use crate::model::{Lsn, NodeId};

/// One commit of ours at a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Where our commit record ended in the node's WAL.
    pub at: Lsn,
    /// The source's position up to which its transactions were applied by then.
    pub applied: Lsn,
}

/// The marks of one node, for each source.
#[derive(Clone, Debug)]
pub struct Marks {
    node: NodeId,
    of: Vec<Vec<Mark>>,
}

impl Marks {
    /// No marks: nothing is known to have been seen.
    pub fn new(node: NodeId, nodes: usize) -> Marks {
        Marks { node, of: vec![Vec::new(); nodes] }
    }

    /// Takes a mark; one that is known already, or says less than a known one, changes nothing.
    pub fn add(&mut self, source: NodeId, mark: Mark) {
        let marks = &mut self.of[source.index()];
        let place = marks.partition_point(|known| known.at < mark.at);
        let news = place == 0 || marks[place - 1].applied < mark.applied || place == marks.len();
        if news && marks.get(place).is_none_or(|known| known.at != mark.at) {
            marks.insert(place, mark);
        }
    }

    /// For each source the position up to which the author of a local commit at `lsn` had its changes.
    pub fn seen(&self, lsn: Lsn) -> Box<[Lsn]> {
        self.of
            .iter()
            .enumerate()
            .map(|(source, marks)| {
                if source == self.node.index() {
                    return lsn;
                }
                let known = marks.partition_point(|mark| mark.at <= lsn);
                known.checked_sub(1).map_or(Lsn::ZERO, |last| marks[last].applied)
            })
            .collect()
    }

    /// The marks for `source`, in order.
    pub fn of(&self, source: NodeId) -> &[Mark] {
        &self.of[source.index()]
    }

    /// Forgets the marks that no change from `lsn` on needs: of each source all but the last one before it.
    pub fn prune(&mut self, lsn: Lsn) {
        for marks in &mut self.of {
            let older = marks.partition_point(|mark| mark.at <= lsn);
            marks.drain(..older.saturating_sub(1));
        }
    }

    /// Forgets all marks later than `lsn`: what a server that lost its tail may have taken back.
    pub fn cut(&mut self, lsn: Lsn) {
        for marks in &mut self.of {
            let kept = marks.partition_point(|mark| mark.at <= lsn);
            marks.truncate(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(of: &[(u64, u64)]) -> Marks {
        let mut marks = Marks::new(NodeId(0), 2);
        of.iter().for_each(|&(at, applied)| marks.add(NodeId(1), Mark { at: Lsn(at), applied: Lsn(applied) }));
        marks
    }

    #[test]
    fn an_author_saw_what_was_committed_before_its_own_commit() {
        let marks = marks(&[(10, 100), (20, 200)]);
        let seen: Vec<_> = [5, 9, 10, 19, 20, 30].map(|lsn| marks.seen(Lsn(lsn))[1].0).into();
        assert_eq!(seen, [0, 0, 100, 100, 200, 200]);
        assert_eq!(marks.seen(Lsn(7))[0], Lsn(7));
    }

    #[test]
    fn marks_that_come_twice_or_late_change_nothing() {
        let marks = marks(&[(10, 100), (30, 300), (10, 100), (20, 200), (30, 300)]);
        assert_eq!(marks.of(NodeId(1)).iter().map(|mark| mark.at.0).collect::<Vec<_>>(), [10, 20, 30]);
    }

    #[test]
    fn pruning_keeps_what_later_changes_had_seen() {
        let mut marks = marks(&[(10, 100), (20, 200), (30, 300)]);
        marks.prune(Lsn(25));
        assert_eq!(marks.seen(Lsn(25))[1], Lsn(200));
        marks.cut(Lsn(25));
        assert_eq!(marks.seen(Lsn(40))[1], Lsn(200));
    }
}
