//! Rows that are made from all changes of their key, column by column or by a function (R1, R13).
//!
//! A delete takes away every change that had not seen it: what is left is *live*. Of the live changes each column has the
//! outcome that its [`ColumnMerge`](crate::model::ColumnMerge) gives: of the causally maximal ones that touched it, or,
//! for a counter, of all. While the row stands and the window knows of no delete, what an incoming change makes of it needs
//! only that change and those that it had not seen, for what is forgotten is in the row already. Where there is a delete
//! every live change came after it and so is in the window, too; the row is made anew from them, not from what stands.
//!
//! For a function the row is like one column that every change touches.

use std::io;

use crate::conflict::coordinator::Coordinator;
pub use crate::conflict::family::ColumnPlan;
use crate::conflict::family::Family;
use crate::conflict::history::History;
pub use crate::conflict::put::Value;
use crate::conflict::put::{Put, put};
use crate::conflict::window::{ChangeRef, Seq};
use crate::model::{FunctionName, KeyId, Link, Merge, NodeId, Op, Table};

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
    /// A whole row, whatever stands: what this function makes of these rows, two or more.
    Called {
        /// Of what came out of those before, and the next one.
        function: FunctionName,
        /// By column, in the order of their stamps.
        rows: Vec<Vec<Value>>,
    },
    /// A change came without its old row, so nobody knows what it changed.
    OldRowMissing,
}

impl Made {
    /// Whether there is a row afterwards that does not depend on what stands.
    pub fn is_whole(&self) -> bool {
        matches!(self, Made::Whole(_) | Made::Called { .. })
    }
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
        // What a function makes of a row depends on all changes of it, in whichever column.
        let by_column = matches!(self.resolvers().merge(table.id).map(|merge| &**merge), Some(Merge::Columns(_)));
        if self.window.nodes() < 3 || !by_column {
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
        Family::new(&self.window, history, before, own, link.target)
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
        let family = Family::new(&self.window, &history, before, Vec::new(), node);
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
        let family = Family::new(&self.window, &history, before, Vec::new(), link.target);
        self.made_anew(&family, table, merge, true)
    }

    /// Whether one of these changes of a key updated a row that a delete takes away: the row begins anew with it, and without
    /// the delete nobody could tell.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub(super) fn begins_anew(&self, history: &History, among: &[ChangeRef]) -> io::Result<bool> {
        let all = self.nodes().flat_map(|source| history.of(source)).copied().collect();
        let any = among.first().map_or(NodeId(0), |change| change.source); // no column is looked at
        let family = Family::new(&self.window, history, all, Vec::new(), any);
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
        let columns = match merge {
            Merge::Function(function) => return Ok(Some(family.row(table, function, &puts))),
            Merge::Columns(merge) => family.columns(table, merge, &puts, |put| own.contains(&put.change)),
        };
        Ok(Some(if columns.is_empty() { Made::Stands } else { Made::Onto(columns) }))
    }

    /// A row from the live changes alone.
    fn made_anew(&self, family: &Family<'_>, table: &Table, merge: &Merge, there: bool) -> io::Result<Made> {
        let live = family.all_live();
        if live.is_empty() {
            return Ok(if there { Made::Gone } else { Made::Stands });
        }
        let Some(mut puts) = self.puts(table, &live)? else { return Ok(Made::OldRowMissing) };
        let merge = match merge {
            Merge::Function(function) => return Ok(family.row(table, function, &puts)),
            Merge::Columns(merge) => merge,
        };
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
