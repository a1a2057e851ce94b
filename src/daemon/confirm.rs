//! Confirms what is stable, forgets it, and settles journal entries whose batch is durable (R5, R10).
//!
//! Slots move one by one, and a server that crashes may move its slot back; what an author had seen comes back whole
//! only from a cut through all logs. So the cut is written to one of the nodes before any slot is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::apply::hold;
use crate::conflict::Held;
use crate::daemon::Daemon;
use crate::daemon::error::DaemonError;
use crate::journal::json_key;
use crate::model::{Cut, Link};

/// How often: a slot that advances twice a second keeps next to nothing.
const EVERY: Duration = Duration::from_millis(500);
/// How often a window of more than [`MANY`] transactions is looked through for what may be forgotten: what is forgotten soon gives its
/// place to what is read next.
const FORGET_EVERY: Duration = Duration::from_millis(100);
/// Fewer are looked through only when the cut is written.
const MANY: u64 = 10_000;
/// Looking takes at most one part in so many of the time.
const LOOKING: u32 = 20;
/// How often old journal entries are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);
/// How often the last confirmation looks whether the servers have flushed our last commits.
const LAST_ROUNDS: usize = 4;
/// A cut that forgets transactions is written at most this often.
const CUT_EVERY: Duration = Duration::from_secs(1);
/// How often the journal is told what is still held.
const TELL_HELD_EVERY: Duration = Duration::from_secs(2);
/// A cut that forgets none is written when it lets a server forget so much log, in bytes: more than writing it
/// makes, so that an idle cluster stays idle.
const CUT_BYTES: u64 = 64 << 10;

/// Confirms and settles.
#[derive(Debug)]
pub struct Confirmer {
    daemon: Arc<Daemon>,
    /// The cut that was written last, and how many transactions had been forgotten by then.
    written: Cut,
    forgotten: u64,
    written_at: Instant,
    /// When the journal was told last what is held.
    told_held_at: Instant,
    /// Journal entries whose settling failed.
    due: Vec<(Link, u64)>,
}

/// Whether a cut must be worth its writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Worth {
    Usual,
    Anything,
}

impl Confirmer {
    /// Starts from what the slots have confirmed.
    pub fn new(daemon: Arc<Daemon>) -> Confirmer {
        let written = Cut::at(daemon.shared.coordinator().confirmed().to_vec());
        let (written_at, told_held_at) = (Instant::now(), Instant::now());
        Confirmer { daemon, written, forgotten: 0, written_at, told_held_at, due: Vec::new() }
    }

