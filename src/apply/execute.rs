//! One batch as one transaction at the target.
//!
//! Begin with the compare-and-set of the progress row; then piece by piece: truncations, decisions, sets under the
//! guard, and the slow path for what they refused; then the journal; then COMMIT with the origin's position.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use crate::apply::batch::{Pieces, SET_ROWS};
use crate::apply::complete;
use crate::apply::error::ApplyError;
use crate::apply::manner::{Committing, Manner, Mode, MovedOn};
use crate::apply::net::{Content, Folded, Net, Row};
use crate::apply::record::{Conflict, Recorder};
use crate::apply::session::ApplySession;
use crate::apply::sets::{Judging, Statement, in_order};
use crate::apply::shared::Shared;
use crate::apply::slow::Refused;
use crate::apply::{fit, unique};
use crate::conflict::window::KeyHash;
use crate::conflict::{Batch, ChangeRef, Coordinator, Decision, HeldChange, Operation};
use crate::model::bloom::ScalableBloom;
use crate::model::{KeyId, Lsn, Resolvers, TouchKind, Xid};
use crate::wire::{Outcome, Pipeline};

pub mod ahead;
mod commit;
mod flight;
pub mod foreseen;
mod piece;
mod plan;

use ahead::Ahead;
use flight::Flight;
use foreseen::Foreseen;
use piece::Piece;
use plan::Plan;

/// What a batch did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Applied {
    /// Source transactions.
    pub transactions: u64,
    /// Changes.
    pub changes: u64,
    /// Conflicts.
    pub conflicts: u64,
    /// Keys that took the slow path.
    pub slow: u64,
    /// New rows went by COPY.
    pub copied: bool,
    /// Its first transaction was written, or begun to be, before its end had come.
    pub ahead: bool,
    /// It was committed in the window that wrote it.
    pub at_once: bool,
    /// Where the commit record ended in the target's WAL.
    pub at: Lsn,
}

/// How far the transaction at the target has been begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opened {
    /// Not at all.
    Nothing,
    /// It is open, and has not moved the progress row.
    Transaction,
    /// It has.
    Progress,
}

/// What is written of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// All of it, and then it is committed.
    Whole,
    /// What has come of its transaction.
    Beginning,
}

/// A batch under way.
pub struct Execution<'a, R> {
    pub(super) shared: &'a Shared,
    pub(super) session: &'a mut ApplySession,
    pub(super) recorder: &'a R,
    pub(super) batch: &'a Batch,
    /// What decides about each table, as of the beginning.
    pub(super) resolvers: Arc<Resolvers>,
    pub(super) conflicts: HashMap<KeyId, Conflict, BuildHasherDefault<KeyHash>>,
    pub(super) applied: Applied,
    /// Rows of published tables written: without any the commit must be made visible in the stream.
    pub(super) rows: u64,
    pub(super) manner: Manner,
    /// Keys whose rows a truncation left and that were written, with the change that each row is of.
    pub(super) rewritten: Vec<(Row, ChangeRef)>,
    /// What becomes of rows that the target refuses, in order.
    pub(super) held_changes: Vec<HeldChange>,
    /// For the journal: what is held.
    pub(super) refusals: HashMap<KeyId, Conflict, BuildHasherDefault<KeyHash>>,
    /// Held keys that the piece under way writes.
    pub(super) healing: Vec<KeyId>,
    /// The key whose row may not have a unique value, and how often nobody was found who has it.
    pub(super) unseen_holders: Option<(KeyId, usize)>,
    /// Keys that an earlier piece of the batch touched.
    touched: ScalableBloom,
    opened: Opened,
    part: Part,
}

/// What was done for a batch before it was its turn.
#[derive(Debug)]
pub enum Beforehand {
    /// Nothing.
    Nothing,
    /// Its first transaction is written, or some of it.
    Written(Ahead),
    /// It is folded, or some of it.
    Folded(Foreseen),
}

