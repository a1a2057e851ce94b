//! All changes that are not stable yet, by key (R4, R5).
//!
//! Each source's transactions stand in a log in commit order; an index finds the changes of a key. Keys of large
//! transactions are not indexed one by one: their sorted runs are searched in place.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::conflict::history::{History, Lists};
use crate::model::run::Run;
use crate::model::{KeyId, Lsn, NodeId, TableId, Touch, TouchKind, Touches, Transaction};

/// A transaction by its number in its source's log; numbers count from the start of this process.
pub type Seq = u64;

/// One change of one key, by its place; ordered by place within a source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChangeRef {
    /// The transaction's number in the log of its source.
    pub seq: Seq,
    /// Offset of the record and kind of the change, as [`Touch::pack`] makes it.
    word: u64,
    /// The source.
    pub source: NodeId,
}

impl ChangeRef {
    fn new(source: NodeId, seq: Seq, word: u64) -> ChangeRef {
        ChangeRef { source, seq, word }
    }

    /// The change of `source` whose record begins at `offset` of transaction `seq`.
    pub fn at(source: NodeId, (seq, offset): (Seq, u64), kind: TouchKind) -> ChangeRef {
        ChangeRef::new(source, seq, Touch { key: KeyId([0, 0]), offset, kind }.pack())
    }

    /// Where the change's record begins in its transaction's payload.
    pub fn offset(self) -> u64 {
        Touch::unpack(KeyId([0, 0]), self.word).offset
    }

    /// Whether there is a row afterwards.
    pub fn kind(self) -> TouchKind {
        Touch::unpack(KeyId([0, 0]), self.word).kind
    }
}

/// A transaction in the window, with what its author had seen.
#[derive(Debug)]
pub struct Logged {
    /// The transaction.
    pub transaction: Arc<Transaction>,
    /// For each node the position below which its changes had been applied at the source when it committed.
    pub seen: Box<[Lsn]>,
    /// What all before it in the log weigh, those that are forgotten included; see [`weight`].
    before: u64,
}

/// How many changes a transaction counts as among those that wait: of one with more than this the rest is on disk.
const HEAVIEST: u64 = 1_000;

fn weight(transaction: &Transaction) -> u64 {
    transaction.changes.min(HEAVIEST)
}

/// One source's transactions that are not stable yet, in commit order.
#[derive(Debug, Default)]
pub struct SourceLog {
    first: Seq,
    entries: VecDeque<Logged>,
    /// Where the last transaction that is forgotten ended, or later.
    forgotten: Lsn,
    /// Everything that committed at the source before this has been decoded.
    pub decoded: Lsn,
    /// What all that came weigh.
    weight: u64,
}

impl SourceLog {
    /// How many changes the transactions from that number on have; a large one counts as a thousand.
    pub fn changes_from(&self, seq: Seq) -> u64 {
        self.get(seq).map_or(0, |logged| self.weight - logged.before)
    }

    /// The number that the next transaction will get.
    pub fn end(&self) -> Seq {
        self.first + self.entries.len() as Seq
    }

    /// The number of the oldest transaction held.
    pub fn first(&self) -> Seq {
        self.first
    }

    /// Where the last transaction that is forgotten ended, or later.
    pub fn forgotten(&self) -> Lsn {
        self.forgotten
    }

    /// The transaction of that number, if it is still held.
    pub fn get(&self, seq: Seq) -> Option<&Logged> {
        self.entries.get(usize::try_from(seq.checked_sub(self.first)?).ok()?)
    }

    /// The number of the first transaction whose commit record begins at or after `lsn`.
    pub fn seq_at(&self, lsn: Lsn) -> Seq {
        self.first + self.entries.partition_point(|logged| logged.transaction.commit_lsn < lsn) as Seq
    }

    /// The number of the first transaction that ends after `lsn`.
    pub fn seq_ended_by(&self, lsn: Lsn) -> Seq {
        self.first + self.entries.partition_point(|logged| logged.transaction.end_lsn <= lsn) as Seq
    }

    /// The transactions held, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Logged> {
        self.entries.iter()
    }
}

/// The identity: keys are hashes already.
#[derive(Default)]
pub struct KeyHash(u64);

impl Hasher for KeyHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only KeyId is hashed, which writes one u64")
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// A set of keys.
pub type KeySet = HashSet<KeyId, BuildHasherDefault<KeyHash>>;
/// A map by key.
pub type KeyMap<V> = HashMap<KeyId, V, BuildHasherDefault<KeyHash>>;

