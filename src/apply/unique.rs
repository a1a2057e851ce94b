//! Unique values (R7, R12): change by change after a violation, and what to do when two rows claim one value.
//!
//! Values that merely swap within a batch come right in the order of the source. Where another row still holds
//! the value the rule picks the row that loses (the older one without a rule), and that is removed by an ordinary DELETE at its home node, without origin, so that it
//! is replicated and ordered like any other change; its whole row is in the journal. Where a rule says what such a row
//! gets instead of its value, an ordinary UPDATE there gives it that, and no row goes.

use std::io;

use crate::apply::batch::Pieces;
use crate::apply::complete::Completed;
use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::net::{Content, Folded, Net, Row};
use crate::apply::record::{Conflict, Recorder, Side, Subject};
use crate::apply::{hold, note};
use crate::conflict::{ChangeRef, Coordinator, Decision, Operation};
use crate::model::{Cell, ConflictType, Lsn, NewValues, NodeId, Resolution, Table, Tuple, UniqueWinner, Xid};

mod give_way;
mod holders;
mod query;
mod removal;

use holders::Holder;
pub use removal::{Removal, Removed, remove};

/// How often room is made for a row before the batch is given up and tried later.
pub(super) const ROUNDS: usize = 16;

/// See [`Execution::due`].
type Due = (Decision, Content, Option<Completed>);

