//! The task that applies everything at one target: one batch at a time, whatever link it comes from, so that no two
//! batches there hold the same key or unique value (R4, "exclusive").

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::apply::error::ApplyError;
use crate::apply::execute::{self, Applied, Inserting, Manner, Mode, MovedOn};
use crate::apply::record::Recorder;
use crate::apply::session::ApplySession;
use crate::apply::shared::{Shared, lock};
use crate::apply::{hold, reopen, slow, unique};
use crate::conflict::{Batch, Reopened};
use crate::model::{Class, Classify, KeyId, Link, Lsn, NodeId};

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// Go on.
    On,
    /// Apply what is queued, at most until then.
    Drain(Instant),
}

/// What a link is doing, for people.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Condition {
    /// Nothing waits.
    #[default]
    Idle,
    /// Applying.
    Applying,
    /// The target is not connected or not ready.
    Waiting,
    /// Failed; tried again by itself.
    Retrying(String),
    /// Failed; somebody must act. Tried again now and then all the same.
    Stopped(String),
}

/// A link's counters and condition.
#[derive(Debug, Default)]
pub struct LinkStats {
    /// Source transactions applied.
    pub transactions: AtomicU64,
    /// Changes applied.
    pub changes: AtomicU64,
    /// Batches committed.
    pub batches: AtomicU64,
    /// Conflicts decided.
    pub conflicts: AtomicU64,
    /// Batches rolled back and tried again.
    pub retries: AtomicU64,
    /// Keys that took the slow path.
    pub slow: AtomicU64,
    /// Decisions taken again.
    pub reopened: AtomicU64,
    condition: std::sync::Mutex<Condition>,
    /// Batches with journal entries, and where they committed: settled once that is durable.
    unsettled: std::sync::Mutex<VecDeque<(u64, Lsn)>>,
}

impl LinkStats {
    /// What the link is doing.
    pub fn condition(&self) -> Condition {
        lock(&self.condition).clone()
    }

    /// Tells what the link is doing.
    pub fn set_condition(&self, condition: Condition) {
        *lock(&self.condition) = condition;
    }

    /// The last batch with journal entries whose commit record ends at or before `durable`.
    pub fn take_settled(&self, durable: Lsn) -> Option<u64> {
        let mut unsettled = lock(&self.unsettled);
        let mut last = None;
        while let Some((batch, at)) = unsettled.front().copied()
            && at <= durable
        {
            last = Some(batch);
            unsettled.pop_front();
        }
        last
    }

    /// Forgets what is not settled: the progress row tells.
    pub fn clear_unsettled(&self) {
        lock(&self.unsettled).clear();
    }

    fn count(&self, applied: &Applied, batch: u64, at: Lsn) {
        self.transactions.fetch_add(applied.transactions, Ordering::Relaxed);
        self.changes.fetch_add(applied.changes, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.conflicts.fetch_add(applied.conflicts, Ordering::Relaxed);
        self.slow.fetch_add(applied.slow, Ordering::Relaxed);
        lock(&self.unsettled).push_back((batch, at));
    }
}

/// One source's way into the target.
#[derive(Debug)]
pub struct Inbound {
    /// Its session.
    pub session: ApplySession,
    /// Why nothing of this source may be applied, if so.
    pub blocked: Option<String>,
    /// Counters.
    pub stats: Arc<LinkStats>,
    manner: Manner,
    reach: Reach,
    copying: Copying,
    /// So many changes are joined into a batch, at most: fewer after one that was in the way of others.
    most: u64,
    failures: u32,
    /// The target's stream lagged: before rows are locked again it must have caught up.
    lagged: bool,
    retry_at: Option<Instant>,
    progress_at: Instant,
}

/// How far a batch reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// As the settings say.
    Usual,
    /// To the end of the queue, for the change that the first ones wait for may be in it.
    All,
}

impl Inbound {
    /// A link that has not failed yet.
    pub fn new(session: ApplySession, blocked: Option<String>, stats: Arc<LinkStats>) -> Inbound {
        let (manner, reach, progress_at) = (Manner::FIRST, Reach::Usual, Instant::now());
        let most = u64::MAX;
        Inbound {
            session,
            blocked,
            stats,
            manner,
            reach,
            copying: Copying::default(),
            most,
            failures: 0,
            lagged: false,
            retry_at: None,
            progress_at,
        }
    }

