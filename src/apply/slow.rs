//! The slow path: keys that the guard refused, whose row was missing, or whose outcome another change gives.
//!
//! In the batch's own transaction: lock the rows that are there, wait for a barrier so that every local change
//! before it is known, decide again, write. A row that is missing can't be locked: an insert that finds one after
//! all goes round once more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::time::Instant;

use crate::apply::batch::Write;
use crate::apply::complete::{self, Completed};
use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::merge::{Merged, Merging};
use crate::apply::net::{Content, Folded, Net, Row};
use crate::apply::record::Recorder;
use crate::apply::sets::{Judging, Kind, in_order, missed, queue_set, rows_written};
use crate::apply::sql;
use crate::conflict::merge::Value;
use crate::conflict::{ChangeRef, Coordinator, Operation};
use crate::model::{Link, Table};
use crate::wire::Param;

/// How often a key may turn up and vanish again before the batch is given up and tried later.
const ROUNDS: usize = 16;

/// A row that was found and locked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// This very transaction wrote it.
    mine: bool,
    /// Its values by column, where they are needed to merge.
    values: Vec<Value>,
}

/// What the sets did not write.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Not written.
    pub keys: Vec<usize>,
    /// Written or not.
    pub maybe: HashSet<usize>,
}

impl Refused {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.maybe.is_empty()
    }
}

/// What a key must become, once decided.
#[derive(Debug)]
struct Verdict {
    net: usize,
    content: Content,
    there: bool,
}

