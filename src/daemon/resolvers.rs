//! Rules → the resolver of each table. What comes out of a set of changes must not depend on what type of conflict a node
//! sees in it (R1), so all types of a table have one; nor on when it is decided, so a resolver changes only while nothing
//! that was decided is still under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Config, Rule};
use crate::daemon::error::DaemonError;
use crate::model::table::Catalog;
use crate::model::{ConflictType, Cut, Lsn, Resolver, Resolvers, Table};
use crate::node::control::Control;

/// The resolver of each table of the catalog.
///
/// # Errors
/// If the rules give a table more than one.
pub fn resolvers(rules: &[Rule], catalog: &Catalog) -> Result<Resolvers, DaemonError> {
    catalog
        .tables()
        .iter()
        .map(|table| resolver(rules, table))
        .collect::<Result<_, _>>()
        .map(|each: Vec<Resolver>| Resolvers::new(each.into_iter().map(Into::into).collect()))
}

fn resolver(rules: &[Rule], table: &Table) -> Result<Resolver, DaemonError> {
    let decides = |conflict: &ConflictType| {
        let rule = rules.iter().find(|rule| rule.matches(&table.schema, &table.name, *conflict));
        rule.map_or((Resolver::LastUpdateWins, "the default"), |rule| (rule.resolve.clone(), rule.name.as_str()))
    };
    let (first, first_rule) = decides(&ConflictType::ALL[0]);
    if let Some((other, other_rule)) = ConflictType::ALL.iter().map(decides).find(|(other, _)| *other != first) {
        return Err(DaemonError::Operator(format!(
            "the rules {first_rule:?} ({}) and {other_rule:?} ({}) both decide about {table}, by the type of conflict; a \
             row would not come out alike at every node. Give the table one resolver: remove `types` from the rule that \
             comes first, or leave the table out of its `tables`",
            first.name(),
            other.name()
        )));
    }
    match unfit(&first, table) {
        None => Ok(first),
        Some(why) => Err(DaemonError::Operator(format!(
            "the rule {first_rule:?} resolves conflicts of {table} by {}, which {why}, or give the table another rule",
            first.name()
        ))),
    }
}

/// Writes the resolvers at every node; another resolver than before is taken only where nothing that it would decide has
/// been decided anywhere.
///
/// # Errors
/// If something has, or a node does not answer.
pub async fn keep(
    config: &Config,
    controls: &[Control],
    start: &Cut,
    catalog: &Catalog,
    resolvers: &Resolvers,
) -> Result<(), DaemonError> {
    let named = |table: &Arc<Table>| (table.to_string(), text(resolvers.of(table.id), config));
    let rules: BTreeMap<String, String> = catalog.tables().iter().map(named).collect();
    let mut changed = BTreeMap::new();
    let mut under_way = false;
    for (node, control) in config.nodes.iter().zip(controls) {
        let failed = |error| DaemonError::Node { node: node.name.clone(), error };
        let before = control.read_rules(&config.cluster).await.map_err(failed)?;
        let differs = |(table, old): &(String, String)| rules.get(table).is_some_and(|new| new != old);
        changed.extend(before.into_iter().filter(differs));
        let confirmed = |source: &str| {
            let place = config.nodes.iter().position(|node| node.name == source);
            place.map_or(Lsn::MAX, |place| start.confirmed[place])
        };
        let progress = control.progress(&config.cluster).await.map_err(failed)?;
        under_way |= progress.iter().any(|row| row.lsn > confirmed(&row.source));
    }
    if let Some((table, old)) = changed.first_key_value().filter(|_| under_way) {
        return Err(DaemonError::Operator(format!(
            "the rules resolve conflicts of {table} by {} now, and did so by {old} when changes were applied that other \
             nodes still wait for; decided by both, rows would differ. Put the old rule back and start pgconcord; while \
             nobody writes and `pgconcord status` shows nothing queued, stop it with SIGTERM; then change the rule",
            rules[table]
        )));
    }
    for (node, control) in config.nodes.iter().zip(controls) {
        let written = control.write_rules(&config.cluster, &rules).await;
        written.map_err(|error| DaemonError::Node { node: node.name.clone(), error })?;
    }
    Ok(())
}

