//! The daemon's streams: delivery, horizons, connecting, forgetting.

use std::io;
use std::sync::Arc;

use crate::conflict::{Coordinator, Event};
use crate::model::{Cut, Link, Lsn, NodeId, Resolvers, TableRule, Xid};
use crate::simulate::Mutation;
use crate::simulate::random::Random;
use crate::simulate::wal::{Entry, Kind};
use crate::simulate::world::{World, tell};

/// A queue that keeps few transactions in the window.
const SHORT: u64 = 10;

/// One node's stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// It is there.
    pub connected: bool,
    /// The next commit to deliver, by its place in the log.
    next: usize,
    /// The barrier up to which it is read again.
    rereading: Option<u64>,
    /// Up to here our own commits are sent: the last one before the stream began.
    own_until: Lsn,
    /// PostgreSQL 15 and before: our own commits come back at all times.
    echo: bool,
}

/// The guard's horizon at a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Horizon {
    /// Older transactions have all been decoded.
    pub usable: Xid,
    reading: Option<(Xid, Lsn)>,
}

/// All that a restart loses.
#[derive(Debug)]
pub struct Daemon {
    /// The real one.
    pub coordinator: Coordinator,
    /// By node.
    pub streams: Vec<Stream>,
    /// By node.
    pub horizons: Vec<Horizon>,
}

impl Daemon {
    /// Starts from the last cut with what the nodes keep of rules.
    pub fn new(start: Cut, rules: Vec<TableRule>, random: &mut Random) -> Daemon {
        let nodes = start.confirmed.len();
        let stream = |random: &mut Random| Stream { echo: random.permille(300), ..Stream::default() };
        Daemon {
            coordinator: Coordinator::new(start, Resolvers::new(rules)),
            streams: (0..nodes).map(|_| stream(random)).collect(),
            horizons: vec![Horizon::default(); nodes],
        }
    }
}

impl World {
    /// Delivers the next commit of a node, or its position.
    ///
    /// # Errors
    /// If the coordinator has one.
    pub fn deliver(&mut self, node: NodeId) -> io::Result<bool> {
        let stream = &mut self.daemon.streams[node.index()];
        if !stream.connected {
            return Ok(false);
        }
        let wal = &self.nodes[node.index()].wal;
        let Some(entry) = wal.flushed().get(stream.next) else {
            self.daemon.coordinator.deliver(node, Event::Position(wal.flush_lsn()))?;
            return Ok(false);
        };
        stream.next += 1;
        let own_shown =
            (entry.end <= stream.own_until || stream.echo) && self.settings.mutation != Some(Mutation::ForgetMarks);
        let event = match &entry.kind {
            Kind::Local(transaction) => Event::Transaction(Arc::clone(transaction)),
            Kind::Own { source, applied } if own_shown => {
                Event::OwnCommit { source: *source, applied: *applied, at: entry.end }
            }
            Kind::Own { .. } => Event::Position(entry.end),
            Kind::Message(nonce) => Event::Barrier(*nonce),
        };
        if self.random.permille(300) {
            self.daemon.coordinator.deliver(node, Event::Position(entry.begin))?;
        }
        self.daemon.coordinator.deliver(node, event)?;
        self.take_barriers()?;
        Ok(true)
    }

    /// What a node's stream has not delivered of its log, flushed or not.
    pub(super) fn undelivered(&self, node: NodeId) -> impl Iterator<Item = &Entry> {
        self.nodes[node.index()].wal.entries().iter().skip(self.daemon.streams[node.index()].next)
    }

    fn take_barriers(&mut self) -> io::Result<()> {
        for (node, nonce) in self.daemon.coordinator.take_barriers() {
            if self.daemon.streams[node.index()].rereading == Some(nonce) {
                self.daemon.streams[node.index()].rereading = None;
                self.daemon.coordinator.rebuilt(node)?;
                tell!(self, "n{}: stream read again", node.0);
            }
            if let Some(job) = &mut self.jobs[node.index()] {
                job.arrived(nonce);
            }
        }
        Ok(())
    }

    /// Reads the oldest running transaction, then the position that makes it usable once it is decoded.
    pub fn read_horizon(&mut self, node: NodeId) {
        let server = &self.nodes[node.index()];
        if self.daemon.streams[node.index()].connected {
            let horizon = &mut self.daemon.horizons[node.index()];
            horizon.reading.get_or_insert((server.oldest_running(), server.wal.insert_lsn()));
        }
    }