    fn link(&self) -> Link {
        self.session.settings.link
    }

    fn may_try(&self, now: Instant) -> bool {
        self.blocked.is_none() && self.retry_at.is_none_or(|at| at <= now)
    }
}

/// How often a source that has nothing to apply moves the progress row, so that its slot can advance.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// The least that this is worth, in bytes: more than a progress write itself makes, so that two idle nodes do not
/// keep each other busy.
const PROGRESS_BYTES: u64 = 64 << 10;
/// So much is worth it at once.
const PROGRESS_BYTES_AT_ONCE: u64 = 4 << 20;
/// A worker that has nothing to do looks again after this, for what nobody rings for.
const TICK: Duration = Duration::from_millis(500);
/// How often a batch waits for a row that has moved on at its source before it is written without the row.
const PATIENT_ROUNDS: u32 = 5;
/// How often rows are tried again that the target refused.
const HELD_RETRY: Duration = Duration::from_secs(60);
/// So many of them, unless somebody asks for all: one that is not there locks its table for some milliseconds.
const HELD_TRIED: usize = 50;
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(5);
const OPERATOR_RETRY: Duration = Duration::from_secs(10);

/// The worker of one target.
#[derive(Debug)]
pub struct Worker<R> {
    shared: Arc<Shared>,
    target: NodeId,
    inbound: Vec<Inbound>,
    recorder: R,
    reopen_at: Option<Instant>,
    /// When held rows are tried again, and those of this round.
    retry_held_at: Instant,
    held: VecDeque<KeyId>,
    /// How many of them the rounds have come by.
    held_turn: usize,
}

impl<R: Recorder> Worker<R> {
    /// One session for each source.
    pub fn new(shared: Arc<Shared>, target: NodeId, inbound: Vec<Inbound>, recorder: R) -> Worker<R> {
        let retry_held_at = Instant::now() + HELD_RETRY;
        Worker {
            shared,
            target,
            inbound,
            recorder,
            reopen_at: None,
            retry_held_at,
            held: VecDeque::new(),
            held_turn: 0,
        }
    }

    /// The number of the last batch of a link.
    pub fn last_batch(&self, link: Link) -> Option<u64> {
        let inbound = self.inbound.iter().find(|inbound| inbound.link() == link)?;
        Some(inbound.session.progress.batch)
    }

    /// Applies until told to drain and nothing is left, or a session is lost.
    ///
    /// # Errors
    /// When a session is lost: the node must be connected again.
    pub async fn run(mut self, mut run: watch::Receiver<Run>) -> Result<(), ApplyError> {
        loop {
            let worked = self.round().await?;
            let state = *run.borrow_and_update();
            if let Run::Drain(deadline) = state
                && (!worked || Instant::now() >= deadline)
                && (self.is_drained() || Instant::now() >= deadline)
            {
                return Ok(());
            }
            if worked {
                continue;
            }
            let wait = self.next_retry().map_or(TICK, |at| at.saturating_duration_since(Instant::now()).min(TICK));
            tokio::select! {
                () = self.shared.node(self.target).work.notified() => {}
                () = tokio::time::sleep(wait) => {}
                _ = run.changed() => {}
            }
        }
    }

    fn is_drained(&self) -> bool {
        let coordinator = self.shared.coordinator();
        self.inbound.iter().all(|inbound| inbound.retry_at.is_some() || coordinator.queued(inbound.link()) == 0)
    }

    fn next_retry(&self) -> Option<Instant> {
        self.inbound.iter().filter_map(|inbound| inbound.retry_at).chain(self.reopen_at).min()
    }

    async fn round(&mut self) -> Result<bool, ApplyError> {
        self.give_up_superseded().await;
        let mut worked = self.reopen().await?;
        worked |= self.retry_held().await?;
        for at in 0..self.inbound.len() {
            worked |= self.step(at).await?;
        }
        Ok(worked)
    }