impl<R: Recorder> Execution<'_, R> {
    /// Writes the batch change by change, each behind a savepoint.
    pub(super) async fn write_one_by_one(&mut self) -> Result<(), ApplyError> {
        self.begin_alone().await?;
        let shared = self.shared;
        let mut pieces = Pieces::new(self.batch, 1);
        while let Some(folded) = pieces.next(&shared.catalog.hasher)? {
            self.write_one(&folded).await?;
            self.touched(&folded);
        }
        self.recheck().await
    }

    /// Writes one change; makes room for it where another row has its unique value.
    pub(super) async fn write_one(&mut self, folded: &Folded) -> Result<(), ApplyError> {
        let table = folded.nets.first().map(|net| net.table.clone());
        for _ in 0..ROUNDS {
            self.savepoint().await?;
            let held = self.held_changes.len();
            let written = self.write_piece(folded).await;
            let Err(error) = self.end_savepoint(written, table.as_deref()).await? else { return Ok(()) };
            self.held_changes.truncate(held);
            self.healing.clear();
            if !is_violation(&error) {
                return self.hold_refused(folded, error).await;
            }
            let mut others = Vec::new();
            for (net, half) in folded.nets.iter().zip(folded.halves()) {
                let yields = match self.claim(net).await? {
                    Some(claim) => self.settle_unique(&claim, &error).await? == Outcome::Yields,
                    None => false,
                };
                if !yields {
                    others.push(half);
                }
            }
            if others.len() < folded.nets.len() {
                // what has gone to another key has left its old one all the same
                for half in others {
                    self.write_piece(&half).await?;
                }
                return Ok(());
            }
        }
        Err(taken_in_turn())
    }

    /// The row that a net change's key was to have, with all its values; `None` if there was to be none.
    async fn claim(&mut self, net: &Net) -> Result<Option<Claim>, ApplyError> {
        let (winner, completed, by) = {
            let mut coordinator = self.deciding()?;
            let Some((decision, Content::Put(row), completed)) = self.due(&mut coordinator, net)? else {
                return Ok(None);
            };
            let later =
                self.is_ours(decision.winner) && (decision.incoming.seq, decision.incoming.offset()) != net.place;
            if completed.is_some() && later {
                return Ok(None); // left to the batch's later change of the key
            }
            let by = self.claimant(&coordinator, net, decision.winner)?;
            (decision.winner, completed.unwrap_or(Completed::Whole(row)), by)
        };
        let from = net.moved_from.as_ref().unwrap_or(&net.key_row);
        let row = match completed {
            Completed::Whole(row) => Some(row),
            Completed::AtSource(row, change) => self.read_at_source(&row, change).await?,
            Completed::AtTarget(row) => match self.read_at_target(&row, from).await? {
                Some(row) => Some(row),
                None => self.read_at_source(&row, winner).await?,
            },
        };
        Ok(row.map(|row| Claim { row, key_row: net.key_row.clone(), by }))
    }

    /// What a net change's key is to be, and how its row is completed; `None` if nothing is to be written.
    pub(super) fn due(&self, coordinator: &mut Coordinator, net: &Net) -> io::Result<Option<Due>> {
        let decision = coordinator.decide(self.batch.link, net.table.id, net.key)?;
        if !self.is_ours(decision.winner) && !decision.write {
            return Ok(None);
        }
        let (content, completed) = self.outcome(coordinator, net, decision.winner)?;
        Ok(Some((decision, content, completed)))
    }

    /// Who made the row that a net change's key is to have.
    pub(super) fn claimant(&self, coordinator: &Coordinator, net: &Net, winner: ChangeRef) -> io::Result<Claimant> {
        let by = self.claimant_of(coordinator, &net.key_row, winner)?;
        if !self.is_ours(winner) {
            return Ok(by);
        }
        Ok(Claimant { remote: self.incoming(net), offset: net.place.1, rekeyed: net.rekeyed, ..by })
    }

    /// Who made the row of that key, of a change in the window.
    pub(super) fn claimant_of(
        &self,
        coordinator: &Coordinator,
        key_row: &Row,
        change: ChangeRef,
    ) -> io::Result<Claimant> {
        let (table, key) = (key_row.table().id, key_row.key(&self.shared.catalog.hasher));
        Ok(Claimant {
            remote: note::side(coordinator, change)?,
            offset: change.offset(),
            rekeyed: false,
            home: change.source,
            newest_here: coordinator.newest_at(self.batch.link.target, table, key)?,
        })
    }

    /// Sets a savepoint before something that may violate a unique value.
    pub(super) async fn savepoint(&mut self) -> Result<(), ApplyError> {
        self.commands(&["SAVEPOINT pgconcord"]).await
    }

    /// Ends the last savepoint; what it gives back is what was written, or the violation for which all since is undone, or
    /// that a row of `table` is refused which a rule lets the target do without.
    pub(super) async fn end_savepoint<T>(
        &mut self,
        written: Result<T, ApplyError>,
        table: Option<&Table>,
    ) -> Result<Result<T, ApplyError>, ApplyError> {
        match &written {
            Ok(_) => self.commands(&["RELEASE SAVEPOINT pgconcord"]).await?,
            Err(error) if is_violation(error) || table.is_some_and(|table| self.may_hold(table, error)) => {
                self.commands(&["ROLLBACK TO SAVEPOINT pgconcord", "RELEASE SAVEPOINT pgconcord"]).await?;
            }
            Err(_) => return written.map(Ok),
        }
        Ok(written)
    }

    async fn commands(&mut self, texts: &[&str]) -> Result<(), ApplyError> {
        let mut pipeline = self.session.pipeline();
        for text in texts {
            pipeline.query(text, &[], []);
        }
        pipeline.run().await.map(drop).map_err(ApplyError::pipeline(texts[0].to_lowercase()))
    }

    /// The incoming row can't be written: decides who loses. The loser goes at its home first, with nothing locked
    /// here; once that is done it may go here too, for waiting until it arrives could be waiting for a link that
    /// waits for this one.
    pub(super) async fn settle_unique(&mut self, claim: &Claim, error: &ApplyError) -> Result<Outcome, ApplyError> {
        let Claim { row, key_row, by: Claimant { remote, home, newest_here, .. } } = claim;
        let holders = self.lock_holders(row, &claim.by).await?;
        if holders.is_empty() {
            // it may have gone since, for the sake of this very row
            let key = key_row.key(&self.shared.catalog.hasher);
            let before = self.unseen_holders.filter(|(of, _)| *of == key).map_or(0, |(_, times)| times);
            self.unseen_holders = Some((key, before + 1));
            return if before + 1 < ROUNDS { Ok(Outcome::RoomMade) } else { Err(no_holder(error)) };
        }
        self.unseen_holders = None;
        let incoming_wins = holders.iter().all(|holder| holder.loses);
        let hasher = self.shared.catalog.hasher;
        let losers: Vec<(Option<ChangeRef>, Removal)> = if incoming_wins {
            self.there(&holders, row)
        } else {
            // what was held for long may be forgotten
            let newest = self.shared.coordinator().newest_at(*home, row.table().id, key_row.key(&hasher))?;
            let beat = holders.iter().filter(|holder| !holder.loses);
            let lost = beat.map(|holder| (holder.index.clone(), holder.row.clone())).collect();
            vec![(*newest_here, self.removal(*home, row.clone(), lost, newest.map(|_| remote.lsn)))]
        };
        let renamed = |row: &Row| {
            let key = row.key(&hasher);
            losers.iter().find(|(_, loser)| loser.row.key(&hasher) == key).and_then(|(_, loser)| loser.renamed.as_ref())
        };
        let conflicts: Vec<_> = if incoming_wins {
            let of = |loser: &Holder| self.unique_conflict(claim, &holders, Loser::There(loser), renamed(&loser.row));
            holders.iter().map(of).collect()
        } else {
            vec![self.unique_conflict(claim, &holders, Loser::Incoming, renamed(row))]
        };
        let undone: Vec<Removal> = {
            let removed = self.shared.removed();
            let undone = losers.iter().filter(|(_, loser)| !removed.contains_key(&loser.id(&hasher)));
            undone.map(|(_, loser)| loser.clone()).collect()
        };
        if !undone.is_empty() {
            // The batch is rolled back, but the removals stand: the entries are settled with what is committed.
            let batch = self.session.progress.batch;
            let conflicts = conflicts.into_iter().map(|conflict| Conflict { batch, ..conflict });
            self.recorder.pending(conflicts.collect()).await?;
            return Err(ApplyError::UniqueLoser { table: row.table().to_string(), removals: undone });
        }
        if incoming_wins {
            for (newest_here, loser) in &losers {
                self.give_way_here(&loser.row, *newest_here, loser).await?;
            }
            return Ok(Outcome::RoomMade);
        }
        // What stands at the target now is not what its author changed: no later change may build on it.
        for (newest_here, loser) in &losers {
            if !self.give_way_here(key_row, *newest_here, loser).await? {
                return Ok(Outcome::RoomMade); // for the next round to look again
            }
        }
        self.applied.conflicts += 1;
        Ok(Outcome::Yields)
    }

    /// The conflict with the holders. Where several lose there is one entry for each, by the loser's key, so that
    /// every row that goes is on record.
    fn unique_conflict(
        &self,
        claim: &Claim,
        holders: &[Holder],
        loser: Loser<'_>,
        renamed: Option<&(NewValues, String)>,
    ) -> Conflict {
        let kind = match (holders.len(), claim.by.remote.operation) {
            (2.., _) => ConflictType::MultipleUniqueConflicts,
            (_, Operation::Insert) if !claim.by.rekeyed => ConflictType::InsertExists,
            _ => ConflictType::UpdateExists,
        };
        let unknown =
            Side { stamp: None, lsn: Lsn::ZERO, xid: Xid(0), operation: Operation::Insert, row: None, old: None };
        let (holder, resolution, result, who, home) = match loser {
            Loser::There(holder) => (holder, Resolution::ApplyRemote, &claim.row, "the row there", holder.home),
            Loser::Incoming => {
                let keeper = holders.iter().find(|holder| !holder.loses).unwrap_or(&holders[0]);
                (keeper, Resolution::KeepLocal, &keeper.row, "the incoming row", claim.by.home)
            }
        };
        let key = match loser {
            Loser::There(holder) if holders.len() > 1 => &holder.row,
            _ => &claim.key_row,
        };
        let indexes: Vec<_> = holders.iter().map(|holder| holder.index.name.as_str()).collect();
        let winner = &self.resolvers.rule(claim.row.table().id).unique;
        let why = match winner {
            UniqueWinner::LastUpdateWins => "is older",
            UniqueWinner::OriginPriority(_) => "has less priority",
        };
        Conflict {
            conflict_type: kind,
            resolution,
            subject: Subject::UniqueValue,
            resolver: winner.name(),
            local: Some(Side { row: Some(holder.row.clone()), ..holder.side.clone().unwrap_or(unknown) }),
            result: Some(Content::Put(result.clone())),
            note: Some(format!(
                "rows claim one value of {}; {who} {why} and {} at {}, unless it has changed there since",
                indexes.join(", "),
                renamed.map_or("is removed".to_owned(), |(values, rule)| {
                    format!("gets another {} by the rule {rule:?}", values.names(claim.row.table()))
                }),
                self.shared.node(home).name
            )),
            ..self.conflict(key, Side { row: Some(claim.row.clone()), ..claim.by.remote.clone() }, claim.by.offset)
        }
    }
}

