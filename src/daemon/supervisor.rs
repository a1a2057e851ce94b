//! One node's connections: made together, ended together, made again with backoff.
//!
//! Whatever connection is lost, all of the node's are given up: the progress rows tell what was committed, and the
//! stream, read again from the slot with our own commits in it, brings the marks back exactly (R4, R6).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::future::join_all;
use tokio::sync::{Notify, mpsc, watch};

use crate::apply::session::{ApplySession, SessionSettings};
use crate::apply::shared::Coming;
use crate::apply::worker::{Condition, Inbound, Run, Worker};
use crate::apply::{ApplyError, hold};
use crate::conflict::Event;
use crate::daemon::error::DaemonError;
use crate::daemon::recorder::JournalRecorder;
use crate::daemon::watcher::{measure_clock, move_horizon, watch_node};
use crate::daemon::{Daemon, Phase};
use crate::model::{Class, Classify, Link, Lsn, NodeId};
use crate::node::NodeError;
use crate::node::control::{Control, SlotInfo};
use crate::status::NodeState;
use crate::stream::{Connected, Echo, SourceEvent, SourceSettings, stream};

/// What a node's first session is called there.
pub const CONTROL: &str = "pgconcord control";
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Pieces of events between the reader and the coordinator: the coordinator takes each in microseconds, so this only
/// smooths; beyond it the server's own buffers wait.
const PIECES: usize = 16;
/// How long a drained node may wait for the others before its connections end anyway.
const DRAINED_TICK: Duration = Duration::from_millis(20);

/// Keeps a node connected until the daemon closes.
pub async fn supervise(daemon: Arc<Daemon>, id: NodeId, mut phase: watch::Receiver<Phase>) {
    let mut wait = FIRST_RETRY;
    loop {
        let began = Instant::now();
        let ended = connected(&daemon, id, phase.clone()).await;
        daemon.shared.node(id).set_disconnected();
        daemon.shared.coordinator().disconnected(id);
        daemon.shared.wake_all(); // what was written ahead of its stream is not continued
        let Err(error) = ended else { return };
        let worked = daemon.reports()[id.index()].state == NodeState::Streaming;
        let operator = error.class() == Class::Operator;
        let state = if operator { NodeState::Stopped } else { NodeState::Down };
        for link in daemon.links().filter(|link| link.target == id) {
            daemon.stats[&link].set_condition(Condition::Waiting);
        }
        daemon.report(id, |report| {
            (report.state, report.error, report.connected_since) = (state, Some(error.to_string()), None);
        });
        if worked || began.elapsed() > LAST_RETRY {
            wait = FIRST_RETRY;
        }
        if operator {
            tracing::error!(node = daemon.name(id), %error, retry_in = ?wait, "this node is stopped until that is mended");
        } else {
            tracing::warn!(node = daemon.name(id), %error, retry_in = ?wait, "connection lost");
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = until(&mut phase, |phase| phase != Phase::On) => return,
        }
        wait = (wait * 2).min(LAST_RETRY);
    }
}

/// Connects the node and works until a connection is lost or the daemon closes.
async fn connected(daemon: &Arc<Daemon>, id: NodeId, phase: watch::Receiver<Phase>) -> Result<(), DaemonError> {
    daemon.report(id, |report| report.state = NodeState::Connecting);
    let named = |error: NodeError| DaemonError::Node { node: daemon.name(id).to_owned(), error };
    let conninfo = &daemon.config.nodes[id.index()].conninfo;
    // The first alone: where a login is refused one attempt is enough.
    let control = match daemon.take_contact(id) {
        Some(control) => control,
        None => Control::connect(conninfo, CONTROL).await.map_err(named)?,
    };
    let settings = source_settings(daemon, id);
    let links: Vec<Link> = daemon.links().filter(|link| link.target == id).collect();
    let links = links.into_iter().map(|link| session_settings(daemon, link));
    // What does not wait for the other goes at once: to a distant server each step takes a round trip or several.
    let (identity, slot, clock, applying, streaming) = tokio::join!(
        check_identity(daemon, id, &control),
        check_slot(daemon, id, &control),
        measure_clock(daemon, id, &control),
        join_all(links.map(ApplySession::connect)),
        crate::stream::connect(&settings),
    );
    // Another server is said to be one before its slot is missed.
    identity?;
    slot?;
    clock.map_err(named)?;
    daemon.shared.coordinator().disconnected(id);
    let sessions = applying.into_iter().collect::<Result<Vec<_>, _>>()?;
    // No commit of an earlier connection can come after: each held its origin, which our sessions have now.
    let last_own = control.last_own_commit(settings.own_origins.keys());
    let (inbound, last_own) = tokio::join!(take_in(daemon, id, sessions), last_own);
    let (inbound, last_own) = (inbound?, last_own.map_err(named)?);
    let streaming = streaming.map_err(|error| DaemonError::Source { node: daemon.name(id).to_owned(), error })?;
    daemon.shared.node(id).set_connected(Arc::new(control));
    daemon.shared.wake_all(); // a stream may have rested for want of it
    daemon.report(id, |report| {
        report.state = NodeState::Rebuilding;
        report.error = None;
        report.connected_since = Some(Utc::now());
    });

    let nonce = daemon.shared.nonce();
    let (events, received) = mpsc::channel(PIECES);
    let reading = read(daemon.clone(), streaming, settings, last_own, events);
    let pumping = pump(daemon.clone(), id, received, phase.clone());
    let worker = Worker::new(daemon.shared.clone(), id, inbound, JournalRecorder(daemon.clone()));
    let applying = Notify::new();
    tokio::select! {
        // Reading ends well only after pumping did: when the daemon closes.
        ended = async { tokio::try_join!(reading, pumping) } => ended.map(drop),
        ended = move_horizon(daemon, id) => ended,
        ended = watch_node(daemon, id, &applying) => ended.map_err(named),
        ended = work(daemon, id, nonce, worker, phase, &applying) => ended,
    }
}