    async fn step(&mut self, at: usize) -> Result<bool, ApplyError> {
        let inbound = &mut self.inbound[at];
        if let Some(reason) = &inbound.blocked {
            inbound.stats.set_condition(Condition::Stopped(reason.clone()));
        }
        if !inbound.may_try(Instant::now()) {
            return Ok(false);
        }
        let link = inbound.link();
        if inbound.lagged {
            self.shared.catch_up(self.target).await?;
            inbound.lagged = false;
        }
        let most = match (inbound.manner.mode, inbound.reach) {
            (Mode::OneByOne, _) => 0,
            (_, Reach::Usual) => self.shared.settings.batch_changes.min(inbound.most),
            (_, Reach::All) => u64::MAX,
        };
        let batch = {
            let mut coordinator = self.shared.coordinator();
            coordinator.plan(link, most).or_else(|| {
                let due = inbound.progress_at.elapsed() >= PROGRESS_EVERY;
                coordinator.plan_progress(link, if due { PROGRESS_BYTES } else { PROGRESS_BYTES_AT_ONCE })
            })
        };
        let Some(batch) = batch else {
            if inbound.failures == 0 {
                let ready = self.shared.coordinator().is_ready(self.target);
                inbound.stats.set_condition(if ready { Condition::Idle } else { Condition::Waiting });
            }
            return Ok(false);
        };
        inbound.stats.set_condition(Condition::Applying);
        let applied = execute::apply(&self.shared, &mut inbound.session, &self.recorder, &batch, inbound.manner).await;
        let inbound = &mut self.inbound[at];
        inbound.progress_at = Instant::now();
        match applied {
            Ok(applied) => {
                inbound.stats.count(&applied, inbound.session.progress.batch, applied.at);
                (inbound.failures, inbound.retry_at) = (0, None);
                let inserting = inbound.copying.next(applied.copied);
                (inbound.manner, inbound.reach) = (Manner { inserting, ..Manner::FIRST }, Reach::Usual);
                inbound.most = inbound.most.saturating_mul(2).max(1);
                self.shared.wake_all();
                Ok(true)
            }
            Err(error) if error.loses_session() => {
                inbound.stats.set_condition(Condition::Retrying(error.to_string()));
                Err(error)
            }
            Err(ApplyError::UniqueLoser { table, removals }) => {
                match unique::remove(&self.shared, &removals).await {
                    Ok(()) => inbound.retry_at = None,
                    Err(error) => inbound.failed(&batch, &error),
                }
                tracing::debug!(table, "made room for a unique value");
                Ok(inbound.retry_at.is_none())
            }
            Err(error) => {
                inbound.failed(&batch, &error);
                Ok(inbound.retry_at.is_none())
            }
        }
    }

    /// Decides one reopened key again, if there is one.
    async fn reopen(&mut self) -> Result<bool, ApplyError> {
        if self.reopen_at.is_some_and(|at| at > Instant::now()) {
            return Ok(false);
        }
        let Some((reopened, source)) = self.next_reopened()? else { return Ok(false) };
        let Some(inbound) = self.inbound.iter_mut().find(|inbound| Some(inbound.link().source) == source) else {
            return Ok(false);
        };
        let Some(batch) = self.shared.coordinator().plan_reopen(inbound.link()) else { return Ok(false) };
        let written = reopen::reopen(&self.shared, &mut inbound.session, &self.recorder, &batch, reopened).await;
        match written {
            Ok(applied) => {
                inbound.stats.count(&applied, inbound.session.progress.batch, applied.at);
                inbound.stats.reopened.fetch_add(1, Ordering::Relaxed);
                self.reopen_at = None;
                Ok(true)
            }
            Err(error) if error.loses_session() => Err(error),
            Err(ApplyError::UniqueLoser { removals, .. }) => {
                if let Err(error) = unique::remove(&self.shared, &removals).await {
                    tracing::warn!(%error, "making room for a unique value");
                }
                self.reopen_at = Some(Instant::now() + FIRST_RETRY);
                Ok(false)
            }
            Err(error) => {
                tracing::warn!(target = self.shared.node(self.target).name, %error, "deciding a key again");
                self.reopen_at = Some(Instant::now() + FIRST_RETRY * 10);
                Ok(false)
            }
        }
    }