impl<R: Recorder> Execution<'_, R> {
    /// Brings the net changes of these indices to their outcome; `maybe` were in inserts of which some rows were
    /// written and some not.
    pub(super) async fn settle(&mut self, folded: &Folded, refused: Refused) -> Result<(), ApplyError> {
        let Refused { mut maybe, keys: mut left } = refused;
        self.applied.slow += (left.len() + maybe.len()) as u64;
        left.extend(&maybe);
        for _ in 0..ROUNDS {
            let found = self.lock(folded, &left).await?;
            // An earlier piece of the batch may have written the row; then the insert did not.
            let written = |net: &usize| {
                found.get(net).is_some_and(|found| found.mine)
                    && maybe.contains(net)
                    && !self.may_be_touched(folded.nets[*net].key)
            };
            left.retain(|net| !written(net));
            left.retain(|net| match found.get(net) {
                Some(_) => true,
                // Inserted and deleted since: no row was expected, and a local one that is not known yet reopens.
                None => {
                    let net = &folded.nets[*net];
                    !(matches!(net.content, Content::Delete) && net.first == Operation::Insert) || self.is_held(net.key)
                }
            });
            maybe.clear();
            if left.is_empty() {
                return Ok(());
            }
            self.shared.barrier(self.batch.link.target).await?;
            let verdicts = self.verdicts(folded, &left, &found).await?;
            left = self.write_verdicts(folded, verdicts).await?;
            if left.is_empty() {
                return Ok(());
            }
        }
        Err(ApplyError::NotCommitted(format!("{} keys that come and go", left.len())))
    }

    /// Locks the rows of these net changes that are there.
    async fn lock(&mut self, folded: &Folded, nets: &[usize]) -> Result<HashMap<usize, Found>, ApplyError> {
        // In the order in which the author came to tables and rows, as their users do.
        let ranks = folded.table_ranks();
        let mut tables: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
        let mut nets = nets.to_vec();
        nets.sort_unstable();
        if let Some(net) = nets.iter().find(|net| folded.nets[**net].table.key.is_empty()) {
            return Err(swallowed(&folded.nets[*net].table, &self.session.settings.target_name));
        }
        nets.iter()
            .for_each(|net| tables.entry(ranks.get(&folded.nets[*net].table.id).copied()).or_default().push(*net));
        let mut statements = Vec::new();
        let resolvers = self.resolvers.clone();
        let mut pipeline = self.begin();
        for nets in tables.values() {
            for nets in nets.chunks(crate::apply::batch::SET_ROWS) {
                let rows: Vec<_> = nets.iter().map(|net| &folded.nets[*net].key_row).collect();
                let arrays = key_arrays(&folded.nets[nets[0]].table, &rows);
                let types = vec![sql::TEXT_ARRAY; arrays.len()];
                let table = &folded.nets[nets[0]].table;
                let merges = resolvers.merge(table.id).is_some();
                let columns: Vec<usize> = if merges { (0..table.columns.len()).collect() } else { Vec::new() };
                let text = sql::lock(table, &columns);
                let at = pipeline.query(&text, &types, arrays.iter().map(|array| Param::Binary(array)));
                statements.push((at, nets));
            }
        }
        let outcomes = pipeline.run().await.map_err(ApplyError::pipeline("locking rows"))?;
        let outcomes = self.begun(outcomes)?;
        let mut found = HashMap::new();
        for (at, nets) in statements {
            for row in &outcomes[at].rows {
                let reading = || ApplyError::wire("reading which rows are there");
                let ordinal: usize = row.parse(0).map_err(reading())?;
                let mine = row.flag(1).map_err(reading())?;
                let values = (2..row.len()).map(|i| row.cell(i).map(<[u8]>::to_vec)).collect();
                found.insert(nets[ordinal - 1], Found { mine, values });
            }
        }
        Ok(found)
    }

    /// Decides again, now that every local change before the barrier is known.
    async fn verdicts(
        &mut self,
        folded: &Folded,
        left: &[usize],
        found: &HashMap<usize, Found>,
    ) -> Result<Vec<Verdict>, ApplyError> {
        let link = self.batch.link;
        let now = Instant::now();
        let mut wanted = Vec::new();
        let mut merging = Vec::new();
        {
            let mut coordinator = self.deciding()?;
            for &at in left {
                let net = &folded.nets[at];
                let there = found.contains_key(&at);
                let mut decision = coordinator.decide(link, net.table.id, net.key)?;
                let (merges, span) = (self.resolvers.merge(net.table.id).is_some(), (net.first_place, net.place));
                if merges && decision.rival.is_none() {
                    decision.rival = coordinator.rival_of_column(link, &net.table, net.key, span)?;
                }
                self.note(&coordinator, net, &decision)?;
                if decision.before.is_some_and(|before| before.source == link.target) {
                    self.session.busy.met(net.key, now);
                }
                if merges {
                    self.note_missing(&coordinator, net, &decision, there)?;
                    let made = coordinator.merge(link, &net.table, net.key, span, there)?;
                    let standing = found.get(&at).map(|found| found.values.clone());
                    merging.push((at, Merging { made, key_row: net.key_row.clone(), standing }));
                    continue;
                }
                if !decision.write && !self.may_be_touched(net.key) {
                    continue;
                }
                let (content, completed) = self.outcome(&coordinator, net, decision.winner)?;
                self.fits(&content, decision.winner)?;
                if coordinator.held(link.target, net.key).is_some() {
                    self.healing.push(net.key);
                }
                self.note_missing(&coordinator, net, &decision, there)?;
                wanted.push((Verdict { net: at, content, there }, completed, decision.winner));
            }
        }
        let mut verdicts = self.merge(folded, merging).await?;
        for (mut verdict, completed, winner) in wanted {
            let moved = folded.nets[verdict.net].moved_from.is_some();
            if let Some(completed) = completed {
                let whole = self.whole(completed, verdict.there && !moved, winner).await?;
                verdict.content = whole.map_or(Content::Delete, Content::Put);
            }
            verdicts.push(verdict);
        }
        Ok(verdicts)
    }

    /// What `winner` makes of a net change's key, and how its row is completed if a value was left out.
    pub(super) fn outcome(
        &self,
        coordinator: &Coordinator,
        net: &Net,
        winner: ChangeRef,
    ) -> io::Result<(Content, Option<Completed>)> {
        let (link, hasher) = (self.batch.link, &self.shared.catalog.hasher);
        let ours = self.is_ours(winner);
        let content = match ours {
            true => net.content.clone(),
            false => complete::content_of(coordinator, winner, net.key, hasher)?,
        };
        let completed = match &content {
            Content::Put(row) if !row.has_unchanged() => None,
            Content::Put(row) if ours => Some(complete::complete_net(coordinator, link, net, row, hasher)?),
            Content::Put(row) => {
                Some(complete::complete(coordinator, link.target, row.clone(), net.key, winner, hasher)?)
            }
            Content::Delete => None,
        };
        Ok((content, completed))
    }

    /// Makes rows of tables whose columns are merged.
    async fn merge(&mut self, folded: &Folded, keys: Vec<(usize, Merging)>) -> Result<Vec<Verdict>, ApplyError> {
        let (nets, plans): (Vec<usize>, Vec<Merging>) = keys.into_iter().unzip();
        let merged = self.merged(&plans).await?;
        let mut verdicts = Vec::new();
        for ((net, plan), merged) in nets.into_iter().zip(&plans).zip(merged) {
            let there = plan.standing.is_some();
            self.note_merged(folded.nets[net].key, plan, &merged);
            if let Merged::Write(content, _) = merged {
                verdicts.push(Verdict { net, content, there });
            }
        }
        Ok(verdicts)
    }

    /// The row with all its values, or without those that stand in the target's row; `None` if it is to be left
    /// out.
    async fn whole(&self, completed: Completed, stays: bool, winner: ChangeRef) -> Result<Option<Row>, ApplyError> {
        match completed {
            Completed::Whole(row) => Ok(Some(row)),
            Completed::AtTarget(row) if stays => Ok(Some(row)),
            Completed::AtTarget(row) => self.read_at_source(&row, winner).await,
            Completed::AtSource(row, change) => self.read_at_source(&row, change).await,
        }
    }

    /// Writes without a guard: the rows are locked. Returns those that turned up meanwhile.
    async fn write_verdicts(&mut self, folded: &Folded, verdicts: Vec<Verdict>) -> Result<Vec<usize>, ApplyError> {
        let mut groups = [Vec::new(), Vec::new(), Vec::new()];
        for verdict in verdicts {
            let key_row = || folded.nets[verdict.net].key_row.clone();
            let (place, row) = match (verdict.content, verdict.there) {
                (Content::Delete, true) => (0, key_row()),
                (Content::Delete, false) => continue,
                (Content::Put(row), true) => (1, row),
                (Content::Put(row), false) => (2, row),
            };
            groups[place].push(Write { net: verdict.net, row, known: None });
        }
        let sets = in_order(folded, groups);
        let mut pipeline = self.begin();
        let mut statements = Vec::new();
        for (kind, set) in &sets {
            for writes in set.writes.chunks(crate::apply::batch::SET_ROWS) {
                statements.push((queue_set(&mut pipeline, *kind, set, writes, None, Judging::Told), *kind, writes));
            }
        }
        let outcomes = pipeline.run().await.map_err(ApplyError::pipeline("writing decided rows"))?;
        let outcomes = self.begun(outcomes)?;
        let mut again = Vec::new();
        for (at, kind, writes) in statements {
            self.rows += rows_written(&outcomes[at]);
            if outcomes[at].tag.rows == writes.len() as u64 {
                continue;
            }
            match kind {
                Kind::Insert => again.extend(writes.iter().map(|write| write.net)),
                Kind::Delete | Kind::Update => {
                    again.extend(missed(&outcomes[at], writes.iter().map(|write| write.net))?);
                }
            }
        }
        Ok(again)
    }
}

