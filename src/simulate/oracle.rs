//! What the outcome must be, from the truth alone: who had seen whom is read off the nodes' own logs, whole and
//! never forgotten, and nothing of the coordinator is used.

use std::collections::BTreeMap;

use crate::model::{Deletes, Lsn, NodeId, Resolver, TableRule};
use crate::simulate::node::Node;
use crate::simulate::rows::{Key, Row, Write};
use crate::simulate::wal::{Entry, Kind};

/// One change of one key.
#[derive(Clone, Debug)]
struct Edit {
    source: NodeId,
    /// The commit, and the place of the change in it.
    at: (Lsn, usize),
    micros: i64,
    row: Option<Row>,
    seen: Vec<Lsn>,
}

/// All changes of one key.
#[derive(Debug)]
pub struct Truth {
    edits: Vec<Edit>,
}

impl Truth {
    /// Reads the logs.
    pub fn of(nodes: &[Node], key: Key) -> Truth {
        let mut edits = Vec::new();
        for node in nodes {
            for entry in node.wal.entries() {
                let Kind::Local(transaction) = &entry.kind else { continue };
                let effects = entry.writes.iter().enumerate().flat_map(|(i, write)| {
                    effects(write, key).into_iter().map(move |row| (i, row)).collect::<Vec<_>>()
                });
                edits.extend(effects.map(|(i, row)| Edit {
                    source: node.id,
                    at: (entry.begin, i),
                    micros: transaction.stamp.micros,
                    row,
                    seen: seen(entry),
                }));
            }
        }
        Truth { edits }
    }

    /// Whether the author of the change that committed at `later` had seen the one that committed at `earlier`,
    /// directly or through changes of the key.
    pub fn saw(&self, later: (NodeId, Lsn), earlier: (NodeId, Lsn)) -> bool {
        let edit = self.edits.iter().rfind(|edit| (edit.source, edit.at.0) == later);
        edit.is_some_and(|edit| self.reach(edit)[earlier.0.index()].0 > earlier.1)
    }

    fn reach(&self, edit: &Edit) -> Vec<(Lsn, usize)> {
        let mut reach: Vec<_> = edit.seen.iter().map(|lsn| (*lsn, 0)).collect();
        reach[edit.source.index()] = edit.at;
        loop {
            let before = reach.clone();
            for other in &self.edits {
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

    /// The row that comes out, if any change of the key was made.
    pub fn outcome(&self, rule: &TableRule) -> Option<Option<Row>> {
        let latest: BTreeMap<NodeId, &Edit> = self.edits.iter().map(|edit| (edit.source, edit)).collect();
        let reaches: Vec<_> = latest.values().map(|edit| (edit.source, self.reach(edit))).collect();
        let maximal: Vec<&Edit> = latest
            .values()
            .filter(|edit| {
                !reaches.iter().any(|(by, reach)| *by != edit.source && reach[edit.source.index()] > edit.at)
            })
            .copied()
            .collect();
        let counts = |edit: &&&Edit| match rule.deletes {
            Deletes::ByResolver => true,
            Deletes::DeleteWins => edit.row.is_none() || maximal.iter().all(|edit| edit.row.is_some()),
            Deletes::UpdateWins => edit.row.is_some() || maximal.iter().all(|edit| edit.row.is_none()),
        };
        let standing = maximal.iter().filter(counts);
        let stamp = |edit: &&&Edit| (edit.micros, edit.source);
        let found = match &rule.resolver {
            Resolver::LastUpdateWins | Resolver::Merge(_) => standing.max_by_key(stamp),
            Resolver::FirstUpdateWins => standing.min_by_key(stamp),
            Resolver::OriginPriority(order) => {
                standing.min_by_key(|edit| order.iter().position(|node| *node == edit.source))
            }
        };
        found.map(|edit| edit.row)
    }
}

fn seen(entry: &Entry) -> Vec<Lsn> {
    entry.seen.clone()
}

fn effects(write: &Write, key: Key) -> Vec<Option<Row>> {
    match write {
        Write::Insert(at, row) if *at == key => vec![Some(*row)],
        Write::Update { to, new, .. } if *to == key => vec![Some(*new)],
        Write::Update { from, .. } if *from == key => vec![None],
        Write::Delete(at, _) if *at == key => vec![None],
        Write::Truncate(table) if *table == key.table => vec![None],
        _ => Vec::new(),
    }
}
