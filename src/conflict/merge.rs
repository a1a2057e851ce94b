//! Rows that are made from all changes of their key, column by column (R1, R13).
//!
//! A delete takes away every change that had not seen it: what is left is *live*. Of the live changes each column has the
//! outcome that its [`ColumnMerge`] gives: of the causally maximal ones that touched it, or, for a counter, of all. While
//! the row stands and the window knows of no delete, what an incoming change makes of it needs only that change and those
//! that it had not seen, for what is forgotten is in the row already. Where there is a delete every live change came after
//! it and so is in the window, too; the row is made anew from them, not from what stands.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io;

use smallvec::SmallVec;

use crate::conflict::append;
use crate::conflict::coordinator::Coordinator;
use crate::conflict::history::{History, Reach};
use crate::conflict::json;
use crate::conflict::window::{ChangeRef, Seq, Window};
use crate::model::key::KeyHasher;
use crate::model::{
    Cell, Change, ColumnMerge, KeyId, Link, Merge, NodeId, Op, Relation, Stamp, Table, TouchKind, Tuple,
};

/// A column's text; `None` is NULL.
pub type Value = Option<Vec<u8>>;
/// Where a change stands in the log of its source: number of the transaction, offset of the record.
pub type Place = (Seq, u64);

/// What a key's row becomes.
#[derive(Clone, PartialEq, Debug)]
pub enum Made {
    /// What stands is right.
    Stands,
    /// There is no row, or not yet: the insert that it began with is under way.
    Gone,
    /// These columns of the row that stands.
    Onto(Vec<(usize, ColumnPlan)>),
    /// A whole row, whatever stands.
    Whole(Vec<(usize, ColumnPlan)>),
    /// A change came without its old row, so nobody knows what it changed.
    OldRowMissing,
}

/// How a column's value comes about; columns are indices into [`Table::columns`].
#[derive(Clone, PartialEq, Debug)]
pub enum ColumnPlan {
    /// This value.
    Set(Value),
    /// The base, or what stands if there is none, plus each new − old.
    Add {
        /// What to begin with.
        base: Option<Value>,
        /// Old and new.
        steps: Vec<(Value, Value)>,
    },
    /// Made from these, in the order of their stamps.
    Combine(ColumnMerge, Vec<Value>),
    /// An object's keys: each is set, or removed; beginning with what stands, or with nothing in a whole row.
    Json(json::Keys),
}

/// A change that left a row.
struct Put {
    change: ChangeRef,
    stamp: Stamp,
    /// By column; `None` if there was no row.
    old: Option<Vec<Option<Value>>>,
    /// By column; `None` where the source does not have it.
    new: Vec<Option<Value>>,
}

impl Put {
    fn is_birth(&self) -> bool {
        self.old.is_none()
    }

    fn touches(&self, column: usize) -> bool {
        match (&self.new[column], &self.old) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(new), Some(old)) => old[column].as_ref() != Some(new),
        }
    }

    fn value(&self, column: usize) -> Value {
        self.new[column].clone().flatten()
    }

    fn before(&self, column: usize) -> Value {
        self.old.as_ref().and_then(|old| old[column].clone().flatten())
    }
}

/// The changes of one key, as a decision at one node sees them.
struct Family<'a> {
    window: &'a Window,
    history: &'a History,
    /// Present before.
    before: Vec<ChangeRef>,
    /// Incoming.
    own: Vec<ChangeRef>,
    /// Deletes among them, or seen by an incoming one.
    deaths: Vec<ChangeRef>,
    reaches: RefCell<HashMap<ChangeRef, Reach>>,
}

