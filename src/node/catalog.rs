//! The tables of all nodes → the one [`Catalog`] of what replicates, and a finding for each that does not.
//!
//! A table is in the catalog exactly if the configuration means it, it is fit at every node that was read, and
//! all of them describe it alike.

use std::collections::{BTreeSet, HashMap};

use futures_util::future::try_join_all;
use tokio_postgres::Client;

use crate::config::TableFilter;
use crate::model::key::KeyHasher;
use crate::model::table::Catalog;
use crate::model::{Column, Input, KeyForm, Table, TableId, UniqueIndex};
use crate::node::catalog::key_form::key_form;
use crate::node::catalog::shape::{ColumnShape, ReplicaIdentity, TableKind, TableShape};
use crate::node::{Finding, Level, NodeError};

mod agree;
mod fit;
pub mod key_form;
pub(crate) mod read;
pub mod shape;
pub mod types;

/// What the nodes' tables come to.
#[derive(Debug)]
pub struct ClusterCatalog {
    /// The tables that replicate.
    pub catalog: Catalog,
    /// Warnings and errors about tables; nothing about those that are as they should be.
    pub findings: Vec<Finding>,
    /// The tables that the configuration means and that do not replicate, `schema.name`.
    pub left_out: Vec<String>,
    /// What was read, a node's name and its tables.
    pub shapes: Vec<(String, Vec<TableShape>)>,
}

impl ClusterCatalog {
    /// Reads the catalogs of the nodes that are given (name and connection) and compares them.
    pub async fn read(
        filter: &TableFilter,
        publication: &str,
        nodes: &[(&str, &Client)],
    ) -> Result<ClusterCatalog, NodeError> {
        // At once: with thousands of tables a server takes its time.
        let read = nodes.iter().map(|(name, client)| async move {
            let tables = read::tables(client, filter, publication).await?;
            Ok::<_, NodeError>(((*name).to_owned(), tables))
        });
        Ok(ClusterCatalog::build(try_join_all(read).await?, KeyHasher::random()))
    }

    /// Compares what was read. Pure.
    pub fn build(shapes: Vec<(String, Vec<TableShape>)>, hasher: KeyHasher) -> ClusterCatalog {
        let mut findings = Vec::new();
        let mut tables = Vec::new();
        let mut left_out = Vec::new();
        let places: Vec<Places<'_>> = shapes.iter().map(|(_, tables)| Places::of(tables)).collect();
        for (schema, name) in names(&shapes) {
            let nodes = shapes.iter().map(|(node, _)| node.as_str());
            let row: Vec<(&str, Option<&TableShape>)> =
                nodes.zip(places.iter().map(|places| places.by_name.get(&(schema, name)).copied())).collect();
            if let Some(found) = partition(&row, &places) {
                findings.extend(found);
                continue;
            }
            let found = examine(&row);
            let fit = found.iter().all(|finding| finding.level < Level::Error);
            findings.extend(found);
            let present: Vec<&TableShape> = row.iter().filter_map(|(_, table)| *table).collect();
            match merge(&present) {
                Some(table) if fit => tables.push(table),
                _ => left_out.push(format!("{schema}.{name}")),
            }
        }
        ClusterCatalog { catalog: Catalog::new(tables, hasher), findings, left_out, shapes }
    }

    /// Tables that are published somewhere and not in the catalog: their changes arrive and have no place to
    /// go. Setup takes them out; the daemon must not start over them.
    pub fn published_but_unfit(&self) -> BTreeSet<String> {
        let published = self.shapes.iter().flat_map(|(_, tables)| tables).filter(|table| table.published);
        published
            .filter(|table| self.catalog.find(&table.schema, &table.name).is_none())
            .map(TableShape::shown)
            .collect()
    }
}

/// Where the tables of a node are: there may be thousands.
struct Places<'a> {
    by_name: HashMap<(&'a str, &'a str), &'a TableShape>,
    by_oid: HashMap<u32, &'a TableShape>,
}

