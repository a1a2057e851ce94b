//! A transaction is written at a target while its end is still to come, as the worker does it for large ones.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::apply::batch::Pieces;
use crate::apply::net::{self, Folded, Plain};
use crate::conflict::Batch;
use crate::model::{Link, Lsn, NodeId, Resolvers, Transaction, Xid};
use crate::simulate::Mutation;
use crate::simulate::node::{Done, Guard};
use crate::simulate::rows::{Key, Row};
use crate::simulate::wal::Kind;
use crate::simulate::world::{World, tell};

/// What is written, or about to be, of a transaction that has not been delivered.
#[derive(Debug)]
pub struct Ahead {
    link: Link,
    transaction: Arc<Transaction>,
    /// Its transaction there.
    pub xid: Xid,
    resolvers: Arc<Resolvers>,
    todo: VecDeque<(Key, Write)>,
    /// The keys that are written.
    pub written: Vec<Key>,
    /// Where what is not written ahead begins.
    pub offset: u64,
}

#[derive(Clone, Copy, Debug)]
enum Write {
    Delete,
    Insert(Row),
    Update(Row),
}

impl World {
    /// Begins to write ahead at the node, or goes on. Whether it did something.
    ///
    /// # Errors
    /// If a change can't be read.
    pub(super) fn step_ahead(&mut self, target: NodeId) -> io::Result<bool> {
        let Some(mut ahead) = self.aheads[target.index()].take() else {
            return Ok(self.settings.ahead && self.random.permille(500) && self.begin_ahead(target)?);
        };
        if self.random.permille(15) {
            self.aheads[target.index()] = Some(ahead);
            self.drop_ahead(target);
            return Ok(true);
        }
        let Some((key, write)) = ahead.todo.front().copied().filter(|_| self.random.permille(850)) else {
            self.aheads[target.index()] = Some(ahead);
            return Ok(false);
        };
        let guard = Guard::Known { horizon: self.horizon(target), decoded: None };
        let node = &mut self.nodes[target.index()];
        let done = match write {
            Write::Delete => node.delete(ahead.xid, key, guard),
            Write::Insert(row) => node.insert(ahead.xid, key, row),
            Write::Update(row) => node.update(ahead.xid, key, key, guard, |_| row),
        };
        tell!(self, "n{}: x{} ahead: {write:?} of {key}: {done:?}", target.0, ahead.xid);
        if done == Done::Written {
            ahead.todo.pop_front();
            ahead.written.push(key);
        }
        self.aheads[target.index()] = Some(ahead);
        if !matches!(done, Done::Written | Done::Blocked(_)) {
            self.drop_ahead(target);
        }
        Ok(true)
    }

    /// Rolls back what is written ahead at the node.
    pub(super) fn drop_ahead(&mut self, target: NodeId) {
        if let Some(ahead) = self.aheads[target.index()].take() {
            tell!(self, "n{}: x{} is not written ahead", target.0, ahead.xid);
            self.nodes[target.index()].roll_back(ahead.xid);
        }
    }

    fn begin_ahead(&mut self, target: NodeId) -> io::Result<bool> {
        let source = NodeId(self.random.below(self.nodes.len()) as u8);
        let link = Link { source, target };
        let connected = |node: NodeId| self.daemon.streams[node.index()].connected;
        if source == target || !connected(source) || !connected(target) {
            return Ok(false);
        }
        let Some(transaction) = self.coming(source) else { return Ok(false) };
        let known = if self.random.permille(500) { transaction.commit_lsn } else { Lsn::ZERO };
        if !self.daemon.coordinator.may_go_ahead(link, known) {
            return Ok(false);
        }
        let batch = self.daemon.coordinator.beginning(link, transaction.clone());
        let mut pieces = Pieces::from(&batch, 1 + self.random.below(4) as u64, 0);
        let Some(folded) = pieces.next(self.schema.hasher())? else { return Ok(false) };
        let resolvers = self.daemon.coordinator.resolvers().clone();
        let Some(todo) = self.plan_ahead(&folded, &resolvers)?.filter(|_| !self.must_wait(&batch)) else {
            return Ok(false);
        };
        let offset = pieces.reached();
        let xid = self.nodes[target.index()].begin();
        tell!(self, "n{}: x{xid} goes ahead with n{} {}", target.0, source.0, transaction.commit_lsn);
        self.aheads[target.index()] =
            Some(Ahead { link, transaction, xid, resolvers, todo, written: Vec::new(), offset });
        Ok(true)
    }

    /// A transaction of which changes may have been sent: the keys that it changes nobody changed in what has not been
    /// delivered of the log before it, for else those changes lie behind that.
    fn coming(&mut self, source: NodeId) -> Option<Arc<Transaction>> {
        let skipped = self.random.below(3);
        let mut undelivered = self.undelivered(source);
        let before: Vec<_> = undelivered.by_ref().take(skipped).collect();
        let entry = undelivered.next()?;
        let Kind::Local(transaction) = &entry.kind else { return None };
        let changes = |key: &Key| entry.redo.iter().any(|(changed, _)| changed == key);
        let apart = before.iter().flat_map(|entry| &entry.redo).all(|(key, _)| !changes(key));
        apart.then(|| transaction.clone())
    }

    fn plan_ahead(&self, folded: &Folded, resolvers: &Resolvers) -> io::Result<Option<VecDeque<(Key, Write)>>> {
        let mut todo = VecDeque::new();
        for net in &folded.nets {
            let Some(plain) = net.plain().filter(|_| resolvers.merge(net.table.id).is_none()) else { return Ok(None) };
            let whole = |row: &net::Row| self.schema.sent(&row.tuple).map(|sent| sent.body.map(|body| sent.with(body)));
            let key = self.schema.key_of(net.table.id, &net.key_row.tuple)?;
            let write = match plain {
                Plain::Delete => Some(Write::Delete),
                Plain::Insert(row) => whole(row)?.map(Write::Insert),
                Plain::Update(row) => whole(row)?.map(Write::Update),
            };
            let Some(write) = write else { return Ok(None) };
            todo.push_back((key, write));
        }
        Ok(folded.truncations.is_empty().then_some(todo))
    }

    /// What the batch takes over of what is written ahead at its target. Whatever else is written ahead there is rolled back.
    ///
    /// # Errors
    /// If the coordinator has one.
    pub(super) fn take_over(&mut self, batch: &Batch) -> io::Result<Option<Ahead>> {
        let target = batch.link.target;
        let Some(ahead) = &self.aheads[target.index()] else { return Ok(None) };
        let is_this = |first: &Arc<Transaction>| Arc::ptr_eq(first, &ahead.transaction);
        let coordinator = &self.daemon.coordinator;
        let stands = ahead.link == batch.link
            && ahead.todo.is_empty()
            && batch.transactions.first().is_some_and(is_this)
            && Arc::ptr_eq(&ahead.resolvers, coordinator.resolvers())
            && (self.settings.mutation == Some(Mutation::AheadUnasked)
                || coordinator.is_alone_up_to(batch.link, ahead.offset)?);
        if !stands {
            self.drop_ahead(target);
            return Ok(None);
        }
        self.taken_over += 1;
        Ok(self.aheads[target.index()].take())
    }
}
