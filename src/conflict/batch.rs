//! Batches: what a link applies next, what each key is to become, and how the batch ended.

use std::io;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::conflict::coordinator::{Coordinator, InFlight, LinkState, Standing};
use crate::conflict::marks::Mark;
use crate::conflict::window::{ChangeRef, KeyMap, KeySet, Seq};
use crate::model::{Deciding, KeyId, Link, Lsn, NodeId, TableId, TouchKind, Transaction};

/// Consecutive transactions of one link, to be applied as one.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The link.
    pub link: Link,
    /// Number of the first transaction.
    pub first: Seq,
    /// The transactions; none if the batch only moves the progress row.
    pub transactions: Vec<Arc<Transaction>>,
    /// For each transaction a number that changes when its author's node had applied something since the one before.
    pub views: Vec<u64>,
    /// Progress before.
    pub start_lsn: Lsn,
    /// Progress afterwards.
    pub end_lsn: Lsn,
}

impl Batch {
    /// The number after the last transaction.
    pub fn end(&self) -> Seq {
        self.first + self.transactions.len() as Seq
    }

    /// How many changes its transactions have together.
    pub fn changes(&self) -> u64 {
        self.transactions.iter().map(|transaction| transaction.changes).sum()
    }
}

/// What is to become of one key at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The batch's last change of the key.
    pub incoming: ChangeRef,
    /// The change whose value the key has now, if it is in the window and certain.
    pub before: Option<ChangeRef>,
    /// The newest change that was made at the target itself; `None` also where nobody asked.
    pub local: Option<ChangeRef>,
    /// The change whose value it must have.
    pub winner: ChangeRef,
    /// The change present that conflicts with the incoming one.
    pub rival: Option<ChangeRef>,
    /// The value must be written.
    pub write: bool,
    /// Which of the table's cases decided.
    pub by: Deciding,
}

/// What a truncation meets at one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Survivor {
    /// The key.
    pub key: KeyId,
    /// The change that put a row which the truncation's author had not seen.
    pub rival: Option<ChangeRef>,
    /// The change whose value must come out.
    pub outcome: ChangeRef,
    /// The change whose value the key has now, if that is certain.
    pub standing: Option<ChangeRef>,
    /// Which of the table's cases decided.
    pub by: Deciding,
}

impl Coordinator {
    /// The next batch of the link: at most about `changes` changes, at least one transaction. `None` if nothing
    /// waits, a batch is in flight, or the target is not ready.
    pub fn plan(&mut self, link: Link, changes: u64) -> Option<Batch> {
        if !self.is_ready(link.target) {
            return None;
        }
        let state = self.link(link);
        if state.in_flight.is_some() {
            return None;
        }
        let (first, start_lsn) = (state.cursor, state.applied);
        let batch = self.joined(link, first, start_lsn, changes)?;
        self.take_off(&batch);
        Some(batch)
    }

    /// What [`Coordinator::plan`] will answer when the batch in flight has been applied, if nothing happens meanwhile; it is not in
    /// flight. `None` unless that has `least` changes or more, and no more than `changes`.
    pub fn foresee(&self, link: Link, least: u64, changes: u64) -> Option<Batch> {
        let InFlight { end, end_lsn, .. } = self.link(link).in_flight.as_ref()?;
        let batch = self.joined(link, *end, *end_lsn, changes)?;
        (least..=changes).contains(&batch.changes()).then_some(batch)
    }

    /// Transactions from number `first` on: at most about `changes` changes, at least one transaction.
    fn joined(&self, link: Link, first: Seq, start_lsn: Lsn, changes: u64) -> Option<Batch> {
        let mut count = 0;
        let (mut transactions, mut views) = (Vec::new(), Vec::new());
        let mut last_seen: Option<&[Lsn]> = None;
        while let Some(logged) = self.window.log(link.source).get(first + transactions.len() as Seq) {
            count += logged.transaction.changes;
            if !transactions.is_empty() && (count > changes || logged.transaction.misfit().is_some()) {
                break; // what comes before a transaction that can't be written is not held up by it
            }
            transactions.push(logged.transaction.clone());
            let changed = last_seen.is_some_and(|before| !alike_but_for(link.source, before, &logged.seen));
            views.push(views.last().copied().unwrap_or(0) + u64::from(changed));
            last_seen = Some(&logged.seen);
        }
        let end_lsn = transactions.last()?.end_lsn;
        Some(Batch { link, first, transactions, views, start_lsn, end_lsn })
    }

