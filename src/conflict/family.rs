//! The changes of one key and what each column becomes by them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::conflict::append;
use crate::conflict::history::{History, Lists, Reach};
use crate::conflict::json;
use crate::conflict::merge::Made;
use crate::conflict::put::{Put, Value};
use crate::conflict::window::{ChangeRef, Seq, Window};
use crate::model::{ColumnMerge, ColumnMerges, FunctionName, NodeId, Table, TouchKind};

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
    /// What this SQL expression makes of the first value and each step, one after the other.
    Fold {
        /// Of `local`, `remote` and `old`.
        expression: Arc<str>,
        /// The earliest value.
        first: Value,
        /// The later ones, each with the value before it, in the order of their stamps.
        steps: Vec<(Value, Value)>,
    },
    /// An object's keys: each is set, or removed; beginning with what stands, or with nothing in a whole row.
    Json(json::Keys),
}

/// The changes of one key, as a decision at one node sees them.
pub(super) struct Family<'a> {
    window: &'a Window,
    history: &'a History,
    /// Present before.
    pub(super) before: Vec<ChangeRef>,
    /// Incoming.
    pub(super) own: Vec<ChangeRef>,
    /// Deletes among them, or seen by an incoming one.
    pub(super) deaths: Vec<ChangeRef>,
    reaches: RefCell<HashMap<ChangeRef, Reach>>,
    /// Whose row it is, for columns that may differ.
    node: NodeId,
}

