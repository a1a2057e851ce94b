//! Confirms what is stable, forgets it, and settles journal entries whose batch is durable (R5, R10).

use std::sync::Arc;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::daemon::error::DaemonError;
use crate::model::{Link, Lsn};

/// How often: a slot that advances twice a second keeps next to nothing.
const EVERY: Duration = Duration::from_millis(500);
/// How often old journal entries are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);
/// How often, and how often again, the last confirmation looks whether the servers have flushed our last commits.
const LAST_ROUNDS: usize = 4;

/// Runs until it is dropped.
///
/// # Errors
/// If a spilled transaction can't be read.
pub async fn run(daemon: Arc<Daemon>) -> Result<(), DaemonError> {
    let mut tick = tokio::time::interval(EVERY);
    let mut prune = tokio::time::interval(PRUNE_EVERY);
    let mut due: Vec<(Link, u64)> = Vec::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {
                confirm(&daemon)?;
                settle(&daemon, &mut due).await;
            }
            _ = prune.tick() => {
                if let Err(error) = daemon.journal.prune().await {
                    tracing::warn!(%error, "pruning the journal");
                }
            }
        }
    }
}

/// The last confirmation: barriers make every server flush what we committed.
pub async fn last(daemon: &Daemon) {
    let mut due = Vec::new();
    for _ in 0..LAST_ROUNDS {
        for node in &daemon.shared.nodes {
            if node.control().is_some() {
                let _ = tokio::time::timeout(EVERY, daemon.shared.barrier(node.id)).await;
            }
        }
        if let Err(error) = confirm(daemon) {
            tracing::warn!(%error, "the last confirmation");
        }
        settle(daemon, &mut due).await;
        let coordinator = daemon.shared.coordinator();
        if daemon.links().all(|link| coordinator.confirmed()[link.source.index()] >= coordinator.applied(link)) {
            return;
        }
    }
}

fn confirm(daemon: &Daemon) -> Result<(), DaemonError> {
    let frontier = {
        let mut coordinator = daemon.shared.coordinator();
        let frontier = coordinator.frontier()?;
        coordinator.forget(&frontier)?;
        frontier
    };
    // A removal that is made twice is harmless, so those of rows that are stable need not be remembered.
    daemon.shared.removed().retain(|(home, _, lsn)| lsn.is_some_and(|lsn| lsn >= frontier[home.index()]));
    for (confirmed, lsn) in daemon.confirmed.iter().zip(frontier) {
        confirmed.send_if_modified(|known| {
            let news = lsn > *known;
            *known = lsn.max(*known);
            news
        });
    }
    Ok(())
}

async fn settle(daemon: &Daemon, due: &mut Vec<(Link, u64)>) {
    for link in daemon.links() {
        let durable: Lsn = daemon.shared.coordinator().window().log(link.target).decoded;
        if let Some(batch) = daemon.stats[&link].take_settled(durable) {
            due.retain(|(other, _)| *other != link);
            due.push((link, batch));
        }
    }
    let mut left = Vec::new();
    for (link, batch) in due.drain(..) {
        if let Err(error) = daemon.journal.settle(&daemon.lane(link), batch).await {
            tracing::error!(%error, "settling conflicts in the journal");
            left.push((link, batch));
        }
    }
    *due = left;
}
