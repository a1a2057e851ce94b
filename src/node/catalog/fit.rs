//! Whether one table at one node can replicate, by itself; each reason against it is a [`Finding`].
//!
//! An error-level finding keeps the table out; a warning tells what to reckon with.

use crate::model::table::quote_identifier;
use crate::node::Finding;
use crate::node::catalog::key_form::key_form;
use crate::node::catalog::shape::{IndexShape, ReplicaIdentity, TableKind, TableShape};

/// What speaks against `table`, at the node it was read from.
pub(super) fn examine(table: &TableShape) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(finding) = kind(table) {
        return vec![finding.about(table.shown())];
    }
    findings.extend(key(table));
    findings.extend(table.indexes.iter().filter_map(|index| deferrable(table, index)));
    findings.extend(secondary(table).filter_map(|index| odd_unique(table, index)));
    findings.extend(table.exclusions.iter().map(|name| {
        Finding::warning(
            "uniqueness",
            format!("exclusion constraint {name}: rows that exclude each other, written at two nodes, stop the link"),
        )
    }));
    findings.into_iter().map(|finding| finding.about(table.shown())).collect()
}

fn kind(table: &TableShape) -> Option<Finding> {
    let name = table.sql_name();
    let exclude = format!("[tables] exclude = [\"{}\"]", table.shown());
    match table.kind {
        TableKind::Plain => None,
        TableKind::Unlogged => Some(
            Finding::error("table", "is unlogged, so its changes reach no stream")
                .fix(format!("ALTER TABLE {name} SET LOGGED;")),
        ),
        TableKind::Partitioned => {
            Some(Finding::error("table", "is partitioned; this version replicates ordinary tables only").fix(exclude))
        }
        TableKind::Partition => {
            Some(Finding::error("table", "is a partition; this version replicates ordinary tables only").fix(exclude))
        }
        TableKind::Inherited => Some(
            Finding::error("table", "takes part in INHERITS; this version replicates ordinary tables only")
                .fix(exclude),
        ),
        TableKind::Foreign => Some(Finding::warning("table", "is a foreign table and does not replicate").fix(exclude)),
        TableKind::Extension => {
            Some(Finding::warning("table", "belongs to an extension and does not replicate").fix(exclude))
        }
    }
}

/// Whether the kind of table replicates at all; false has always left a finding.
pub(super) fn is_plain(table: &TableShape) -> bool {
    table.kind == TableKind::Plain
}

fn key(table: &TableShape) -> Vec<Finding> {
    let name = table.sql_name();
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
        index.odd.is_none() && index.immediate && index.columns.iter().all(not_null)
    };
    match table.indexes.iter().find(serves) {
        Some(index) => {
            format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {};", quote_identifier(&index.name))
        }
        None => format!("ALTER TABLE {name} ADD PRIMARY KEY (...);"),
    }
}

/// `session_replication_role = replica` switches off the recheck of deferrable keys: duplicates would go in.
fn deferrable(table: &TableShape, index: &IndexShape) -> Option<Finding> {
    let constraint = index.constraint.as_ref().filter(|_| !index.immediate)?;
    let kind = if index.is_primary { "PRIMARY KEY" } else { "UNIQUE" };
    let what = format!("{kind} {constraint} is DEFERRABLE: under replication it would let duplicates in");
    let constraint = quote_identifier(constraint);
    Some(Finding::error("deferrable", what).fix(format!(
        "ALTER TABLE {} DROP CONSTRAINT {constraint}, ADD CONSTRAINT {constraint} {kind} ({});",
        table.sql_name(),
        index.columns_sql()
    )))
}

/// The unique indexes beside the one that identifies rows.
fn secondary(table: &TableShape) -> impl Iterator<Item = &IndexShape> {
    let key = table.key_index().map(|index| index.name.clone());
    table.indexes.iter().filter(move |index| Some(&index.name) != key.as_ref())
}

/// The secondary unique indexes over plain columns whose equality shows in the values: collisions in them can
/// be foreseen and resolved.
pub(super) fn plain_uniques(table: &TableShape) -> Vec<&IndexShape> {
    secondary(table).filter(|index| why_odd(table, index).is_none()).collect()
}

fn why_odd(table: &TableShape, index: &IndexShape) -> Option<String> {
    if let Some(reason) = index.odd {
        return Some(reason.to_owned());
    }
    index.columns.iter().filter_map(|name| table.column(name)).find_map(|column| {
        if column.generated {
            return Some(format!("holds the generated column {}", column.name));
        }
        key_form(column)
            .err()
            .map(|_| format!("holds {}, whose type {} has an equality of its own", column.name, column.shown_type))
    })
}

fn odd_unique(table: &TableShape, index: &IndexShape) -> Option<Finding> {
    let reason = why_odd(table, index)?;
    let what = format!("unique index {} {reason}: a collision in it, written at two nodes, stops the link", index.name);
    Some(Finding::warning("uniqueness", what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Level;
    use crate::node::catalog::shape::ColumnShape;

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
        table.columns[0] = ColumnShape::of("id", "jsonb", "pg_catalog.jsonb");
        assert!(errors(&table)[0].what.contains("jsonb"));
    }

    #[test]
    fn odd_unique_indexes_are_told_and_left_out() {
        let mut table = TableShape::sample();
        table.indexes.push(IndexShape { odd: Some("is over an expression"), ..IndexShape::of("t_lower", &[]) });
        table.indexes.push(IndexShape::of("t_name", &["name"]));
        assert_eq!(errors(&table), vec![]);
        assert_eq!(examine(&table).len(), 1);
        assert_eq!(plain_uniques(&table).iter().map(|index| index.name.as_str()).collect::<Vec<_>>(), ["t_name"]);
    }

    #[test]
    fn tables_that_are_not_plain_are_left_out() {
        for kind in [TableKind::Unlogged, TableKind::Partitioned, TableKind::Partition, TableKind::Inherited] {
            assert_eq!(errors(&TableShape { kind, ..TableShape::sample() }).len(), 1, "{kind:?}");
        }
    }
}