/// The row with these values of the table's columns, in the shape of another row.
pub(super) fn row_of(like: &Row, cells: &[Cell<'_>]) -> Row {
    let cell_of = |column: &Option<usize>| column.and_then(|column| cells.get(column).copied()).unwrap_or(Cell::Null);
    let tuple = Tuple::from_cells(like.relation.column_of.iter().map(cell_of).collect::<Vec<_>>().into_iter());
    Row { relation: like.relation.clone(), tuple }
}

/// A row that is to be written and whose unique value another row has.
#[derive(Debug)]
pub(super) struct Claim {
    pub row: Row,
    /// A row that has the key's cells.
    pub key_row: Row,
    /// Who made it.
    pub by: Claimant,
}

/// Who made a row that wants a unique value.
#[derive(Clone, Debug)]
pub(super) struct Claimant {
    /// The change.
    pub remote: Side,
    /// Offset of that change in its transaction.
    pub offset: u64,
    /// It came from another key by an update.
    pub rekeyed: bool,
    /// Where the change was made.
    pub home: NodeId,
    /// The newest change of the same key that was made at the target when it was decided that the row be written.
    pub newest_here: Option<ChangeRef>,
}

/// Who must go.
#[derive(Clone, Copy, Debug)]
enum Loser<'h> {
    /// This row, which holds the value.
    There(&'h Holder),
    /// The row that wants it.
    Incoming,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It may be written now.
    RoomMade,
    /// It loses, and is not written.
    Yields,
}

/// Whether a statement failed because of a unique value or an exclusion constraint.
pub(super) fn is_violation(error: &ApplyError) -> bool {
    matches!(error, ApplyError::Duplicate { .. }) || matches!(error.code(), Some("23505" | "23P01"))
}

/// A row that makes room and never gets it.
pub(super) fn taken_in_turn() -> ApplyError {
    ApplyError::NotCommitted("a unique value that rows take in turn".into())
}

fn no_holder(error: &ApplyError) -> ApplyError {
    ApplyError::Operator {
        what: format!("a replicated row cannot be written: {error}"),
        advice:
            "the index is not a plain unique index over columns, so pgconcord cannot tell which row is in the way; \
                 change or remove the row at this node that stands against it"
                .into(),
    }
}

/// Whether an error is about rows of the batch, so that writing it change by change tells which.
pub(super) fn is_about_rows(error: &ApplyError) -> bool {
    is_violation(error) || hold::is_refusal(error)
}
