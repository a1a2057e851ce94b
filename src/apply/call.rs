//! Rows that a function makes of several, two at a time, in the transaction that writes them: the first with the next, what
//! comes out with the one after it.
//!
//! The function sees jsonb, which spells many values otherwise than their types do. So what it leaves as it was in one of
//! the two rows is taken from there as it was written; only what is new is read from jsonb.

use std::collections::BTreeSet;
use std::slice;
use std::time::Duration;

use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::merge::Merging;
use crate::apply::record::Recorder;
use crate::conflict::Made;
use crate::conflict::merge::Value;
use crate::model::table::{quote_identifier, quote_literal};
use crate::model::{Class, Classify, FunctionName, Table};
use crate::wire::{Outcome, Param, Pipeline, PipelineError, Row};

/// The SQLSTATE of a statement that was cancelled, also by `statement_timeout`.
pub(super) const CANCELLED: &str = "57014";
/// Results of a call before the columns.
const BEFORE_COLUMNS: usize = 4;
/// So many names that are no columns are told.
const SHOWN: usize = 3;

/// A row in the making.
struct Call<'p> {
    table: &'p Table,
    function: &'p FunctionName,
    made: Vec<Value>,
    later: slice::Iter<'p, Vec<Value>>,
}

impl<R: Recorder> Execution<'_, R> {
    /// The rows that functions make: one for each plan that is for a function, in order.
    pub(super) async fn call(&mut self, plans: &[Merging]) -> Result<Vec<Vec<Value>>, ApplyError> {
        let mut calls: Vec<Call<'_>> = plans.iter().filter_map(Call::of).collect();
        let limit = self.shared.settings.barrier_timeout;
        loop {
            let due = calls.iter_mut().filter_map(|call| Some((call.later.next()?, call)));
            let due: Vec<(&Vec<Value>, &mut Call<'_>)> = due.collect();
            if due.is_empty() {
                return Ok(calls.into_iter().map(|call| call.made).collect());
            }
            let mut pipeline = self.begin();
            begin_limit(&mut pipeline, limit);
            let mut places = Vec::new();
            for (next, call) in &due {
                let values = call.made.iter().chain(*next);
                let params = values.map(|value| value.as_deref().map_or(Param::Null, Param::Text));
                places.push(pipeline.query(&query(call.table, call.function), &[], params));
            }
            end_limit(&mut pipeline);
            let outcomes = pipeline.run().await.map_err(|failed| {
                let at = places.iter().position(|place| *place == failed.at);
                match at.map(|at| &due[at].1) {
                    Some(call) => call.failed(failed, limit),
                    None => ApplyError::pipeline("calling the function of a rule")(failed),
                }
            })?;
            let outcomes = self.begun(outcomes)?;
            for ((next, call), at) in due.into_iter().zip(places) {
                call.take(&outcomes[at], next)?;
            }
        }
    }
}

/// What follows in the window may take so long, each statement by itself.
pub(super) fn begin_limit(pipeline: &mut Pipeline<'_>, limit: Duration) {
    let limit = format!("{}ms", limit.as_millis().max(1)); // 0 would be no limit
    pipeline.query(&format!("SET LOCAL statement_timeout = {}", quote_literal(&limit)), &[], []);
}

/// What follows may take as long as it does, as in every session of ours.
pub(super) fn end_limit(pipeline: &mut Pipeline<'_>) {
    pipeline.query("SET LOCAL statement_timeout = 0", &[], []);
}