async fn check_identity(daemon: &Daemon, id: NodeId, control: &Control) -> Result<(), DaemonError> {
    let named = |error: NodeError| DaemonError::Node { node: daemon.name(id).to_owned(), error };
    let now = control.identify().await.map_err(named)?;
    let known = &daemon.identities[id.index()];
    daemon.report(id, |report| report.server_version = Some(version(now.server_version)));
    if (&now.system_id, now.timeline) != (&known.system_id, known.timeline) {
        return Err(DaemonError::Operator(format!(
            "{} is another server than before (system {} timeline {}, was system {} timeline {}): after a failover or a \
             restore rows may be missing; run `pgconcord teardown`, compare the nodes, and run `pgconcord setup`",
            daemon.name(id),
            now.system_id,
            now.timeline,
            known.system_id,
            known.timeline
        )));
    }
    Ok(())
}

/// The slot must be there and must not have moved past what we confirmed: what lies between would be skipped
/// without a word.
async fn check_slot(daemon: &Daemon, id: NodeId, control: &Control) -> Result<(), DaemonError> {
    let node = daemon.name(id).to_owned();
    let name = daemon.config.object_name();
    let found = control.slot(&name).await.map_err(|error| DaemonError::Node { node: node.clone(), error })?;
    let known = daemon.shared.coordinator().confirmed()[id.index()];
    let repair = "run `pgconcord teardown`, compare the nodes, and run `pgconcord setup`";
    match found {
        None => Err(DaemonError::Operator(format!(
            "{node}: replication slot {name} is gone, so changes may have been lost to us: {repair}"
        ))),
        Some(slot) if slot.is_lost() => Err(DaemonError::Operator(format!(
            "{node}: replication slot {name} was invalidated by the server, so changes were lost to us: {repair}; raise \
             max_slot_wal_keep_size"
        ))),
        Some(slot) if slot.confirmed_flush_lsn.is_some_and(|confirmed| confirmed > known) => {
            Err(DaemonError::Operator(format!(
                "{node}: somebody else has moved replication slot {name} on, past {known}, so changes were lost to us: \
                 {repair}"
            )))
        }
        // Said of the slot, before the origins are found to be held too.
        Some(SlotInfo { active_pid: Some(pid), .. }) => Err(DaemonError::SlotInUse { node, slot: name, pid }),
        Some(slot) => {
            daemon.report(id, |report| report.slot = Some(slot));
            Ok(())
        }
    }
}

/// Tells the coordinator and the journal how far the node is.
async fn take_in(daemon: &Arc<Daemon>, id: NodeId, sessions: Vec<ApplySession>) -> Result<Vec<Inbound>, DaemonError> {
    let mut inbound = Vec::new();
    for mut session in sessions {
        let link = session.settings.link;
        if inbound.is_empty() {
            let held = hold::read(&mut session, &daemon.shared.catalog).await?;
            daemon.shared.coordinator().set_held(id, held)?;
        }
        let lane = daemon.lane(link);
        daemon.journal.discard_after(&lane, session.progress.batch).await?;
        let stats = daemon.stats[&link].clone();
        stats.clear_unsettled();
        let blocked = blocked(daemon, link, &session);
        if let Some(reason) = &blocked {
            tracing::error!(source = daemon.name(link.source), target = daemon.name(id), "{reason}");
        }
        daemon.shared.coordinator().set_progress(link, session.progress.lsn);
        inbound.push(Inbound::new(session, blocked, stats));
    }
    Ok(inbound)
}

