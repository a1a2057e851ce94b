//! A plan for a merged row → the row, under the lock of the one that stands. Sums are exact and ours; what compares or
//! takes apart values of a type is the server's, in one question for all rows.

use std::collections::BTreeSet;
use std::str::FromStr;

use bigdecimal::BigDecimal;

use crate::apply::call::{CANCELLED, begin_limit, end_limit};
use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::net::{Content, Row};
use crate::apply::record::Recorder;
use crate::conflict::json;
use crate::conflict::merge::{ColumnPlan, Made, Value};
use crate::model::{Cell, Column, ColumnMerge, Table, Tuple};
use crate::wire::{Param, PipelineError};

/// What a merged key becomes.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Merged {
    /// What stands is right.
    Stands,
    /// This, with values left out that stay as they stand; and the whole row as it will be, for the record.
    Write(Content, Content),
}

/// A plan, and what it is for.
#[derive(Debug)]
pub(super) struct Merging {
    /// What the window says.
    pub made: Made,
    /// A row that has the key's cells.
    pub key_row: Row,
    /// The row that stands, by column of the table.
    pub standing: Option<Vec<Value>>,
}

impl<R: Recorder> Execution<'_, R> {
    /// Carries plans out, in order.
    pub(super) async fn merged(&mut self, plans: &[Merging]) -> Result<Vec<Merged>, ApplyError> {
        let combined = self.combine(plans).await?;
        let called = self.call(plans).await?;
        let (mut combined, mut called) = (combined.into_iter(), called.into_iter());
        plans.iter().map(|plan| plan.carry_out(&mut combined, &mut called)).collect()
    }

    /// What the server makes of values, one result for each question, in order.
    async fn combine(&mut self, plans: &[Merging]) -> Result<Vec<Value>, ApplyError> {
        let questions: Vec<_> = plans.iter().flat_map(Merging::questions).collect();
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let folds = plans.iter().flat_map(Merging::columns).any(|(_, plan)| matches!(plan, ColumnPlan::Fold { .. }));
        let limit = self.shared.settings.barrier_timeout;
        let mut pipeline = self.begin();
        if folds {
            begin_limit(&mut pipeline, limit);
        }
        let mut places = Vec::new();
        for (text, values) in &questions {
            let params = values.iter().map(|value| value.as_deref().map_or(Param::Null, Param::Text));
            places.push(pipeline.query(text, &[], params));
        }
        if folds {
            end_limit(&mut pipeline);
        }
        let failed = |failed: PipelineError| match failed.error.code() {
            Some(CANCELLED) if folds => expression_failed(plans, &format!("has given nothing within {limit:?}")),
            Some(code) if folds && is_about_values(code) => {
                expression_failed(plans, &format!("fails (SQLSTATE {code})"))
            }
            _ => ApplyError::pipeline("merging the values of a column")(failed),
        };
        let outcomes = pipeline.run().await.map_err(failed)?;
        let outcomes = self.begun(outcomes)?;
        Ok(places.iter().map(|at| outcomes[*at].rows.first()?.cell(0).map(<[u8]>::to_vec)).collect())
    }
}

impl Merging {
    fn columns(&self) -> &[(usize, ColumnPlan)] {
        match &self.made {
            Made::Onto(columns) | Made::Whole(columns) => columns,
            Made::Stands | Made::Gone | Made::OldRowMissing | Made::Called { .. } => &[],
        }
    }

    /// What the server is asked, with the parameters.
    fn questions(&self) -> impl Iterator<Item = (String, Vec<&Value>)> {
        let table = self.key_row.table();
        self.columns().iter().filter_map(|(column, plan)| match plan {
            ColumnPlan::Combine(how, values) => {
                Some((combine_query(&table.columns[*column], how, values.len()), values.iter().collect()))
            }
            ColumnPlan::Fold { expression, first, steps } => {
                let later = steps.iter().flat_map(|(old, new)| [old, new]);
                let values = [first].into_iter().chain(later).collect();
                Some((fold_query(&table.columns[*column], expression, steps.len()), values))
            }
            ColumnPlan::Set(_) | ColumnPlan::Add { .. } | ColumnPlan::Json(_) => None,
        })
    }

