//! The daemon: one supervisor a node, one task that confirms and settles, one that tells how it goes.
//!
//! It starts with the rows and the slots (R6): every node is reached once, the coordinator begins with what the
//! slots have confirmed, and no batch is applied before every stream has been read again from there.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::apply::shared::{ApplySettings, NodeShared, Shared, lock};
use crate::apply::worker::LinkStats;
use crate::config::{Config, JournalConfig, Limits};
use crate::conflict::Coordinator;
use crate::http::{self, Ask, Asked};
use crate::journal::{Journal, Lane, Retention};
use crate::model::{Link, Lsn, NodeId};
use crate::node::control::Control;
use crate::status::{NodeState, Status};
use crate::stream::Spill;

pub mod confirm;
pub mod contact;
pub mod error;
pub mod recorder;
pub mod reporter;
pub mod resolvers;
pub mod rules;
pub mod supervisor;
mod watcher;

pub use error::DaemonError;
use rules::{Reloader, RuleBook};

/// The session that reached a node is used for so long.
const FRESH: Duration = Duration::from_secs(5);
/// How long draining may take after the signal.
const DRAIN: Duration = Duration::from_millis(2_500);
/// How long the last confirmation may take after that.
const CLOSE: Duration = Duration::from_millis(1_500);

/// What the daemon is about to do; all tasks watch it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Replicate.
    On,
    /// Apply what is queued, until then.
    Drain(Instant),
    /// Send the last confirmation and end.
    Close,
}

/// A node as the supervisor sees it, for the status.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// How its stream is.
    pub state: NodeState,
    /// What is wrong.
    pub error: Option<String>,
    /// Its version.
    pub server_version: Option<String>,
    /// Where its log ends.
    pub flush_lsn: Option<Lsn>,
    /// Its slot.
    pub slot: Option<crate::node::control::SlotInfo>,
    /// Since when it is connected.
    pub connected_since: Option<DateTime<Utc>>,
}

impl NodeReport {
    fn new() -> NodeReport {
        NodeReport {
            state: NodeState::Connecting,
            error: None,
            server_version: None,
            flush_lsn: None,
            slot: None,
            connected_since: None,
        }
    }
}

/// What all tasks of the daemon share.
pub struct Daemon {
    /// The configuration.
    pub config: Config,
    /// What the stages share.
    pub shared: Arc<Shared>,
    /// The journal.
    pub journal: Journal,
    /// Overflow.
    pub spill: Arc<Spill>,
    /// Who each node was when it was first reached.
    pub identities: Vec<crate::node::control::NodeIdentity>,
    /// The rules.
    pub rules: RuleBook,
    /// By link.
    pub stats: HashMap<Link, Arc<LinkStats>>,
    /// What each slot may forget.
    pub confirmed: Vec<watch::Sender<Lsn>>,
    reports: Mutex<Vec<NodeReport>>,
    /// By node, the session that reached it and when, until that is used.
    contacts: Mutex<Vec<Option<(Control, tokio::time::Instant)>>>,
    started_at: DateTime<Utc>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("cluster", &self.config.cluster).finish_non_exhaustive()
    }
}

impl Daemon {
    /// Changes what is told of a node.
    pub fn report(&self, node: NodeId, change: impl FnOnce(&mut NodeReport)) {
        change(&mut lock(&self.reports)[node.index()]);
    }

    /// The session that reached a node first, once and only soon: who waits for another node to be reached may find it cut, or the
    /// node's name leading elsewhere.
    pub fn take_contact(&self, node: NodeId) -> Option<Control> {
        let (control, at) = lock(&self.contacts)[node.index()].take()?;
        (at.elapsed() < FRESH && !control.is_closed()).then_some(control)
    }

    /// What is told of the nodes.
    pub fn reports(&self) -> Vec<NodeReport> {
        lock(&self.reports).clone()
    }

    /// The name of a node.
    pub fn name(&self, node: NodeId) -> &str {
        &self.config.nodes[node.index()].name
    }

    /// A link as the journal knows it.
    pub fn lane(&self, link: Link) -> Lane {
        Lane { source: self.name(link.source).to_owned(), target: self.name(link.target).to_owned() }
    }

    /// Up to where a node's log is known to be on its disk: what its stream has brought is, and while that rests what the server said.
    pub fn durable(&self, node: NodeId) -> Lsn {
        let decoded = self.shared.coordinator().window().log(node).decoded;
        let flushed = || self.reports()[node.index()].flush_lsn.filter(|_| self.shared.node(node).rests());
        flushed().map_or(decoded, |flushed| flushed.max(decoded))
    }

    /// All links.
    pub fn links(&self) -> impl Iterator<Item = Link> + '_ {
        let nodes = || NodeId::all(self.config.nodes.len());
        nodes()
            .flat_map(move |source| nodes().map(move |target| Link { source, target }))
            .filter(|l| l.source != l.target)
    }
}