impl<'a> Places<'a> {
    fn of(tables: &'a [TableShape]) -> Places<'a> {
        let by_name = tables.iter().map(|table| ((table.schema.as_str(), table.name.as_str()), table)).collect();
        Places { by_name, by_oid: tables.iter().map(|table| (table.oid, table)).collect() }
    }
}

fn names(shapes: &[(String, Vec<TableShape>)]) -> BTreeSet<(&str, &str)> {
    shapes.iter().flat_map(|(_, tables)| tables).map(|table| (table.schema.as_str(), table.name.as_str())).collect()
}

/// A partition replicates with the partitioned table that it is a part of, if that is meant too: then what speaks against
/// that. `None` if the table is replicated by itself.
fn partition(row: &agree::Row<'_>, places: &[Places<'_>]) -> Option<Vec<Finding>> {
    let present = || row.iter().zip(places).filter_map(|((node, table), places)| Some((*node, (*table)?, places)));
    let whole = |(_, table, places): &(&str, &TableShape, &Places<'_>)| {
        table.partition_of.iter().find_map(|whole| places.by_oid.get(whole)).map(|whole| whole.shown())
    };
    let (first, shown) = present().find_map(|at| Some((at.0, whole(&at)?)))?;
    let apart = present().filter(|at| whole(at).is_none()).map(|(node, table, _)| {
        let what = format!("is a partition of {shown} at {first} and a table of its own here");
        Finding::error("table", what).at(node).about(table.shown())
    });
    Some(apart.collect())
}

fn examine(row: &agree::Row<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, table) in row {
        findings.extend(table.iter().flat_map(|table| fit::examine(table)).map(|finding| finding.at(node)));
    }
    if row.iter().filter_map(|(_, table)| *table).all(fit::replicates) {
        findings.extend(agree::compare(row));
    }
    findings
}