    /// A batch without transactions that brings the progress row to where the source has nothing to apply;
    /// `None` unless that moves it by at least `bytes`.
    pub fn plan_progress(&mut self, link: Link, bytes: u64) -> Option<Batch> {
        let through = self.applied_through(link.source, link.target);
        let state = self.link(link);
        let idle = self.window.log(link.source).end() == state.cursor;
        if !idle || state.in_flight.is_some() || through.bytes_since(state.applied) < bytes.max(1) {
            return None;
        }
        if !self.is_ready(link.target) {
            return None;
        }
        let (first, start_lsn) = (state.cursor, state.applied);
        let batch = Batch { link, first, transactions: Vec::new(), views: Vec::new(), start_lsn, end_lsn: through };
        self.take_off(&batch);
        Some(batch)
    }

    /// A batch that changes neither rows of its own nor progress: the frame of a reopened decision.
    pub fn plan_reopen(&mut self, link: Link) -> Option<Batch> {
        let state = self.link(link);
        if state.in_flight.is_some() || !self.is_ready(link.target) {
            return None;
        }
        let (first, applied) = (state.cursor, state.applied);
        let batch =
            Batch { link, first, transactions: Vec::new(), views: Vec::new(), start_lsn: applied, end_lsn: applied };
        self.take_off(&batch);
        Some(batch)
    }

    /// Whether statements of a transaction that still comes over the link may go ahead: it would be the next one to apply, and
    /// nothing at the target waits to be applied or decided. `commit_lsn` is 0/0 where it is not known.
    pub fn may_go_ahead(&self, link: Link, commit_lsn: Lsn) -> bool {
        let decoded = self.window.log(link.source).decoded;
        if commit_lsn > Lsn::ZERO && commit_lsn < decoded {
            return false; // read again after a reconnect
        }
        let mut inbound = self.all_links().into_iter().filter(|inbound| inbound.target == link.target);
        let is_idle = inbound.all(|inbound| self.queued(inbound) == 0 && self.link(inbound).in_flight.is_none());
        self.is_ready(link.target) && is_idle && self.has_nothing_open(link.target)
    }

    /// Whether no key waits to be decided again at the node, none is held there, and no truncation is known.
    fn has_nothing_open(&self, node: NodeId) -> bool {
        let (reopened, held) = (&self.reopened[node.index()], &self.held[node.index()]);
        reopened.is_empty() && held.is_empty() && self.window.truncates().next().is_none()
    }

    /// A batch of what has come of the link's next transaction, for its statements only: it is not in flight.
    pub fn beginning(&self, link: Link, so_far: Arc<Transaction>) -> Batch {
        let LinkState { cursor, applied, .. } = self.link(link);
        let (first, start_lsn, end_lsn) = (*cursor, *applied, *applied);
        Batch { link, first, transactions: vec![so_far], views: vec![0], start_lsn, end_lsn }
    }

