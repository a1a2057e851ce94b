//! What the outcome must be, from the truth alone: who had seen whom is read off the nodes' own logs, whole and
//! never forgotten, and nothing of the coordinator is used.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::model::{ColumnMerge, Condition, Deletes, Lsn, Merge, NodeId, Resolver, TableRule};
use crate::simulate::merge::folded;
use crate::simulate::node::Node;
use crate::simulate::notes::Notes;
use crate::simulate::rows::{Key, Row, Write};
use crate::simulate::wal::{Entry, Kind};

/// One change of one key.
#[derive(Clone, Debug)]
struct Edit {
    source: NodeId,
    /// The commit, and the place of the change in it.
    at: (Lsn, usize),
    micros: i64,
    /// The row before, where an update found one at this key.
    old: Option<Row>,
    row: Option<Row>,
    seen: Vec<Lsn>,
}

impl Edit {
    fn touches_notes(&self) -> bool {
        !matches!((self.old, self.row), (Some(old), Some(row)) if old.notes == row.notes)
    }
}

/// All changes of one key.
#[derive(Debug)]
pub struct Truth {
    edits: Vec<Edit>,
    /// The row that every node had before all logs.
    base: Option<Row>,
}

impl Truth {
    /// Reads the logs.
    pub fn of(nodes: &[Node], key: Key) -> Truth {
        Truth::without(nodes, key, &HashSet::new())
    }

    /// Reads the logs as if these commits had not been.
    pub fn without(nodes: &[Node], key: Key, commits: &HashSet<(NodeId, Lsn)>) -> Truth {
        let mut edits = Vec::new();
        for node in nodes {
            for entry in node.wal.entries().iter().filter(|entry| !commits.contains(&(node.id, entry.begin))) {
                let Kind::Local(transaction) = &entry.kind else { continue };
                let effects = entry.writes.iter().enumerate().flat_map(|(i, write)| {
                    effects(write, key).into_iter().map(move |(old, row)| (i, old, row)).collect::<Vec<_>>()
                });
                edits.extend(effects.map(|(i, old, row)| Edit {
                    source: node.id,
                    at: (entry.begin, i),
                    micros: transaction.stamp.micros,
                    old,
                    row,
                    seen: seen(entry),
                }));
            }
        }
        Truth { edits, base: nodes.first().and_then(|node| node.base(key)) }
    }

    /// Whether a row of the key ever had this unique value.
    pub fn ever_had(&self, unique: u8) -> bool {
        self.edits.iter().map(|edit| edit.row).chain([self.base]).flatten().any(|row| row.unique == Some(unique))
    }

    /// The row that comes out at the node.
    pub fn end(&self, rule: &TableRule, node: NodeId) -> Option<Row> {
        self.outcome(rule, node).unwrap_or(self.base)
    }

    /// Whether the author of the change that committed at `later` had seen the one that committed at `earlier`,
    /// directly or through changes of the key.
    pub fn saw(&self, later: (NodeId, Lsn), earlier: (NodeId, Lsn)) -> bool {
        let edit = self.edits.iter().rfind(|edit| (edit.source, edit.at.0) == later);
        edit.is_some_and(|edit| self.reach(edit)[earlier.0.index()].0 > earlier.1)
    }

    /// Whether the change that committed at `earlier` had been applied where the one at `later` was made.
    pub fn had(&self, later: (NodeId, Lsn), earlier: (NodeId, Lsn)) -> bool {
        let edit = self.edits.iter().rfind(|edit| (edit.source, edit.at.0) == later);
        edit.is_some_and(|edit| edit.seen[earlier.0.index()] > earlier.1)
    }

    fn reach(&self, edit: &Edit) -> Vec<(Lsn, usize)> {
        reach(edit, &self.edits.iter().collect::<Vec<_>>())
    }

    /// The row that comes out at the node, if any change of the key was made.
    pub fn outcome(&self, rule: &TableRule, node: NodeId) -> Option<Option<Row>> {
        if let Resolver::Merge(merge) = &rule.resolver {
            return (!self.edits.is_empty()).then(|| self.merged(merge, node));
        }
        let latest: BTreeMap<NodeId, &Edit> = self.edits.iter().map(|edit| (edit.source, edit)).collect();
        let reaches: Vec<_> = latest.values().map(|edit| (edit.source, self.reach(edit))).collect();
        let maximal: Vec<&Edit> = latest
            .values()
            .filter(|edit| {
                !reaches.iter().any(|(by, reach)| *by != edit.source && reach[edit.source.index()] > edit.at)
            })
            .copied()
            .collect();
        let (resolver, deletes) = decides(rule, &maximal);
        let counts = |edit: &&&Edit| match deletes {
            Deletes::ByResolver => true,
            Deletes::DeleteWins => edit.row.is_none() || maximal.iter().all(|edit| edit.row.is_some()),
            Deletes::UpdateWins => edit.row.is_some() || maximal.iter().all(|edit| edit.row.is_none()),
        };
        let standing = maximal.iter().filter(counts);
        let stamp = |edit: &&&Edit| (edit.micros, edit.source);
        let found = match resolver {
            Resolver::LastUpdateWins | Resolver::Merge(_) => standing.max_by_key(stamp),
            Resolver::FirstUpdateWins => standing.min_by_key(stamp),
            // The simulated column is never NULL.
            Resolver::LastByColumn(_) => standing.max_by_key(|edit| (edit.row.map(|row| row.value), stamp(edit))),
            Resolver::FirstByColumn(_) => standing.min_by_key(|edit| (edit.row.map(|row| row.value), stamp(edit))),
            Resolver::OriginPriority(order) => {
                standing.min_by_key(|edit| order.iter().position(|node| *node == edit.source))
            }
            Resolver::KeepLocal | Resolver::Skip => {
                let own = standing.clone().find(|edit| edit.source == node);
                own.or(standing.max_by_key(stamp))
            }
            Resolver::ApplyRemote => {
                let others = standing.clone().filter(|edit| edit.source != node);
                others.max_by_key(stamp).or(standing.max_by_key(stamp))
            }
        };
        found.map(|edit| edit.row)
    }
}

