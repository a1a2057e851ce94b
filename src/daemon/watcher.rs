//! What is looked at of a connected node beside its stream: its clock, its log, its slot, its horizon.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_postgres::Client;

use crate::apply::ApplyError;
use crate::daemon::Daemon;
use crate::daemon::error::DaemonError;
use crate::model::NodeId;
use crate::node::NodeError;
use crate::node::clock::ClockOffset;
use crate::node::control::Control;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// How often a node with local changes has its horizon moved.
const HORIZON_EVERY: Duration = Duration::from_millis(200);
/// After so long a stream that rests is read through if anything has been applied at its node meanwhile: what users changed there
/// may have been in the way.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How often the node's clock, log and slot are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Moves the node's horizon while it has local changes.
pub(super) async fn move_horizon(daemon: &Arc<Daemon>, id: NodeId) -> Result<(), DaemonError> {
    let node = daemon.shared.node(id);
    let mut rest = Rest { daemon, id, since: Instant::now(), applied: 0 };
    let mut horizon = tokio::time::interval(HORIZON_EVERY);
    horizon.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        horizon.tick().await;
        rest.end_if_too_long().await?;
        if !daemon.shared.coordinator().is_ready(id) || !node.horizon_is_stale() || node.rests() {
            continue;
        }
        // However late it comes it is good; and a stream that begins to rest meanwhile does not lag.
        let mut moved = pin!(daemon.shared.catch_up_with_rests(id));
        let patience = daemon.shared.settings.barrier_timeout;
        loop {
            match timeout(patience, moved.as_mut()).await {
                Ok(moved) => break moved?,
                Err(_) if node.rests() => rest.end_if_too_long().await?,
                Err(_) => tracing::warn!(node = daemon.name(id), "the stream lags"),
            }
        }
    }
}

/// Since when a node's stream has rested, as far as anybody has looked, and how many batches had been applied at the node by then.
struct Rest<'a> {
    daemon: &'a Daemon,
    id: NodeId,
    since: Instant,
    applied: u64,
}

impl Rest<'_> {
    /// Has the stream read through if it has rested for [`LONGEST_REST`] and anything has been applied at its node meanwhile.
    async fn end_if_too_long(&mut self) -> Result<(), ApplyError> {
        let links = self.daemon.links().filter(|link| link.target == self.id);
        let applied: u64 = links.map(|link| self.daemon.stats[&link].batches.load(Ordering::Relaxed)).sum();
        if self.daemon.shared.node(self.id).rests() {
            if self.since.elapsed() <= LONGEST_REST || applied == self.applied {
                return Ok(());
            }
            self.daemon.shared.catch_up(self.id).await?;
        }
        (self.since, self.applied) = (Instant::now(), applied);
        Ok(())
    }
}

/// Looks at the node's clock, log and slot, and keeps a session for transactions that remove rows. A start does not wait for
/// any of it, and these logins not long for the start.
pub(super) async fn watch_node(daemon: &Arc<Daemon>, id: NodeId, applying: &Notify) -> Result<(), NodeError> {
    _ = timeout(LOOK_EVERY, applying.notified()).await;
    let (watcher, remover) = open_watch(daemon, id).await;
    let remover = Arc::new(Mutex::new(remover));
    daemon.shared.node(id).set_remover(remover.clone());
    let slot = daemon.config.object_name();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if let Ok(idle) = remover.try_lock() {
            idle.batch_execute("").await.map_err(NodeError::doing("reach the session that removes rows"))?;
        }
        measure_clock(daemon, id, &watcher).await?;
        let flush = watcher.wal_flush_lsn().await?;
        let slot = watcher.slot(&slot).await?;
        daemon.report(id, |report| (report.flush_lsn, report.slot) = (Some(flush), slot));
    }
}

/// The two sessions of [`watch_node`]. Where they are refused (too many connections) the others go on, and these are tried again.
async fn open_watch(daemon: &Daemon, id: NodeId) -> (Control, Client) {
    let conninfo = &daemon.config.nodes[id.index()].conninfo;
    let open = async || {
        let (watcher, remover) = tokio::try_join!(
            Control::connect(conninfo, "pgconcord watch"),
            crate::node::connect(conninfo, "pgconcord remove"),
        )?;
        let patience = format!("SET lock_timeout = {}", daemon.config.limits.lock_timeout.as_millis());
        let doing = NodeError::doing("set how long the session that removes rows waits for locks");
        remover.batch_execute(&patience).await.map_err(doing)?;
        Ok::<_, NodeError>((watcher, remover))
    };
    let mut wait = FIRST_RETRY;
    loop {
        match open().await {
            Ok(sessions) => {
                if wait > FIRST_RETRY {
                    daemon.report(id, |report| report.error = None);
                }
                return sessions;
            }
            Err(error) => {
                tracing::warn!(
                    node = daemon.name(id), %error, retry_in = ?wait, "the node's clock and slot are not looked at, nor rows removed there"
                );
                let what = format!("its clock and slot are not looked at, nor rows removed there: {error}");
                daemon.report(id, |report| report.error = Some(what));
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LAST_RETRY);
    }
}

/// The clock's offset, and an alarm where it is further off than the setting allows.
pub(super) async fn measure_clock(daemon: &Daemon, id: NodeId, control: &Control) -> Result<(), NodeError> {
    let offset = daemon.shared.node(id).measured_clock(ClockOffset::measure(control).await?);
    let nodes = &daemon.shared.nodes;
    let clocks = nodes.iter().filter(|node| node.id != id).filter_map(|node| Some((node, node.clock()?)));
    let limit = i64::try_from(daemon.config.limits.max_clock_skew.as_micros()).unwrap_or(i64::MAX);
    for (other, clock) in clocks {
        let skew = offset.micros - clock.micros;
        if skew.abs() > limit + offset.uncertainty + clock.uncertainty && daemon.shared.node(id).alarm_due() {
            tracing::warn!(
                node = daemon.name(id),
                other = other.name,
                skew_ms = skew / 1_000,
                "the clocks are further apart than max_clock_skew: concurrent changes made at the node whose clock is \
                 behind lose; set the clocks (NTP)"
            );
        }
    }
    Ok(())
}
