//! One node, as the tasks of the others see it: its control session, horizon, clock, barriers, and how its stream is to be read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::apply::shared::lock;
use crate::model::{Demand, Growing, Growth, NodeId, Xid};
use crate::node::clock::{ClockFilter, ClockOffset, now_micros};
use crate::node::control::Control;

/// A session that removes rows.
pub type Remover = Arc<tokio::sync::Mutex<Client>>;

/// What is known of a large transaction whose end its node's stream has not delivered yet.
#[derive(Clone, Debug, Default)]
pub enum Coming {
    /// There is none.
    #[default]
    Nothing,
    /// So much of it has come.
    Growing(Growing),
    /// All of it has come: it is with the coordinator.
    Ended(Growth),
}

impl Coming {
    /// Which transaction it is.
    pub fn growth(&self) -> Option<&Growth> {
        match self {
            Coming::Nothing => None,
            Coming::Growing(growing) => Some(&growing.growth),
            Coming::Ended(growth) => Some(growth),
        }
    }
}

/// One node, as the tasks of the others see it.
#[derive(Debug)]
pub struct NodeShared {
    /// Which.
    pub id: NodeId,
    /// Its name in the configuration.
    pub name: String,
    /// Rung when something may have become possible at this node.
    pub work: Notify,
    control: Mutex<Option<Arc<Control>>>,
    remover: watch::Sender<Option<Remover>>,
    /// With the nonce of its barrier.
    horizon: Mutex<Option<(u64, Xid)>>,
    pub(super) coming: Mutex<Coming>,
    clock: Mutex<ClockFilter>,
    pub(super) barriers: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    pub(super) demand: watch::Sender<Demand>,
    /// Local transactions delivered, and how many of them when the horizon was asked for.
    pub(super) delivered: AtomicU64,
    pub(super) read_through: AtomicU64,
    drained: AtomicBool,
    /// Its stream has been read again and batches are applied at it.
    applying: AtomicBool,
    /// Somebody wants rows tried again that the node refused.
    retry: AtomicBool,
    /// When the alarm about its clock was last raised, µs since 2000.
    alarmed_at: AtomicI64,
}

impl NodeShared {
    /// A node that is not connected.
    pub fn new(id: NodeId, name: String) -> NodeShared {
        NodeShared {
            id,
            name,
            work: Notify::new(),
            control: Mutex::default(),
            remover: watch::Sender::default(),
            horizon: Mutex::default(),
            coming: Mutex::default(),
            clock: Mutex::default(),
            barriers: Mutex::default(),
            demand: watch::Sender::default(),
            delivered: AtomicU64::new(0),
            read_through: AtomicU64::new(0),
            drained: AtomicBool::new(false),
            applying: AtomicBool::new(false),
            retry: AtomicBool::new(false),
            alarmed_at: AtomicI64::new(i64::MIN / 2),
        }
    }

    /// The control session, while the node is connected.
    pub fn control(&self) -> Option<Arc<Control>> {
        lock(&self.control).clone()
    }

    /// A session for transactions that remove rows: they wait for locks, behind which no barrier may wait. While the node is
    /// connected it is waited for, up to `patience`.
    pub async fn remover(&self, patience: Duration) -> Option<Remover> {
        let patience = if self.control().is_some() { patience } else { Duration::ZERO };
        let mut remover = self.remover.subscribe();
        timeout(patience, remover.wait_for(Option::is_some)).await.ok()?.ok()?.clone()
    }

    /// The node is connected.
    pub fn set_connected(&self, control: Arc<Control>) {
        self.set_disconnected();
        *lock(&self.control) = Some(control);
    }

    /// Rows can be removed there.
    pub fn set_remover(&self, remover: Remover) {
        self.remover.send_replace(Some(remover));
    }

    /// The node is no longer connected. Barriers under way fail.
    pub fn set_disconnected(&self) {
        *lock(&self.control) = None;
        self.applying.store(false, Ordering::Relaxed);
        self.remover.send_replace(None);
        *lock(&self.horizon) = None;
        *lock(&self.coming) = Coming::Nothing;
        lock(&self.barriers).clear();
    }

    /// How its stream is to be read.
    pub fn demand(&self) -> watch::Receiver<Demand> {
        self.demand.subscribe()
    }

    /// Whether its stream is not read on for now.
    pub fn rests(&self) -> bool {
        self.demand.borrow().rests()
    }

    /// X: versions with an older `xmin` are known (R4).
    pub fn horizon(&self) -> Option<Xid> {
        lock(&self.horizon).map(|(_, xmin)| xmin)
    }

    /// The barrier of that nonce has come; one that was asked for later may have come before.
    pub(super) fn move_horizon(&self, nonce: u64, xmin: Xid) {
        let mut horizon = lock(&self.horizon);
        if horizon.is_none_or(|(newest, _)| newest < nonce) {
            *horizon = Some((nonce, xmin));
        }
    }

    /// The large transaction that its stream is delivering.
    pub fn coming(&self) -> Coming {
        lock(&self.coming).clone()
    }

    /// Its clock against ours, as well as it is known now.
    pub fn clock(&self) -> Option<ClockOffset> {
        lock(&self.clock).best(Instant::now())
    }

    /// Takes a measurement of the clock that was just made, and gives what is known of the clock now.
    pub fn measured_clock(&self, measured: ClockOffset) -> ClockOffset {
        lock(&self.clock).take(Instant::now(), measured)
    }

    /// Batches are applied at it from now on, until it is disconnected.
    pub fn set_applying(&self) {
        self.applying.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_applying(&self) -> bool {
        self.applying.load(Ordering::Relaxed)
    }

    /// All that was queued for the node at the end is applied, or can't be.
    pub fn set_drained(&self) {
        self.drained.store(true, Ordering::Relaxed);
    }

    /// See [`NodeShared::set_drained`].
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed) || !self.is_applying() && self.rests()
    }

    /// Has rows tried again soon that the node refused.
    pub fn retry_held(&self) {
        self.retry.store(true, Ordering::Relaxed);
        self.work.notify_one();
    }

    /// Whether somebody has asked for that since the last call.
    pub fn take_retry(&self) -> bool {
        self.retry.swap(false, Ordering::Relaxed)
    }

    /// Whether it is time to say again that the clock is off: once a minute.
    pub fn alarm_due(&self) -> bool {
        const MINUTE: i64 = 60_000_000;
        let (now, last) = (now_micros(), self.alarmed_at.load(Ordering::Relaxed));
        if now - last < MINUTE {
            return false;
        }
        self.alarmed_at.store(now, Ordering::Relaxed);
        true
    }

    /// Whether local transactions came since the horizon was read.
    pub fn horizon_is_stale(&self) -> bool {
        let delivered = self.delivered.load(Ordering::Relaxed);
        delivered > self.read_through.load(Ordering::Relaxed) || self.horizon().is_none()
    }
}
