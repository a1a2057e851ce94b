//! What the tasks of all nodes share: the coordinator, the nodes, barriers, and which streams rest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::apply::error::ApplyError;
use crate::apply::unique::Removed;
use crate::conflict::{Coordinator, Event};
use crate::model::table::Catalog;
use crate::model::{Demand, Link, NodeId};
use crate::node::clock::now_micros;

mod node;

pub use node::{Coming, NodeShared, Remover};

/// Settings of the apply stage.
#[derive(Clone, Debug)]
pub struct ApplySettings {
    /// Changes joined into one batch, at most; a larger transaction is a batch of its own.
    pub batch_changes: u64,
    /// How long a batch may wait for a barrier, or for a function of a rule, before it is rolled back.
    pub barrier_timeout: Duration,
    /// Beyond this skew a batch does not wait for the target's clock.
    pub max_clock_skew: Duration,
    /// A node's stream is not read on while so many changes wait wherever they go.
    pub ample_changes: u64,
}

/// Everything shared.
#[derive(Debug)]
pub struct Shared {
    /// The cluster's name.
    pub cluster: String,
    /// The tables.
    pub catalog: Arc<Catalog>,
    /// Settings.
    pub settings: ApplySettings,
    /// By [`NodeId`].
    pub nodes: Vec<NodeShared>,
    coordinator: Mutex<Coordinator>,
    nonces: AtomicU64,
    removed: Mutex<Removed>,
}

impl Shared {
    /// Nobody is connected yet.
    pub fn new(
        cluster: String,
        catalog: Arc<Catalog>,
        settings: ApplySettings,
        nodes: Vec<NodeShared>,
        coordinator: Coordinator,
    ) -> Shared {
        // Nonces of an earlier run must not be taken for ours.
        let start = now_micros().unsigned_abs() << 8;
        Shared {
            cluster,
            catalog,
            settings,
            nodes,
            coordinator: Mutex::new(coordinator),
            nonces: AtomicU64::new(start >> 1),
            removed: Mutex::default(),
        }
    }

    /// The coordinator; held only for moments, never across an await.
    pub fn coordinator(&self) -> MutexGuard<'_, Coordinator> {
        lock(&self.coordinator)
    }

    /// The losers of unique values that have been removed at their homes.
    pub fn removed(&self) -> MutexGuard<'_, Removed> {
        lock(&self.removed)
    }

    /// The node of that id.
    pub fn node(&self, id: NodeId) -> &NodeShared {
        &self.nodes[id.index()]
    }

    /// A nonce that no other barrier has.
    pub fn nonce(&self) -> u64 {
        self.nonces.fetch_add(1, Ordering::Relaxed)
    }

    /// Hands what a node's stream delivered to the coordinator, in order, then wakes whoever waits for it.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub fn deliver(&self, node: NodeId, events: impl IntoIterator<Item = Event>) -> Result<(), ApplyError> {
        let mut news = 0;
        let (arrived, more_ready) = {
            let mut coordinator = self.coordinator();
            let ready = coordinator.ready_nodes();
            for event in events {
                news += u64::from(matches!(event, Event::Transaction(_)));
                coordinator.deliver(node, event)?;
            }
            (coordinator.take_barriers(), coordinator.ready_nodes() > ready)
        };
        self.node(node).delivered.fetch_add(news, Ordering::Relaxed);
        self.release(arrived);
        if news > 0 || more_ready {
            self.wake_all();
        }
        Ok(())
    }

    /// Tells of a large transaction that the node's stream is delivering; what came before it is with the coordinator.
    pub fn set_coming(&self, node: NodeId, coming: Coming) {
        *lock(&self.node(node).coming) = coming;
        self.wake_all();
    }

    /// Wakes those whose barriers have arrived.
    pub fn release(&self, arrived: Vec<(NodeId, u64)>) {
        for (node, nonce) in arrived {
            if let Some(waiting) = lock(&self.node(node).barriers).remove(&nonce) {
                let _ = waiting.send(());
            }
        }
    }

    /// Something changed that may let any target or stream go on.
    pub fn wake_all(&self) {
        self.weigh_queues();
        self.nodes.iter().for_each(|node| node.work.notify_one());
    }

    /// Has the streams rest of which enough waits, and the others read on: also one that is read again while something waits for its
    /// node, since that is not applied before.
    pub(crate) fn weigh_queues(&self) {
        let coordinator = self.coordinator();
        for node in &self.nodes {
            let others = || self.nodes.iter().filter(|other| other.id != node.id);
            let can_wait = |other: &NodeShared| {
                let link = Link { source: other.id, target: node.id };
                other.is_applying() && coordinator.queued(link) == 0
            };
            let is_down = |other: &NodeShared| other.control().is_none();
            let unfinished = !node.is_applying() && !others().all(is_down);
            let may_rest = !unfinished || others().all(|other| is_down(other) || can_wait(other));
            node.demand.send_if_modified(|demand| {
                let ample = self.settings.ample_changes;
                let ample = if demand.sated { ample / 2 } else { ample };
                let sated = may_rest && coordinator.is_ample(node.id, ample);
                let before = *demand;
                (demand.sated, demand.unfinished) = (sated, unfinished);
                *demand != before
            });
        }
    }

    /// Announces a barrier before its message is sent.
    pub fn expect_barrier(&self, node: NodeId, nonce: u64) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.node(node).barriers).insert(nonce, sender);
        receiver
    }

    /// Waits until everything that the node committed before this call has been decoded, and moves its horizon.
    ///
    /// # Errors
    /// If the node is not connected, or its stream does not deliver in time.
    pub async fn barrier(&self, id: NodeId) -> Result<(), ApplyError> {
        let _hurry = Wanting::new(&self.node(id).demand, |demand| &mut demand.urgent);
        self.barrier_unhurried(id).await
    }

    /// The same for who holds no lock: it is waited for as long, but the stream is read with its pauses.
    ///
    /// # Errors
    /// As [`Shared::barrier`].
    pub async fn barrier_unhurried(&self, id: NodeId) -> Result<(), ApplyError> {
        let limited = tokio::time::timeout(self.settings.barrier_timeout, self.catch_up(id)).await;
        limited.unwrap_or_else(|_| Err(ApplyError::BarrierTimeout(self.node(id).name.clone())))
    }

    /// The same without a limit, for who holds no lock: a stream that lags may have much to read before the barrier.
    ///
    /// # Errors
    /// If the node is not connected.
    pub async fn catch_up(&self, id: NodeId) -> Result<(), ApplyError> {
        let _wanted = Wanting::new(&self.node(id).demand, |demand| &mut demand.barriers);
        self.catch_up_with_rests(id).await
    }

    /// The same for who can wait until enough of what was read before is applied.
    ///
    /// # Errors
    /// If the node is not connected.
    pub async fn catch_up_with_rests(&self, id: NodeId) -> Result<(), ApplyError> {
        let node = self.node(id);
        let control = node
            .control()
            .ok_or_else(|| ApplyError::NodeDown { node: node.name.clone(), what: "a barrier in its stream".into() })?;
        let nonce = self.nonce();
        let arrival = self.expect_barrier(id, nonce);
        let _forget = Forget { node, nonce };
        let delivered = node.delivered.load(Ordering::Relaxed);
        let (xmin, _) = control.barrier(nonce).await?;
        arrival.await.map_err(|_| ApplyError::BarrierTimeout(node.name.clone()))?;
        node.move_horizon(nonce, xmin);
        node.read_through.fetch_max(delivered, Ordering::Relaxed);
        Ok(())
    }

    /// Apply-wait (R2): returns once the target's clock is past `latest` (µs since 2000), or at once where the
    /// clocks are further apart than the setting allows.
    pub async fn wait_for_clock(&self, target: NodeId, latest: i64) {
        let Some(clock) = self.node(target).clock() else { return };
        let behind = latest - (now_micros() + clock.micros - clock.uncertainty);
        let most = i64::try_from(self.settings.max_clock_skew.as_micros()).unwrap_or(i64::MAX);
        if (0..=most).contains(&behind) {
            tokio::time::sleep(Duration::from_micros(behind.unsigned_abs() + 1)).await;
        }
    }
}

