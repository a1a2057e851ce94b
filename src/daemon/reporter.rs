//! The daemon's state → the [`Status`] that people see.

use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};

use crate::apply::worker::Condition;
use crate::config::Config;
use crate::conflict::Coordinator;
use crate::daemon::Daemon;
use crate::model::{Link, Lsn, NodeId};
use crate::node::clock::now_micros;
use crate::status::{JournalStatus, LinkState, LinkStatus, NodeState, NodeStatus, RetainedFor, Status, WindowStatus};

/// Before the nodes have been reached.
pub fn starting(config: &Config, started_at: DateTime<Utc>) -> Status {
    let node = |name: &String| NodeStatus {
        name: name.clone(),
        state: NodeState::Connecting,
        error: None,
        advice: None,
        server_version: None,
        resting: false,
        received_lsn: None,
        confirmed_lsn: None,
        server_flush_lsn: None,
        retained_bytes: None,
        retained_for: Vec::new(),
        clock_skew_us: None,
        connected_since: None,
    };
    Status {
        cluster: config.cluster.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at,
        now: Utc::now(),
        ready: false,
        nodes: config.nodes.iter().map(|each| node(&each.name)).collect(),
        links: Vec::new(),
        window: WindowStatus { keys: 0, transactions: 0, bytes_in_memory: 0, bytes_on_disk: 0 },
        journal: JournalStatus { entries: 0, pending: 0, held: 0, bytes: 0, error: None },
        rules_pending: Vec::new(),
    }
}

/// How it is now.
pub fn snapshot(daemon: &Daemon) -> Status {
    let reports = daemon.reports();
    let journal = daemon.journal.counters();
    let coordinator = daemon.shared.coordinator();
    let nodes: Vec<_> = NodeId::all(reports.len()).map(|id| node(daemon, &coordinator, id)).collect();
    let links: Vec<_> = daemon.links().map(|each| link(daemon, &coordinator, each)).collect();
    let window = coordinator.window();
    let ready = nodes.iter().all(|node| node.state == NodeState::Streaming)
        && links.iter().all(|link| link.state != LinkState::Stopped);
    Status {
        cluster: daemon.config.cluster.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: daemon.started_at,
        now: Utc::now(),
        ready,
        nodes,
        links,
        window: WindowStatus {
            keys: window.keys() as u64,
            transactions: NodeId::all(reports.len()).map(|id| window.log(id).iter().len() as u64).sum(),
            bytes_in_memory: daemon.spill.in_memory(),
            bytes_on_disk: daemon.spill.on_disk(),
        },
        journal: JournalStatus {
            entries: journal.entries,
            pending: journal.pending,
            held: journal.held,
            bytes: journal.bytes,
            error: journal.error,
        },
        rules_pending: daemon.rules.pending().iter().map(|id| daemon.shared.catalog.table(*id).to_string()).collect(),
    }
}

fn node(daemon: &Daemon, coordinator: &Coordinator, id: NodeId) -> NodeStatus {
    let report = &daemon.reports()[id.index()];
    let log = coordinator.window().log(id);
    let restart = report.slot.as_ref().and_then(|slot| slot.restart_lsn);
    let flushed = flushed(daemon, coordinator, id);
    let retained_for = daemon.links().filter(|link| link.source == id).filter_map(|link| {
        let first = coordinator.next_queued(link)?;
        Some(RetainedFor {
            node: daemon.name(link.target).to_owned(),
            bytes: flushed.unwrap_or(log.decoded).bytes_since(first.commit_lsn),
            seconds: age(daemon, id, first.stamp.micros),
        })
    });
    NodeStatus {
        name: daemon.name(id).to_owned(),
        state: report.state,
        error: report.error.clone(),
        advice: None,
        server_version: report.server_version.clone(),
        resting: daemon.shared.node(id).rests(),
        received_lsn: Some(log.decoded),
        confirmed_lsn: Some(coordinator.confirmed()[id.index()]),
        server_flush_lsn: flushed,
        retained_bytes: flushed.zip(restart).map(|(flushed, restart)| flushed.bytes_since(restart)),
        retained_for: retained_for.collect(),
        clock_skew_us: daemon.shared.node(id).clock().map(|clock| clock.micros),
        connected_since: report.connected_since,
    }
}

/// Up to where a node has flushed its log. Looked at once a second; what was received since has been flushed, too.
fn flushed(daemon: &Daemon, coordinator: &Coordinator, id: NodeId) -> Option<Lsn> {
    let received = coordinator.window().log(id).decoded;
    daemon.reports()[id.index()].flush_lsn.map(|flushed| flushed.max(received))
}

/// Seconds since a stamp of that node.
fn age(daemon: &Daemon, id: NodeId, micros: i64) -> f64 {
    let skew = daemon.shared.node(id).clock().map_or(0, |clock| clock.micros);
    ((now_micros() + skew - micros).max(0)) as f64 / 1e6
}

fn link(daemon: &Daemon, coordinator: &Coordinator, link: Link) -> LinkStatus {
    let stats = &daemon.stats[&link];
    let (state, error) = match stats.condition() {
        Condition::Idle => (LinkState::Idle, None),
        Condition::Applying => (LinkState::Applying, None),
        Condition::Waiting => (LinkState::Waiting, None),
        Condition::Retrying(error) => (LinkState::Retrying, Some(error)),
        Condition::Stopped(error) => (LinkState::Stopped, Some(error)),
    };
    let decoded = coordinator.window().log(link.source).decoded;
    let flushed = flushed(daemon, coordinator, link.source).unwrap_or(decoded);
    let first = coordinator.next_queued(link);
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    LinkStatus {
        source: daemon.name(link.source).to_owned(),
        target: daemon.name(link.target).to_owned(),
        state,
        applied_lsn: Some(coordinator.applied(link)),
        received_lsn: Some(decoded),
        lag_bytes: first.map_or(0, |first| flushed.bytes_since(first.commit_lsn)),
        lag_seconds: first.map_or(0.0, |first| age(daemon, link.source, first.stamp.micros)),
        queued_transactions: coordinator.queued(link),
        transactions_total: count(&stats.transactions),
        changes_total: count(&stats.changes),
        batches_total: count(&stats.batches),
        conflicts_total: count(&stats.conflicts),
        retries_total: count(&stats.retries),
        reopened_total: count(&stats.reopened),
        ahead_total: count(&stats.ahead),
        error,
        advice: None,
    }
}
