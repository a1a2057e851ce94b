//! The SQL expressions and the functions of rules, which only the nodes can tell to be right.

use std::sync::Arc;

use crate::config::rules::{self, Facet, deciding};
use crate::config::{NodeConfig, Rule};
use crate::daemon::error::DaemonError;
use crate::daemon::resolvers::fit::{self, Unfit};
use crate::daemon::resolvers::{Misfit, refuse};
use crate::model::table::Catalog;
use crate::model::{Column, ColumnMerge, FunctionName, Merge, Resolver, Table};
use crate::node::NodeError;
use crate::node::expressions::{self, Answer, Expression, Remark, Role};
use crate::node::functions::{self, Unusable};

/// What a node says of the expressions and functions of rules.
#[derive(Debug, Default)]
pub struct Told {
    /// What it does not take.
    pub refused: Vec<Misfit>,
    /// What can't be told.
    pub untold: Vec<Misfit>,
}

/// What a node says of the expressions of rules, of the columns that the tables have, and of their functions.
///
/// # Errors
/// If the node can't be reached.
pub async fn ask_expressions(rules: &[Rule], catalog: &Catalog, node: &NodeConfig) -> Result<Told, NodeError> {
    let of_table = |table| renames(rules, table).into_iter().chain(merges(rules, table));
    let asked: Vec<(&Rule, Expression<'_>)> = catalog.tables().iter().flat_map(of_table).collect();
    let expressions: Vec<_> = asked.iter().map(|(_, expression)| *expression).collect();
    let mut told = Told::default();
    for Remark { at, answer } in expressions::check(&node.conninfo, &expressions).await? {
        let (rule, Expression { table, column, role, .. }) = asked[at];
        let (which, fix) = match role {
            Role::Rename => (
                format!("what `rename` gives {column:?}"),
                "write an SQL expression over the row's columns that the server takes as the column's value; functions \
                 outside of pg_catalog with their schema",
            ),
            Role::Merge => (
                format!("the expression that merges {column:?}"),
                "write an SQL expression over local, remote and old that gives a value of the column's type and calls only \
                 functions that are IMMUTABLE; those outside of pg_catalog with their schema",
            ),
        };
        let misfit = |what: String, fix: &str| Misfit::new(rule, table, Unfit { what, fix: fix.to_owned() });
        match answer {
            Answer::Refused(said) => {
                told.refused.push(misfit(format!("{} does not take {which}: {said}", node.name), fix));
            }
            Answer::Untold(why) => {
                let fix = match role {
                    Role::Rename => "check again when nobody holds a lock on the table",
                    Role::Merge => "GRANT TEMPORARY on the database to pgconcord's role, and check again",
                };
                told.untold.push(misfit(format!("{} can't tell about {which}: {why}", node.name), fix));
            }
        }
    }
    let called: Vec<_> = catalog.tables().iter().filter_map(|table| called(rules, table)).collect();
    let functions: Vec<_> = called.iter().map(|(_, _, function)| *function).collect();
    for Unusable { at, what, fix } in functions::check(&node.conninfo, &functions).await? {
        let (rule, table, _) = called[at];
        told.refused.push(Misfit::new(rule, table, Unfit { what: format!("{} {what}", node.name), fix }));
    }
    Ok(told)
}

/// What the first rule for all conflicts of the table merges its rows by.
fn merge<'r>(rules: &'r [Rule], table: &Table) -> Option<(&'r Rule, &'r Merge)> {
    let rule = deciding(rules, &table.schema, &table.name, Facet::Writes)?;
    match &rule.resolve {
        Some(Resolver::Merge(merge)) => Some((rule, merge)),
        _ => None,
    }
}

/// The function that merges the table's rows.
fn called<'r>(rules: &'r [Rule], table: &'r Arc<Table>) -> Option<(&'r Rule, &'r Table, &'r FunctionName)> {
    match merge(rules, table)? {
        (rule, Merge::Function(function)) => Some((rule, table, function)),
        (_, Merge::Columns(_)) => None,
    }
}

/// What rows of the table get that lose a unique value.
fn renames<'r>(rules: &'r [Rule], table: &'r Arc<Table>) -> Vec<(&'r Rule, Expression<'r>)> {
    let Some((rule, rename)) = rules::renaming(rules, &table.schema, &table.name) else { return Vec::new() };
    if !fit::rename(rename, table).is_empty() {
        return Vec::new(); // told by itself
    }
    let each =
        |(column, text): (&'r String, &'r String)| (rule, Expression { table, column, text, role: Role::Rename });
    rename.0.iter().map(each).collect()
}

/// What merges the table's columns.
fn merges<'r>(rules: &'r [Rule], table: &'r Arc<Table>) -> Vec<(&'r Rule, Expression<'r>)> {
    let Some((rule, Merge::Columns(merge))) = merge(rules, table) else { return Vec::new() };
    let columns = table.columns.iter().enumerate().filter(|(at, _)| !table.key.contains(at));
    let each = |(_, column): (_, &'r Column)| match merge.of(&column.name) {
        ColumnMerge::Sql(text) => Some((rule, Expression { table, column: &column.name, text, role: Role::Merge })),
        _ => None,
    };
    columns.filter_map(each).collect()
}

/// Refuses rules with expressions or functions that a node does not take, and warns of what can't be told.
///
/// # Errors
/// If it doesn't, or can't be reached.
pub async fn check_expressions(rules: &[Rule], catalog: &Catalog, node: &NodeConfig) -> Result<(), DaemonError> {
    let told = ask_expressions(rules, catalog, node).await;
    let Told { refused, untold } = told.map_err(|error| DaemonError::Node { node: node.name.clone(), error })?;
    for Misfit { rule, table, unfit, .. } in untold {
        tracing::warn!(rule, table, "{}; {}", unfit.what, unfit.fix);
    }
    refuse(refused)
}