/// The resolver as the rule gives it.
fn text(resolver: &Resolver, config: &Config) -> String {
    match resolver {
        Resolver::LastUpdateWins | Resolver::FirstUpdateWins => resolver.name().to_owned(),
        Resolver::OriginPriority(order) => {
            let names: Vec<_> = order.iter().map(|node| config.nodes[node.index()].name.as_str()).collect();
            format!("{} {}", resolver.name(), names.join(", "))
        }
        Resolver::Merge(merge) => {
            let columns = merge.columns.iter().map(|(name, how)| format!(", {name} {}", how.name()));
            format!("{} others {}{}", resolver.name(), merge.others.name(), columns.collect::<String>())
        }
    }
}

/// Why the resolver would not make the table's rows come out alike everywhere. What stands at a row's home may be
/// superseded and come back later, other than where the last update wins: so nothing may be taken from there, and no
/// row may have to give way to another by when it was changed.
fn unfit(resolver: &Resolver, table: &Table) -> Option<String> {
    if *resolver == Resolver::LastUpdateWins {
        return None;
    }
    if let Some(index) = table.unique.first() {
        return Some(format!(
            "can't go with its unique index {}, for whose values the last update wins: drop the index at every node",
            index.name
        ));
    }
    let sql = format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.sql_name());
    (!table.sends_old_rows).then(|| format!("needs the whole old row of each change: run {sql} at every node"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::KeyHasher;
    use crate::model::{NodeId, TableId, UniqueIndex};

    fn rule(name: &str, tables: &str, types: &[ConflictType], resolve: Resolver) -> Rule {
        let globs = vec![crate::config::tables::glob(tables).expect("a pattern")];
        let tables = crate::config::TableFilter::new(globs, vec![]).expect("a filter");
        Rule { name: name.into(), tables, types: types.to_vec(), resolve }
    }

    fn catalog() -> Catalog {
        let table = |name: &str| Table { sends_old_rows: true, ..Table::of_texts(name, &["id"]) };
        Catalog::new(vec![table("a"), table("b")], KeyHasher::with_seed(1))
    }

    #[test]
    fn the_first_rule_for_a_table_decides() {
        let order = Resolver::OriginPriority([NodeId(1), NodeId(0)].into());
        let rules = [
            rule("b by region", "public.b", ConflictType::ALL, order.clone()),
            rule("others", "public.*", ConflictType::ALL, Resolver::FirstUpdateWins),
        ];
        let found = resolvers(&rules, &catalog()).expect("one resolver each");
        assert_eq!((found.of(TableId(0)), found.of(TableId(1))), (&Resolver::FirstUpdateWins, &order));
        let found = resolvers(&[], &catalog()).expect("one resolver each");
        assert_eq!(found.of(TableId(1)), &Resolver::LastUpdateWins);
    }

    #[test]
    fn what_does_not_converge_is_refused_with_what_to_do() {
        let rules = [rule("first", "public.a", ConflictType::ALL, Resolver::FirstUpdateWins)];
        let refused = |change: &dyn Fn(&mut Table)| {
            let mut table = (**catalog().table(TableId(0))).clone();
            change(&mut table);
            resolvers(&rules, &Catalog::new(vec![table], KeyHasher::with_seed(1))).expect_err("refused").to_string()
        };
        let says = refused(&|table| table.sends_old_rows = false);
        assert!(says.contains(r#"ALTER TABLE "public"."a" REPLICA IDENTITY FULL;"#), "{says}");
        let index = UniqueIndex {
            name: "a_email".into(),
            columns: vec![1],
            nulls_not_distinct: false,
            deferrable: false,
            rule: None,
        };
        let says = refused(&|table| table.unique = vec![index.clone()]);
        assert!(says.contains("a_email"), "{says}");
    }

    #[test]
    fn two_resolvers_by_type_are_refused_with_both_rules() {
        let rules = [
            rule("inserts", "public.a", &[ConflictType::InsertExists], Resolver::LastUpdateWins),
            rule("others", "public.*", ConflictType::ALL, Resolver::FirstUpdateWins),
        ];
        let error = resolvers(&rules, &catalog()).expect_err("two resolvers").to_string();
        for part in ["inserts", "others", "public.a", "first_update_wins"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