    /// Tries one of the rows again that the target refused: some of them now and then, all when somebody asks.
    async fn retry_held(&mut self) -> Result<bool, ApplyError> {
        let asked = self.shared.node(self.target).take_retry();
        if asked || self.retry_held_at <= Instant::now() {
            self.retry_held_at = Instant::now() + HELD_RETRY;
            let coordinator = self.shared.coordinator();
            let mut held: Vec<_> = coordinator.all_held(self.target).iter().map(|(key, row)| (row.at, *key)).collect();
            held.sort_unstable();
            let most = if asked { held.len() } else { HELD_TRIED };
            // the next round begins where this one ends
            let turn = self.held_turn % held.len().max(1);
            held.rotate_left(turn);
            self.held_turn = turn + most;
            self.held = held.into_iter().take(most).map(|(_, key)| key).collect();
        }
        let Some(key) = self.held.pop_front() else { return Ok(false) };
        let Some(inbound) = self.inbound.first_mut() else { return Ok(false) };
        let planned = {
            let mut coordinator = self.shared.coordinator();
            let table = coordinator.held(self.target, key).map(|held| held.table);
            table.and_then(|table| Some((table, coordinator.plan_reopen(inbound.link())?)))
        };
        let Some((table, batch)) = planned else { return Ok(!self.held.is_empty()) };
        let table = self.shared.catalog.table(table).clone();
        match hold::retry(&self.shared, &mut inbound.session, &self.recorder, &batch, key, &table).await {
            Ok(applied) => inbound.stats.count(&applied, inbound.session.progress.batch, applied.at),
            Err(error) if error.loses_session() => return Err(error),
            Err(ApplyError::UniqueLoser { removals, .. }) => match unique::remove(&self.shared, &removals).await {
                Ok(()) => self.held.push_front(key),
                Err(error) => tracing::warn!(%error, "making room for a unique value"),
            },
            Err(error) => tracing::info!(node = self.shared.node(self.target).name, %error, "trying a held row again"),
        }
        Ok(true)
    }

    /// Takes rows off the record that later local changes have taken the place of; durably, as those are forgotten then.
    async fn give_up_superseded(&self) {
        let (keys, rows): (Vec<KeyId>, Vec<(i64, Lsn)>) = {
            let coordinator = self.shared.coordinator();
            let all = coordinator.all_held(self.target).iter();
            all.filter_map(|(key, held)| Some((*key, (held.id, held.superseded?)))).unzip()
        };
        let node = self.shared.node(self.target);
        let Some(control) = node.control().filter(|_| !rows.is_empty()) else { return };
        if let Err(error) = control.give_up_held(&rows).await {
            tracing::warn!(node = node.name, %error, "giving up held rows");
            return;
        }
        let mut coordinator = self.shared.coordinator();
        keys.iter().zip(&rows).for_each(|(key, (id, _))| coordinator.give_up_held(self.target, *key, *id));
        tracing::info!(
            node = node.name,
            rows = rows.len(),
            "held rows are given up: later changes there take their place"
        );
    }

    /// A key to decide again, and the source over whose link it is done.
    fn next_reopened(&self) -> Result<Option<(Reopened, Option<NodeId>)>, ApplyError> {
        let coordinator = self.shared.coordinator();
        let Some(reopened) = coordinator.next_reopened(self.target) else { return Ok(None) };
        let conflict = coordinator.redecision(self.target, reopened)?.conflict;
        let source = conflict.map(|(_, theirs)| theirs.source);
        let any = slow::any_link(self.target, self.shared.nodes.len()).map(|link| link.source);
        Ok(Some((reopened, source.or(any))))
    }
}

impl Inbound {
    /// Decides when to try again after a batch was rolled back.
    fn failed(&mut self, batch: &Batch, error: &ApplyError) {
        self.stats.retries.fetch_add(1, Ordering::Relaxed);
        let names = (&self.session.settings.source_name, &self.session.settings.target_name);
        if let ApplyError::CopyFailed(error) = error {
            tracing::debug!(source = names.0, target = names.1, %error, "writing the batch without COPY");
            self.copying.failed();
            (self.manner.inserting, self.retry_at) = (Inserting::Skipping, None);
            return;
        }
        if let Some(most) = narrower(batch, self.reach, error) {
            tracing::debug!(source = names.0, target = names.1, most, "trying a smaller batch");
            (self.most, self.retry_at) = (most, None);
            return;
        }
        let before = self.manner;
        self.manner = after(before, error, self.failures + 1);
        if self.manner.mode != before.mode {
            tracing::info!(source = names.0, target = names.1, %error, "writing the batch change by change");
            self.retry_at = None;
            return;
        }
        self.failures += 1;
        self.lagged = matches!(error, ApplyError::BarrierTimeout(_));
        if matches!(error, ApplyError::MovedOn { .. }) {
            self.reach = Reach::All;
        }
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(12)).min(LAST_RETRY);
        if error.class() == Class::Transient {
            tracing::info!(source = names.0, target = names.1, %error, ?wait, "the batch is tried again");
            self.stats.set_condition(Condition::Retrying(error.to_string()));
            self.retry_at = Some(Instant::now() + wait);
        } else {
            tracing::error!(source = names.0, target = names.1, %error, "the link stops until this is mended");
            self.stats.set_condition(Condition::Stopped(error.to_string()));
            self.retry_at =
                Some(Instant::now() + wait.max(OPERATOR_RETRY.min(Duration::from_secs(u64::from(self.failures)))));
        }
    }
}