impl<'a> Family<'a> {
    pub(super) fn new(
        window: &'a Window,
        history: &'a History,
        before: Vec<ChangeRef>,
        own: Vec<ChangeRef>,
        node: NodeId,
    ) -> Family<'a> {
        let is_death = |change: &&ChangeRef| change.kind() == TouchKind::Delete;
        let mut deaths: Vec<ChangeRef> = before.iter().chain(&own).filter(is_death).copied().collect();
        let reaches: Vec<Reach> = own.iter().map(|change| history.reach(window, *change)).collect();
        for source in NodeId::all(window.nodes()) {
            let seen = reaches.iter().map(|reach| reach[source.index()]).max().unwrap_or(0);
            deaths.extend(history.of(source).iter().filter(is_death).filter(|death| death.seq < seen));
        }
        deaths.sort_unstable();
        deaths.dedup();
        Family { window, history, before, own, deaths, reaches: RefCell::default(), node }
    }

    /// Whether the author of `later` had seen `earlier`.
    pub(super) fn saw(&self, later: ChangeRef, earlier: ChangeRef) -> bool {
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
    pub(super) fn is_root(&self, change: ChangeRef, live: &[ChangeRef]) -> bool {
        let all = NodeId::all(self.window.nodes()).flat_map(|source| self.history.of(source));
        let arrived = |other: &ChangeRef| self.before.contains(other) || self.own.contains(other);
        let under_way = || all.filter(|other| !arrived(other)).copied().collect::<Vec<_>>();
        let seen = |other: &ChangeRef| self.saw(change, *other);
        !live.iter().any(seen) && !self.live(&under_way()).iter().any(seen)
    }

    pub(super) fn live(&self, among: &[ChangeRef]) -> Vec<ChangeRef> {
        let is_live = |change: &&ChangeRef| {
            change.kind() == TouchKind::Put && self.deaths.iter().all(|death| self.saw(**change, *death))
        };
        among.iter().filter(is_live).copied().collect()
    }

    pub(super) fn all_live(&self) -> Vec<ChangeRef> {
        let all: Vec<ChangeRef> = self.before.iter().chain(&self.own).copied().collect();
        self.live(&all)
    }

    /// Whether the author of `later` had applied `earlier` when he committed.
    pub(super) fn had(&self, later: ChangeRef, earlier: ChangeRef) -> bool {
        match later.source == earlier.source {
            true => earlier < later,
            false => self.window.had(later, earlier),
        }
    }

    /// Whether the author of `later` knew of `earlier` through a change of somebody who had it, but did not have it himself.
    pub(super) fn only_heard_of(&self, later: ChangeRef, earlier: ChangeRef) -> bool {
        !self.had(later, earlier) && self.saw(later, earlier)
    }

    /// Of these, which touched the same column, the causally maximal ones, by stamp. What an author had seen of the column he
    /// had seen directly or through one of these: a change of another column does not bring it.
    pub(super) fn maximal<'p>(&self, puts: impl Iterator<Item = &'p Put>) -> SmallVec<[&'p Put; 4]> {
        let mut left: SmallVec<[&Put; 4]> = puts.collect();
        let mut lists = Lists::from_elem(SmallVec::new(), self.window.nodes());
        left.iter().for_each(|put| lists[put.change.source.index()].push(put.change));
        lists.iter_mut().for_each(|list| list.sort_unstable());
        let everywhere: SmallVec<[Seq; 4]> = SmallVec::from_elem(Seq::MAX, lists.len());
        let maximal = History::new(lists).maximal(self.window, &everywhere);
        left.retain(|put| maximal.contains(&put.change));
        left.sort_unstable_by_key(|put| put.stamp);
        left
    }

    /// The value of the latest of the maximal ones that come from such a node, or else of the latest.
    fn chosen<'p>(
        &self,
        puts: impl Iterator<Item = &'p Put>,
        column: usize,
        is_preferred: impl Fn(NodeId) -> bool,
    ) -> Option<ColumnPlan> {
        let maximal = self.maximal(puts);
        let chosen = maximal.iter().max_by_key(|put| (is_preferred(put.change.source), put.stamp))?;
        Some(ColumnPlan::Set(chosen.value(column)))
    }

    /// What each column becomes: by `incoming` among all of `puts`, onto a row that has what the others made of it; where
    /// all are incoming, from nothing.
    pub(super) fn columns(
        &self,
        table: &Table,
        merge: &ColumnMerges,
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
                ColumnMerge::KeepLocal => self.chosen(touching(), column, |source| source == self.node),
                ColumnMerge::ApplyRemote => self.chosen(touching(), column, |source| source != self.node),
                ColumnMerge::Greatest | ColumnMerge::Least | ColumnMerge::Union | ColumnMerge::Intersection => {
                    Some(match self.maximal(touching()).as_slice() {
                        [only] => ColumnPlan::Set(only.value(column)),
                        several => {
                            let values = several.iter().map(|put| put.value(column)).collect();
                            ColumnPlan::Combine(how.clone(), values)
                        }
                    })
                }
                ColumnMerge::Sql(expression) => match self.maximal(touching()).as_slice() {
                    [] => None,
                    [first, later @ ..] => Some(ColumnPlan::Fold {
                        expression: expression.clone(),
                        first: first.value(column),
                        steps: later.iter().map(|put| (put.before(column), put.value(column))).collect(),
                    }),
                },
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
    pub(super) fn without_birth(&self, table: &Table, merge: &ColumnMerges, puts: &[Put]) -> Vec<(usize, ColumnPlan)> {
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

    /// What a function makes of the row. Every change touches it, so who had seen whom is closed over all changes of the key.
    pub(super) fn row(&self, table: &Table, function: &FunctionName, puts: &[Put]) -> Made {
        let mut latest: BTreeMap<NodeId, &Put> = BTreeMap::new();
        for put in puts {
            let of_source = latest.entry(put.change.source).or_insert(put);
            *of_source = if put.change > of_source.change { put } else { of_source };
        }
        let superseded = |put: &Put| latest.values().any(|other| self.saw(other.change, put.change));
        let mut maximal: Vec<&Put> = latest.values().filter(|put| !superseded(put)).copied().collect();
        maximal.sort_unstable_by_key(|put| put.stamp);
        match maximal.as_slice() {
            [] => Made::Stands,
            [.., last] if maximal.len() == 1 || table.key.len() == table.columns.len() => {
                let columns = last.new.iter().enumerate();
                Made::Whole(columns.filter_map(|(at, value)| Some((at, ColumnPlan::Set(value.clone()?)))).collect())
            }
            several => {
                let rows = several.iter().map(|put| put.row(several)).collect();
                Made::Called { function: function.clone(), rows }
            }
        }
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