    fn carry_out(
        &self,
        combined: &mut impl Iterator<Item = Value>,
        called: &mut impl Iterator<Item = Vec<Value>>,
    ) -> Result<Merged, ApplyError> {
        match self.made {
            Made::Stands => return Ok(Merged::Stands),
            Made::Gone => return Ok(Merged::Write(Content::Delete, Content::Delete)),
            Made::OldRowMissing => return Err(old_row_missing(self.key_row.table())),
            Made::Called { .. } => {
                let values = called.next().unwrap_or_default();
                let whole = || Content::Put(self.row(|column| values.get(column)));
                return Ok(Merged::Write(whole(), whole()));
            }
            Made::Onto(_) | Made::Whole(_) => {}
        }
        let table = self.key_row.table();
        let onto = matches!(self.made, Made::Onto(_)).then_some(self.standing.as_ref()).flatten();
        let mut values: Vec<Option<Value>> = vec![None; table.columns.len()];
        for (column, plan) in self.columns() {
            let stands = onto.map(|row| &row[*column]);
            values[*column] = Some(match plan {
                ColumnPlan::Set(value) => value.clone(),
                ColumnPlan::Json(keys) => json::with(stands, keys),
                ColumnPlan::Combine(..) | ColumnPlan::Fold { .. } => combined.next().flatten(),
                ColumnPlan::Add { base, steps } => add(base.as_ref().or(stands), steps)
                    .map_err(|value| not_a_number(table, &table.columns[*column], &value))?,
            });
        }
        let written = self.row(|column| values[column].as_ref());
        let whole = self.row(|column| values[column].as_ref().or(onto.map(|row| &row[column])));
        Ok(Merged::Write(Content::Put(written), Content::Put(whole)))
    }

    /// The row with these values, and the key's cells where there is none.
    fn row<'v>(&'v self, value: impl Fn(usize) -> Option<&'v Value>) -> Row {
        let table = self.key_row.table();
        let relation = &self.key_row.relation;
        let cells = self.key_row.tuple.cells().zip(&relation.column_of).map(|(cell, column)| match column {
            Some(column) => match value(*column) {
                Some(Some(text)) => Cell::Text(text),
                Some(None) => Cell::Null,
                None if table.key.contains(column) => cell,
                None => Cell::Unchanged,
            },
            None => Cell::Unchanged,
        });
        let cells: Vec<_> = cells.collect();
        Row { relation: relation.clone(), tuple: Tuple::from_cells(cells.into_iter()) }
    }
}

/// The base plus each new − old; NULL counts as 0.
///
/// # Errors
/// The text that is no finite number.
pub fn add(base: Option<&Value>, steps: &[(Value, Value)]) -> Result<Value, String> {
    let number = |value: &Value| {
        let text = value.as_deref().map_or("0".into(), String::from_utf8_lossy);
        BigDecimal::from_str(&text).map_err(|_| text.into_owned())
    };
    if let ([(old, new)], Some(base)) = (steps, base)
        && base == old
    {
        return Ok(new.clone()); // also what is no number
    }
    let mut sum = base.map_or_else(|| Ok(BigDecimal::from(0)), number)?;
    for (old, new) in steps {
        sum = sum + number(new)? - number(old)?;
    }
    Ok(Some(sum.to_plain_string().into_bytes()))
}

/// One value from several, given as parameters in the order of their stamps.
fn combine_query(column: &Column, how: &ColumnMerge, values: usize) -> String {
    let each: Vec<String> = (1..=values).map(|number| column.parameter(number)).collect();
    let array = |value: &String| format!("COALESCE({value}, '{{}}')");
    // In the order in which each element came first.
    let distinct = |from: &str, only: &str| {
        format!(
            "SELECT ARRAY(SELECT e FROM (SELECT e, pg_catalog.min(o) AS o FROM pg_catalog.unnest({from}) \
             WITH ORDINALITY AS u(e, o) GROUP BY e) AS d{only} ORDER BY o)::{}",
            column.sql_type
        )
    };
    match how {
        ColumnMerge::Least => format!("SELECT LEAST({})", each.join(", ")),
        ColumnMerge::Union => distinct(&each.iter().map(array).collect::<Vec<_>>().join(" || "), ""),
        ColumnMerge::Intersection => {
            let is_in = |value: &String| {
                format!(
                    "EXISTS (SELECT FROM pg_catalog.unnest({}) AS x(e) WHERE x.e IS NOT DISTINCT FROM d.e)",
                    array(value)
                )
            };
            let all: Vec<_> = each[1..].iter().map(is_in).collect();
            distinct(&array(&each[0]), &format!(" WHERE {}", all.join(" AND ")))
        }
        _ => format!("SELECT GREATEST({})", each.join(", ")),
    }
}