/// Somebody wants something of a stream, of which it is counted how many do.
struct Wanting<'a> {
    demand: &'a watch::Sender<Demand>,
    count: fn(&mut Demand) -> &mut usize,
}

impl Wanting<'_> {
    fn new(demand: &watch::Sender<Demand>, count: fn(&mut Demand) -> &mut usize) -> Wanting<'_> {
        demand.send_modify(|demand| *count(demand) += 1);
        Wanting { demand, count }
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.demand.send_modify(|demand| *(self.count)(demand) -= 1);
    }
}

/// Whoever waited for a barrier waits no longer.
struct Forget<'a> {
    node: &'a NodeShared,
    nonce: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.node.barriers).remove(&self.nonce);
    }
}

/// Locks even what a panicking task left: everything that is guarded here is replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::model::key::KeyHasher;
    use crate::model::{Cut, Lsn, Resolvers};

    #[test]
    fn whoever_becomes_ready_is_woken_by_a_position_too() {
        let (east, west) = (NodeId(0), NodeId(1));
        let start = Cut::at(vec![Lsn(1), Lsn(1)]);
        let mut coordinator = Coordinator::new(start, Resolvers::new(Vec::new()));
        coordinator.set_progress(Link { source: east, target: west }, Lsn(1));
        coordinator.set_progress(Link { source: west, target: east }, Lsn(9)); // more than has been read again
        [east, west].into_iter().try_for_each(|node| coordinator.rebuilt(node)).unwrap();
        let settings = ApplySettings {
            batch_changes: 1,
            barrier_timeout: Duration::from_secs(1),
            max_clock_skew: Duration::from_secs(1),
            ample_changes: u64::MAX,
        };
        let nodes = [east, west].map(|id| NodeShared::new(id, id.0.to_string())).into();
        let catalog = Arc::new(Catalog::new(Vec::new(), KeyHasher::with_seed(0)));
        let shared = Shared::new("shop".to_owned(), catalog, settings, nodes, coordinator);
        let woken = || [east, west].map(|id| shared.node(id).work.notified().now_or_never().is_some());
        shared.deliver(west, [Event::Position(Lsn(8))]).unwrap();
        assert_eq!(woken(), [false, false]);
        shared.deliver(west, [Event::Position(Lsn(9))]).unwrap();
        assert_eq!(woken(), [true, true]);
        shared.deliver(west, [Event::Position(Lsn(10))]).unwrap();
        assert_eq!(woken(), [false, false]);
    }
}
