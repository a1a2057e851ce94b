//! Rows that are made from several changes, in memory: the real plan, carried out on the simulated columns.

use std::io;

use crate::conflict::json;
use crate::conflict::merge::{ColumnPlan, Made, Place, Value};
use crate::conflict::{Survivor, Window};
use crate::model::{ColumnMerge, Link, TableId};
use crate::simulate::Failure;
use crate::simulate::job::{Job, Purpose, Stage, Step};
use crate::simulate::notes::Notes;
use crate::simulate::rows::{Body, Key, Row};
use crate::simulate::world::{World, tell};

impl World {
    /// Whether the table's rows are made from several changes.
    pub fn merges(&self, table: TableId) -> bool {
        self.daemon.coordinator.resolvers().merge(table).is_some()
    }

    /// Writes what the window makes of a key, whose row is locked if it is there.
    ///
    /// # Errors
    /// If the coordinator has one or an invariant is broken.
    pub fn write_merged(&mut self, job: &mut Job, key: Key, existing: Option<Row>) -> Result<Step, Failure> {
        let (link, id) = (job.batch.link, self.schema.key_id(key));
        let table = self.schema.table(key.table).clone();
        let made = match (job.purpose, job.folded.get(id)) {
            (Purpose::Reopen(reopened), _) => {
                self.daemon.coordinator.decide_again(link, reopened)?;
                self.daemon.coordinator.merge_again(link.target, &table, id)?
            }
            (Purpose::Apply | Purpose::Retry, Some(net)) => {
                let span = (net.first_place, net.place);
                let decision = self.decide(job, key)?;
                if decision.rival.is_none() {
                    let rival = self.daemon.coordinator.rival_of_column(link, &table, id, span)?;
                    self.conflicts += u64::from(rival.is_some());
                    rival.map_or(Ok(()), |rival| self.check_apart(key, link.target, decision.incoming, rival))?;
                }
                self.daemon.coordinator.merge(link, &table, id, span, existing.is_some())?
            }
            (Purpose::Apply | Purpose::Retry, None) => {
                let place = job.tables.get(&key.table).copied().unwrap_or_default();
                self.daemon.coordinator.merge_truncated(link, &table, id, place)?
            }
        };
        tell!(self, "n{}: {key} is made {made:?} of {existing:?}", link.target.0);
        let row = match made {
            Made::Stands => existing,
            Made::Gone => None,
            Made::Onto(columns) => Some(carry_out(existing, &columns)?),
            Made::Whole(columns) => Some(carry_out(None, &columns)?),
            Made::Called { rows, .. } => Some(called(&rows)?),
            Made::OldRowMissing => return Err(Failure::Error("an old row is missing".into())),
        };
        if row == existing {
            job.slow.pop_front();
            return Ok(Step::Next(Stage::Slow));
        }
        let winner = self.any_change(key)?;
        self.put(job, key, row, self.by(winner))
    }

    /// For a name in the story: merged tables have no unique values to contend for.
    fn any_change(&self, key: Key) -> io::Result<crate::conflict::ChangeRef> {
        let window: &Window = self.daemon.coordinator.window();
        let history = window.history(key.table, self.schema.key_id(key))?;
        let mut all = self.daemon.coordinator.nodes().filter_map(|node| history.of(node).last().copied());
        all.next().ok_or_else(|| io::Error::other("a key that is written has a change"))
    }

    /// The key of a row that a truncation leaves.
    ///
    /// # Errors
    /// If the coordinator has one.
    pub fn merged_survivor(&self, link: Link, met: Survivor, table: TableId, place: Place) -> io::Result<Option<Key>> {
        let made = self.daemon.coordinator.merge_truncated(link, self.schema.table(table), met.key, place)?;
        let mut keys = (0..self.workload.keys).map(|id| Key { table, id });
        Ok(keys.find(|key| made.is_whole() && self.schema.key_id(*key) == met.key))
    }
}

/// What the simulated function makes of these rows.
fn called(rows: &[Vec<Value>]) -> io::Result<Row> {
    let row = |values: &Vec<Value>| {
        let columns: Vec<_> = values.iter().map(|value| ColumnPlan::Set(value.clone())).enumerate().collect();
        carry_out(None, &columns)
    };
    let rows: Vec<Row> = rows.iter().map(row).collect::<io::Result<_>>()?;
    rows.into_iter().reduce(Row::called).ok_or_else(|| io::Error::other("nothing to make a row of"))
}

/// The columns are the key, a number, one that is always NULL here, the body, and the notes.
fn carry_out(onto: Option<Row>, columns: &[(usize, ColumnPlan)]) -> io::Result<Row> {
    let mut row =
        onto.unwrap_or(Row { value: 0, unique: None, body: Body { text: 0, toasted: false }, notes: Notes::default() });
    for (column, plan) in columns {
        match column {
            1 => row.value = number(plan, onto.map(|row| row.value))?,
            3 => row.body = body(plan)?,
            4 => row.notes = notes(plan)?,
            _ => {}
        }
    }
    Ok(row)
}

fn number(plan: &ColumnPlan, stands: Option<u32>) -> io::Result<u32> {
    Ok(match plan {
        ColumnPlan::Set(value) => parse(value)?,
        ColumnPlan::Add { base, steps } => {
            let base = base.as_ref().map(parse).transpose()?.or(stands).unwrap_or(0);
            let add = |sum: u32, (old, new): &(Value, Value)| {
                io::Result::Ok(sum.wrapping_add(parse(new)?).wrapping_sub(parse(old)?))
            };
            steps.iter().try_fold(base, add)?
        }
        ColumnPlan::Combine(how, values) => {
            let numbers = values.iter().map(parse).collect::<io::Result<Vec<_>>>()?;
            let found = if *how == ColumnMerge::Least { numbers.iter().min() } else { numbers.iter().max() };
            *found.ok_or_else(|| io::Error::other("nothing to combine"))?
        }
        ColumnPlan::Fold { first, steps, .. } => {
            let fold =
                |local: u32, (old, remote): &(Value, Value)| io::Result::Ok(folded(local, parse(remote)?, parse(old)?));
            steps.iter().try_fold(parse(first)?, fold)?
        }
        ColumnPlan::Json(keys) => parse(&json::with(None, keys))?,
    })
}

/// What stands for any SQL expression: neither commutative nor associative, and with no value of its own for equal ones.
pub fn folded(local: u32, remote: u32, old: u32) -> u32 {
    local.wrapping_mul(7).wrapping_add(remote.wrapping_mul(3)).wrapping_sub(old) % 100_000
}

fn body(plan: &ColumnPlan) -> io::Result<Body> {
    match plan {
        ColumnPlan::Set(Some(value)) => {
            let (size, text) = value.split_at(1);
            Ok(Body { text: parse(&Some(text.to_vec()))?, toasted: size == b"B" })
        }
        other => Err(io::Error::other(format!("a body has one value: {other:?}"))),
    }
}

fn notes(plan: &ColumnPlan) -> io::Result<Notes> {
    match plan {
        ColumnPlan::Set(value) => Notes::read(value.as_deref()),
        other => Err(io::Error::other(format!("notes are told whole: {other:?}"))),
    }
}

fn parse(value: &Value) -> io::Result<u32> {
    let text = value.as_deref().map(std::str::from_utf8).transpose().map_err(io::Error::other)?;
    text.unwrap_or("0").parse().map_err(io::Error::other)
}