impl<'a> Family<'a> {
    fn new(window: &'a Window, history: &'a History, before: Vec<ChangeRef>, own: Vec<ChangeRef>) -> Family<'a> {
        let is_death = |change: &&ChangeRef| change.kind() == TouchKind::Delete;
        let mut deaths: Vec<ChangeRef> = before.iter().chain(&own).filter(is_death).copied().collect();
        let reaches: Vec<Reach> = own.iter().map(|change| history.reach(window, *change)).collect();
        for source in NodeId::all(window.nodes()) {
            let seen = reaches.iter().map(|reach| reach[source.index()]).max().unwrap_or(0);
            deaths.extend(history.of(source).iter().filter(is_death).filter(|death| death.seq < seen));
        }
        deaths.sort_unstable();
        deaths.dedup();
        Family { window, history, before, own, deaths, reaches: RefCell::default() }
    }

    /// Whether the author of `later` had seen `earlier`.
    fn saw(&self, later: ChangeRef, earlier: ChangeRef) -> bool {
        match later.source == earlier.source {
            true => earlier < later,
            false => {
                let mut reaches = self.reaches.borrow_mut();
                let reach = reaches.entry(later).or_insert_with(|| self.history.reach(self.window, later));
                reach[earlier.source.index()] > earlier.seq
            }
        }
    }

    /// Whether a live change had seen none that is live, here or under way: the row that its author had came from one that
    /// a delete took away, so it begins anew with it.
    fn is_root(&self, change: ChangeRef, live: &[ChangeRef]) -> bool {
        let all = NodeId::all(self.window.nodes()).flat_map(|source| self.history.of(source));
        let arrived = |other: &ChangeRef| self.before.contains(other) || self.own.contains(other);
        let under_way = || all.filter(|other| !arrived(other)).copied().collect::<Vec<_>>();
        let seen = |other: &ChangeRef| self.saw(change, *other);
        !live.iter().any(seen) && !self.live(&under_way()).iter().any(seen)
    }

    fn live(&self, among: &[ChangeRef]) -> Vec<ChangeRef> {
        let is_live = |change: &&ChangeRef| {
            change.kind() == TouchKind::Put && self.deaths.iter().all(|death| self.saw(**change, *death))
        };
        among.iter().filter(is_live).copied().collect()
    }

    fn all_live(&self) -> Vec<ChangeRef> {
        let all: Vec<ChangeRef> = self.before.iter().chain(&self.own).copied().collect();
        self.live(&all)
    }

    /// Whether the author of `later` had applied `earlier` when he committed.
    fn had(&self, later: ChangeRef, earlier: ChangeRef) -> bool {
        match later.source == earlier.source {
            true => earlier < later,
            false => self.window.had(later, earlier),
        }
    }

    /// Whether the author of `later` knew of `earlier` through a change of somebody who had it, but did not have it himself.
    fn only_heard_of(&self, later: ChangeRef, earlier: ChangeRef) -> bool {
        !self.had(later, earlier) && self.saw(later, earlier)
    }

    /// Of these, which touched the same column, the causally maximal ones, by stamp. What an author had seen of the column he
    /// had seen directly or through one of these: a change of another column does not bring it.
    fn maximal<'p>(&self, puts: impl Iterator<Item = &'p Put>) -> SmallVec<[&'p Put; 4]> {
        let mut left: SmallVec<[&Put; 4]> = puts.collect();
        let mut lists: SmallVec<[Vec<ChangeRef>; 4]> = SmallVec::from_elem(Vec::new(), self.window.nodes());
        left.iter().for_each(|put| lists[put.change.source.index()].push(put.change));
        lists.iter_mut().for_each(|list| list.sort_unstable());
        let everywhere: SmallVec<[Seq; 4]> = SmallVec::from_elem(Seq::MAX, lists.len());
        let maximal = History::new(lists).maximal(self.window, &everywhere);
        left.retain(|put| maximal.contains(&put.change));
        left.sort_unstable_by_key(|put| put.stamp);
        left
    }

    /// What each column becomes: by `incoming` among all of `puts`, onto a row that has what the others made of it; where
    /// all are incoming, from nothing.
    fn columns(
        &self,
        table: &Table,
        merge: &Merge,
        puts: &[Put],
        incoming: impl Fn(&Put) -> bool,
    ) -> Vec<(usize, ColumnPlan)> {
        let plan = |column: usize| {
            let touching = || puts.iter().filter(|put| put.touches(column));
            if !touching().any(&incoming) {
                return None;
            }
            let how = match table.key.contains(&column) {
                true => &ColumnMerge::LastUpdateWins,
                false => merge.of(&table.columns[column].name),
            };
            match how {
                ColumnMerge::Delta => Some(sum(column, puts, &incoming)),
                ColumnMerge::JsonMerge => self.json(column, touching, &incoming),
                // Also what is there already is written: an earlier change of the same author may have won, and not this one.
                ColumnMerge::LastUpdateWins => {
                    self.maximal(touching()).last().map(|last| ColumnPlan::Set(last.value(column)))
                }
                ColumnMerge::Greatest | ColumnMerge::Least | ColumnMerge::Union | ColumnMerge::Intersection => {
                    Some(match self.maximal(touching()).as_slice() {
                        [only] => ColumnPlan::Set(only.value(column)),
                        several => {
                            let values = several.iter().map(|put| put.value(column)).collect();
                            ColumnPlan::Combine(how.clone(), values)
                        }
                    })
                }
                ColumnMerge::Append(separator) => {
                    let values: Vec<Value> = self.maximal(touching()).iter().map(|put| put.value(column)).collect();
                    Some(ColumnPlan::Set(append::together(&values, separator)))
                }
            }
            .map(|plan| (column, plan))
        };
        (0..table.columns.len()).filter_map(plan).collect()
    }

    /// The row where the insert that it began with is not here: under way, or somebody removed the row unseen. It is as
    /// one of the latest authors had it, with what else there is. So a user finds it and can't insert one in its place, which
    /// would count as having seen it.
    fn without_birth(&self, table: &Table, merge: &Merge, puts: &[Put]) -> Vec<(usize, ColumnPlan)> {
        let maximal = self.maximal(puts.iter());
        let Some(latest) = maximal.last() else { return Vec::new() };
        let others = |put: &Put| put.change != latest.change && !self.had(latest.change, put.change);
        let mut columns: BTreeMap<usize, ColumnPlan> = self.columns(table, merge, puts, others).into_iter().collect();
        let onto_latest = |column: usize, plan: Option<ColumnPlan>| match plan {
            None => latest.new[column].clone().map(ColumnPlan::Set),
            Some(ColumnPlan::Add { base: None, steps }) => {
                Some(ColumnPlan::Add { base: Some(latest.value(column)), steps })
            }
            Some(ColumnPlan::Json(keys)) => Some(ColumnPlan::Set(json::with(Some(&latest.value(column)), &keys))),
            plan => plan,
        };
        let all = 0..table.columns.len();
        all.filter_map(|column| Some((column, onto_latest(column, columns.remove(&column))?))).collect()
    }

    /// Each top-level key is a register of its own.
    fn json<'p, I: Iterator<Item = &'p Put>>(
        &self,
        column: usize,
        touching: impl Fn() -> I,
        incoming: &impl Fn(&Put) -> bool,
    ) -> Option<ColumnPlan> {
        let changed = |put: &Put| json::changed(put.old.as_ref().map(|_| put.before(column)), put.value(column));
        let touched: Vec<(&Put, json::Keys)> = touching().map(|put| (put, changed(put))).collect();
        let names = touched.iter().filter(|(put, _)| incoming(put)).flat_map(|(_, keys)| keys.keys());
        let mut made = json::Keys::new();
        for name in names {
            let of_key = touched.iter().filter(|(_, keys)| keys.contains_key(name));
            let maximal = self.maximal(of_key.map(|(put, _)| *put));
            let Some(last) = maximal.last() else { continue };
            let keys = touched.iter().find(|(put, _)| put.change == last.change).map(|(_, keys)| keys);
            made.extend(
                keys.and_then(|keys| keys.get_key_value(name)).map(|(name, value)| (name.clone(), value.clone())),
            );
        }
        (!made.is_empty()).then_some(ColumnPlan::Json(made))
    }
}