/// Why nothing may be applied over the link (R6), if so.
fn blocked(daemon: &Daemon, link: Link, session: &ApplySession) -> Option<String> {
    let source = &daemon.identities[link.source.index()];
    let (from, to) = (daemon.name(link.source), daemon.name(link.target));
    let repair = "run `pgconcord teardown`, compare the nodes, and run `pgconcord setup`";
    let progress = &session.progress;
    if (&progress.system_id, progress.timeline) != (&source.system_id, source.timeline) {
        return Some(format!(
            "{to} knows {from} as system {} timeline {}, and now it is system {} timeline {}: after a failover or a restore \
             rows may be missing; {repair}",
            progress.system_id, progress.timeline, source.system_id, source.timeline
        ));
    }
    let confirmed = daemon.shared.coordinator().confirmed()[link.source.index()];
    (progress.lsn < confirmed).then(|| {
        format!(
            "{to} has the changes of {from} up to {}, and {from} keeps those from {confirmed} on: what lies between is lost \
             to us (was {to} restored from a backup?); {repair}",
            progress.lsn
        )
    })
}

fn session_settings(daemon: &Daemon, link: Link) -> SessionSettings {
    let config = &daemon.config;
    let others: Vec<_> = config.nodes.iter().filter(|node| node.id != link.target).collect();
    SessionSettings {
        conninfo: config.nodes[link.target.index()].conninfo.clone(),
        link,
        cluster: config.cluster.clone(),
        source_name: daemon.name(link.source).to_owned(),
        target_name: daemon.name(link.target).to_owned(),
        origin: config.origin_name(daemon.name(link.source)),
        all_origins: others.iter().map(|node| config.origin_name(&node.name)).collect(),
        origin_nodes: others.iter().map(|node| node.id).collect(),
        lock_timeout: config.limits.lock_timeout,
    }
}

fn source_settings(daemon: &Daemon, id: NodeId) -> SourceSettings {
    let config = &daemon.config;
    let origins: HashMap<_, _> = config
        .nodes
        .iter()
        .filter(|node| node.id != id)
        .map(|node| (config.origin_name(&node.name), node.id))
        .collect();
    SourceSettings {
        node: id,
        conninfo: config.nodes[id.index()].conninfo.clone(),
        slot: config.object_name(),
        publication: config.object_name(),
        catalog: daemon.shared.catalog.clone(),
        own_origins: origins,
        spill: daemon.spill.clone(),
        demand: daemon.shared.node(id).demand(),
        application_name: format!("pgconcord {}", config.cluster),
    }
}

/// Reads the stream: first with our own commits, up to the last of them; then without, for which the server has less to do,
/// and large transactions as they come about.
async fn read(
    daemon: Arc<Daemon>,
    mut session: Connected,
    settings: SourceSettings,
    last_own: Lsn,
    events: mpsc::Sender<Vec<SourceEvent>>,
) -> Result<(), DaemonError> {
    let id = settings.node;
    let failed = |error| DaemonError::Source { node: daemon.name(id).to_owned(), error };
    let confirmed = || daemon.confirmed[id.index()].subscribe();
    let start = daemon.shared.coordinator().confirmed()[id.index()];
    if last_own > start {
        stream(session, &settings, Echo::Any, start, Some(last_own), confirmed(), events.clone())
            .await
            .map_err(failed)?;
        if events.is_closed() {
            return Ok(());
        }
        session = crate::stream::connect(&settings).await.map_err(failed)?;
    }
    // What the first stream left in the channel is delivered before anything of the second one.
    let start = daemon.shared.coordinator().window().log(id).decoded;
    stream(session, &settings, Echo::None, start, None, confirmed(), events).await.map_err(failed)
}

/// Hands events to the coordinator until the daemon closes.
async fn pump(
    daemon: Arc<Daemon>,
    id: NodeId,
    mut received: mpsc::Receiver<Vec<SourceEvent>>,
    mut phase: watch::Receiver<Phase>,
) -> Result<(), DaemonError> {
    loop {
        let events = tokio::select! {
            events = received.recv() => events,
            _ = until(&mut phase, |phase| phase == Phase::Close) => None,
        };
        let Some(events) = events else { return Ok(()) };
        let coming = coming(&events);
        daemon.shared.deliver(id, events.into_iter().filter_map(event))?;
        // Only now, for what precedes it must be known first.
        if let Some(coming) = coming {
            daemon.shared.set_coming(id, coming);
        }
    }
}