/// The changes of one key in the index: mostly there is one.
#[derive(Debug)]
enum Refs {
    One(ChangeRef),
    /// A list a source, in order.
    Many(Box<[VecDeque<ChangeRef>]>),
}

impl Refs {
    fn push(&mut self, change: ChangeRef, nodes: usize) {
        if let Refs::One(first) = *self {
            let mut lists = vec![VecDeque::new(); nodes].into_boxed_slice();
            lists[first.source.index()].push_back(first);
            *self = Refs::Many(lists);
        }
        if let Refs::Many(lists) = self {
            lists[change.source.index()].push_back(change);
        }
    }

    /// Forgets the changes of `source` before `first`; whether any of any source is left.
    fn forget(&mut self, source: NodeId, first: Seq) -> bool {
        match self {
            Refs::One(change) => change.source != source || change.seq >= first,
            Refs::Many(lists) => {
                let list = &mut lists[source.index()];
                while list.front().is_some_and(|change| change.seq < first) {
                    list.pop_front();
                }
                lists.iter().any(|list| !list.is_empty())
            }
        }
    }
}

/// The window.
#[derive(Debug)]
pub struct Window {
    logs: Vec<SourceLog>,
    index: KeyMap<Refs>,
    /// Keys that more than one source changed.
    contested: KeySet,
    /// Keys in the index of which a change is or was a delete.
    deleted: KeySet,
    /// Transactions whose keys are searched in their own runs.
    large: Vec<(NodeId, Seq, Arc<Transaction>)>,
    truncates: BTreeMap<TableId, Vec<ChangeRef>>,
}

impl Window {
    /// An empty window over `nodes` sources; source `i` has been decoded up to `decoded[i]`.
    pub fn new(decoded: &[Lsn]) -> Window {
        Window {
            logs: decoded
                .iter()
                .map(|&decoded| SourceLog { decoded, forgotten: decoded, ..SourceLog::default() })
                .collect(),
            index: KeyMap::default(),
            contested: KeySet::default(),
            deleted: KeySet::default(),
            large: Vec::new(),
            truncates: BTreeMap::new(),
        }
    }

    /// The log of a source.
    pub fn log(&self, source: NodeId) -> &SourceLog {
        &self.logs[source.index()]
    }

    /// The number of nodes.
    pub fn nodes(&self) -> usize {
        self.logs.len()
    }

    /// The number of keys in the index; keys of large transactions are not counted.
    pub fn keys(&self) -> usize {
        self.index.len()
    }

    /// The transaction of a change that is in the window.
    pub fn transaction(&self, change: ChangeRef) -> &Logged {
        self.log(change.source).get(change.seq).expect("a change in hand is held by the window until it is stable")
    }

    /// Whether the author of `later` had applied `earlier`, of another source, when he committed.
    pub fn had(&self, later: ChangeRef, earlier: ChangeRef) -> bool {
        let seen = self.transaction(later).seen[earlier.source.index()];
        earlier.seq < self.log(earlier.source).seq_at(seen)
    }

    /// Whether the author of `change` had seen every change that is forgotten: then none of them can stand where
    /// `change` is present.
    pub fn saw_all_forgotten(&self, change: ChangeRef) -> bool {
        let seen = &self.transaction(change).seen;
        let mut others = self.nodes_but(change.source);
        others.all(|other| seen[other] >= self.logs[other].forgotten)
    }

    /// All of `source` before `lsn` has been delivered.
    pub fn advance(&mut self, source: NodeId, lsn: Lsn) {
        let decoded = &mut self.logs[source.index()].decoded;
        *decoded = (*decoded).max(lsn);
    }