impl Truth {
    fn edit_saw(&self, later: &Edit, earlier: &Edit) -> bool {
        saw(later, earlier, &self.edits.iter().collect::<Vec<_>>())
    }

    /// The edits that had seen every delete; those come second.
    fn live(&self) -> (Vec<&Edit>, Vec<&Edit>) {
        let deaths: Vec<&Edit> = self.edits.iter().filter(|edit| edit.row.is_none()).collect();
        let is_live = |edit: &&Edit| edit.row.is_some() && deaths.iter().all(|death| self.edit_saw(edit, death));
        (self.edits.iter().filter(is_live).collect(), deaths)
    }

    /// An entry that an edit added to the notes, that nobody who had it took away, and that is not there.
    pub fn lost_entry(&self, row: &Row) -> Option<u32> {
        let (live, _) = self.live();
        let added = live.iter().flat_map(|edit| {
            let before = edit.old.map(|old| old.notes).unwrap_or_default();
            let after = edit.row.map(|row| row.notes).unwrap_or_default();
            let new: Vec<u32> = after.entries().iter().filter(|entry| !before.has(**entry)).copied().collect();
            new.into_iter().map(move |entry| (*edit, entry))
        });
        let took_away = |edit: &Edit, entry: u32| {
            edit.old.is_none_or(|old| old.notes.has(entry)) && !edit.row.is_some_and(|row| row.notes.has(entry))
        };
        // Who heard of an entry through a change of another column only has not had it.
        let telling: Vec<&Edit> = live.iter().filter(|edit| edit.touches_notes()).copied().collect();
        let removed =
            |by: &Edit, entry: u32| live.iter().any(|later| saw(later, by, &telling) && took_away(later, entry));
        added.into_iter().find(|(edit, entry)| !row.notes.has(*entry) && !removed(edit, *entry)).map(|(_, entry)| entry)
    }

    /// The row that all live edits make at the node: of the number and the notes what the merge says, of the body the last update wins; or
    /// what the function makes of the rows of those that no other had seen.
    fn merged(&self, merge: &Merge, node: NodeId) -> Option<Row> {
        let (live, deaths) = self.live();
        let stamp = |edit: &&Edit| (edit.micros, edit.source, edit.at);
        // A row that a delete took away begins anew with an edit that had seen the delete and nothing live.
        let is_root = |edit: &Edit| !deaths.is_empty() && !live.iter().any(|other| self.edit_saw(edit, other));
        let is_birth = |edit: &Edit| edit.old.is_none() || is_root(edit);
        let birth = live.iter().filter(|edit| is_birth(edit)).copied().max_by_key(stamp);
        if live.is_empty() {
            return None;
        }
        let last = |touches: &dyn Fn(&Row, &Row) -> bool| -> Vec<&Edit> {
            let touching: Vec<&Edit> = live
                .iter()
                .filter(|edit| match (edit.old, edit.row) {
                    (Some(old), Some(row)) => is_birth(edit) || touches(&old, &row),
                    _ => true,
                })
                .copied()
                .collect();
            let superseded = |edit: &Edit| touching.iter().any(|other| saw(other, edit, &touching));
            let mut maximal: Vec<&Edit> = touching.iter().filter(|edit| !superseded(edit)).copied().collect();
            maximal.sort_by_key(stamp);
            maximal
        };
        let rows = |edits: Vec<&Edit>| edits.iter().filter_map(|edit| edit.row).collect::<Vec<Row>>();
        let merge = match merge {
            Merge::Columns(merge) => merge,
            Merge::Function(_) => return rows(last(&|_, _| true)).into_iter().reduce(Row::called),
        };
        let begin = birth.and_then(|birth| birth.row).or(self.base)?;
        let touched = last(&|old, row| old.value != row.value);
        let numbers = rows(touched.clone());
        let numbers_of = |is_one: &dyn Fn(NodeId) -> bool| {
            let of_one = touched.iter().rfind(|edit| is_one(edit.source)).or(touched.last());
            of_one.and_then(|edit| edit.row).map(|row| row.value)
        };
        let value = match merge.of("value") {
            ColumnMerge::Delta => live
                .iter()
                .filter(|edit| !is_birth(edit))
                .filter_map(|edit| Some((edit.old?, edit.row?)))
                .fold(begin.value, |sum, (old, row)| sum.wrapping_add(row.value).wrapping_sub(old.value)),
            ColumnMerge::Greatest => numbers.iter().map(|row| row.value).max().unwrap_or(begin.value),
            ColumnMerge::Least => numbers.iter().map(|row| row.value).min().unwrap_or(begin.value),
            ColumnMerge::Sql(_) => touched
                .iter()
                .filter_map(|edit| {
                    Some((edit.row?.value, edit.old.filter(|_| !is_birth(edit)).map_or(0, |old| old.value)))
                })
                .reduce(|(local, _), (remote, old)| (folded(local, remote, old), old))
                .map_or(begin.value, |(value, _)| value),
            ColumnMerge::KeepLocal => numbers_of(&|source| source == node).unwrap_or(begin.value),
            ColumnMerge::ApplyRemote => numbers_of(&|source| source != node).unwrap_or(begin.value),
            _ => numbers.last().map_or(begin.value, |row| row.value),
        };
        let body = rows(last(&|old, row| old.body != row.body)).last().map_or(begin.body, |row| row.body);
        let texts = rows(last(&|old, row| old.notes != row.notes));
        let notes = match merge.of("notes") {
            ColumnMerge::Append(_) if !texts.is_empty() => together(&texts)?,
            _ => texts.last().map_or(begin.notes, |row| row.notes),
        };
        Some(Row { value, body, notes, ..begin })
    }
}