/// What these events say of a large transaction that still comes, if anything.
fn coming(events: &[SourceEvent]) -> Option<Coming> {
    events.iter().rev().find_map(|event| match event {
        SourceEvent::Growing(growing) => Some(Coming::Growing(growing.clone())),
        SourceEvent::Withdrawn(_) => Some(Coming::Nothing),
        SourceEvent::Transaction(transaction) => transaction.growth.clone().map(Coming::Ended),
        _ => None,
    })
}

/// A stream's event as the coordinator takes it.
fn event(event: SourceEvent) -> Option<Event> {
    Some(match event {
        SourceEvent::Transaction(transaction) => Event::Transaction(transaction),
        // A streamed commit does not tell its position, and none is streamed while marks are read.
        SourceEvent::OwnCommit { origin_lsn: Lsn::ZERO, .. } => return None,
        SourceEvent::OwnCommit { origin, origin_lsn, end_lsn, .. } => {
            Event::OwnCommit { source: origin, applied: origin_lsn, at: end_lsn }
        }
        SourceEvent::Barrier { nonce, .. } => Event::Barrier(nonce),
        SourceEvent::Position(lsn) => Event::Position(lsn),
        SourceEvent::Growing(_) | SourceEvent::Withdrawn(_) => return None,
    })
}

/// Waits until the stream has been read again, then applies until the daemon drains, then until it closes.
async fn work(
    daemon: &Arc<Daemon>,
    id: NodeId,
    nonce: u64,
    worker: Worker<JournalRecorder>,
    mut phase: watch::Receiver<Phase>,
    applying: &Notify,
) -> Result<(), DaemonError> {
    let named = |error: NodeError| DaemonError::Node { node: daemon.name(id).to_owned(), error };
    let arrival = daemon.shared.expect_barrier(id, nonce);
    let control = daemon.shared.node(id).control();
    if let Some(control) = control {
        control.barrier(nonce).await.map_err(named)?;
    }
    tokio::select! {
        arrived = arrival => if arrived.is_err() {
            return Err(DaemonError::Apply(ApplyError::BarrierTimeout(daemon.name(id).to_owned())));
        },
        _ = until(&mut phase, |phase| phase == Phase::Close) => return std::future::pending().await,
    }
    daemon.shared.coordinator().rebuilt(id)?;
    daemon.shared.wake_all();
    // Without a limit: the server reads all that it retains once more before the second stream delivers anything,
    // and giving up would begin the whole start again, further behind.
    tokio::select! {
        caught_up = daemon.shared.catch_up_with_rests(id) => caught_up?,
        _ = until(&mut phase, |phase| phase == Phase::Close) => return std::future::pending().await,
    }
    for link in daemon.links().filter(|link| link.target == id) {
        // Everything the node had committed before the barrier is flushed, so what its progress rows tell holds.
        worker_settles(daemon, link, &worker).await?;
    }
    tracing::info!(node = daemon.name(id), "streaming");
    daemon.report(id, |report| report.state = NodeState::Streaming);
    daemon.shared.node(id).set_applying();
    applying.notify_one();
    daemon.shared.wake_all();
    let (run, runs) = watch::channel(Run::On);
    let follow = async {
        let deadline = match until(&mut phase, |phase| phase != Phase::On).await {
            Phase::Drain(deadline) => deadline,
            Phase::On | Phase::Close => Instant::now(),
        };
        run.send_replace(Run::Drain(deadline));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = worker.run(runs) => ended?,
        () = follow => {}
    }
    daemon.shared.node(id).set_drained();
    std::future::pending().await
}

async fn worker_settles(daemon: &Daemon, link: Link, worker: &Worker<JournalRecorder>) -> Result<(), DaemonError> {
    if let Some(batch) = worker.last_batch(link) {
        daemon.journal.settle(&daemon.lane(link), batch).await?;
    }
    Ok(())
}

/// Waits for a phase; a daemon that is gone has closed.
async fn until(phase: &mut watch::Receiver<Phase>, wanted: impl Fn(Phase) -> bool) -> Phase {
    phase.wait_for(|phase| wanted(*phase)).await.map_or(Phase::Close, |phase| *phase)
}

/// Waits until every connected node has applied what was queued.
pub async fn wait_until_drained(daemon: &Daemon, deadline: Instant) {
    let waiting =
        |daemon: &Daemon| daemon.shared.nodes.iter().any(|node| node.control().is_some() && !node.is_drained());
    while waiting(daemon) && Instant::now() < deadline {
        tokio::time::sleep(DRAINED_TICK).await;
    }
}

fn version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}