/// Applies the batch and tells the coordinator how it ended; rolls back what fails before COMMIT.
///
/// # Errors
/// After an error that [`ApplyError::loses_session`] the outcome is in doubt if COMMIT was on its way: the node
/// must be connected again.
pub async fn apply<R: Recorder>(
    shared: &Shared,
    session: &mut ApplySession,
    recorder: &R,
    batch: &Batch,
    manner: Manner,
    beforehand: Beforehand,
) -> Result<Applied, ApplyError> {
    let mut execution = Execution { manner, ..Execution::new(shared, session, recorder, batch) };
    let names = &execution.session.settings;
    let fits = fit::check_batch(batch, &names.source_name, &names.target_name);
    let written = match manner.mode {
        _ if fits.is_err() => fits.map(|()| Written::All),
        Mode::Sets => execution.write(beforehand).await,
        Mode::OneByOne => execution.write_one_by_one().await.map(|()| Written::All),
    };
    match written {
        Ok(Written::AtOnce(folded, plan)) => execution.write_and_commit(&folded, plan).await,
        Ok(Written::All) => execution.end(Ok(())).await,
        Err(error) => execution.end(Err(error)).await,
    }
}

/// How far a batch has come when it has been gone through.
enum Written {
    /// All is written.
    All,
    /// Nothing is: it goes to the target together with its COMMIT.
    AtOnce(Box<Folded>, Plan),
}

impl<'a, R: Recorder> Execution<'a, R> {
    /// Nothing is written yet; as a batch is tried first.
    pub(super) fn new(shared: &'a Shared, session: &'a mut ApplySession, recorder: &'a R, batch: &'a Batch) -> Self {
        Execution {
            shared,
            session,
            recorder,
            batch,
            resolvers: shared.coordinator().resolvers().clone(),
            conflicts: HashMap::default(),
            applied: Applied::default(),
            rows: 0,
            manner: Manner::FIRST,
            rewritten: Vec::new(),
            held_changes: Vec::new(),
            refusals: HashMap::default(),
            healing: Vec::new(),
            unseen_holders: None,
            touched: ScalableBloom::default(),
            opened: Opened::Nothing,
            part: Part::Whole,
        }
    }

    async fn write(&mut self, beforehand: Beforehand) -> Result<Written, ApplyError> {
        let latest = self.batch.transactions.iter().map(|t| t.stamp.micros).max();
        if let Some(latest) = latest {
            self.shared.wait_for_clock(self.batch.link.target, latest).await;
        }
        let shared = self.shared;
        let (mut pieces, mut piece) = match beforehand {
            Beforehand::Folded(foreseen) => foreseen.first(&self.resolvers, self.manner.inserting).await?,
            beforehand => {
                let written = match beforehand {
                    Beforehand::Written(ahead) => self.take_over(ahead).await?,
                    _ => 0,
                };
                let mut pieces = Pieces::from(self.batch, shared.settings.batch_changes, written);
                let first = pieces.next(&shared.catalog.hasher)?;
                (pieces, first.map(Piece::plain))
            }
        };
        let mut flight = Flight::default();
        while let Some(Piece { folded, statements }) = piece {
            let (resolvers, inserting) = (self.resolvers.clone(), self.manner.inserting);
            let may_have_statements = self.may_have_statements();
            let make = move |folded| match may_have_statements {
                true => Piece::of(folded, &resolvers, inserting, Judging::Told),
                false => Piece::plain(folded),
            };
            let may_go_at_once = pieces.is_at_end()
                && folded.nets.len() <= SET_ROWS
                && self.opened == Opened::Nothing
                && self.manner.committing == Committing::AtOnce;
            let made = match statements.filter(|_| !may_go_at_once) {
                Some(statements) => self.may_send(&folded)?.map(|horizon| (statements, horizon)),
                None => None,
            };
            let next = if let Some((statements, horizon)) = made {
                let next = pieces.fetch(shared.catalog.hasher, make);
                self.applied.changes += folded.changes;
                let window = self.send_on(&statements, horizon).await?;
                let bytes = folded.memory();
                flight.push(folded, window, bytes);
                self.make_room(&mut flight).await?;
                next
            } else {
                self.land_all(&mut flight).await?;
                let plan = self.plan_piece(&folded).await?;
                if pieces.is_at_end() && self.goes_at_once(&folded, &plan) {
                    return Ok(Written::AtOnce(Box::new(folded), plan));
                }
                let next = pieces.fetch(shared.catalog.hasher, make);
                self.write_planned(&folded, plan).await?;
                self.touched(&folded);
                next
            };
            (pieces, piece) = next.piece().await?;
        }
        self.land_all(&mut flight).await?;
        self.recheck().await?;
        self.begin_alone().await?;
        Ok(Written::All)
    }

