//! One link's way into its target: how its next batch is tried, by what became of the last ones.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::apply::error::ApplyError;
use crate::apply::execute::Applied;
use crate::apply::execute::foreseen::Foreseen;
use crate::apply::manner::{Committing, Inserting, Manner, Mode, MovedOn, Sending};
use crate::apply::session::ApplySession;
use crate::apply::unique;
use crate::apply::worker::{Condition, LinkStats};
use crate::conflict::Batch;
use crate::model::{Class, Classify, Growth, Link};

/// How often a batch waits for a row that has moved on at its source before it is written without the row.
const PATIENT_ROUNDS: u32 = 5;
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(5);
const OPERATOR_RETRY: Duration = Duration::from_secs(10);

/// One source's way into the target.
#[derive(Debug)]
pub struct Inbound {
    /// Its session.
    pub session: ApplySession,
    /// Why nothing of this source may be applied, if so.
    pub blocked: Option<String>,
    /// Counters.
    pub stats: Arc<LinkStats>,
    pub(super) manner: Manner,
    reach: Reach,
    /// Whether COPY is worth a try.
    copying: Caution,
    /// Whether a COMMIT together with the statements is.
    hurrying: Caution,
    /// So many changes are joined into a batch, at most: fewer after one that was in the way of others.
    most: u64,
    pub(super) failures: u32,
    /// Whose stream lagged: before rows are locked again it must have caught up.
    pub(super) lagged: Option<String>,
    pub(super) retry_at: Option<Instant>,
    pub(super) progress_at: Instant,
    /// The last transaction that is not, or no longer, written ahead.
    pub(super) not_ahead: Option<Growth>,
    /// The batch after the last one.
    pub(super) foreseen: Option<Foreseen>,
    /// When the source was last asked whether its transaction has committed.
    pub(super) asked_at: Option<Instant>,
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
            copying: Caution::default(),
            hurrying: Caution::default(),
            most,
            failures: 0,
            lagged: None,
            retry_at: None,
            progress_at,
            not_ahead: None,
            foreseen: None,
            asked_at: None,
        }
    }

    pub(super) fn link(&self) -> Link {
        self.session.settings.link
    }

    pub(super) fn may_try(&self, now: Instant) -> bool {
        self.blocked.is_none() && self.retry_at.is_none_or(|at| at <= now)
    }

    /// So many changes are joined into the next batch, at most.
    pub(super) fn most(&self, usual: u64) -> u64 {
        match (self.manner.mode, self.reach) {
            (Mode::OneByOne, _) => 0,
            (_, Reach::Usual) => usual.min(self.most),
            (_, Reach::All) => u64::MAX,
        }
    }

    /// A batch was written: how the next one is tried.
    pub(super) fn succeeded(&mut self, applied: &Applied) {
        self.stats.count(applied, self.session.progress.batch, applied.at);
        (self.failures, self.retry_at) = (0, None);
        let inserting = if self.copying.next(applied.copied) { Inserting::Copy } else { Inserting::Skipping };
        let committing = if self.hurrying.next(applied.at_once) { Committing::AtOnce } else { Committing::Afterwards };
        (self.manner, self.reach) = (Manner { inserting, committing, ..Manner::FIRST }, Reach::Usual);
        self.most = self.most.saturating_mul(2).max(1);
    }

    /// A row is there already, so that not all will be inserted.
    pub(super) fn copy_failed(&mut self) {
        self.copying.failed();
        (self.manner.inserting, self.manner.committing) = (Inserting::Skipping, Committing::Afterwards);
    }

    /// Decides when to try again after a batch was rolled back.
    pub(super) fn failed(&mut self, batch: &Batch, error: &ApplyError) {
        let names = (&self.session.settings.source_name, &self.session.settings.target_name);
        if let ApplyError::NotAtOnce(error) = error {
            tracing::debug!(source = names.0, target = names.1, %error, "committing the batch when it is written");
            self.hurrying.failed();
            (self.manner.committing, self.retry_at) = (Committing::Afterwards, None);
            return;
        }
        self.stats.retries.fetch_add(1, Ordering::Relaxed);
        if let ApplyError::CopyFailed(error) = error {
            tracing::debug!(source = names.0, target = names.1, %error, "writing the batch without COPY");
            self.copy_failed();
            self.retry_at = None;
            return;
        }
        if let ApplyError::Overtaken { .. } = error {
            tracing::debug!(source = names.0, target = names.1, %error, "sending the batch in turn");
            (self.manner.sending, self.retry_at) = (Sending::InTurn, None);
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
        if let ApplyError::BarrierTimeout(node) = error {
            self.lagged = Some(node.clone());
        }
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

/// After something failed that is faster and had the whole batch rolled back, batches do without for a while, longer each time.
#[derive(Default, Debug)]
struct Caution {
    /// Batches that do without yet.
    left: u32,
    /// How many did the last time.
    pause: u32,
}

impl Caution {
    fn failed(&mut self) {
        const LEAST: u32 = 4;
        const MOST: u32 = 1024;
        self.pause = (self.pause * 2).clamp(LEAST, MOST);
        self.left = self.pause;
    }

    /// Whether the next batch tries it, after one that was written, with it or without.
    fn next(&mut self, with: bool) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        if with {
            self.pause /= 2;
        }
        true
    }
}

/// Whether one transaction of a batch is in the way of the others, so that fewer are tried: the most changes, then.
fn narrower(batch: &Batch, reach: Reach, error: &ApplyError) -> Option<u64> {
    let in_the_way = unique::is_about_rows(error);
    (in_the_way && reach == Reach::Usual && batch.transactions.len() > 1).then_some(batch.changes() / 2)
}

/// How a batch is tried after it failed for the `failures`th time; what was learned before is kept until it is written.
fn after(manner: Manner, error: &ApplyError, failures: u32) -> Manner {
    match error {
        ApplyError::MovedOn { .. } if failures > PATIENT_ROUNDS => Manner { moved_on: MovedOn::LeaveOut, ..manner },
        error if unique::is_about_rows(error) => Manner { mode: Mode::OneByOne, ..manner },
        _ => manner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_not_tried_for_longer_each_time() {
        let mut caution = Caution::default();
        assert!(caution.next(false));
        let mut without = || {
            caution.failed();
            (0..).take_while(|_| !caution.next(false)).count()
        };
        assert_eq!([without(), without(), without()], [4, 8, 16]);
        assert_eq!((caution.next(false), caution.pause), (true, 16), "it was not tried");
        assert!((0..5).all(|_| caution.next(true)));
        assert_eq!(caution.pause, 0);
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
