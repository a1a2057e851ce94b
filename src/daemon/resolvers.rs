//! Rules → what decides about each table. What comes out of a set of changes must not depend on what type of conflict a
//! node sees in it (R1), so a table has one resolver, or one for each condition on the changes; nor on when it is
//! decided, so a resolver changes only while nothing that was decided is still under way (see
//! [`crate::daemon::rules`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use futures_util::future::{try_join, try_join_all};

use crate::config::rules;
use crate::config::{Config, Rule};
use crate::daemon::error::DaemonError;
use crate::model::table::Catalog;
use crate::model::{Cut, Lsn, Resolver, Resolvers, Table, TableId, TableRule};
use crate::node::control::Control;

mod compile;
mod expressions;
pub mod fit;

use compile::by_column;
pub use compile::compile;
pub use expressions::{Told, ask_expressions, check_expressions};
use fit::{Unfit, like};

/// A rule that can't hold for a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Misfit {
    /// The rule's name.
    pub rule: String,
    /// Where the rule stands.
    pub place: String,
    /// `schema.name`.
    pub table: String,
    /// What is wrong with the rule for that table.
    pub unfit: Unfit,
}

impl Misfit {
    fn new(rule: &Rule, table: &Table, unfit: Unfit) -> Misfit {
        Misfit { rule: rule.name.clone(), place: rule.place.to_string(), table: table.to_string(), unfit }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Misfit { rule, place, table, unfit } = self;
        write!(f, "the rule {rule:?} ({place}) can't hold for {table}: {}; {}", unfit.what, unfit.fix)
    }
}

/// What decides about each table of the catalog.
///
/// # Errors
/// If a rule can't hold for a table that it decides about, or masks what it can't.
pub fn resolvers(rules: &[Rule], catalog: &Catalog) -> Result<Resolvers, DaemonError> {
    let compiled: Vec<_> = catalog.tables().iter().map(|table| compile(rules, table)).collect();
    let misfits = compiled.iter().flat_map(|(_, misfits)| misfits).chain(&lost(rules, catalog)).cloned().collect();
    refuse(misfits)?;
    Ok(Resolvers::new(compiled.into_iter().map(|(rule, _)| rule).collect()))
}

fn refuse(misfits: Vec<Misfit>) -> Result<(), DaemonError> {
    let Some(first) = misfits.first() else { return Ok(()) };
    let more = match misfits.len() {
        1 => String::new(),
        count => format!(" (and {} more: `pgconcord rules check` shows all)", count - 1),
    };
    Err(DaemonError::Operator(format!("{first}{more}")))
}

/// The tables whose rows that lose a unique value get something else than before.
pub fn renamed_otherwise(before: &[Rule], after: &[Rule], catalog: &Catalog) -> Vec<TableId> {
    let of =
        |rules, table: &Table| rules::renaming(rules, &table.schema, &table.name).map(|(_, rename)| rename.clone());
    let differs = |table: &&Arc<Table>| of(before, table) != of(after, table);
    catalog.tables().iter().filter(differs).map(|table| table.id).collect()
}

/// What rules say of their tables that is about none of them.
pub fn lost(rules: &[Rule], catalog: &Catalog) -> Vec<Misfit> {
    let mut lost = lost_masks(rules, catalog);
    for rule in rules.iter().filter(|rule| rule.unique.is_some()) {
        let mut tables = catalog.tables().iter().filter(|table| rule.tables.matches(&table.schema, &table.name));
        let first = tables.clone().next().and_then(|table| Some((table, fit::unique(table)?)));
        if tables.all(|table| fit::unique(table).is_some()) {
            lost.extend(first.map(|(table, unfit)| Misfit::new(rule, table, unfit)));
        }
    }
    lost
}

/// Masked columns that no table of their rule has: a slip that would write down what was to be kept out.
fn lost_masks(rules: &[Rule], catalog: &Catalog) -> Vec<Misfit> {
    let mut lost = Vec::new();
    for rule in rules {
        let tables = || catalog.tables().iter().filter(|table| rule.tables.matches(&table.schema, &table.name));
        let has = |table: &Table, column: &String| table.column(column).is_some() || table.local.contains(column);
        for column in rule.mask.iter().filter(|column| !tables().any(|table| has(table, column))) {
            if let Some(table) = tables().next() {
                let what = format!("there is no column {column:?} to mask, there or in any other of the rule's tables");
                lost.push(Misfit::new(rule, table, Unfit { what, fix: like(column, table) }));
            }
        }
    }
    lost
}

