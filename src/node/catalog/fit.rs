//! Whether one table at one node can replicate, by itself; each reason against it is a [`Finding`].
//!
//! An error-level finding keeps the table out; a warning tells what to reckon with.

use crate::model::table::quote_identifier;
use crate::node::Finding;
use crate::node::catalog::key_form::key_form;
use crate::node::catalog::shape::{ColumnShape, IndexShape, ReplicaIdentity, TableKind, TableShape};

/// What speaks against `table`, at the node it was read from.
pub(super) fn examine(table: &TableShape) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(finding) = kind(table) {
        return vec![finding.about(table.shown())];
    }
    findings.extend(table.replicated_columns().filter_map(casts));
    findings.extend(table.replicated_columns().filter_map(|column| identity(table, column)));
    findings.extend(key(table));
    findings.extend(table.indexes.iter().filter_map(|index| deferrable(table, index)));
    findings.extend(secondary(table).filter_map(|index| unforeseen(table, index)));
    if table.kind == TableKind::Partitioned {
        let what =
            "is partitioned: a TRUNCATE, DETACH or DROP of a single partition does not replicate; do it at every node";
        let fix = format!("or [tables] exclude = [\"{}\"], which replicates each partition by itself", table.shown());
        findings.push(Finding::warning("table", what).fix(fix));
    }
    findings.into_iter().map(|finding| finding.about(table.shown())).collect()
}

fn kind(table: &TableShape) -> Option<Finding> {
    let name = table.sql_name();
    let exclude = format!("[tables] exclude = [\"{}\"]", table.shown());
    match table.kind {
        TableKind::Plain => None,
        TableKind::Partitioned => partitions(table),
        TableKind::Unlogged => Some(
            Finding::error("table", "is unlogged, so its changes reach no stream")
                .fix(format!("ALTER TABLE {name} SET LOGGED;")),
        ),
        TableKind::Foreign => Some(Finding::warning("table", "is a foreign table and does not replicate").fix(exclude)),
        TableKind::Extension => {
            Some(Finding::warning("table", "belongs to an extension and does not replicate").fix(exclude))
        }
    }
}

/// What a partition keeps out of the stream.
fn partitions(table: &TableShape) -> Option<Finding> {
    let exclude = format!("[tables] exclude = [\"{}\"]", table.shown());
    if table.identity == ReplicaIdentity::Index {
        let what = "has REPLICA IDENTITY USING INDEX, which does not reach its partitions";
        let fix = format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT;", table.sql_name());
        return Some(Finding::error("replica_identity", what).fix(fix));
    }
    table.leaves.iter().find_map(|leaf| {
        if leaf.is_foreign {
            let what = format!("the partition {} is a foreign table, whose changes reach no stream", leaf.name);
            return Some(Finding::error("table", what).fix(exclude.clone()));
        }
        if leaf.is_unlogged {
            let what = format!("the partition {} is unlogged, so its changes reach no stream", leaf.name);
            return Some(Finding::error("table", what).fix(format!("ALTER TABLE {} SET LOGGED;", leaf.name)));
        }
        let as_root = match table.identity {
            ReplicaIdentity::Full => "FULL",
            _ => "DEFAULT",
        };
        let what = format!("the partition {} has another REPLICA IDENTITY than its root", leaf.name);
        let fix = format!("ALTER TABLE {} REPLICA IDENTITY {as_root};", leaf.name);
        (leaf.identity != table.identity).then(|| Finding::error("replica_identity", what).fix(fix))
    })
}

/// Whether the kind of table replicates at all; false has always left a finding.
pub(super) fn replicates(table: &TableShape) -> bool {
    matches!(table.kind, TableKind::Plain | TableKind::Partitioned)
}

/// Most types' values go to the target as text; what makes a value of that again must be the type's own input function.
fn casts(column: &ColumnShape) -> Option<Finding> {
    let function = column.base.input.as_ref().err()?;
    let what = format!(
        "column {}: casts from text and from character to {} go through functions ({function}), so its values can't be \
         written as they are",
        column.name, column.shown_type
    );
    Some(Finding::error("type", what).fix(format!("DROP CAST (character AS {});", column.base.sql_name)))
}

/// The server lets nobody write a value into such a column by UPDATE. In a key none is needed: a row that gets another
/// key is a new row.
fn identity(table: &TableShape, column: &ColumnShape) -> Option<Finding> {
    let in_key = table.key_index().is_some_and(|key| key.columns.contains(&column.name));
    let what =
        format!("column {} is GENERATED ALWAYS AS IDENTITY: an UPDATE can't write it, and it is no key", column.name);
    let (name, quoted) = (table.sql_name(), quote_identifier(&column.name));
    let fix = format!("ALTER TABLE {name} ALTER COLUMN {quoted} SET GENERATED BY DEFAULT;");
    let no_update = table.insert_only && table.key_index().is_none();
    (column.identity_always && !in_key && !no_update).then(|| Finding::error("identity", what).fix(fix))
}