impl<'p> Call<'p> {
    fn of(plan: &'p Merging) -> Option<Call<'p>> {
        let Made::Called { function, rows } = &plan.made else { return None };
        let (first, later) = rows.split_first()?;
        Some(Call { table: plan.key_row.table(), function, made: first.clone(), later: later.iter() })
    }

    /// Takes over what came out for what was made so far and `next`.
    fn take(&mut self, outcome: &Outcome, next: &[Value]) -> Result<(), ApplyError> {
        let reading = || ApplyError::wire("reading what the function of a rule returned");
        let row = outcome.one().map_err(reading())?;
        match row.optional_text(0).map_err(reading())? {
            Some("object") => {}
            None => return Err(self.returned("NULL")),
            Some(other) => return Err(self.returned(&format!("jsonb of type {other}"))),
        }
        let unknown = names(row, 1)?;
        if !unknown.is_empty() {
            let shown: Vec<_> = unknown.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
            return Err(self.returned(&format!("names that are no columns, {}", shown.join(", "))));
        }
        let (earlier, new) = (names(row, 2)?, names(row, 3)?);
        let mut cells = BEFORE_COLUMNS..;
        for (at, column) in self.table.columns.iter().enumerate() {
            let is_key = self.table.key.contains(&at);
            let cell = if is_key { None } else { cells.next() };
            self.made[at] = match cell {
                Some(cell) if new.contains(&column.name) => row.cell(cell).map(<[u8]>::to_vec),
                Some(_) if earlier.contains(&column.name) => continue,
                _ => next[at].clone(),
            };
        }
        Ok(())
    }

    fn returned(&self, what: &str) -> ApplyError {
        ApplyError::Operator {
            what: format!("the function {} has returned {what} for a row of {}", self.function, self.table),
            advice: "have it return an object of the row's columns (CREATE OR REPLACE FUNCTION, at every node); then the link \
                     goes on"
                .into(),
        }
    }

    /// The server's message may have values in it, which may be masked.
    fn failed(&self, failed: PipelineError, limit: Duration) -> ApplyError {
        let call = format!("the function {} that merges rows of {}", self.function, self.table);
        match failed.code() {
            Some(CANCELLED) => ApplyError::Operator {
                what: format!("{call} was cancelled: it has not returned within {limit:?}, or somebody cancelled it"),
                advice: "make it faster at every node (CREATE OR REPLACE FUNCTION), or give it more time, [limits] \
                         barrier_timeout; then the link goes on"
                    .into(),
            },
            Some(code) if failed.class() != Class::Transient => ApplyError::Operator {
                what: format!("{call} fails, or gives what a column does not take (SQLSTATE {code})"),
                advice: "the server's log has its message: mend it at every node (CREATE OR REPLACE FUNCTION), or change the \
                         row at the target; then the link goes on"
                    .into(),
            },
            Some(code) => {
                ApplyError::NotCommitted(format!("{call} fails for now (SQLSTATE {code})"))
            }
            _ => ApplyError::pipeline(format!("calling {}", self.function))(failed),
        }
    }
}

/// A jsonb array of names.
fn names(row: &Row, cell: usize) -> Result<BTreeSet<String>, ApplyError> {
    let text = row.text(cell).map_err(ApplyError::wire("reading which columns a function has set"))?;
    serde_json::from_str(text).map_err(|error| ApplyError::Operator {
        what: format!("the columns that a function has set can't be read: {error}"),
        advice: "give the table another rule".into(),
    })
}

/// One call, over two rows given column by column: the type of what came out; its names that are no columns; those whose
/// values are the first row's and not the second's; those whose values are neither's; and each column but the key's as it
/// is read from there. What the second row has and what is not there goes without saying.
///
/// <https://www.postgresql.org/docs/18/functions-json.html>
fn query(table: &Table, function: &FunctionName) -> String {
    let columns = || table.columns.iter().enumerate();
    let name = |at: usize| quote_identifier(&table.columns[at].name);
    let row = |before: usize| {
        let values: Vec<_> =
            columns().map(|(at, column)| format!("{} AS {}", column.parameter(before + at + 1), name(at))).collect();
        // v alone could be a column of that name.
        format!("SELECT pg_catalog.to_jsonb(v.*) AS j FROM (SELECT {}) AS v", values.join(", "))
    };
    let others = || columns().filter(|(at, _)| !table.key.contains(at));
    let read: Vec<_> = others().map(|(at, column)| format!("{} {}", name(at), column.sql_type)).collect();
    let cells: Vec<_> = others().map(|(at, _)| format!("r.{}", name(at))).collect();
    format!(
        "WITH called AS MATERIALIZED (\
         SELECT a.j AS earlier, b.j AS later, {}(a.j, b.j) AS made FROM ({}) AS a, ({}) AS b) \
         SELECT pg_catalog.jsonb_typeof(c.made), s.unknown, s.earlier, s.new, {} FROM called AS c, LATERAL (\
         SELECT COALESCE(pg_catalog.jsonb_agg(e.key) FILTER (WHERE NOT c.later ? e.key), '[]') AS unknown, \
         COALESCE(pg_catalog.jsonb_agg(e.key) FILTER (WHERE e.value <> c.later -> e.key AND e.value = c.earlier -> e.key), \
         '[]') AS earlier, \
         COALESCE(pg_catalog.jsonb_agg(e.key) FILTER (WHERE e.value <> c.later -> e.key AND e.value <> c.earlier -> e.key), \
         '[]') AS new, \
         COALESCE(pg_catalog.jsonb_object_agg(e.key, e.value) \
         FILTER (WHERE e.value <> c.later -> e.key AND e.value <> c.earlier -> e.key), '{{}}') AS changes \
         FROM pg_catalog.jsonb_each(CASE pg_catalog.jsonb_typeof(c.made) WHEN 'object' THEN c.made ELSE '{{}}' END) AS e\
         ) AS s, LATERAL pg_catalog.jsonb_to_record(s.changes) AS r({})",
        function.sql_name(),
        row(0),
        row(table.columns.len()),
        cells.join(", "),
        read.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_over_all_columns_and_its_result_over_those_that_are_no_key() {
        let table = Table::of_texts("t", &["id", "a \"b\""]);
        let text = query(&table, &"Public.\"F g\"".parse().expect("a name"));
        let column = |number: usize| table.columns[0].parameter(number);
        for part in [
            "\"public\".\"F g\"(a.j, b.j) AS made".to_owned(),
            format!("(SELECT {} AS \"id\", {} AS \"a \"\"b\"\"\") AS v", column(1), column(2)),
            format!("(SELECT {} AS \"id\", {} AS \"a \"\"b\"\"\") AS v", column(3), column(4)),
            "AS r(\"a \"\"b\"\"\" pg_catalog.text)".to_owned(),
        ] {
            assert!(text.contains(&part), "{part}: {text}");
        }
    }
}