/// The table in the column and key order of the first node; `None` if its kind does not replicate.
fn merge(tables: &[&TableShape]) -> Option<Table> {
    let first = *tables.first()?;
    if !tables.iter().all(|table| fit::replicates(table)) {
        return None;
    }
    let everywhere = |column: &&ColumnShape| tables.iter().all(|table| table.column(&column.name).is_some());
    let local = tables.iter().flat_map(|table| &table.columns).filter(|column| !everywhere(column));
    let local: BTreeSet<String> = local.map(|column| column.name.clone()).collect();
    let columns: Vec<Column> = first
        .replicated_columns()
        .filter(everywhere)
        .map(|column| Column {
            name: column.name.clone(),
            sql_type: column.base.sql_name.clone(),
            has_modifier: tables.iter().any(|table| table.column(&column.name).is_some_and(|c| c.has_modifier)),
            input: column.base.input.clone().unwrap_or(Input::Text),
            equals: match &column.base.equality_schema {
                Some(schema) => format!("OPERATOR({schema}.=)"),
                None => "=".to_owned(),
            },
            identity_always: tables.iter().any(|table| table.column(&column.name).is_some_and(|c| c.identity_always)),
            // of a type that can be no key: never asked, for such a key keeps the table out
            key_form: key_form(column).unwrap_or(KeyForm::Bytes),
        })
        .collect();
    let place: HashMap<&str, usize> = columns.iter().enumerate().map(|(i, column)| (column.name.as_str(), i)).collect();
    let places =
        |names: &[String]| names.iter().map(|name| place.get(name.as_str()).copied()).collect::<Option<Vec<_>>>();
    let key = match first.key_index() {
        Some(index) => places(&index.columns).filter(|key| !key.is_empty())?,
        None if first.insert_only => Vec::new(),
        None => return None,
    };
    let unique = fit::uniques(first)
        .into_iter()
        .filter_map(|index| {
            let plain = fit::is_plain_unique(first, index);
            let columns = places(if plain { &index.columns } else { &index.looks_at })?;
            let rule = (!plain).then(|| index.rule.clone());
            let (name, nulls_not_distinct) = (index.name.clone(), index.nulls_not_distinct);
            Some(UniqueIndex { name, columns, nulls_not_distinct, deferrable: !index.immediate, rule })
        })
        .collect();
    Some(Table {
        id: TableId(0),
        schema: first.schema.clone(),
        name: first.name.clone(),
        columns,
        local: local.into_iter().collect(),
        key,
        insert_only: first.insert_only,
        unique,
        is_partitioned: tables.iter().any(|table| table.kind == TableKind::Partitioned),
        sends_old_rows: tables.iter().all(|table| table.identity == ReplicaIdentity::Full),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::catalog::shape::IndexShape;

    fn build(east: Vec<TableShape>, west: Vec<TableShape>) -> ClusterCatalog {
        ClusterCatalog::build(vec![("east".to_owned(), east), ("west".to_owned(), west)], KeyHasher::with_seed(1))
    }

    #[test]
    fn a_table_that_is_alike_everywhere_replicates() {
        let mut west = TableShape::sample();
        west.columns.reverse();
        west.columns[1].identity_always = true;
        let mut east = TableShape::sample();
        east.columns.push(ColumnShape { generated: true, ..ColumnShape::of("g", "integer", "pg_catalog.int4") });
        west.columns.push(east.columns[2].clone());
        east.indexes.push(IndexShape::of("t_name", &["name"]));
        west.indexes.push(IndexShape::of("other_name", &["name"]));
        let built = build(vec![east], vec![west]);
        assert_eq!(built.findings, vec![]);
        let table = built.catalog.find("public", "t").unwrap();
        assert_eq!(table.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["id", "name"]);
        assert!(table.columns[0].identity_always);
        assert_eq!((table.key.clone(), table.unique[0].columns.clone()), (vec![0], vec![1]));
    }

    /// What docs/limits.md says in its tables, `…` standing for anything.
    fn is_documented(message: &str) -> bool {
        let rows = include_str!("../../docs/limits.md").lines().filter_map(|line| line.strip_prefix("| `"));
        rows.filter_map(|row| row.split_once("` |")).any(|(pattern, _)| {
            let mut rest = message;
            let mut parts = pattern.split('…');
            let starts =
                parts.next().is_none_or(|first| rest.strip_prefix(first).inspect(|left| rest = left).is_some());
            starts && parts.all(|part| rest.find(part).map(|at| rest = &rest[at + part.len()..]).is_some())
        })
    }

    #[test]
    fn every_refusal_is_in_the_documentation() {
        use crate::node::catalog::shape::LeafShape;
        use crate::node::catalog::types::{Attribute, Determinism, Folding, TypeKind, TypeShape};
        type Change = fn(&mut TableShape);
        let leaf = || LeafShape {
            name: "public.t_1".to_owned(),
            is_foreign: false,
            is_unlogged: false,
            identity: ReplicaIdentity::Default,
        };
        let partitioned =
            |leaf: LeafShape| TableShape { kind: TableKind::Partitioned, leaves: vec![leaf], ..TableShape::sample() };
        let changes: &[Change] = &[
            |t| t.indexes.clear(),
            |t| t.identity = ReplicaIdentity::Nothing,
            |t| (t.insert_only, t.identity) = (true, ReplicaIdentity::Nothing),
            |t| {
                t.insert_only = true;
                t.indexes[0].is_primary = false;
            },
            |t| t.columns[0].generated = true,
            |t| t.columns[0].base = TypeShape::base("pg_catalog", "tsvector"),
            |t| {
                t.columns[0].base = TypeShape::base("pg_catalog", "text");
                t.columns[0].collation = Determinism::Nondeterministic;
            },
            |t| {
                let extension = Some("citext".to_owned());
                t.columns[0].base = TypeShape { extension, ..TypeShape::base("public", "citext") };
                t.columns[0].folding = Some(Folding::InContext("the database's locale is ICU's".to_owned()));
            },
            |t| t.indexes[0].odd = Some("has an equality of its own (collation or operator class)"),
            |t| t.indexes[0].immediate = false,
            |t| {
                t.columns[1].generated = true;
                t.indexes.push(IndexShape { immediate: false, ..IndexShape::of("t_name", &["name"]) });
            },
            |t| t.kind = TableKind::Unlogged,
            |t| t.kind = TableKind::Foreign,
            |t| t.kind = TableKind::Extension,
            |t| t.columns[1].base.input = Err("public.f(text)".to_owned()),
            |t| t.columns[1].identity_always = true,
            |t| t.columns[1].generated = true,
            |t| t.columns[1].not_null = true,
            |t| t.columns[1].shown_type = "text(5)".to_owned(),
            |t| t.columns[1].base = TypeShape::base("public", "other"),
            |t| {
                let (name, shape) = ("x".to_owned(), TypeShape::base("pg_catalog", "int4").into());
                let attribute = Attribute { name, shape, collation: Determinism::Deterministic };
                t.columns[1].base.kind = TypeKind::Composite(vec![attribute]);
            },
            |t| t.columns.push(ColumnShape { has_default: true, ..ColumnShape::of("x", "text", "pg_catalog.text") }),
            |t| t.columns.push(ColumnShape::of("x", "text", "pg_catalog.text")),
            |t| drop(t.columns.pop()),
            |t| t.indexes.push(IndexShape::of("t_name", &["name"])),
            |t| t.indexes[0].columns.push("name".to_owned()),
            |t| {
                t.columns[1].generated = true;
                t.indexes.push(IndexShape::of("t_name", &["name"]));
            },
        ];
        let mut tables: Vec<TableShape> = changes
            .iter()
            .map(|change| {
                let mut table = TableShape::sample();
                change(&mut table);
                table
            })
            .collect();
        tables.push(partitioned(leaf()));
        tables.push(partitioned(LeafShape { is_foreign: true, ..leaf() }));
        tables.push(partitioned(LeafShape { is_unlogged: true, ..leaf() }));
        tables.push(partitioned(LeafShape { identity: ReplicaIdentity::Full, ..leaf() }));
        tables.push(TableShape { identity: ReplicaIdentity::Index, ..partitioned(leaf()) });
        for table in tables {
            for built in [
                build(vec![table.clone()], vec![TableShape::sample()]),
                build(vec![TableShape::sample()], vec![table.clone()]),
                build(vec![table.clone()], vec![]),
            ] {
                assert!(!built.findings.is_empty(), "{table:?}");
                for finding in built.findings {
                    assert!(is_documented(&finding.what), "docs/limits.md lacks: {}", finding.what);
                }
            }
        }
        assert!(!is_documented("is made up"));
    }

    #[test]
    fn a_table_that_one_node_lacks_is_left_out_and_said() {
        let built = build(vec![TableShape::sample()], vec![]);
        assert!(built.catalog.tables().is_empty());
        assert_eq!(built.left_out, ["public.t"]);
        assert_eq!(built.findings.len(), 1);
    }

    #[test]
    fn a_published_table_that_became_unfit_is_known() {
        let mut east = TableShape { published: true, ..TableShape::sample() };
        (east.columns[1].name, east.columns[1].not_null) = ("title".to_owned(), true);
        let built = build(vec![east], vec![TableShape::sample()]);
        assert_eq!(built.published_but_unfit().into_iter().collect::<Vec<_>>(), ["public.t"]);
    }

    #[test]
    fn a_table_that_is_not_plain_somewhere_is_left_out() {
        let foreign = TableShape { kind: TableKind::Foreign, ..TableShape::sample() };
        let built = build(vec![TableShape::sample()], vec![foreign]);
        assert_eq!((built.left_out.len(), built.catalog.tables().len()), (1, 0));
    }
}
