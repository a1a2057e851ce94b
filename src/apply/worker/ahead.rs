//! When a large transaction is written while it still comes ([`crate::apply::execute::ahead`]): only while nothing else waits to be
//! done at the target, and rows are locked for it about twice as long as writing takes, at most.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::apply::error::ApplyError;
use crate::apply::execute::ahead::{Ahead, Sent};
use crate::apply::manner::Mode;
use crate::apply::record::Recorder;
use crate::apply::shared::Coming;
use crate::apply::worker::{Condition, Worker};
use crate::conflict::Batch;
use crate::model::{Growing, Link, Stamp};

/// How long, beyond the time that writing has taken, what is open at the target may have waited for more to come.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a source is asked whether its transaction has committed.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long that may take.
const ANSWER: Duration = Duration::from_secs(1);

impl<R: Recorder> Worker<R> {
    /// Whether something is written ahead over the link.
    pub(super) fn is_ahead(&self, link: Link) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.link == link)
    }

    /// Writes the next piece of a transaction that still comes, if there is one. Whether it did something.
    pub(super) async fn write_ahead(&mut self) -> Result<bool, ApplyError> {
        let Some(ahead) = &mut self.ahead else { return self.begin_ahead().await };
        let link = ahead.link;
        let coming = self.shared.node(link.source).coming();
        if coming.growth() != Some(&ahead.growth) || ahead.waited() > PATIENCE + ahead.wrote {
            self.give_up_ahead("no more of it comes").await?;
            return Ok(true);
        }
        let Coming::Growing(growing) = coming else { return Ok(false) };
        let Some(inbound) = self.inbound.iter_mut().find(|inbound| inbound.link() == link) else { return Ok(false) };
        if !ahead.is_behind(&growing) {
            return Ok(false);
        }
        inbound.stats.set_condition(Condition::Applying);
        let manner = inbound.manner;
        match ahead.write(&self.shared, &mut inbound.session, &self.recorder, &growing, manner).await {
            Ok(Sent::Written) => {}
            Ok(Sent::Unfit) => self.give_up_ahead("a part needs more than a statement").await?,
            Err(error) if error.loses_session() => return Err(error),
            Err(error) => {
                if let ApplyError::CopyFailed(_) = &error {
                    inbound.copy_failed();
                }
                self.give_up_ahead(&error.to_string()).await?;
            }
        }
        Ok(true)
    }

    /// Begins to write a transaction that still comes, if there is one that is known to have committed.
    async fn begin_ahead(&mut self) -> Result<bool, ApplyError> {
        for at in 0..self.inbound.len() {
            let inbound = &self.inbound[at];
            let link = inbound.link();
            let Coming::Growing(growing) = self.shared.node(link.source).coming() else { continue };
            let is_free = inbound.failures == 0 && inbound.blocked.is_none() && inbound.manner.mode == Mode::Sets;
            if inbound.not_ahead.as_ref() == Some(&growing.growth)
                || !is_free
                || growing.so_far.misfit().is_some()
                || !self.shared.coordinator().may_go_ahead(link, growing.so_far.commit_lsn)
            {
                continue;
            }
            let Some(stamp) = self.committed(at, &growing).await else { continue };
            self.shared.wait_for_clock(link.target, stamp.micros).await;
            let ahead = Ahead::new(link, growing.growth, &self.shared.coordinator());
            self.ahead = Some(ahead);
            return Ok(true);
        }
        Ok(false)
    }

    /// When a transaction committed of which the end has not come: one that may yet be rolled back would keep rows locked for as
    /// long as its user likes.
    async fn committed(&mut self, at: usize, growing: &Growing) -> Option<Stamp> {
        if growing.committed.is_some() {
            return growing.committed;
        }
        let inbound = &mut self.inbound[at];
        if inbound.asked_at.is_some_and(|at| at.elapsed() < ASK_EVERY) {
            return None;
        }
        inbound.asked_at = Some(Instant::now());
        let source = self.shared.node(inbound.link().source);
        match timeout(ANSWER, source.control()?.committed_at(growing.so_far.xid)).await {
            Ok(Ok(micros)) => Some(Stamp { micros: micros?, node: source.id }),
            Ok(Err(error)) => {
                tracing::debug!(node = source.name, %error, "asking whether a transaction has committed");
                None
            }
            Err(_) => {
                inbound.not_ahead = Some(growing.growth.clone()); // the other links into the target are not to wait for it again
                None
            }
        }
    }

    /// What is written ahead of the first transaction of a batch that is to be written now; of any other it is rolled back.
    pub(super) async fn take_ahead(&mut self, batch: &Batch, mode: Mode) -> Result<Option<Ahead>, ApplyError> {
        let first = batch.transactions.first().and_then(|first| first.growth.as_ref());
        let is_this = |ahead: &Ahead| ahead.link == batch.link && Some(&ahead.growth) == first && mode == Mode::Sets;
        if !self.ahead.as_ref().is_some_and(is_this) {
            self.give_up_ahead("something else is to be written").await?;
        }
        Ok(self.ahead.take().filter(Ahead::has_begun))
    }

    /// Rolls back what is written ahead.
    pub(super) async fn give_up_ahead(&mut self, why: &str) -> Result<(), ApplyError> {
        let Some(ahead) = self.ahead.take() else { return Ok(()) };
        tracing::debug!(link = ?ahead.link, why, "not writing a transaction ahead");
        if let Some(inbound) = self.inbound.iter_mut().find(|inbound| inbound.link() == ahead.link) {
            if ahead.has_begun() {
                inbound.session.rollback().await?;
            }
            inbound.not_ahead = Some(ahead.growth);
        }
        Ok(())
    }
}