    /// Takes the next transaction of its source.
    pub fn push(&mut self, transaction: Arc<Transaction>, seen: Box<[Lsn]>) -> io::Result<Seq> {
        let source = transaction.source;
        let seq = self.log(source).end();
        match &transaction.touches {
            Touches::List(touches) => {
                for touch in touches {
                    self.insert(touch.key, ChangeRef::new(source, seq, touch.pack()))?;
                }
            }
            Touches::Runs(runs) => {
                let others = self.nodes_but(source).any(|other| !self.logs[other].entries.is_empty());
                for entry in runs.iter().filter(|_| others).flat_map(Run::entries) {
                    let key = entry?.key;
                    if self.elsewhere(key, source)? {
                        self.contested.insert(key);
                    }
                }
                self.large.push((source, seq, transaction.clone()));
            }
        }
        for &(table, offset) in &transaction.truncates {
            let word = Touch { key: KeyId([0, 0]), offset, kind: TouchKind::Delete }.pack();
            self.truncates.entry(table).or_default().push(ChangeRef::new(source, seq, word));
        }
        self.advance(source, transaction.end_lsn);
        let log = &mut self.logs[source.index()];
        let before = log.weight;
        log.weight += weight(&transaction);
        log.entries.push_back(Logged { transaction, seen, before });
        Ok(seq)
    }

