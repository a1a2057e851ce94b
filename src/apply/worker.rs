//! The task that applies everything at one target: one batch at a time, whatever link it comes from, so that no two
//! batches there hold the same key or unique value (R4, "exclusive").

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use crate::apply::error::ApplyError;
use crate::apply::execute::ahead::Ahead;
use crate::apply::execute::foreseen::Foreseen;
use crate::apply::execute::{self, Applied, Beforehand};
use crate::apply::record::Recorder;
use crate::apply::shared::{Shared, lock};
use crate::apply::{hold, reopen, slow, unique};
use crate::conflict::Reopened;
use crate::model::{KeyId, Link, Lsn, NodeId};

mod ahead;
mod inbound;

use inbound::FIRST_RETRY;
pub use inbound::Inbound;

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// Go on.
    On,
    /// Apply what is queued, at most until then.
    Drain(Instant),
}

/// Whether a stream has been read through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Caught {
    /// It has, or its node is down.
    Up,
    /// Not in time.
    Not,
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
    /// Large transactions written while they came.
    pub ahead: AtomicU64,
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
        self.ahead.fetch_add(u64::from(applied.ahead), Ordering::Relaxed);
        lock(&self.unsettled).push_back((batch, at));
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
/// How often rows are tried again that the target refused.
const HELD_RETRY: Duration = Duration::from_secs(60);
/// So many of them, unless somebody asks for all: one that is not there locks its table for some milliseconds.
const HELD_TRIED: usize = 50;

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
    /// What is written of a transaction that still comes.
    ahead: Option<Ahead>,
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
            ahead: None,
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
            let draining = matches!(*run.borrow(), Run::Drain(_));
            let worked = self.round(draining).await?;
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

    async fn round(&mut self, draining: bool) -> Result<bool, ApplyError> {
        self.give_up_superseded().await;
        let mut worked = self.reopen().await?;
        worked |= self.retry_held().await?;
        for at in 0..self.inbound.len() {
            worked |= self.step(at).await?;
        }
        if !worked && !draining {
            worked = self.write_ahead().await?;
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
        if let Some(lagged) = inbound.lagged.take() {
            self.give_up_ahead("a stream that it needs lags").await?;
            if self.catch_up(&lagged).await? == Caught::Not {
                let others_turn = Instant::now() + self.shared.settings.barrier_timeout;
                let inbound = &mut self.inbound[at];
                (inbound.lagged, inbound.retry_at) = (Some(lagged), Some(others_turn));
                return Ok(false);
            }
        }
        // By itself: the clock may not be past what comes after it, and its rows are locked.
        let alone = self.is_ahead(link);
        let inbound = &mut self.inbound[at];
        let most = if alone { 0 } else { inbound.most(self.shared.settings.batch_changes) };
        let foreseen = inbound.foreseen.take().filter(|foreseen| !alone && foreseen.changes() <= most);
        let now = foreseen.as_ref().map_or(most, Foreseen::changes);
        let batch = {
            let mut coordinator = self.shared.coordinator();
            coordinator.plan(link, now).or_else(|| {
                if self.ahead.is_some() {
                    return None; // for that it would be rolled back
                }
                let due = inbound.progress_at.elapsed() >= PROGRESS_EVERY;
                coordinator.plan_progress(link, if due { PROGRESS_BYTES } else { PROGRESS_BYTES_AT_ONCE })
            })
        };
        let Some(batch) = batch else {
            if inbound.failures == 0 && !alone {
                let ready = self.shared.coordinator().is_ready(self.target);
                inbound.stats.set_condition(if ready { Condition::Idle } else { Condition::Waiting });
            }
            return Ok(false);
        };
        self.shared.weigh_queues(); // what is in flight waits no more
        inbound.stats.set_condition(Condition::Applying);
        let manner = inbound.manner;
        let beforehand = match (self.take_ahead(&batch, manner.mode).await?, foreseen) {
            (Some(ahead), _) => Beforehand::Written(ahead),
            (None, Some(foreseen)) if foreseen.is(&batch) => Beforehand::Folded(foreseen),
            (None, _) => Beforehand::Nothing,
        };
        let inbound = &mut self.inbound[at];
        inbound.foreseen = Foreseen::begin(&self.shared, link, manner, most);
        let session = &mut inbound.session;
        let applied = execute::apply(&self.shared, session, &self.recorder, &batch, manner, beforehand).await;
        let inbound = &mut self.inbound[at];
        inbound.progress_at = Instant::now();
        if applied.is_err() {
            inbound.foreseen = None; // what is tried again is not followed by the same
        }
        match applied {
            Ok(applied) => {
                inbound.succeeded(&applied);
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

    /// Waits until a node's stream has been read through, with nothing locked: the target's for as long as it takes, another one's
    /// for a while, since other links need not wait for that. One that is down is not waited for.
    async fn catch_up(&self, lagged: &str) -> Result<Caught, ApplyError> {
        let Some(node) = self.shared.nodes.iter().find(|node| node.name == lagged) else { return Ok(Caught::Up) };
        let reading = self.shared.catch_up(node.id);
        if node.id == self.target {
            return reading.await.map(|()| Caught::Up);
        }
        let waited = timeout(self.shared.settings.barrier_timeout, reading).await;
        Ok(if waited.is_ok() { Caught::Up } else { Caught::Not })
    }

    /// After a barrier was waited for in vain under a lock its stream is read through before the next one is taken; whether it was.
    async fn catch_up_after(&self, error: &ApplyError) -> Result<bool, ApplyError> {
        match error {
            ApplyError::BarrierTimeout(lagged) => Ok(self.catch_up(lagged).await? == Caught::Up),
            _ => Ok(false),
        }
    }

    /// Decides one reopened key again, if there is one.
    async fn reopen(&mut self) -> Result<bool, ApplyError> {
        if self.reopen_at.is_some_and(|at| at > Instant::now()) {
            return Ok(false);
        }
        let Some((reopened, source)) = self.next_reopened()? else { return Ok(false) };
        self.give_up_ahead("a key is to be decided again").await?;
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
                let wait = match unique::remove(&self.shared, &removals).await {
                    Ok(()) => FIRST_RETRY,
                    Err(error) => {
                        tracing::warn!(%error, "making room for a unique value");
                        inbound.stats.set_condition(Condition::Retrying(error.to_string()));
                        FIRST_RETRY * 100
                    }
                };
                self.reopen_at = Some(Instant::now() + wait);
                Ok(false)
            }
            Err(error) => {
                tracing::warn!(target = self.shared.node(self.target).name, %error, "deciding a key again");
                self.reopen_at = Some(Instant::now() + FIRST_RETRY * 10);
                self.catch_up_after(&error).await?;
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
        self.give_up_ahead("a held row is to be tried again").await?;
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
            Err(error) => {
                tracing::info!(node = self.shared.node(self.target).name, %error, "trying a held row again");
                if self.catch_up_after(&error).await? {
                    self.held.push_back(key);
                }
            }
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