    /// Remembers the keys of a piece for those after it.
    pub(super) fn touched(&mut self, folded: &Folded) {
        if folded.changes < self.batch.changes() {
            folded.nets.iter().for_each(|net| self.touched.insert(net.key));
        }
    }

    /// Whether an earlier piece of the batch touched the key; rarely, also if none did.
    pub(super) fn may_be_touched(&self, key: KeyId) -> bool {
        self.touched.may_contain(key)
    }

    /// Whether the change found a row or none, where that is known: what an earlier piece of the batch left is what
    /// its author found, else it is what stands at the target.
    pub(super) fn stands(&self, net: &Net, decision: &Decision) -> Option<TouchKind> {
        match self.may_be_touched(net.key) {
            true if net.first == Operation::Insert => Some(TouchKind::Delete),
            true => Some(TouchKind::Put),
            false => decision.before.map(ChangeRef::kind),
        }
    }

    pub(super) async fn write_piece(&mut self, folded: &Folded) -> Result<(), ApplyError> {
        let plan = self.plan_piece(folded).await?;
        self.write_planned(folded, plan).await
    }

    /// Truncates, settles what needs a lock, and decides about the rest.
    async fn plan_piece(&mut self, folded: &Folded) -> Result<Plan, ApplyError> {
        self.applied.changes += folded.changes;
        for truncation in &folded.truncations {
            self.truncate(truncation).await?;
        }
        let now = Instant::now();
        let (busy, others): (Vec<_>, Vec<_>) = {
            let coordinator = self.shared.coordinator();
            let held = coordinator.all_held(self.batch.link.target);
            let first = |at: &usize| {
                let key = folded.nets[*at].key;
                self.session.busy.contains(key, now) || held.contains_key(&key)
            };
            (0..folded.nets.len()).partition(first)
        };
        if !busy.is_empty() {
            self.settle(folded, Refused { keys: busy, ..Refused::default() }).await?;
        }
        let mut plan = self.decide(folded, &others)?;
        self.complete(folded, &mut plan).await?;
        Ok(plan)
    }

    async fn write_planned(&mut self, folded: &Folded, mut plan: Plan) -> Result<(), ApplyError> {
        let slow = std::mem::take(&mut plan.slow);
        let mut refused = self.write_sets(folded, plan).await?;
        refused.keys.extend(slow);
        self.settle_refused(folded, refused).await?;
        let healed = std::mem::take(&mut self.healing);
        self.release(&healed).await
    }

    async fn settle_refused(&mut self, folded: &Folded, refused: Refused) -> Result<(), ApplyError> {
        if refused.is_empty() { Ok(()) } else { self.settle(folded, refused).await }
    }