    fn insert(&mut self, key: KeyId, change: ChangeRef) -> io::Result<()> {
        if self.nodes_but(change.source).any(|other| !self.logs[other].entries.is_empty())
            && self.elsewhere(key, change.source)?
        {
            self.contested.insert(key);
        }
        if change.kind() == TouchKind::Delete {
            self.deleted.insert(key);
        }
        let nodes = self.logs.len();
        match self.index.entry(key) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Refs::One(change));
            }
            std::collections::hash_map::Entry::Occupied(mut refs) => refs.get_mut().push(change, nodes),
        }
        Ok(())
    }

    fn nodes_but(&self, source: NodeId) -> impl Iterator<Item = usize> + use<> {
        (0..self.logs.len()).filter(move |other| *other != source.index())
    }

    /// Whether another source changed the key.
    fn elsewhere(&self, key: KeyId, source: NodeId) -> io::Result<bool> {
        let indexed = match self.index.get(&key) {
            None => false,
            Some(Refs::One(change)) => change.source != source,
            Some(Refs::Many(lists)) => self.nodes_but(source).any(|other| !lists[other].is_empty()),
        };
        if indexed {
            return Ok(true);
        }
        for (_, _, transaction) in self.large.iter().filter(|(other, ..)| *other != source) {
            let mut found = false;
            visit_large(transaction, key, |_| found = true)?;
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether at most one source has changed the key, its table not having been truncated.
    pub fn is_uncontested(&self, table: TableId, key: KeyId) -> bool {
        !self.contested.contains(&key) && !self.truncates.contains_key(&table)
    }

    /// Whether one of the transactions of `source` with these numbers changed the key; truncations left out.
    pub fn is_changed_by(&self, source: NodeId, seqs: Range<Seq>, key: KeyId) -> io::Result<bool> {
        let indexed = match self.index.get(&key) {
            None => false,
            Some(Refs::One(change)) => change.source == source && seqs.contains(&change.seq),
            Some(Refs::Many(lists)) => {
                let list = &lists[source.index()];
                let first = list.get(list.partition_point(|change| change.seq < seqs.start));
                first.is_some_and(|change| change.seq < seqs.end)
            }
        };
        let mut found = indexed;
        for (other, seq, transaction) in &self.large {
            if !found && *other == source && seqs.contains(seq) {
                visit_large(transaction, key, |_| found = true)?;
            }
        }
        Ok(found)
    }

    /// All changes of a key, truncations of its table included.
    pub fn history(&self, table: TableId, key: KeyId) -> io::Result<History> {
        self.collect(key, self.truncates.get(&table).map_or(&[], Vec::as_slice))
    }

    /// All changes of a key, truncations left out.
    pub fn indexed(&self, key: KeyId) -> io::Result<History> {
        self.collect(key, &[])
    }

    fn collect(&self, key: KeyId, truncates: &[ChangeRef]) -> io::Result<History> {
        let mut lists = Lists::from_elem(SmallVec::new(), self.nodes());
        match self.index.get(&key) {
            None => {}
            Some(Refs::One(change)) => lists[change.source.index()].push(*change),
            Some(Refs::Many(all)) => {
                lists.iter_mut().zip(all.iter()).for_each(|(list, all)| list.extend(all.iter().copied()));
            }
        }
        let mut mixed = false;
        for (source, seq, transaction) in &self.large {
            let list = &mut lists[source.index()];
            visit_large(transaction, key, |word| list.push(ChangeRef::new(*source, *seq, word)))?;
            mixed = true;
        }
        for change in truncates {
            lists[change.source.index()].push(*change);
            mixed = true;
        }
        if mixed {
            lists.iter_mut().for_each(|list| list.sort_unstable());
        }
        Ok(History::new(lists))
    }

    /// Keys that more than one source changed.
    pub fn contested(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.contested.iter().copied()
    }

    /// All keys that more than one source changed and one deleted, and perhaps others that several changed.
    pub fn contested_deletes(&self) -> impl Iterator<Item = KeyId> + '_ {
        let indexed = self.deleted.iter().filter(|key| self.contested.contains(*key));
        let all = self.contested.iter().filter(|_| !self.large.is_empty());
        indexed.filter(|_| self.large.is_empty()).chain(all).copied()
    }

    /// Whether a change of the key in the index is or was a delete.
    pub fn is_deleted(&self, key: KeyId) -> bool {
        self.deleted.contains(&key)
    }

    /// Whether more than one source changed the key.
    pub fn is_contested(&self, key: KeyId) -> bool {
        self.contested.contains(&key)
    }

    /// All truncations.
    pub fn truncates(&self) -> impl Iterator<Item = (TableId, ChangeRef)> + '_ {
        self.truncates.iter().flat_map(|(table, changes)| changes.iter().map(|change| (*table, *change)))
    }

    /// Forgets the transactions of `source` that end at or before `lsn`.
    pub fn prune(&mut self, source: NodeId, lsn: Lsn) -> io::Result<()> {
        let log = &mut self.logs[source.index()];
        let mut gone = Vec::new();
        while log.entries.front().is_some_and(|logged| logged.transaction.end_lsn <= lsn) {
            let oldest = log.entries.pop_front();
            log.forgotten =
                oldest.as_ref().map_or(log.forgotten, |logged| logged.transaction.end_lsn.max(log.forgotten));
            gone.extend(oldest);
            log.first += 1;
        }
        let first = log.first;
        if gone.is_empty() {
            return Ok(());
        }
        self.large.retain(|(other, seq, _)| *other != source || *seq >= first);
        self.truncates.retain(|_, changes| {
            changes.retain(|change| change.source != source || change.seq >= first);
            !changes.is_empty()
        });
        for logged in &gone {
            match &logged.transaction.touches {
                Touches::List(touches) => {
                    for touch in touches {
                        self.forget(touch.key, source, first)?;
                    }
                }
                Touches::Runs(runs) => {
                    for run in runs {
                        for entry in run.entries() {
                            self.forget(entry?.key, source, first)?;
                        }
                    }
                }
            }
        }
        self.shrink();
        Ok(())
    }

    fn forget(&mut self, key: KeyId, source: NodeId, first: Seq) -> io::Result<()> {
        if self.index.get_mut(&key).is_some_and(|refs| !refs.forget(source, first)) {
            self.index.remove(&key);
            self.deleted.remove(&key);
        }
        if self.contested.contains(&key) && self.sources_of(key)? < 2 {
            self.contested.remove(&key);
        }
        Ok(())
    }

    /// How many sources changed the key.
    fn sources_of(&self, key: KeyId) -> io::Result<usize> {
        let mut changed: SmallVec<[bool; 8]> = SmallVec::from_elem(false, self.nodes());
        match self.index.get(&key) {
            None => {}
            Some(Refs::One(change)) => changed[change.source.index()] = true,
            Some(Refs::Many(lists)) => {
                changed.iter_mut().zip(lists.iter()).for_each(|(any, list)| *any = !list.is_empty());
            }
        }
        for (source, _, transaction) in &self.large {
            if !changed[source.index()] {
                visit_large(transaction, key, |_| changed[source.index()] = true)?;
            }
        }
        Ok(changed.iter().filter(|any| **any).count())
    }

    /// Gives memory back after a large backlog has drained.
    fn shrink(&mut self) {
        const WORTHWHILE: usize = 1 << 16;
        if self.index.capacity() > WORTHWHILE && self.index.len() < self.index.capacity() / 8 {
            self.index.shrink_to_fit();
        }
    }
}

fn visit_large(transaction: &Transaction, key: KeyId, mut found: impl FnMut(u64)) -> io::Result<()> {
    match &transaction.touches {
        Touches::Runs(runs) => runs.iter().try_for_each(|run| run.find(key, |value| found(value[1]))),
        Touches::List(_) => unreachable!("only transactions with runs are kept as large"),
    }
}
