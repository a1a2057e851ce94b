//! A piece as it is sent, made on another thread while the one before it is written, so that the server need not wait.

use std::time::Instant;

use crate::apply::batch::{PIECE_BYTES, SET_ROWS, Set, Write};
use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::manner::Inserting;
use crate::apply::net::{Folded, Net, Plain, Row};
use crate::apply::record::Recorder;
use crate::apply::sets::{Judging, Kind, Statement, in_order};
use crate::apply::sql::Guard;
use crate::conflict::ChangeRef;
use crate::model::{Resolvers, Xid};

/// The changes of a piece, and the statements that write them if no other node has changed any of its keys.
#[derive(Debug)]
pub(super) struct Piece {
    pub folded: Folded,
    /// `None` if it takes more than statements.
    pub statements: Option<Vec<Statement>>,
}

impl Piece {
    pub fn of(folded: Folded, resolvers: &Resolvers, inserting: Inserting, judging: Judging) -> Piece {
        // A piece ends with the row that fills it: that one must be very wide. Twice in memory would be too often.
        if folded.bytes > 2 * PIECE_BYTES {
            return Piece::plain(folded);
        }
        let groups = plan(&folded, resolvers);
        let statements = groups.map(|groups| statements(in_order(&folded, groups), inserting, judging));
        Piece { folded, statements }
    }

    /// Nothing is made of it before it is decided about.
    pub fn plain(folded: Folded) -> Piece {
        Piece { folded, statements: None }
    }
}

/// The deletes, updates and inserts of a piece, provided that no other node has changed any of its keys; `None` if those are not
/// all there is to it.
fn plan(folded: &Folded, resolvers: &Resolvers) -> Option<[Vec<Write>; 3]> {
    if !folded.truncations.is_empty() {
        return None;
    }
    let (mut deletes, mut updates, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
    for (at, net) in folded.nets.iter().enumerate() {
        if net.table.defers() || resolvers.merge(net.table.id).is_some() {
            return None;
        }
        let write = |row: &Row| Write { net: at, row: row.clone(), known: None };
        match net.plain()? {
            Plain::Delete => deletes.push(write(&net.key_row)),
            Plain::Insert(row) => inserts.push(write(row)),
            Plain::Update(row) => updates.push(write(row)),
        }
    }
    Some([deletes, updates, inserts])
}

/// Guarded statements for these sets, in order.
pub(super) fn statements(sets: Vec<(Kind, Set)>, inserting: Inserting, judging: Judging) -> Vec<Statement> {
    let mut statements = Vec::new();
    for (kind, set) in sets {
        if inserting == Inserting::Copy && kind == Kind::Insert && set.is_worth_copy() {
            statements.push(Statement::copy(&set));
            continue;
        }
        let chunks = set.writes.chunks(SET_ROWS);
        statements.extend(chunks.map(|writes| Statement::new(kind, &set, writes, Guard::Known, judging)));
    }
    statements
}

impl<R: Recorder> Execution<'_, R> {
    /// Whether statements may be all there is to do for a piece: otherwise none are made beforehand.
    pub(super) fn may_have_statements(&self) -> bool {
        let is_held = || !self.shared.coordinator().all_held(self.batch.link.target).is_empty();
        self.conflicts.is_empty() && self.refusals.is_empty() && !is_held()
    }

    /// The horizon for the statements of a piece of the batch, if they are all there is to do: no other node has changed any of
    /// its keys, and nobody is known to be changing one just now. Says nothing else than [`Execution::decide`] does.
    pub(super) fn may_send(&self, folded: &Folded) -> Result<Option<Option<Xid>>, ApplyError> {
        if !self.may_have_statements() {
            return Ok(None);
        }
        let link = self.batch.link;
        // Read before the look: what is older is in the window by then.
        let horizon = self.shared.node(link.target).horizon();
        let now = Instant::now();
        let mut coordinator = self.deciding()?;
        let mut is_alone = |net: &Net| {
            let own = ChangeRef::at(link.source, net.place, net.kind());
            !self.session.busy.contains(net.key, now)
                && coordinator.decide_alone(link, net.table.id, net.key, own).is_some()
        };
        Ok(folded.nets.iter().all(&mut is_alone).then_some(horizon))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::net::Incoming;
    use crate::model::key::KeyHasher;
    use crate::model::{Cell, Change, Op, Relation, Table, TableRule, Tuple};

    /// A piece of inserts of so many rows of `width` bytes.
    fn piece(rows: u64, width: usize) -> Piece {
        let relation = Relation::sample(Table::of_texts("t", &["k", "a"]), &["k", "a"]);
        let (wide, mut folded) = (vec![b'x'; width], Folded::default());
        for row in 0..rows {
            let key = row.to_string();
            let new = Tuple::from_cells([Cell::Text(key.as_bytes()), Cell::Text(&wide)].into_iter());
            let change = Change { relation: relation.clone(), xid: Xid(7), op: Op::Insert { new } };
            folded.add(Incoming { place: (0, row), view: 0, change }, &KeyHasher::with_seed(1));
        }
        Piece::of(folded, &Resolvers::new(vec![TableRule::default()]), Inserting::Copy, Judging::Counted)
    }

    #[test]
    fn a_piece_that_wide_rows_have_filled_has_statements_unless_one_is_very_wide() {
        let copies = |piece: Piece| piece.statements.map(|all| all.iter().map(Statement::copies).collect::<Vec<_>>());
        assert_eq!(copies(piece(40, (PIECE_BYTES + 4_000) / 40)), Some(vec![true]));
        assert_eq!(copies(piece(2, 100)), Some(vec![false]));
        assert_eq!(copies(piece(1, 2 * PIECE_BYTES)), None);
    }
}
