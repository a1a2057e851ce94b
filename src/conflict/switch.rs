//! Other rules while changes are under way (R1): no two nodes may decide one conflict by different rules.
//!
//! A table takes its new rule at a moment when nothing that was decided about it can be decided again, or still has to be
//! decided elsewhere: no key of it in the window was changed by two nodes, none waits to be decided again, and no
//! truncation of it is known; where another row would keep a unique value, no link has anything to apply. Where every conflict comes out as before there is nothing to wait for. Where its rows will be
//! made from several changes, moreover, no change may be left that a delete took away which is forgotten: once the new rule is known, deletes stay as long as what they take away (see
//! [`Coordinator::frontier`]), and it waits until all changes have seen what was forgotten by then. A conflict of which one half is still to come is decided by the new rule alone, at every node.
//! Between that look and the moment when the nodes keep the new rule nothing is decided at all: whichever rule a crash
//! leaves on record, it is the only one that anything still under way has met.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::conflict::coordinator::Coordinator;
use crate::model::{Lsn, Resolvers, TableId};

impl Coordinator {
    /// Stops deciding if any of these tables can take its rule of `next` now; returns those that can. What is in flight is
    /// either committed as it was decided or, at its next decision, given up and tried later; see
    /// [`Coordinator::decides_by`].
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub fn begin_switch(&mut self, tables: &[TableId], next: &Resolvers) -> io::Result<Vec<TableId>> {
        let merges = |table: &&TableId| next.merge(**table).is_some() && self.resolvers.merge(**table).is_none();
        let will_merge: BTreeSet<TableId> = tables.iter().filter(merges).copied().collect();
        self.will_merge.retain(|table, _| will_merge.contains(table));
        let forgotten: Box<[Lsn]> = self.nodes().map(|node| self.window.log(node).forgotten()).collect();
        for table in will_merge {
            self.will_merge.entry(table).or_insert_with(|| forgotten.clone());
        }
        if !self.is_rebuilt() || self.switching {
            return Ok(Vec::new());
        }
        let entangled = self.entangled()?;
        let knows_deletes = |table: &TableId| self.will_merge.get(table).is_none_or(|lost| self.all_saw(lost));
        // Who looks at a conflict changes, and not what comes out of it.
        let same = |table: &TableId| self.resolvers.rule(*table).comes_to_the_same(next.rule(*table));
        let has_room = |table: &TableId| {
            self.resolvers.rule(*table).unique == next.rule(*table).unique || self.nothing_under_way()
        };
        let is_free =
            |table: &&TableId| same(table) || !entangled.contains(table) && knows_deletes(table) && has_room(table);
        let free: Vec<_> = tables.iter().filter(is_free).copied().collect();
        self.switching = !free.is_empty();
        Ok(free)
    }

    /// No table waits for another rule any more.
    pub fn withdraw_switch(&mut self) {
        self.will_merge.clear();
    }

    /// Goes on deciding; by other rules, if there are some.
    pub fn end_switch(&mut self, resolvers: Option<Resolvers>) {
        self.switching = false;
        if let Some(resolvers) = resolvers {
            self.will_merge.retain(|table, _| resolvers.merge(*table).is_none());
            self.resolvers = Arc::new(resolvers);
        }
    }

    /// Whether no link has anything to apply, so that of no two rows which claim one unique value one has lost it and the other
    /// is still to be applied.
    fn nothing_under_way(&self) -> bool {
        self.all_links().into_iter().all(|link| self.queued(link) == 0 && self.link(link).in_flight.is_none())
    }

    /// Whether the author of every change in the window had seen everything of the others before these positions.
    fn all_saw(&self, positions: &[Lsn]) -> bool {
        self.nodes().all(|source| {
            let oldest = self.window.log(source).iter().next(); // later ones have seen no less
            oldest.is_none_or(|oldest| {
                let mut others = self.nodes().filter(|other| *other != source);
                others.all(|other| oldest.seen[other.index()] >= positions[other.index()])
            })
        })
    }

    /// Whether decisions are taken now, and by these very rules.
    pub fn decides_by(&self, resolvers: &Arc<Resolvers>) -> bool {
        !self.switching && Arc::ptr_eq(&self.resolvers, resolvers)
    }

    /// Tables about which something was or may be decided that is not final everywhere.
    fn entangled(&self) -> io::Result<BTreeSet<TableId>> {
        let window = self.window();
        let mut tables: BTreeSet<TableId> = window.truncates().map(|(table, _)| table).collect();
        tables.extend(self.reopened.iter().flat_map(|due| due.values()).map(|due| due.table));
        tables.extend(self.rewritten.iter().flat_map(|keys| keys.values()).map(|rewritten| rewritten.table));
        for key in window.contested() {
            let history = window.indexed(key)?;
            let any = self.nodes().find_map(|source| history.of(source).last().copied());
            if let Some(change) = any {
                let record = window.transaction(change).transaction.change_at(change.offset())?;
                tables.insert(record.relation.table_id());
            }
        }
        Ok(tables)
    }
}