/// A counter: the value that the latest of the inserts gave, and every update's difference.
fn sum(column: usize, puts: &[Put], incoming: &impl Fn(&Put) -> bool) -> ColumnPlan {
    let births = || puts.iter().filter(|put| put.is_birth() && put.touches(column));
    let latest = |own: bool| births().filter(|put| incoming(put) == own).max_by_key(|put| put.stamp);
    let updates = puts.iter().filter(|put| !put.is_birth() && incoming(put) && put.touches(column));
    let mut steps: Vec<_> = updates.map(|put| (put.before(column), put.value(column))).collect();
    let base = match (latest(true), latest(false)) {
        (Some(own), None) => Some(own.value(column)),
        (Some(own), Some(standing)) => {
            if own.stamp > standing.stamp {
                steps.push((standing.value(column), own.value(column)));
            }
            None
        }
        (None, _) => None,
    };
    ColumnPlan::Add { base, steps }
}

impl Coordinator {
    /// What the changes of a key in the batch in flight from place `span.0` to `span.1`, inclusive, make of its row, whose
    /// earlier ones are written already; `there` tells whether a row stands.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub fn merge(&self, link: Link, table: &Table, key: KeyId, span: (Place, Place), there: bool) -> io::Result<Made> {
        let Some(merge) = self.resolvers().merge(table.id) else { return Ok(Made::Stands) };
        let history = self.window.history(table.id, key)?;
        let family = self.family(link, &history, span);
        let own = family.live(&family.own);
        if there
            && family.deaths.is_empty()
            && let Some(made) = self.onto(&family, table, merge, &own)?
        {
            return Ok(made);
        }
        self.made_anew(&family, table, merge, there)
    }

    /// The latest change present whose author had not seen the value of a column that the batch in flight changes, nor the
    /// batch's author his, though one of them had heard of the other through a change of another column; `None` where
    /// nobody had only heard of anybody. `span` is that of [`Coordinator::merge`].
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub fn rival_of_column(
        &self,
        link: Link,
        table: &Table,
        key: KeyId,
        span: (Place, Place),
    ) -> io::Result<Option<ChangeRef>> {
        if self.window.nodes() < 3 {
            return Ok(None);
        }
        let history = self.window.history(table.id, key)?;
        let family = self.family(link, &history, span);
        let Some(last) = family.own.last() else { return Ok(None) };
        // What an author had, and what he had heard of, grows along the history of each source.
        let only_heard = |source: NodeId| {
            let of = |change: &&ChangeRef| change.source == source;
            let changes: Vec<ChangeRef> = family.before.iter().filter(of).copied().collect();
            let count = |is: &dyn Fn(&ChangeRef) -> bool| changes.partition_point(is);
            count(&|other| family.had(*last, *other)) < count(&|other| family.saw(*last, *other))
                || count(&|other| !family.saw(*other, *last)) < count(&|other| !family.had(*other, *last))
        };
        if !self.nodes().filter(|source| *source != link.source).any(only_heard) {
            return Ok(None);
        }
        let Some(puts) = self.puts(table, &family.all_live())? else { return Ok(None) };
        let apart = |put: &&Put| !family.had(*last, put.change) && !family.had(put.change, *last);
        let of_column = |column: usize| {
            let maximal = family.maximal(puts.iter().filter(|put| put.touches(column)));
            let is_own = maximal.iter().any(|put| family.own.contains(&put.change));
            maximal.into_iter().filter(|put| is_own && put.change.source != link.source).rfind(apart)
        };
        let latest = (0..table.columns.len()).filter_map(of_column).max_by_key(|put| put.stamp);
        Ok(latest.map(|put| put.change))
    }

    /// The changes of a key as the batch in flight sees them, of which it brings those from place `span.0` to `span.1`.
    fn family<'a>(&'a self, link: Link, history: &'a History, span: (Place, Place)) -> Family<'a> {
        let present = self.present(link.target);
        let place = |change: &ChangeRef| (change.seq, change.offset());
        let others = self.nodes().filter(|source| *source != link.source).flat_map(|source| history.of(source));
        let others = others.filter(|change| change.seq < present[change.source.index()]);
        let earlier = history.of(link.source).iter().filter(|change| place(change) < span.0);
        let before: Vec<ChangeRef> = others.chain(earlier).copied().collect();
        let within = |change: &&ChangeRef| (span.0..=span.1).contains(&place(change));
        let own = history.of(link.source).iter().filter(within).copied().collect();
        Family::new(&self.window, history, before, own)
    }

    /// What a key's row must be at the node by all that is present, a local change that was not known included.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub fn merge_again(&self, node: NodeId, table: &Table, key: KeyId) -> io::Result<Made> {
        let Some(merge) = self.resolvers().merge(table.id) else { return Ok(Made::Stands) };
        let history = self.window.history(table.id, key)?;
        let present = self.present(node);
        let all = self.nodes().flat_map(|source| history.of(source));
        let before = all.filter(|change| change.seq < present[change.source.index()]).copied().collect();
        let family = Family::new(&self.window, &history, before, Vec::new());
        match family.deaths.is_empty() {
            // Nothing but a row that is missing can be decided on without knowledge.
            true => Ok(Made::Stands),
            false => self.made_anew(&family, table, merge, true),
        }
    }

    /// What is left of a key when the truncation at `place` of the batch in flight is written.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub fn merge_truncated(&self, link: Link, table: &Table, key: KeyId, place: Place) -> io::Result<Made> {
        let Some(merge) = self.resolvers().merge(table.id) else { return Ok(Made::Stands) };
        let history = self.window.history(table.id, key)?;
        let present = self.present(link.target);
        let is_before = |change: &&ChangeRef| match change.source == link.source {
            true => (change.seq, change.offset()) <= place,
            false => change.seq < present[change.source.index()],
        };
        let all = self.nodes().flat_map(|source| history.of(source));
        let before = all.filter(is_before).copied().collect();
        let family = Family::new(&self.window, &history, before, Vec::new());
        self.made_anew(&family, table, merge, true)
    }

    /// Whether one of these changes of a key updated a row that a delete takes away: the row begins anew with it, and without
    /// the delete nobody could tell.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub(super) fn begins_anew(&self, history: &History, among: &[ChangeRef]) -> io::Result<bool> {
        let all = self.nodes().flat_map(|source| history.of(source)).copied().collect();
        let family = Family::new(&self.window, history, all, Vec::new());
        let live = family.all_live();
        for &change in among.iter().filter(|change| live.contains(change) && family.is_root(**change, &live)) {
            let record = self.window.transaction(change).transaction.change_at(change.offset())?;
            if matches!(record.op, Op::Update { .. }) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `None` if the row that stands began without an insert whose updates are here already, left out: those are not in it.
    fn onto(&self, family: &Family<'_>, table: &Table, merge: &Merge, own: &[ChangeRef]) -> io::Result<Option<Made>> {
        let Some(first) = own.first() else { return Ok(Some(Made::Stands)) };
        let Some(mut puts) = self.puts(table, own)? else { return Ok(Some(Made::OldRowMissing)) };
        let births: Vec<ChangeRef> = puts.iter().filter(|put| put.is_birth()).map(|put| put.change).collect();
        let follows = |change: &ChangeRef| births.iter().any(|birth| family.saw(*change, *birth));
        if family.before.iter().any(follows) {
            return Ok(None);
        }
        // An insert is measured against all others; and where the author heard of a change only through others, it is they
        // that tell of which columns.
        let earlier = || family.before.iter().filter(|change| change.source != first.source);
        let all = !births.is_empty() || earlier().any(|change| family.only_heard_of(*first, *change));
        let before: Vec<ChangeRef> = match all {
            true => family.before.clone(),
            false => earlier().filter(|change| !family.had(*first, **change)).copied().collect(),
        };
        let Some(before) = self.puts(table, &family.live(&before))? else { return Ok(Some(Made::OldRowMissing)) };
        puts.extend(before);
        let columns = family.columns(table, merge, &puts, |put| own.contains(&put.change));
        Ok(Some(if columns.is_empty() { Made::Stands } else { Made::Onto(columns) }))
    }

    /// A row from the live changes alone.
    fn made_anew(&self, family: &Family<'_>, table: &Table, merge: &Merge, there: bool) -> io::Result<Made> {
        let live = family.all_live();
        if live.is_empty() {
            return Ok(if there { Made::Gone } else { Made::Stands });
        }
        let Some(mut puts) = self.puts(table, &live)? else { return Ok(Made::OldRowMissing) };
        if !family.deaths.is_empty() {
            let roots = puts.iter_mut().filter(|put| family.is_root(put.change, &live));
            roots.for_each(|put| put.old = None);
        }
        Ok(Made::Whole(match puts.iter().any(Put::is_birth) {
            true => family.columns(table, merge, &puts, |_| true),
            false => family.without_birth(table, merge, &puts),
        }))
    }

    /// Reads changes that left a row; `None` if one came without its old row.
    fn puts(&self, table: &Table, changes: &[ChangeRef]) -> io::Result<Option<Vec<Put>>> {
        let mut puts = Vec::with_capacity(changes.len());
        for &change in changes {
            let transaction = &self.window.transaction(change).transaction;
            let record = transaction.change_at(change.offset())?;
            let Some(put) = put(table, change, transaction.stamp, &record) else { return Ok(None) };
            puts.push(put);
        }
        Ok(Some(puts))
    }
}