/// Runs until `shutdown`, then drains; `ask` is for whoever asks it for something, which is heard by `asked`.
///
/// # Errors
/// What must be mended before the daemon can start.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()>,
    ask: Ask,
    asked: Asked,
) -> Result<(), DaemonError> {
    let started_at = Utc::now();
    let listener = match config.http {
        Some(listen) => Some(http::bind(listen).await?),
        None => None,
    };
    let (status, status_seen) = watch::channel(Arc::new(reporter::starting(&config, started_at)));
    let (closed, mut until_closed) = watch::channel(false);
    let mut serving = JoinSet::new();
    if let Some(listener) = listener {
        let stop = async move {
            let _ = until_closed.wait_for(|closed| *closed).await;
        };
        serving.spawn(http::serve(listener, status_seen, ask, stop));
    }
    let journal = Journal::open(&config.journal.path, retention(&config.journal))?;
    let mut shutdown = std::pin::pin!(shutdown);
    let daemon = tokio::select! {
        daemon = start(config, journal.clone(), started_at, &status) => daemon?,
        () = &mut shutdown => return Ok(()),
    };
    let daemon = Arc::new(daemon);
    let outcome = replicate(&daemon, &status, asked, shutdown).await;
    let _ = closed.send(true);
    let _ = tokio::time::timeout(Duration::from_millis(300), serving.join_next()).await;
    drop(daemon);
    journal.close().await?;
    outcome
}

/// What the configuration lets the journal keep.
pub fn retention(journal: &JournalConfig) -> Retention {
    Retention { age: Some(journal.retention), size: Some(journal.max_size) }
}

/// How many changes may wait for every node that they go to before no more are read.
///
/// Beside the batch in flight there is use for the next one, and a server that sends more meanwhile takes its processors from who
/// writes. A small transaction takes less than a kilobyte, and all of them together are to take no more
/// memory than their rows may, a quarter.
fn ample_changes(limits: &Limits) -> u64 {
    (limits.batch_rows as u64).max(10_000).min(limits.memory / 4 / 1024)
}

async fn start(
    config: Config,
    journal: Journal,
    started_at: DateTime<Utc>,
    status: &watch::Sender<Arc<Status>>,
) -> Result<Daemon, DaemonError> {
    let spill = Spill::new(&config.limits.spill, config.limits.memory / 4)?;
    let contact = contact::reach_all(&config, started_at, status).await?;
    let settings = ApplySettings {
        batch_changes: config.limits.batch_rows as u64,
        barrier_timeout: config.limits.barrier_timeout,
        max_clock_skew: config.limits.max_clock_skew,
        ample_changes: ample_changes(&config.limits),
    };
    let nodes = config.nodes.iter().map(|node| NodeShared::new(node.id, node.name.clone())).collect();
    let confirmed: Vec<_> = contact.start.confirmed.iter().map(|lsn| watch::channel(*lsn).0).collect();
    let rules = RuleBook::new(config.conflict_rules.clone(), contact.resolvers, contact.in_force.pending);
    let coordinator = Coordinator::new(contact.start, contact.in_force.resolvers);
    let shared = Shared::new(config.cluster.clone(), Arc::new(contact.catalog), settings, nodes, coordinator);
    let count = config.nodes.len();
    let mut daemon = Daemon {
        config,
        shared: Arc::new(shared),
        journal,
        spill,
        identities: contact.identities,
        rules,
        stats: HashMap::new(),
        confirmed,
        reports: Mutex::new(vec![NodeReport::new(); count]),
        contacts: Mutex::new(contact.controls.into_iter().map(Some).collect()),
        started_at,
    };
    daemon.stats = daemon.links().map(|link| (link, Arc::new(LinkStats::default()))).collect();
    Ok(daemon)
}

async fn replicate(
    daemon: &Arc<Daemon>,
    status: &watch::Sender<Arc<Status>>,
    asked: Asked,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    let (phase, watched) = watch::channel(Phase::On);
    let mut supervisors = JoinSet::new();
    for node in &daemon.config.nodes {
        supervisors.spawn(supervisor::supervise(daemon.clone(), node.id, watched.clone()));
    }
    let mut housekeeping = JoinSet::new();
    housekeeping.spawn(confirm::Confirmer::new(daemon.clone()).run());
    housekeeping.spawn(Reloader::new(daemon.clone(), asked).run());
    let mut shutdown = std::pin::pin!(shutdown);
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            _ = tick.tick() => {
                status.send_replace(Arc::new(reporter::snapshot(daemon)));
            }
            Some(ended) = housekeeping.join_next() => {
                return Err(DaemonError::Task(format!("{ended:?}")));
            }
            Some(ended) = supervisors.join_next() => {
                return Err(DaemonError::Task(format!("a node's supervisor ended: {ended:?}")));
            }
        }
    }
    tracing::info!("draining");
    let deadline = Instant::now() + DRAIN;
    phase.send_replace(Phase::Drain(deadline));
    daemon.shared.wake_all();
    supervisor::wait_until_drained(daemon, deadline).await;
    housekeeping.shutdown().await;
    confirm::Confirmer::new(daemon.clone()).last().await;
    phase.send_replace(Phase::Close);
    let all = async { while supervisors.join_next().await.is_some() {} };
    if tokio::time::timeout(CLOSE, all).await.is_err() {
        tracing::warn!("some connections did not end in time; what was not confirmed is read again at the next start");
    }
    tracing::info!("stopped");
    Ok(())
}