/// After a COPY that failed, which had the whole batch rolled back, batches do without for a while, longer each time.
#[derive(Default, Debug)]
struct Copying {
    /// Batches that do without yet.
    left: u32,
    /// How many did the last time.
    pause: u32,
}

impl Copying {
    fn failed(&mut self) {
        const LEAST: u32 = 4;
        const MOST: u32 = 1024;
        self.pause = (self.pause * 2).clamp(LEAST, MOST);
        self.left = self.pause;
    }

    /// How the next batch inserts, after one that was written.
    fn next(&mut self, copied: bool) -> Inserting {
        if self.left > 0 {
            self.left -= 1;
            return Inserting::Skipping;
        }
        if copied {
            self.pause /= 2;
        }
        Inserting::Copy
    }
}

/// Whether one transaction of a batch is in the way of the others, so that fewer are tried: the most changes, then.
fn narrower(batch: &Batch, reach: Reach, error: &ApplyError) -> Option<u64> {
    let in_the_way = unique::calls_for_one_by_one(error) || hold::is_refusal(error);
    let changes = batch.transactions.iter().map(|transaction| transaction.changes).sum::<u64>();
    (in_the_way && reach == Reach::Usual && batch.transactions.len() > 1).then_some(changes / 2)
}

/// How a batch is tried after it failed for the `failures`th time; what was learned before is kept until it is written.
fn after(manner: Manner, error: &ApplyError, failures: u32) -> Manner {
    match error {
        ApplyError::MovedOn { .. } if failures > PATIENT_ROUNDS => Manner { moved_on: MovedOn::LeaveOut, ..manner },
        error if unique::calls_for_one_by_one(error) || hold::is_refusal(error) => {
            Manner { mode: Mode::OneByOne, ..manner }
        }
        _ => manner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_copy_that_failed_batches_do_without_longer_each_time() {
        let mut copying = Copying::default();
        assert_eq!(copying.next(false), Inserting::Copy);
        let mut without = || {
            copying.failed();
            (0..).take_while(|_| copying.next(false) == Inserting::Skipping).count()
        };
        assert_eq!([without(), without(), without()], [4, 8, 16]);
        assert_eq!((copying.next(false), copying.pause), (Inserting::Copy, 16), "nothing was copied");
        for _ in 0..5 {
            assert_eq!(copying.next(true), Inserting::Copy);
        }
        assert_eq!(copying.pause, 0);
    }

    #[test]
    fn a_batch_may_be_written_one_by_one_and_without_a_row_that_moved_on() {
        let moved = ApplyError::MovedOn { table: "t".into(), node: "east".into() };
        let duplicate = ApplyError::Duplicate { table: "t".into() };
        let leaving = Manner { moved_on: MovedOn::LeaveOut, ..Manner::FIRST };
        assert_eq!(after(Manner::FIRST, &moved, PATIENT_ROUNDS), Manner::FIRST);
        assert_eq!(after(Manner::FIRST, &moved, PATIENT_ROUNDS + 1), leaving);
        let both = Manner { mode: Mode::OneByOne, ..leaving };
        assert_eq!(after(leaving, &duplicate, 7), both);
        assert_eq!(after(both, &moved, 8), both);
        let one_by_one = Manner { mode: Mode::OneByOne, ..Manner::FIRST };
        assert_eq!(after(one_by_one, &moved, 1), one_by_one, "what was found to collide collides still");
    }
}