/// `None` if the change came without its old row.
fn put(table: &Table, change: ChangeRef, stamp: Stamp, record: &Change) -> Option<Put> {
    let relation = &record.relation;
    let old = match &record.op {
        Op::Insert { .. } => None,
        Op::Update { old, new } => {
            let old = old.as_ref().filter(|_| relation.columns.iter().all(|column| column.in_identity))?;
            // A row that came from another key begins here.
            (key_of(relation, old) == key_of(relation, new)).then(|| values(table, relation, old))
        }
        Op::Delete { .. } | Op::Truncate { .. } => return None,
    };
    let mut new = record.new_tuple().map(|new| values(table, relation, new))?;
    if let Op::Update { old: Some(before), new: after } = &record.op {
        // What the server left out is as before.
        let before = values(table, relation, before);
        let left_out = |column: usize| {
            let position = relation.column_of.iter().position(|of| *of == Some(column));
            position.and_then(|position| after.cell(position)) == Some(Cell::Unchanged)
        };
        for column in (0..new.len()).filter(|column| left_out(*column)) {
            new[column] = before[column].clone();
        }
    }
    Some(Put { change, stamp, old, new })
}

fn key_of(relation: &Relation, tuple: &Tuple) -> KeyId {
    KeyHasher::with_seed(0).key(relation.table_id(), relation.key_cells(tuple).zip(relation.table().key_forms()))
}

/// By column of the table.
fn values(table: &Table, relation: &Relation, tuple: &Tuple) -> Vec<Option<Value>> {
    let mut values = vec![None; table.columns.len()];
    for (cell, column) in tuple.cells().zip(&relation.column_of) {
        if let Some(column) = column {
            values[*column] = Some(match cell {
                Cell::Text(text) | Cell::Binary(text) => Some(text.to_vec()),
                Cell::Null | Cell::Unchanged => None,
            });
        }
    }
    values
}