/// A row of a table without a key was inserted and is not there: there is nothing to find it by.
fn swallowed(table: &Table, target: &str) -> ApplyError {
    ApplyError::Operator {
        what: format!(
            "{target} took inserts into {table} and has fewer rows than were sent; nothing of the batch is written"
        ),
        advice: format!(
            "a trigger that is ENABLE ALWAYS or ENABLE REPLICA, or a rule, keeps rows out there: disable it (ALTER TABLE {} \
             DISABLE TRIGGER ...), or leave the table out under [tables]",
            table.sql_name()
        ),
    }
}

/// The key's arrays of some rows of one table.
pub(super) fn key_arrays(table: &Table, rows: &[&Row]) -> Vec<Vec<u8>> {
    let keys: Vec<Vec<_>> = rows.iter().map(|row| row.key_cells().collect()).collect();
    (0..table.key.len())
        .map(|i| sql::text_array(keys.iter().map(|cells| sql::text_of(cells.get(i).copied()))))
        .collect()
}

/// The link over which a reopened decision is written: any into the node will do.
pub fn any_link(node: crate::model::NodeId, nodes: usize) -> Option<Link> {
    let source = crate::model::NodeId::all(nodes).find(|source| *source != node)?;
    Some(Link { source, target: node })
}

/// A key's identity for messages.
pub fn describe(row: &Row) -> String {
    let text = |cell| sql::text_of(Some(cell)).map_or("NULL".into(), |text| String::from_utf8_lossy(text).into_owned());
    format!("{} ({})", row.table(), row.key_cells().map(text).collect::<Vec<_>>().join(", "))
}