    /// Runs until it is dropped.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub async fn run(mut self) -> Result<(), DaemonError> {
        let mut tick = tokio::time::interval(EVERY);
        let mut forget_at = tokio::time::Instant::now() + FORGET_EVERY;
        let mut prune = tokio::time::interval(PRUNE_EVERY);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    self.confirm(Worth::Usual).await?;
                    self.settle().await;
                    self.tell_held().await;
                }
                () = tokio::time::sleep_until(forget_at) => {
                    let looked = Instant::now();
                    let many = self.kept() > MANY;
                    // Another rule begins when nothing is forgotten beyond the cut that is written.
                    if many && self.daemon.rules.pending().is_empty() {
                        self.forget()?;
                    }
                    let wait = if many { FORGET_EVERY.max(looked.elapsed() * LOOKING) } else { EVERY };
                    forget_at = tokio::time::Instant::now() + wait;
                }
                _ = prune.tick() => {
                    if let Err(error) = self.daemon.journal.prune().await {
                        tracing::warn!(%error, "pruning the journal");
                    }
                }
            }
        }
    }

    /// The last confirmation: barriers make every server flush what we committed.
    pub async fn last(mut self) {
        for _ in 0..LAST_ROUNDS {
            for node in &self.daemon.shared.nodes {
                if node.control().is_some() {
                    let _ = tokio::time::timeout(EVERY, self.daemon.shared.barrier_unhurried(node.id)).await;
                }
            }
            if let Err(error) = self.confirm(Worth::Anything).await {
                tracing::warn!(%error, "the last confirmation");
            }
            self.settle().await;
            let coordinator = self.daemon.shared.coordinator();
            let confirmed = |link: Link| coordinator.confirmed()[link.source.index()] >= coordinator.applied(link);
            if self.daemon.links().all(confirmed) {
                return;
            }
        }
    }

    /// How many transactions the window keeps.
    fn kept(&self) -> u64 {
        let coordinator = self.daemon.shared.coordinator();
        coordinator.nodes().map(|node| coordinator.window().log(node).iter().len() as u64).sum()
    }

    /// Forgets what is stable: up to where, and how many transactions have been forgotten by now.
    fn forget(&self) -> Result<(Cut, u64), DaemonError> {
        let mut coordinator = self.daemon.shared.coordinator();
        let frontier = coordinator.frontier()?;
        coordinator.forget(&frontier.confirmed)?;
        let forgotten = coordinator.nodes().map(|node| coordinator.window().log(node).first()).sum();
        Ok((frontier, forgotten))
    }

    async fn confirm(&mut self, worth: Worth) -> Result<(), DaemonError> {
        let daemon = &self.daemon;
        let (frontier, forgotten) = self.forget()?;
        // Once a removal is stable nothing meets its row any more.
        daemon.shared.removed().retain(|(home, ..), decoded| *decoded >= frontier.confirmed[home.index()]);
        let grown = frontier.confirmed.iter().zip(&self.written.confirmed);
        let bytes = grown.map(|(new, old)| new.bytes_since(*old)).max().unwrap_or(0);
        let usual = bytes >= CUT_BYTES || forgotten > self.forgotten && self.written_at.elapsed() >= CUT_EVERY;
        if bytes == 0 || worth == Worth::Usual && !usual {
            return Ok(());
        }
        if let Err(error) = self.write_cut(&frontier).await {
            tracing::warn!(%error, "writing from where the streams are needed; the slots stay where they are");
            return Ok(());
        }
        (self.forgotten, self.written_at) = (forgotten, Instant::now());
        self.written.clone_from(&frontier);
        for (confirmed, lsn) in self.daemon.confirmed.iter().zip(frontier.confirmed) {
            confirmed.send_if_modified(|known| {
                let news = lsn > *known;
                *known = lsn.max(*known);
                news
            });
        }
        Ok(())
    }

    /// Writes the cut at the first node that is connected.
    async fn write_cut(&self, cut: &Cut) -> Result<(), DaemonError> {
        let daemon = &self.daemon;
        let names = daemon.config.node_names();
        let connected = daemon.shared.nodes.iter().find_map(|node| Some((node, node.control()?)));
        let Some((node, control)) = connected else {
            return Err(DaemonError::Operator("no node is connected".into()));
        };
        let named = |error| DaemonError::Node { node: node.name.clone(), error };
        let writing = control.write_cut(&daemon.config.cluster, &names, cut);
        match tokio::time::timeout(daemon.config.limits.barrier_timeout, writing).await {
            Ok(written) => written.map_err(named),
            Err(_) => Err(DaemonError::Operator(format!("{} does not answer", node.name))),
        }
    }

    /// Has the journal resolve what was held and is no longer.
    async fn tell_held(&mut self) {
        let daemon = &self.daemon;
        if self.told_held_at.elapsed() < TELL_HELD_EVERY || daemon.journal.counters().held == 0 {
            return;
        }
        self.told_held_at = Instant::now();
        let catalog = &daemon.shared.catalog;
        for node in daemon.shared.nodes.iter().filter(|node| node.control().is_some()) {
            let row = |held: &Held| {
                let table = catalog.table(held.table);
                let row = hold::key_row(table, &held.key);
                (table.schema.clone(), table.name.clone(), json_key(&row.relation, &row.tuple))
            };
            let rows = daemon.shared.coordinator().all_held(node.id).values().map(row).collect();
            if let Err(error) = daemon.journal.still_held(&node.name, rows).await {
                tracing::error!(%error, "telling the journal what is still held");
            }
        }
    }

    async fn settle(&mut self) {
        let daemon = &self.daemon;
        for link in daemon.links() {
            let durable = daemon.durable(link.target);
            if let Some(batch) = daemon.stats[&link].take_settled(durable) {
                self.due.retain(|(other, _)| *other != link);
                self.due.push((link, batch));
            }
        }
        let mut left = Vec::new();
        for (link, batch) in std::mem::take(&mut self.due) {
            if let Err(error) = daemon.journal.settle(&daemon.lane(link), batch).await {
                tracing::error!(%error, "settling conflicts in the journal");
                left.push((link, batch));
            }
        }
        self.due = left;
    }
}