    /// The horizon that a look-up now may use.
    pub fn horizon(&mut self, node: NodeId) -> Xid {
        let decoded = self.daemon.coordinator.window().log(node).decoded;
        let horizon = &mut self.daemon.horizons[node.index()];
        if let Some((xid, lsn)) = horizon.reading
            && lsn <= decoded
        {
            *horizon = Horizon { usable: xid, reading: None };
        }
        horizon.usable
    }

    /// Connects to a node: progress is read, its stream begins again at what is confirmed.
    ///
    /// # Errors
    /// If the coordinator has one.
    pub fn connect(&mut self, node: NodeId) -> io::Result<()> {
        if self.daemon.streams[node.index()].connected {
            return Ok(());
        }
        self.nonce += 1;
        self.nodes[node.index()].emit(self.nonce, &mut self.random);
        let coordinator = &mut self.daemon.coordinator;
        coordinator.disconnected(node);
        let confirmed = coordinator.confirmed()[node.index()];
        let stream = &mut self.daemon.streams[node.index()];
        stream.connected = true;
        stream.next = self.nodes[node.index()].wal.at(confirmed);
        stream.rereading = Some(self.nonce);
        stream.own_until = self.nodes[node.index()].wal.last_own();
        self.daemon.horizons[node.index()] = Horizon::default();
        let held = self.held_of(self.nodes[node.index()].held());
        self.daemon.coordinator.set_held(node, held)?;
        for source in NodeId::all(self.nodes.len()).filter(|source| *source != node) {
            let applied = self.nodes[node.index()].progress()[source.index()];
            self.daemon.coordinator.set_progress(Link { source, target: node }, applied);
        }
        tell!(
            self,
            "n{}: connected, reads from {confirmed}, progress {:?}",
            node.0,
            self.nodes[node.index()].progress()
        );
        if self.settings.mutation == Some(Mutation::ResumeAtOnce) {
            self.daemon.streams[node.index()].rereading = None;
            self.daemon.coordinator.rebuilt(node)?;
        }
        Ok(())
    }

    /// The connections to a node are lost.
    pub fn lose_connection(&mut self, node: NodeId) {
        if !self.daemon.streams[node.index()].connected {
            return;
        }
        tell!(self, "n{}: connection lost", node.0);
        self.drop_session(node);
        self.daemon.streams[node.index()].connected = false;
        self.daemon.coordinator.disconnected(node);
    }

    /// Asks what is stable, confirms it to the slots and forgets it.
    ///
    /// Slots are confirmed one by one, and a server that crashes may send again from an older position than it
    /// confirmed; but what was seen by whom comes back whole only from a cut through all logs. So the cut is
    /// written to one of the nodes first.
    ///
    /// # Errors
    /// If the coordinator has one.
    pub fn forget(&mut self) -> io::Result<()> {
        self.forget_superseded();
        let mut frontier = self.daemon.coordinator.frontier()?;
        if self.settings.mutation == Some(Mutation::ForgetAtOnce) && self.daemon.coordinator.is_rebuilt() {
            frontier.confirmed = NodeId::all(self.nodes.len()).map(|source| self.applied_everywhere(source)).collect();
        }
        let keeper = self.random.below(self.nodes.len());
        self.nodes[keeper].cut = Some(frontier.clone());
        let torn = self.random.permille(self.mood.torn);
        for (node, lsn) in self.nodes.iter_mut().zip(&frontier.confirmed) {
            if !torn || self.random.permille(500) {
                node.slot = node.slot.max(*lsn);
            }
        }
        if torn {
            tell!(self, "the daemon dies while it confirms {frontier:?}");
            self.restart();
            return Ok(());
        }
        tell!(self, "confirms {frontier:?}");
        self.daemon.coordinator.forget(&frontier.confirmed)?;
        let coordinator = &self.daemon.coordinator;
        let kept = NodeId::all(self.nodes.len()).map(|node| coordinator.window().log(node).iter().len() as u64).sum();
        if self.links().all(|link| coordinator.queued(link) <= SHORT) {
            self.most_kept = self.most_kept.max(kept);
        }
        self.begin_switch()
    }

    fn applied_everywhere(&self, source: NodeId) -> Lsn {
        let targets = NodeId::all(self.nodes.len()).filter(|target| *target != source);
        let applied = targets.map(|target| self.daemon.coordinator.applied_through(source, target));
        let before = self.daemon.coordinator.confirmed()[source.index()];
        applied.min().map_or(before, |applied| applied.max(before))
    }
}