/// What speaks against replicating nothing but the inserts of a table.
fn insert_only(table: &TableShape) -> Vec<Finding> {
    let name = table.sql_name();
    let mut findings = Vec::new();
    let has_key = table.key_index().is_some();
    if table.identity != ReplicaIdentity::Full && (!has_key || table.identity == ReplicaIdentity::Nothing) {
        let what = "is for inserts only; without REPLICA IDENTITY FULL the server would refuse its UPDATE and DELETE";
        let fix = format!("ALTER TABLE {name} REPLICA IDENTITY FULL;");
        findings.push(Finding::error("replica_identity", what).fix(fix));
    }
    findings.extend(table.indexes.first().filter(|_| !has_key).map(|index| {
        let what = format!("is for inserts only and has no key: a collision in {} could not be resolved", index.name);
        Finding::error("key", what).fix(format!("ALTER TABLE {name} ADD PRIMARY KEY (...);  -- or drop that index"))
    }));
    findings
}

fn key(table: &TableShape) -> Vec<Finding> {
    let name = table.sql_name();
    if table.insert_only && (table.key_index().is_none() || table.identity == ReplicaIdentity::Nothing) {
        return insert_only(table);
    }
    if table.identity == ReplicaIdentity::Nothing {
        let what = "has REPLICA IDENTITY NOTHING, so updates and deletes can't be published";
        return vec![
            Finding::error("replica_identity", what).fix(format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT;")),
        ];
    }
    let Some(index) = table.key_index() else {
        return vec![
            Finding::error("key", "has no primary key, so its rows can't be told apart").fix(without_key(table)),
        ];
    };
    let mut findings = Vec::new();
    for column in index.columns.iter().filter_map(|name| table.column(name)) {
        if column.generated {
            findings.push(Finding::error(
                "key",
                format!("the key column {} is generated, and generated columns do not replicate", column.name),
            ));
        } else if let Err(reason) = key_form(column) {
            findings.push(Finding::error("key", format!("the key column {} can't be used: {reason}", column.name)));
        }
    }
    if let Some(reason) = index.odd {
        findings.push(Finding::error("key", format!("the key's index {} {reason}", index.name)));
    }
    findings
}

/// A unique index that could serve, or the general form.
fn without_key(table: &TableShape) -> String {
    let name = table.sql_name();
    let serves = |index: &&IndexShape| {
        let not_null = |column: &String| table.column(column).is_some_and(|column| column.not_null);
        index.odd.is_none() && index.valid && index.immediate && index.columns.iter().all(not_null)
    };
    match table.indexes.iter().find(serves) {
        Some(index) => {
            format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {};", quote_identifier(&index.name))
        }
        None => format!("ALTER TABLE {name} ADD PRIMARY KEY (...);"),
    }
}

/// A deferrable key is no replica identity, so updates and deletes can't be published.
fn deferrable(table: &TableShape, index: &IndexShape) -> Option<Finding> {
    let is_key = table.key_index().is_some_and(|key| key.name == index.name);
    let constraint = index.constraint.as_ref().filter(|_| is_key && !index.immediate)?;
    let what = format!("PRIMARY KEY {constraint} is DEFERRABLE, so it can't tell which row a change means");
    let constraint = quote_identifier(constraint);
    Some(Finding::error("deferrable", what).fix(format!(
        "ALTER TABLE {} DROP CONSTRAINT {constraint}, ADD CONSTRAINT {constraint} PRIMARY KEY ({});",
        table.sql_name(),
        index.columns_sql()
    )))
}

/// The unique indexes beside the one that identifies rows.
fn secondary(table: &TableShape) -> impl Iterator<Item = &IndexShape> {
    let key = table.key_index().map(|index| index.name.clone());
    table.indexes.iter().filter(move |index| Some(&index.name) != key.as_ref())
}

/// The secondary unique indexes and exclusion constraints in which collisions can be foreseen and resolved.
pub(super) fn uniques(table: &TableShape) -> Vec<&IndexShape> {
    secondary(table).filter(|index| why_not(table, index).is_none()).collect()
}

/// Whether two rows collide in the index exactly if the values of its columns are equal and look alike.
pub(super) fn is_plain_unique(table: &TableShape, index: &IndexShape) -> bool {
    let has_form = |name: &String| table.column(name).is_some_and(|column| key_form(column).is_ok());
    index.odd.is_none() && index.columns.iter().all(has_form)
}

fn why_not(table: &TableShape, index: &IndexShape) -> Option<String> {
    if !index.valid {
        return Some("is not valid (a CREATE INDEX CONCURRENTLY failed)".to_owned());
    }
    let generated = |column: &&ColumnShape| column.generated;
    let column = index.looks_at.iter().filter_map(|name| table.column(name)).find(generated)?;
    Some(format!("looks at the generated column {}", column.name))
}

fn unforeseen(table: &TableShape, index: &IndexShape) -> Option<Finding> {
    let reason = why_not(table, index)?;
    if !index.immediate {
        let what = format!("unique index {} {reason} and is DEFERRABLE: nobody could recheck it", index.name);
        let fix = format!("ALTER TABLE {} DROP CONSTRAINT {};", table.sql_name(), quote_identifier(&index.name));
        return Some(Finding::error("deferrable", what).fix(fix));
    }
    let what = format!("unique index {} {reason}: a collision in it, written at two nodes, stops the link", index.name);
    Some(Finding::warning("uniqueness", what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Level;
    use crate::node::catalog::shape::LeafShape;

    fn errors(table: &TableShape) -> Vec<Finding> {
        examine(table).into_iter().filter(|finding| finding.level == Level::Error).collect()
    }

    #[test]
    fn a_plain_table_with_a_primary_key_is_fit() {
        assert_eq!(examine(&TableShape::sample()), vec![]);
    }

    #[test]
    fn without_a_primary_key_a_usable_index_is_named() {
        let mut table = TableShape { indexes: vec![IndexShape::of("t_id", &["id"])], ..TableShape::sample() };
        assert_eq!(
            errors(&table)[0].fix.as_deref(),
            Some(r#"ALTER TABLE "public"."t" REPLICA IDENTITY USING INDEX "t_id";"#)
        );
        table.identity = ReplicaIdentity::Index;
        table.indexes[0].is_identity = true;
        assert_eq!(errors(&table), vec![]);
        table.indexes = vec![IndexShape::of("t_name", &["name"])];
        table.identity = ReplicaIdentity::Default;
        assert!(errors(&table)[0].fix.as_deref().unwrap().contains("ADD PRIMARY KEY"));
    }

    #[test]
    fn replica_identity_nothing_and_full_differ() {
        let table = |identity| TableShape { identity, ..TableShape::sample() };
        assert_eq!(errors(&table(ReplicaIdentity::Nothing))[0].check, "replica_identity");
        assert_eq!(errors(&table(ReplicaIdentity::Full)), vec![]);
    }

    #[test]
    fn a_deferrable_key_is_refused_with_its_statement() {
        let mut table = TableShape::sample();
        table.indexes[0].immediate = false;
        let errors = errors(&table);
        assert_eq!(errors[0].check, "deferrable");
        assert!(errors[0].fix.as_deref().unwrap().ends_with(r#"ADD CONSTRAINT "t_pkey" PRIMARY KEY ("id");"#));
    }

    #[test]
    fn a_key_of_an_unusable_type_is_refused() {
        let mut table = TableShape::sample();
        table.columns[0] = ColumnShape::of("id", "tsvector", "pg_catalog.tsvector");
        assert!(errors(&table)[0].what.contains("tsvector"));
    }

    #[test]
    fn an_odd_unique_index_counts_if_all_that_it_looks_at_replicates() {
        let mut table = TableShape::sample();
        let odd = IndexShape { odd: Some("is over an expression"), ..IndexShape::of("t_lower", &["name"]) };
        table.indexes.extend([odd, IndexShape::of("t_name", &["name"])]);
        assert_eq!(examine(&table), vec![]);
        let plain: Vec<_> = uniques(&table).iter().map(|index| is_plain_unique(&table, index)).collect();
        assert_eq!(plain, [false, true]);
        table.columns[1].generated = true;
        assert!(uniques(&table).is_empty());
        assert!(examine(&table)[0].what.contains("looks at the generated column name"));
    }

    #[test]
    fn tables_that_are_not_plain_are_left_out() {
        for kind in [TableKind::Unlogged, TableKind::Foreign, TableKind::Extension] {
            assert_eq!(examine(&TableShape { kind, ..TableShape::sample() }).len(), 1, "{kind:?}");
        }
    }

    #[test]
    fn a_partitioned_table_is_as_fit_as_its_partitions() {
        let leaf = LeafShape {
            name: "public.t_1".to_owned(),
            is_foreign: false,
            is_unlogged: false,
            identity: ReplicaIdentity::Default,
        };
        let with = |leaf: &LeafShape| {
            errors(&TableShape { kind: TableKind::Partitioned, leaves: vec![leaf.clone()], ..TableShape::sample() })
        };
        assert_eq!(with(&leaf), vec![]);
        for (leaf, says) in [
            (LeafShape { is_foreign: true, ..leaf.clone() }, "foreign table"),
            (LeafShape { is_unlogged: true, ..leaf.clone() }, "unlogged"),
            (LeafShape { identity: ReplicaIdentity::Nothing, ..leaf.clone() }, "another REPLICA IDENTITY"),
        ] {
            assert!(with(&leaf)[0].what.contains(says), "{says}");
        }
    }
}
