//! The SQL expressions of rules, which only the nodes can tell to be right.

use std::sync::Arc;

use crate::config::rules::{self, Facet, deciding};
use crate::config::{NodeConfig, Rule};
use crate::daemon::error::DaemonError;
use crate::daemon::resolvers::fit::{self, Unfit};
use crate::daemon::resolvers::{Misfit, refuse};
use crate::model::table::Catalog;
use crate::model::{Column, ColumnMerge, Resolver, Table};
use crate::node::NodeError;
use crate::node::expressions::{self, Expression, Role, Wrong};

/// What a node does not take of the expressions of rules: of the columns that the tables have.
///
/// # Errors
/// If the node can't be reached.
pub async fn refused_expressions(
    rules: &[Rule],
    catalog: &Catalog,
    node: &NodeConfig,
) -> Result<Vec<Misfit>, NodeError> {
    let of_table = |table| renames(rules, table).into_iter().chain(merges(rules, table));
    let asked: Vec<(&Rule, Expression<'_>)> = catalog.tables().iter().flat_map(of_table).collect();
    let expressions: Vec<_> = asked.iter().map(|(_, expression)| *expression).collect();
    let misfit = |Wrong { at, said }: Wrong| {
        let (rule, Expression { table, column, role, .. }) = asked[at];
        let (what, fix) = match role {
            Role::Rename => (
                format!("{} does not take what `rename` gives {column:?}: {said}", node.name),
                "write an SQL expression over the row's columns that the server takes as the column's value; functions \
                 outside of pg_catalog with their schema",
            ),
            Role::Merge => (
                format!("{} does not take the expression that merges {column:?}: {said}", node.name),
                "write an SQL expression over local, remote and old that gives a value of the column's type and calls only \
                 functions that are IMMUTABLE; those outside of pg_catalog with their schema",
            ),
        };
        Misfit::new(rule, table, Unfit { what, fix: fix.to_owned() })
    };
    Ok(expressions::check(&node.conninfo, &expressions).await?.into_iter().map(misfit).collect())
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
    let rule = deciding(rules, &table.schema, &table.name, Facet::Writes);
    let Some((rule, Resolver::Merge(merge))) = rule.and_then(|rule| Some((rule, rule.resolve.as_ref()?))) else {
        return Vec::new();
    };
    let columns = table.columns.iter().enumerate().filter(|(at, _)| !table.key.contains(at));
    let each = |(_, column): (_, &'r Column)| match merge.of(&column.name) {
        ColumnMerge::Sql(text) => Some((rule, Expression { table, column: &column.name, text, role: Role::Merge })),
        _ => None,
    };
    columns.filter_map(each).collect()
}

/// Refuses rules with expressions that a node does not take.
///
/// # Errors
/// If it doesn't, or can't be reached.
pub async fn check_expressions(rules: &[Rule], catalog: &Catalog, node: &NodeConfig) -> Result<(), DaemonError> {
    let refused = refused_expressions(rules, catalog, node).await;
    refuse(refused.map_err(|error| DaemonError::Node { node: node.name.clone(), error })?)
}