/// What decides about each table at the start.
#[derive(Debug)]
pub struct InForce {
    /// What decides now.
    pub resolvers: Resolvers,
    /// Tables that are still decided as they were before the rules changed, because something is under way.
    pub pending: BTreeSet<TableId>,
}

/// Compares the rules with what the nodes keep, and has the nodes keep what is new. A table whose rule was another one when
/// changes were applied that other nodes still wait for keeps that rule for now.
///
/// # Errors
/// If a table has to keep a rule that can't be told or can't hold any more, or a node does not answer.
pub async fn keep(
    config: &Config,
    controls: &[Control],
    start: &Cut,
    catalog: &Catalog,
    resolvers: &Resolvers,
) -> Result<InForce, DaemonError> {
    let names = config.node_names();
    let mut before = BTreeMap::new();
    let mut under_way = false;
    let recorded = config.nodes.iter().zip(controls).map(|(node, control)| async move {
        let read = try_join(control.read_rules(&config.cluster), control.progress(&config.cluster));
        read.await.map_err(|error| DaemonError::Node { node: node.name.clone(), error })
    });
    for (rules, progress) in try_join_all(recorded).await? {
        // where nodes differ nothing was decided by the newer rule yet, and the last one is written last
        before.extend(rules);
        let confirmed = |source: &str| {
            let place = config.nodes.iter().position(|node| node.name == source);
            place.map_or(Lsn::MAX, |place| start.confirmed[place])
        };
        under_way |= progress.iter().any(|row| row.lsn > confirmed(&row.source));
    }
    let mut pending = BTreeSet::new();
    let mut in_force = Vec::new();
    let mut written = BTreeMap::new();
    for table in catalog.tables() {
        let rule = resolvers.rule(table.id);
        let text = rules::record(rule, &names);
        let decided = before.get(&table.to_string()).filter(|old| under_way && **old != text);
        let old = decided.map(|old| rules::recorded(old, &names).ok_or_else(|| stuck(table, old))).transpose()?;
        match old.filter(|old| !old.comes_to_the_same(rule)) {
            None => {
                in_force.push(rule.clone());
                written.insert(table.to_string(), text);
            }
            Some(old) if fits(&old, table) => {
                in_force.push(old);
                pending.insert(table.id);
            }
            Some(_) => return Err(stuck(table, decided.map_or("", String::as_str))),
        }
    }
    for (node, control) in config.nodes.iter().zip(controls) {
        let written = control.write_rules(&config.cluster, &written).await;
        written.map_err(|error| DaemonError::Node { node: node.name.clone(), error })?;
    }
    if let Some(table) = pending.first() {
        tracing::info!(
            tables = pending.len(),
            first = %catalog.table(*table),
            "rules have changed; these tables are decided as before until nothing of that is under way"
        );
    }
    let resolvers = Resolvers::new(in_force);
    warn_of_divergence(&resolvers, catalog);
    Ok(InForce { resolvers, pending })
}

/// Says which tables' rows may come to differ, as their rules accept.
pub fn warn_of_divergence(resolvers: &Resolvers, catalog: &Catalog) {
    for table in resolvers.diverging().map(|table| catalog.table(table)) {
        tracing::warn!(%table, "rows may come to differ between nodes: a rule of this table accepts that");
    }
}

/// Whether the table can be decided about by a rule that it was decided by before.
fn fits(rule: &TableRule, table: &Table) -> bool {
    let merges = match &rule.resolver {
        Resolver::Merge(merge) => fit::merge(merge, table).1.is_empty(),
        _ => true,
    };
    merges
        && by_column(rule).iter().all(|compared| fit::by(compared.resolver, compared.deletes, table).is_empty())
        && fit::whole_rows(&rule.resolver, rule.deletes, table).is_none()
        && rule.cases.iter().all(|case| fit::case(case, table).is_empty())
}

fn stuck(table: &Table, old: &str) -> DaemonError {
    DaemonError::Operator(format!(
        "conflicts of {table} were decided by [{}] when changes were applied that other nodes still wait for, and as nodes \
         and columns are now they can't be; decided otherwise, rows would differ. Put back what was changed beside the \
         rules and start pgconcord; while nobody writes and `pgconcord status` shows nothing queued, stop it with SIGTERM; \
         then change it",
        old.replace('\n', ", ")
    ))
}

#[cfg(test)]
mod tests;