    /// Whether of all keys that the first transaction of the batch in flight touches below that offset
    /// [`Coordinator::decide_alone`] would say that no other node has changed them. Where many keys are contested nobody looks.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn is_alone_up_to(&self, link: Link, offset: u64) -> io::Result<bool> {
        const MOST_LOOKED_AT: usize = 10_000;
        if !self.has_nothing_open(link.target) {
            return Ok(false);
        }
        let contested: Vec<KeyId> = self.window.contested().take(MOST_LOOKED_AT + 1).collect();
        if contested.len() > MOST_LOOKED_AT {
            return Ok(false);
        }
        let first = self.link(link).cursor;
        for key in contested {
            let history = self.window.indexed(key)?;
            if history.of(link.source).iter().any(|change| change.seq == first && change.offset() < offset) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take_off(&mut self, batch: &Batch) {
        self.link_mut(batch.link).in_flight =
            Some(InFlight { end: batch.end(), end_lsn: batch.end_lsn, suspects: KeyMap::default(), again: None });
    }

    /// The decision about a key that no other node has changed, which needs no look at its history: `own` comes out,
    /// a change of the batch in flight. `None` where the history must be asked.
    pub fn decide_alone(&mut self, link: Link, table: TableId, key: KeyId, own: ChangeRef) -> Option<Decision> {
        let waits = self.reopened[link.target.index()].contains_key(&key);
        if waits || !self.writes_whole(table, key) {
            return None;
        }
        if let Some(batch) = &mut self.link_mut(link).in_flight {
            batch.suspects.remove(&key);
        }
        Some(Decision {
            incoming: own,
            before: None,
            local: None,
            winner: own,
            rival: None,
            write: true,
            by: Deciding::default(),
        })
    }

    /// Whether the row of a key is written as its last change left it, with no look at its history: no other node has changed
    /// it, and none of its columns may differ from what another node has.
    pub fn writes_whole(&self, table: TableId, key: KeyId) -> bool {
        let differs = || self.resolvers.merge(table).is_some_and(|merge| merge.diverges());
        self.window.is_uncontested(table, key) && !differs()
    }

    /// What the batch in flight makes of one key at its target, by all that is known now.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    ///
    /// # Panics
    /// If no batch of the link is in flight or it has no change of the key.
    pub fn decide(&mut self, link: Link, table: TableId, key: KeyId) -> io::Result<Decision> {
        let waits = self.reopened[link.target.index()].contains_key(&key);
        let batch = self.link_mut(link).in_flight.as_mut().expect("decisions are asked for a batch in flight");
        batch.suspects.remove(&key);
        let end = batch.end;
        let history = self.window.history(table, key)?;
        let mut present = self.present(link.target);
        let before = self.standing_of(link.target, table, &history, &present)?.certain();
        let local = history.latest(link.target, present[link.target.index()]);
        let here = history.maximal(&self.window, &present);
        present[link.source.index()] = end;
        let incoming = history.latest(link.source, end).expect("the batch changes the key");
        let (winner, by) = self.decided(link.target, table, &history, &present)?;
        let winner = winner.expect("the batch's change is present");
        let reach = history.reach(&self.window, incoming);
        let superseded = |change: &ChangeRef| {
            change.source != incoming.source
                && history.reach(&self.window, *change)[incoming.source.index()] > incoming.seq
        };
        let rivals: SmallVec<[ChangeRef; 4]> = here
            .iter()
            .filter(|change| change.source != incoming.source && change.seq >= reach[change.source.index()])
            .copied()
            .collect();
        let rival = if here.iter().any(superseded) {
            None
        } else {
            before.filter(|before| rivals.contains(before)).or_else(|| self.latest_stamp(&rivals))
        };
        let decision = Decision { incoming, before, local, winner, rival, write: waits || before != Some(winner), by };
        // What decide_alone relies on.
        debug_assert!(
            !self.window.is_uncontested(table, key) || (winner == incoming && rival.is_none() && decision.write)
        );
        Ok(decision)
    }

    /// Whether the author of `change` had applied a change of the key that is still on its way to the target of the
    /// batch in flight: then a row that is missing there is no conflict (R8).
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn is_ahead(&self, link: Link, table: TableId, key: KeyId, change: ChangeRef) -> io::Result<bool> {
        let history = self.window.history(table, key)?;
        let reach = history.reach(&self.window, change);
        let present = self.present(link.target);
        let missing = |source: NodeId| {
            let seen = history.latest(source, reach[source.index()]);
            source != change.source && seen.is_some_and(|seen| seen.seq >= present[source.index()])
        };
        Ok(self.nodes().any(missing))
    }

    /// The change of the key whose record begins at `offset` of that transaction.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn find_change(
        &self,
        table: TableId,
        key: KeyId,
        source: NodeId,
        place: (Seq, u64),
    ) -> io::Result<Option<ChangeRef>> {
        let history = self.window.history(table, key)?;
        Ok(history.of(source).iter().rfind(|change| (change.seq, change.offset()) == place).copied())
    }