    /// The coordinator, for a decision.
    ///
    /// # Errors
    /// [`ApplyError::RulesChanged`] if the batch began with other rules than those that count now.
    pub(super) fn deciding(&self) -> Result<MutexGuard<'a, Coordinator>, ApplyError> {
        let coordinator = self.shared.coordinator();
        if coordinator.decides_by(&self.resolvers) { Ok(coordinator) } else { Err(ApplyError::RulesChanged) }
    }

    /// Whether a change is one of this batch.
    pub(super) fn is_ours(&self, change: ChangeRef) -> bool {
        change.source == self.batch.link.source && change.seq >= self.batch.first
    }

    /// Refuses a row of the window that has a value without a place at the target.
    pub(super) fn fits(&self, content: &Content, winner: ChangeRef) -> Result<(), ApplyError> {
        let name = |node: crate::model::NodeId| self.shared.node(node).name.as_str();
        fit::check(content, name(winner.source), name(self.batch.link.target))
    }

    /// `None` if the row has moved on and is to be left out.
    pub(super) async fn read_at_source(&self, row: &Row, change: ChangeRef) -> Result<Option<Row>, ApplyError> {
        match complete::read_at_source(self.shared, row, change).await {
            Ok(row) => Ok(Some(row)),
            Err(ApplyError::MovedOn { .. }) if self.manner.moved_on == MovedOn::LeaveOut => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read_at_target(&mut self, row: &Row, from: &Row) -> Result<Option<Row>, ApplyError> {
        let mut pipeline = self.begin();
        let at = complete::queue_read(&mut pipeline, row, from);
        let outcomes = pipeline.run().await.map_err(ApplyError::pipeline("reading a row that moved"))?;
        let outcomes = self.begun(outcomes)?;
        let Some(found) = outcomes[at].rows.first() else { return Ok(None) };
        let values: Vec<_> = (1..found.len()).map(|i| found.cell(i).map(<[u8]>::to_vec)).collect();
        Ok(Some(complete::with_values(row, &values)))
    }

    /// Writes in sets under the guard: deletes, updates, inserts, so that unique values are free when they are
    /// taken. Returns the net changes that the guard refused or whose row was not as expected.
    async fn write_sets(&mut self, folded: &Folded, plan: Plan) -> Result<Refused, ApplyError> {
        let sets = in_order(folded, [plan.deletes, plan.updates, plan.inserts]);
        if sets.is_empty() {
            return Ok(Refused::default());
        }
        let statements = piece::statements(sets, self.manner.inserting, Judging::Told);
        self.send(&statements, plan.horizon).await
    }

    /// Sends guarded statements and waits for what they do; `horizon` is from before the look at the window that allows them.
    async fn send(&mut self, statements: &[Statement], horizon: Option<Xid>) -> Result<Refused, ApplyError> {
        let window = self.send_on(statements, horizon).await?;
        self.answer(window).await
    }

    /// A window of statements; the first one of the transaction begins it. Its outcomes go through
    /// [`Execution::begun`].
    pub(super) fn begin(&mut self) -> Pipeline<'_> {
        let moves = self.moves();
        let ApplySession { session, settings, progress, .. } = &mut *self.session;
        let mut pipeline = session.pipeline();
        if self.opened == Opened::Nothing {
            ApplySession::queue_begin(&mut pipeline);
        }
        if moves.is_some() {
            ApplySession::queue_progress(&mut pipeline, settings, progress, self.batch.end_lsn);
        }
        pipeline
    }

    /// Checks that the progress row was where we left it (R3).
    pub(super) fn begun(&mut self, outcomes: Vec<Outcome>) -> Result<Vec<Outcome>, ApplyError> {
        self.check_moved(self.moves(), &outcomes)?;
        self.mark_opened();
        Ok(outcomes)
    }

    /// A window that [`Execution::begin`] began is on its way or answered.
    fn mark_opened(&mut self) {
        self.opened = if self.part == Part::Whole { Opened::Progress } else { Opened::Transaction };
    }

    /// Begins a transaction that has had nothing to write.
    pub(super) async fn begin_alone(&mut self) -> Result<(), ApplyError> {
        if self.opened == Opened::Progress {
            return Ok(());
        }
        let outcomes = self.begin().run().await.map_err(ApplyError::pipeline("moving the progress row"))?;
        self.begun(outcomes).map(drop)
    }
}

/// Whether a COPY failed for what its rows are, or can't be used at all; statements tell which row it was, or do
/// without.
fn is_for_statements(error: &ApplyError) -> bool {
    const FEATURE_NOT_SUPPORTED: &str = "0A000";
    // what a type's receive function says of another type's value
    const PROTOCOL_VIOLATION: &str = "08P01";
    const INTERNAL_ERROR: &str = "XX000";
    let code = error.code();
    unique::is_about_rows(error)
        || !error.loses_session() && matches!(code, Some(FEATURE_NOT_SUPPORTED | PROTOCOL_VIOLATION | INTERNAL_ERROR))
}