/// What an expression makes of the first of some values and of so many more, given as parameters: the first, then each with the
/// one before it.
fn fold_query(column: &Column, expression: &str, steps: usize) -> String {
    let mut made = column.parameter(1);
    for step in 0..steps {
        let (old, remote) = (column.parameter(2 * step + 2), column.parameter(2 * step + 3));
        // the line's end is for an expression that ends in a comment
        made = format!(
            "(SELECT ({expression}\n)::{} FROM (SELECT {made} AS local, {remote} AS remote, {old} AS old) AS v)",
            column.sql_type
        );
    }
    format!("SELECT {made}")
}

/// Whether a server says by this SQLSTATE that an expression has no value for what it was given, or can't be evaluated.
///
/// <https://www.postgresql.org/docs/18/errcodes-appendix.html>
fn is_about_values(code: &str) -> bool {
    ["22", "23", "38", "39", "42", "P0"].iter().any(|class| code.starts_with(class))
}

/// The server's message may have values in it, which may be masked.
fn expression_failed(plans: &[Merging], how: &str) -> ApplyError {
    let folded = plans.iter().flat_map(|plan| {
        let table = plan.key_row.table();
        let is_folded = |(_, plan): &&(usize, ColumnPlan)| matches!(plan, ColumnPlan::Fold { .. });
        plan.columns().iter().filter(is_folded).map(move |(at, _)| format!("{table}.{}", table.columns[*at].name))
    });
    let columns: BTreeSet<String> = folded.collect();
    let columns: Vec<_> = columns.into_iter().collect();
    ApplyError::Operator {
        what: format!("the SQL expression that merges {} {how}", columns.join(" or ")),
        advice: "change the value at the target to one for which the expression has a value, or make what it calls work; then \
                 the link goes on"
            .into(),
    }
}

fn old_row_missing(table: &Table) -> ApplyError {
    ApplyError::Operator {
        what: format!("a change of {table} came without the row before it, so nobody knows which columns it changed"),
        advice: format!(
            "the table's rule merges rows, which needs ALTER TABLE {} REPLICA IDENTITY FULL; at every node; the change \
             itself was made without: give the table resolve = \"last_update_wins\" until it is through, then run that and \
             put the rule back",
            table.sql_name()
        ),
    }
}

fn not_a_number(table: &Table, column: &Column, value: &str) -> ApplyError {
    ApplyError::Operator {
        what: format!("a change of {table} makes the counter {} {value}, to which nothing can be added", column.name),
        advice: "let the rule merge the column by last_update_wins, or keep to finite numbers in it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Some(value.as_bytes().to_vec())
    }

    #[test]
    fn sums_are_exact_whatever_the_size() {
        let add = |base: &str, steps: &[(&str, &str)]| {
            let steps: Vec<_> = steps.iter().map(|(old, new)| (text(old), text(new))).collect();
            add(Some(&text(base)), &steps).map(|sum| String::from_utf8(sum.expect("a number")).expect("UTF-8"))
        };
        assert_eq!(add("5", &[("3", "4"), ("4", "2")]).as_deref(), Ok("4"));
        assert_eq!(add("9223372036854775806", &[("0", "1")]).as_deref(), Ok("9223372036854775807"));
        assert_eq!(add("0.10", &[("1.5", "1.75")]).as_deref(), Ok("0.35"));
        let long = "1".repeat(1_000);
        assert_eq!(add(&long, &[("0.001", "0")]), Ok(format!("{}0.999", "1".repeat(999))));
        assert_eq!(add("1", &[("2", "NaN")]), Err("NaN".into()));
        assert_eq!(add("NaN", &[("NaN", "7")]).as_deref(), Ok("7"));
    }

    #[test]
    fn an_expression_meets_one_value_after_the_other() {
        let column = &Table::of_texts("t", &["id", "v"]).columns[1];
        let of_type = |number: usize| column.parameter(number);
        let one = format!(
            "(SELECT (local || remote\n)::pg_catalog.text FROM (SELECT {} AS local, {} AS remote, {} AS old) AS v)",
            of_type(1),
            of_type(3),
            of_type(2)
        );
        assert_eq!(fold_query(column, "local || remote", 1), format!("SELECT {one}"));
        let two = fold_query(column, "local || remote", 2);
        assert!(
            two.contains(&format!("SELECT {one} AS local, {} AS remote, {} AS old", of_type(5), of_type(4))),
            "{two}"
        );
    }

    #[test]
    fn null_counts_as_nothing() {
        assert_eq!(super::add(Some(&None), &[(text("1"), text("3")), (None, text("1"))]), Ok(text("3")));
        assert_eq!(super::add(Some(&text("3")), &[(text("3"), None)]), Ok(None), "in turn it stays what it is");
    }
}