    /// The change whose value the author of `change` had before it, if that is in the window and certain.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn predecessor(&self, table: TableId, key: KeyId, change: ChangeRef) -> io::Result<Option<ChangeRef>> {
        let history = self.window.history(table, key)?;
        if let Some(same) = history.before_in_transaction(change) {
            return Ok(Some(same));
        }
        let found = self.standing_of(change.source, table, &history, &history.reach(&self.window, change))?;
        Ok(found.certain().filter(|_| self.window.saw_all_forgotten(change)))
    }

    /// Whether the key has at the node what the author of `change` had before it.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn has_predecessor(&self, node: NodeId, table: TableId, key: KeyId, change: ChangeRef) -> io::Result<bool> {
        let history = self.window.history(table, key)?;
        let present = self.present(node);
        let standing = self.standing_of(node, table, &history, &present)?;
        if let Some(same) = history.before_in_transaction(change) {
            return Ok(standing.certain() == Some(same));
        }
        if !self.window.saw_all_forgotten(change) {
            return Ok(false);
        }
        // What is forgotten is present everywhere, and the author had it, too.
        let reach = history.reach(&self.window, change);
        let alike = |source: NodeId| {
            history.latest(source, present[source.index()]) == history.latest(source, reach[source.index()])
        };
        if self.resolvers.rule(table).diverges() {
            return Ok(false); // the same changes are another row at another node
        }
        let before = self.standing_of(change.source, table, &history, &reach)?;
        Ok(self.nodes().all(alike) || before.is_certain && standing.is_certain && before.change == standing.change)
    }

    /// The change whose value a key has at the node.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn standing(&self, node: NodeId, table: TableId, key: KeyId) -> io::Result<Standing> {
        self.standing_of(node, table, &self.window.history(table, key)?, &self.present(node))
    }

    /// The change of a row that is found at the target while a batch of the link is written there: what stood before, or
    /// where that is a delete what the batch has made of it since. None where both say that there is no row: then the
    /// batch has brought it back, over a delete that had not come to light.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn standing_during(&self, link: Link, table: TableId, key: KeyId) -> io::Result<Option<ChangeRef>> {
        let before = self.standing(link.target, table, key)?.change;
        let is_delete = |change: &ChangeRef| change.kind() == TouchKind::Delete;
        if !before.is_some_and(|change| is_delete(&change)) || self.held(link.target, key).is_some() {
            return Ok(before); // a node that refuses a delete has the row still
        }
        let mut present = self.present(link.target);
        if let Some(batch) = &self.link(link).in_flight {
            present[link.source.index()] = batch.end;
        }
        let after = self.outcome(link.target, table, &self.window.history(table, key)?, &present)?;
        Ok(after.filter(|change| !is_delete(change)))
    }

    /// The newest change of the key that was made at the node.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn newest_at(&self, node: NodeId, table: TableId, key: KeyId) -> io::Result<Option<ChangeRef>> {
        Ok(self.window.history(table, key)?.of(node).last().copied())
    }

    /// Whether what stands under a key at a node is certainly another change than the node's own one that committed at
    /// `lsn`, or than one that is forgotten.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn has_moved_on(&self, node: NodeId, table: TableId, key: KeyId, lsn: Option<Lsn>) -> io::Result<bool> {
        let commit = |change: ChangeRef| self.window.transaction(change).transaction.commit_lsn;
        // Its own later change supersedes it, whatever is forgotten of others; and what is forgotten itself has been decided
        // about everywhere.
        if self.newest_at(node, table, key)?.map(commit) != lsn {
            return Ok(true);
        }
        let standing = self.standing(node, table, key)?.certain().filter(|_| !self.is_reopened(node, key));
        Ok(standing.is_some_and(|change| change.source != node || Some(commit(change)) != lsn))
    }

    /// What a truncation of `table` at `place` of the batch in flight meets: each key of the table in the window
    /// that another change present at the target touched, with what must come out (R15).
    ///
    /// # Errors
    /// If the keys or changes of a spilled transaction can't be read.
    pub fn survivors(&self, link: Link, table: TableId, place: (Seq, u64)) -> io::Result<Vec<Survivor>> {
        let before = self.present(link.target);
        let mut present = before.clone();
        // Later changes of the batch count too: where one of them supersedes the truncation but loses to a row that
        // stands, the decision about it writes nothing, so that row must not have gone.
        present[link.source.index()] = self.link(link).in_flight.as_ref().map_or(place.0 + 1, |batch| batch.end);
        let mut keys = KeySet::default();
        for source in self.nodes().filter(|source| *source != link.source) {
            let log = self.window.log(source);
            for logged in (log.first()..present[source.index()]).filter_map(|seq| log.get(seq)) {
                logged.transaction.each_key_of(table, |key| {
                    keys.insert(key);
                })?;
            }
        }
        let mut met = Vec::new();
        for key in keys {
            let history = self.window.history(table, key)?;
            let standing = self.standing_of(link.target, table, &history, &before)?.certain();
            let (Some(outcome), by) = self.decided(link.target, table, &history, &present)? else { continue };
            let own = history.of(link.source).iter().rfind(|change| (change.seq, change.offset()) == place).copied();
            let maximal = history.maximal(&self.window, &before);
            let rival = own.and_then(|own| {
                let apart = |change: &&ChangeRef| {
                    change.kind() == TouchKind::Put && history.concurrent(&self.window, **change, own)
                };
                self.latest_stamp(&maximal.iter().filter(apart).copied().collect::<Vec<_>>())
            });
            met.push(Survivor { key, rival, outcome, standing, by });
        }
        Ok(met)
    }

    /// COMMIT is about to be sent.
    pub fn commit_begins(&mut self, link: Link) {
        self.committing[link.target.index()] += 1;
    }

    /// The batch in flight has committed; its commit record ends at `at` in the target's WAL. Call after
    /// [`Coordinator::commit_begins`].
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn committed(&mut self, link: Link, at: Lsn) -> io::Result<()> {
        let state = self.link_mut(link);
        let batch = state.in_flight.take().expect("a batch that commits is in flight");
        state.cursor = batch.end;
        state.applied = batch.end_lsn;
        self.marks[link.target.index()].add(link.source, Mark { at, applied: batch.end_lsn });
        for (key, (table, since)) in batch.suspects {
            self.reopen(link.target, table, key, since);
        }
        // Before the local changes that waited come in: those that lie after the commit are no reason to decide again.
        if let Some((key, reason)) = batch.again {
            self.reopen_done(link.target, key, reason, at);
        }
        self.release(link.target)
    }

    /// The batch in flight was rolled back before COMMIT was sent.
    pub fn aborted(&mut self, link: Link) {
        self.link_mut(link).in_flight = None;
    }

    /// The server answered the COMMIT that [`Coordinator::commit_begins`] announced by rolling back.
    ///
    /// # Errors
    /// If the keys of a spilled transaction can't be read.
    pub fn commit_failed(&mut self, link: Link) -> io::Result<()> {
        self.aborted(link);
        self.release(link.target)
    }

    fn release(&mut self, node: NodeId) -> io::Result<()> {
        let committing = &mut self.committing[node.index()];
        *committing = committing.saturating_sub(1);
        while self.committing[node.index()] == 0
            && let Some(event) = self.waiting[node.index()].pop_front()
        {
            self.admit(node, event)?;
        }
        Ok(())
    }
}

/// Whether two authors at `source` had seen the same of every other node.
fn alike_but_for(source: NodeId, a: &[Lsn], b: &[Lsn]) -> bool {
    a.iter().zip(b).enumerate().all(|(node, (a, b))| node == source.index() || a == b)
}