/// What the author of `edit` had seen, directly or through some of these, as a place at each source.
fn reach(edit: &Edit, through: &[&Edit]) -> Vec<(Lsn, usize)> {
    let mut reach: Vec<_> = edit.seen.iter().map(|lsn| (*lsn, 0)).collect();
    reach[edit.source.index()] = edit.at;
    loop {
        let before = reach.clone();
        for other in through {
            if other.at < reach[other.source.index()] {
                for (i, lsn) in other.seen.iter().enumerate().filter(|(i, _)| *i != other.source.index()) {
                    reach[i] = reach[i].max((*lsn, 0));
                }
            }
        }
        if reach == before {
            return reach;
        }
    }
}

fn saw(later: &Edit, earlier: &Edit, through: &[&Edit]) -> bool {
    match later.source == earlier.source {
        true => later.at > earlier.at,
        false => reach(later, through)[earlier.source.index()] > earlier.at,
    }
}

/// Every entry once, where it came first.
fn together(rows: &[Row]) -> Option<Notes> {
    let mut entries = rows.iter().flat_map(|row| row.notes.entries().to_vec());
    entries.try_fold(Notes::default(), |all, entry| if all.has(entry) { Some(all) } else { all.with(entry) })
}

/// What decides about these edits, which did not see each other.
fn decides<'a>(rule: &'a TableRule, edits: &[&Edit]) -> (&'a Resolver, Deletes) {
    let holds = |condition: &Condition| {
        edits
            .iter()
            .any(|one| edits.iter().any(|other| one.source != other.source && condition_holds(condition, one, other)))
    };
    let cases = || rule.cases.iter().filter(|case| holds(&case.condition));
    let resolver = cases().find_map(|case| case.resolver.as_ref()).unwrap_or(&rule.resolver);
    (resolver, cases().find_map(|case| case.deletes).unwrap_or(rule.deletes))
}

/// As the simulated conditions are: see [`stand_in`](crate::simulate::stand_in).
fn condition_holds(condition: &Condition, one: &Edit, other: &Edit) -> bool {
    let is_one =
        |nodes: &Option<Arc<[NodeId]>>, edit: &Edit| nodes.as_ref().is_none_or(|nodes| nodes.contains(&edit.source));
    let changed_value = |edit: &Edit| edit.row.is_some_and(|row| edit.old.is_none_or(|old| old.value != row.value));
    let values = [one, other].map(|edit| edit.row.map(|row| row.value));
    is_one(&condition.source, one)
        && is_one(&condition.target, other)
        && (condition.changed.is_none() || changed_value(one) || changed_value(other))
        && (condition.when.is_none()
            || values[0].is_some_and(|value| value % 3 == 0)
            || values[1].is_some_and(|value| value % 5 == 1))
}

fn seen(entry: &Entry) -> Vec<Lsn> {
    entry.seen.clone()
}

/// For each change of the key the row before, where an update found one, and the row after.
fn effects(write: &Write, key: Key) -> Vec<(Option<Row>, Option<Row>)> {
    match write {
        Write::Insert(at, row) if *at == key => vec![(None, Some(*row))],
        Write::Update { from, to, old, new } if *to == key => vec![((from == to).then_some(*old), Some(*new))],
        Write::Update { from, .. } if *from == key => vec![(None, None)],
        Write::Delete(at, _) if *at == key => vec![(None, None)],
        Write::Truncate(table) if *table == key.table => vec![(None, None)],
        _ => Vec::new(),
    }
}
