//! One batch as one transaction at the target.
//!
//! Begin with the compare-and-set of the progress row; then piece by piece: truncations, decisions, sets under the
//! guard, and the slow path for what they refused; then the journal; then COMMIT with the origin's position.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use crate::apply::batch::{COPY_ROWS, Pieces, SET_ROWS, Write};
use crate::apply::complete::{self, Completed};
use crate::apply::error::ApplyError;
use crate::apply::manner::{Committing, Inserting, Manner, Mode, MovedOn};
use crate::apply::net::{Content, Folded, Net, Row};
use crate::apply::record::{Conflict, Recorder};
use crate::apply::session::ApplySession;
use crate::apply::sets::{Judging, Kind, in_order, missed, queue_set, rows_written, writes_rows};
use crate::apply::shared::Shared;
use crate::apply::slow::Refused;
use crate::apply::{fit, sql, unique};
use crate::conflict::window::KeyHash;
use crate::conflict::{Batch, ChangeRef, Coordinator, Decision, HeldChange, Operation};
use crate::model::bloom::Bloom;
use crate::model::{KeyId, Lsn, Resolvers, Stamp, TouchKind, Xid};
use crate::wire::{Outcome, Pipeline};

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
    /// It was committed in the window that wrote it.
    pub at_once: bool,
    /// Where the commit record ended in the target's WAL.
    pub at: Lsn,
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
    touched: Option<Bloom>,
    began: bool,
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
) -> Result<Applied, ApplyError> {
    let mut execution = Execution { manner, ..Execution::new(shared, session, recorder, batch) };
    let names = &execution.session.settings;
    let fits = fit::check_batch(batch, &names.source_name, &names.target_name);
    let written = match manner.mode {
        _ if fits.is_err() => fits.map(|()| Written::All),
        Mode::Sets => execution.write().await,
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
            touched: None,
            began: false,
        }
    }

    /// Commits what was written, or rolls back.
    pub(super) async fn end(mut self, written: Result<(), ApplyError>) -> Result<Applied, ApplyError> {
        let prepared = match written {
            Ok(()) => self.record().await,
            Err(error) => Err(error),
        };
        if let Err(error) = prepared {
            self.shared.coordinator().aborted(self.batch.link);
            if !error.loses_session() {
                self.session.rollback().await?;
            }
            return Err(error);
        }
        let link = self.batch.link;
        self.shared.coordinator().commit_begins(link);
        let committed = self.session.commit(self.batch.end_lsn, self.stamp(), self.rows == 0).await;
        self.settle_commit(committed).await
    }

    async fn write(&mut self) -> Result<Written, ApplyError> {
        let latest = self.batch.transactions.iter().map(|t| t.stamp.micros).max();
        if let Some(latest) = latest {
            self.shared.wait_for_clock(self.batch.link.target, latest).await;
        }
        let shared = self.shared;
        let mut pieces = Pieces::new(self.batch, shared.settings.batch_changes);
        while let Some(folded) = pieces.next(&shared.catalog.hasher)? {
            let plan = self.plan_piece(&folded).await?;
            if pieces.is_at_end() && self.goes_at_once(&folded, &plan) {
                return Ok(Written::AtOnce(Box::new(folded), plan));
            }
            self.write_planned(&folded, plan).await?;
            self.touched(&folded);
        }
        self.recheck().await?;
        self.begin_alone().await?;
        Ok(Written::All)
    }

    /// Whether the piece, which is all that is left of its batch, can go to the target together with COMMIT: nothing is written
    /// yet, there is nothing for the journal, and statements can tell by themselves whether all went as expected.
    fn goes_at_once(&self, folded: &Folded, plan: &Plan) -> bool {
        let Plan { deletes, updates, inserts, incomplete, slow, .. } = plan;
        let writes = deletes.len() + updates.len() + inserts.len();
        self.manner.committing == Committing::AtOnce
            && !self.began
            && folded.truncations.is_empty()
            && (1..=SET_ROWS).contains(&writes)
            && (inserts.len() < COPY_ROWS || self.manner.inserting == Inserting::Skipping)
            && incomplete.is_empty()
            && slow.is_empty()
            && self.conflicts.is_empty()
            && self.refusals.is_empty()
            && self.held_changes.is_empty()
            && self.healing.is_empty()
            && !folded.nets.iter().any(|net| net.table.defers())
    }

    /// Writes the batch and commits it in one window.
    async fn write_and_commit(mut self, folded: &Folded, plan: Plan) -> Result<Applied, ApplyError> {
        let (stamp, end_lsn) = (self.stamp(), self.batch.end_lsn);
        let horizon = sql::xid_text(plan.horizon.unwrap_or(Xid(3)));
        let ours = self.session.ours.clone();
        let sets = in_order(folded, [plan.deletes, plan.updates, plan.inserts]);
        let mark = !sets.iter().any(|(kind, set)| writes_rows(*kind, set));
        self.applied.at_once = true;
        self.shared.coordinator().commit_begins(self.batch.link);
        let committed = self.session.write_and_commit(end_lsn, stamp, mark, |pipeline| {
            for (kind, set) in &sets {
                queue_set(pipeline, *kind, set, &set.writes, Some((&horizon, &ours)), Judging::ByItself);
            }
        });
        let committed = committed.await;
        self.settle_commit(committed).await
    }

    /// Remembers the keys of a piece for those after it.
    pub(super) fn touched(&mut self, folded: &Folded) {
        let changes: u64 = self.batch.transactions.iter().map(|transaction| transaction.changes).sum();
        if folded.changes < changes {
            // A change of the key touches two.
            let room = usize::try_from(changes * 2).unwrap_or(usize::MAX);
            let touched = self.touched.get_or_insert_with(|| Bloom::for_keys(room));
            folded.nets.iter().for_each(|net| touched.insert(net.key));
        }
    }

    /// Whether an earlier piece of the batch touched the key; rarely, also if none did.
    pub(super) fn may_be_touched(&self, key: KeyId) -> bool {
        self.touched.as_ref().is_some_and(|touched| touched.may_contain(key))
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
        if !refused.keys.is_empty() || !refused.maybe.is_empty() {
            self.settle(folded, refused).await?;
        }
        let healed = std::mem::take(&mut self.healing);
        self.release(&healed).await
    }

    /// Decides each key under one look at the window (R1).
    fn decide(&mut self, folded: &Folded, nets: &[usize]) -> Result<Plan, ApplyError> {
        let link = self.batch.link;
        // Read before the look: what is older is in the window by then.
        let mut plan = Plan { horizon: self.shared.node(link.target).horizon(), ..Plan::default() };
        let mut coordinator = self.deciding()?;
        for &at in nets {
            let net = &folded.nets[at];
            let own = ChangeRef::at(link.source, net.place, net.kind());
            let decision = match coordinator.decide_alone(link, net.table.id, net.key, own) {
                Some(decision) => decision,
                // A row that is made from several changes is made under its lock.
                None if self.resolvers.merge(net.table.id).is_some() => {
                    plan.slow.push(at);
                    continue;
                }
                None => coordinator.decide(link, net.table.id, net.key)?,
            };
            self.note(&coordinator, net, &decision)?;
            if !self.is_ours(decision.winner) {
                if decision.write {
                    plan.slow.push(at);
                }
                continue;
            }
            let known = decision.local.map(|local| coordinator.window().transaction(local).transaction.xid);
            let stands = self.stands(net, &decision);
            match &net.content {
                Content::Delete if stands == Some(TouchKind::Delete) && net.first != Operation::Insert => {}
                Content::Delete => plan.deletes.push(Write { net: at, row: net.key_row.clone(), known }),
                Content::Put(row) => {
                    let there = match stands {
                        Some(kind) => kind == TouchKind::Put,
                        None => net.first != Operation::Insert,
                    };
                    let write = Write { net: at, row: row.clone(), known };
                    if row.has_unchanged() {
                        let completed =
                            complete::complete_net(&coordinator, link, net, row, &self.shared.catalog.hasher)?;
                        plan.incomplete.push(Incomplete { write, there, completed, last: decision.incoming });
                    } else if there {
                        plan.updates.push(write);
                    } else {
                        plan.inserts.push(write);
                    }
                }
            }
        }
        Ok(plan)
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

    /// Finds the values that changes left out (R8) and sorts their rows into the plan.
    async fn complete(&mut self, folded: &Folded, plan: &mut Plan) -> Result<(), ApplyError> {
        for Incomplete { mut write, there, completed, last } in std::mem::take(&mut plan.incomplete) {
            let net = &folded.nets[write.net];
            let moved = net.moved_from.as_ref();
            let row = match (completed, moved) {
                (Completed::Whole(row), _) => Some(row),
                (Completed::AtTarget(row), None) if there => Some(row),
                (Completed::AtTarget(row), Some(from)) => match self.read_at_target(&row, from).await? {
                    Some(row) => Some(row),
                    None => self.read_at_source(&row, last).await?,
                },
                // The batch has a later change of the key, in another piece: that one decides.
                (Completed::AtTarget(_) | Completed::AtSource(..), _) if (last.seq, last.offset()) != net.place => {
                    continue;
                }
                (Completed::AtTarget(row), None) => self.read_at_source(&row, last).await?,
                (Completed::AtSource(row, change), _) => self.read_at_source(&row, change).await?,
            };
            let Some(row) = row else {
                plan.deletes.push(write);
                continue;
            };
            write.row = row;
            if there { plan.updates.push(write) } else { plan.inserts.push(write) }
        }
        Ok(())
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
        let horizon = sql::xid_text(plan.horizon.unwrap_or(Xid(3)));
        let sets = in_order(folded, [plan.deletes, plan.updates, plan.inserts]);
        if sets.is_empty() {
            return Ok(Refused::default());
        }
        let ours = self.session.ours.clone();
        let copies = self.manner.inserting == Inserting::Copy;
        let mut statements: Vec<(usize, Kind, &[Write])> = Vec::new();
        let mut copied = usize::MAX;
        let mut pipeline = self.begin();
        for (kind, set) in &sets {
            if copies && *kind == Kind::Insert && set.writes.len() >= COPY_ROWS && set.takes_copy() {
                let text = sql::copy(set.relation.table(), &set.columns);
                let at = pipeline.copy_in(&text, |copy| set.copy_rows(copy));
                copied = copied.min(at);
                statements.push((at, *kind, &set.writes));
                continue;
            }
            for writes in set.writes.chunks(SET_ROWS) {
                let at = queue_set(&mut pipeline, *kind, set, writes, Some((&horizon, &ours)), Judging::Told);
                statements.push((at, *kind, writes));
            }
        }
        let outcomes = pipeline.run().await.map_err(|failed| {
            let first = statements.iter().find(|(at, ..)| *at >= failed.at).map(|(_, kind, writes)| (kind, writes));
            let context = first.map(|(kind, writes)| format!("{} {}", kind.doing(), writes[0].row.table()));
            let at = failed.at;
            let error = ApplyError::pipeline(context.unwrap_or_else(|| "beginning a batch".into()))(failed);
            if at >= copied && is_for_statements(&error) { ApplyError::CopyFailed(Box::new(error)) } else { error }
        })?;
        let outcomes = self.begun(outcomes)?;
        self.applied.copied |= copied != usize::MAX;
        let mut refused = Refused::default();
        for (at, kind, writes) in statements {
            let outcome = &outcomes[at];
            self.rows += rows_written(outcome);
            if outcome.tag.rows < writes.len() as u64 {
                match kind {
                    Kind::Insert => refused.maybe.extend(writes.iter().map(|write| write.net)),
                    Kind::Update | Kind::Delete => refused.keys.extend(missed(outcome, writes)?),
                }
            }
        }
        Ok(refused)
    }

    /// A window of statements; the first one of the transaction begins it. Its outcomes go through
    /// [`Execution::begun`].
    pub(super) fn begin(&mut self) -> Pipeline<'_> {
        let ApplySession { session, settings, progress, .. } = &mut *self.session;
        let mut pipeline = session.pipeline();
        if !self.began {
            ApplySession::queue_begin(&mut pipeline, settings, progress, self.batch.end_lsn);
        }
        pipeline
    }

    /// Checks that the progress row was where we left it (R3).
    pub(super) fn begun(&mut self, outcomes: Vec<Outcome>) -> Result<Vec<Outcome>, ApplyError> {
        if !self.began {
            if outcomes[1].tag.rows != 1 {
                return Err(ApplyError::Fenced {
                    source_name: self.session.settings.source_name.clone(),
                    target: self.session.settings.target_name.clone(),
                    expected: self.session.progress.lsn,
                });
            }
            self.began = true;
        }
        Ok(outcomes)
    }

    /// Begins a transaction that has had nothing to write.
    pub(super) async fn begin_alone(&mut self) -> Result<(), ApplyError> {
        if self.began {
            return Ok(());
        }
        let outcomes = self.begin().run().await.map_err(ApplyError::pipeline("moving the progress row"))?;
        self.begun(outcomes).map(drop)
    }

    async fn record(&mut self) -> Result<(), ApplyError> {
        self.conflicts.extend(self.refusals.drain());
        if self.conflicts.is_empty() {
            return Ok(());
        }
        let conflicts: Vec<_> = self.conflicts.drain().map(|(_, conflict)| conflict).collect();
        self.applied.conflicts = conflicts.len() as u64;
        self.recorder.pending(conflicts).await
    }

    /// Tells the coordinator what became of the COMMIT, and cleans up after one that failed.
    async fn settle_commit(mut self, committed: Result<Lsn, ApplyError>) -> Result<Applied, ApplyError> {
        let link = self.batch.link;
        let arrived = {
            let mut coordinator = self.shared.coordinator();
            match &committed {
                Ok(at) => {
                    coordinator.change_held(link.target, std::mem::take(&mut self.held_changes));
                    coordinator.committed(link, *at)?;
                }
                Err(error) if !error.loses_session() => coordinator.commit_failed(link)?,
                Err(_) => {} // in doubt: the node is connected again and its progress row read
            }
            coordinator.take_barriers()
        };
        self.shared.release(arrived);
        if let Err(error) = &committed
            && !error.loses_session()
        {
            self.session.rollback().await?;
            if self.applied.conflicts > 0 {
                self.recorder.discard_after(link, self.session.progress.batch).await?;
            }
        }
        self.applied.at = committed?;
        self.applied.transactions = self.batch.transactions.len() as u64;
        Ok(self.applied)
    }

    fn stamp(&self) -> Stamp {
        let last = self.batch.transactions.last().map(|last| last.stamp);
        last.unwrap_or(Stamp { micros: crate::apply::shared::now_micros(), node: self.batch.link.source })
    }
}

/// Whether a COPY failed for what its rows are, or can't be used at all; statements tell which row it was, or do
/// without.
fn is_for_statements(error: &ApplyError) -> bool {
    const FEATURE_NOT_SUPPORTED: &str = "0A000";
    unique::is_about_rows(error) || error.code() == Some(FEATURE_NOT_SUPPORTED)
}

/// What is to be done with the keys of a piece, by index into its nets.
#[derive(Debug, Default)]
struct Plan {
    deletes: Vec<Write>,
    updates: Vec<Write>,
    inserts: Vec<Write>,
    incomplete: Vec<Incomplete>,
    slow: Vec<usize>,
    /// X as of the look-up: versions with an older `xmin` are known.
    horizon: Option<Xid>,
}

/// A row with values left out.
#[derive(Debug)]
struct Incomplete {
    write: Write,
    /// Whether a row is there.
    there: bool,
    completed: Completed,
    /// The batch's last change of the key.
    last: ChangeRef,
}
