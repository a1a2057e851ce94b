//! One node's system catalog → [`TableShape`]s.

use std::collections::{BTreeSet, HashMap};

use futures_util::future::try_join;
use serde_json::Value;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::config::TableFilter;
use crate::model::{IndexKey, IndexRule};
use crate::node::NodeError;
use crate::node::catalog::shape::{
    ColumnShape, IndexShape, LeafShape, ReplicaIdentity, RowSecurity, TableKind, TableShape,
};
use crate::node::catalog::types::{self, Determinism, TypeShape};

const TABLES: &str = include_str!("../../../sql/tables.sql");
const COLUMNS: &str = include_str!("../../../sql/columns.sql");
const INDEXES: &str = include_str!("../../../sql/indexes.sql");

/// Reads the tables that `filter` means, by schema and name; `publication` is the cluster's.
pub(crate) async fn tables(
    client: &Client,
    filter: &TableFilter,
    publication: &str,
) -> Result<Vec<TableShape>, NodeError> {
    let doing = NodeError::doing("read the tables");
    let rows = client.query_typed(TABLES, &[(&publication, Type::NAME)]).await.map_err(&doing)?;
    let mut tables: Vec<TableShape> =
        rows.iter().map(table).filter(|table| filter.matches(&table.schema, &table.name)).collect();
    tables.iter_mut().for_each(|table| table.insert_only = filter.is_insert_only(&table.schema, &table.name));
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let place: HashMap<u32, usize> = oids.iter().enumerate().map(|(i, oid)| (*oid, i)).collect();
    let these: [(&(dyn ToSql + Sync), Type); 1] = [(&oids, Type::OID_ARRAY)];
    let read = try_join(client.query_typed(COLUMNS, &these), client.query_typed(INDEXES, &these));
    let (columns, indexes) = read.await.map_err(&doing)?;
    let types: BTreeSet<u32> = columns.iter().map(|row| row.get("type")).collect();
    let types = types::read(client, &types.into_iter().collect::<Vec<_>>()).await?;
    for row in columns {
        let base = &types[&row.get::<_, u32>("type")];
        tables[place[&row.get::<_, u32>("relation")]].columns.push(column(&row, base));
    }
    for row in indexes {
        tables[place[&row.get::<_, u32>("relation")]].indexes.push(index(&row));
    }
    fold(client, &mut tables).await?;
    Ok(tables)
}

/// Tells the unique columns of citext how they compare.
async fn fold(client: &Client, tables: &mut [TableShape]) -> Result<(), NodeError> {
    let mut known = None;
    for table in tables {
        let unique: BTreeSet<String> = table.indexes.iter().flat_map(|index| index.columns.iter().cloned()).collect();
        let folds = |column: &&mut ColumnShape| {
            unique.contains(&column.name) && column.base.any(&|shape| shape.is_of("citext", "citext"))
        };
        for column in table.columns.iter_mut().filter(folds) {
            if known.is_none() {
                known = Some(types::folding(client).await?);
            }
            column.folding.clone_from(&known);
        }
    }
    Ok(())
}

fn table(row: &Row) -> TableShape {
    let mut missing_privileges: Vec<String> = row.get("missing_privileges");
    if !row.get::<_, bool>("schema_usage") {
        missing_privileges.push("USAGE".to_owned());
    }
    TableShape {
        oid: row.get("oid"),
        schema: row.get("schema"),
        name: row.get("name"),
        kind: kind(row),
        insert_only: false,
        identity: ReplicaIdentity::of_letter(row.get("replica_identity")),
        partition_of: row.get("partition_of"),
        leaves: leaves(row.get("leaves")),
        published: row.get("published"),
        missing_privileges,
        owned: row.get("owned"),
        owner: row.get("owner"),
        owner_is_superuser: row.get("owner_is_superuser"),
        row_security: match (row.get("row_security"), row.get("row_security_active")) {
            (false, _) => RowSecurity::Off,
            (true, false) => RowSecurity::Bypassed,
            (true, true) => RowSecurity::Active,
        },
        columns: Vec::new(),
        indexes: Vec::new(),
    }
}

fn kind(row: &Row) -> TableKind {
    match row.get("kind") {
        "p" => TableKind::Partitioned,
        "f" => TableKind::Foreign,
        _ if row.get("of_extension") => TableKind::Extension,
        _ if row.get::<_, &str>("persistence") == "u" => TableKind::Unlogged,
        _ => TableKind::Plain,
    }
}

/// The partitions that hold rows, from JSON.
fn leaves(json: &str) -> Vec<LeafShape> {
    let leaves: Vec<Value> = serde_json::from_str(json).expect("the server writes JSON");
    let leaf = |leaf: Value| LeafShape {
        name: leaf["name"].as_str().unwrap_or_default().to_owned(),
        is_foreign: leaf["kind"] == "f",
        is_unlogged: leaf["persistence"] == "u",
        identity: ReplicaIdentity::of_letter(leaf["identity"].as_str().unwrap_or_default()),
    };
    leaves.into_iter().map(leaf).collect()
}

fn column(row: &Row, base: &TypeShape) -> ColumnShape {
    let identity: &str = row.get("identity");
    ColumnShape {
        name: row.get("name"),
        shown_type: row.get("shown_type"),
        has_modifier: row.get("has_modifier"),
        base: base.clone(),
        folding: None,
        not_null: row.get("not_null"),
        domain_not_null: row.get("domain_not_null"),
        has_default: row.get::<_, bool>("has_default") || !identity.is_empty(),
        generated: !row.get::<_, &str>("generated").is_empty(),
        identity_always: identity == "a",
        collation: Determinism::of(row.get("deterministic")),
    }
}

fn rule(row: &Row) -> IndexRule {
    let (keys, operators): (Vec<String>, Vec<String>) = (row.get("keys"), row.get("operators"));
    let collations: Vec<Option<String>> = row.get("collations");
    let each = keys.into_iter().zip(operators).zip(collations);
    let keys = each.map(|((expression, operator), collation)| IndexKey { expression, operator, collation }).collect();
    IndexRule { keys, predicate: row.get("predicate") }
}

fn index(row: &Row) -> IndexShape {
    let reasons = [
        (row.get("partial"), "covers only some rows (WHERE)"),
        (row.get("expression"), "is over an expression"),
        (row.get("is_exclusion"), "is an exclusion constraint"),
        (!row.get::<_, bool>("plain_equality"), "has an equality of its own (collation or operator class)"),
    ];
    IndexShape {
        name: row.get("name"),
        constraint: row.get("constraint"),
        is_primary: row.get("is_primary"),
        is_identity: row.get("is_identity"),
        immediate: row.get("immediate"),
        odd: reasons.into_iter().find(|(applies, _)| *applies).map(|(_, reason)| reason),
        valid: row.get("valid"),
        is_exclusion: row.get("is_exclusion"),
        rule: rule(row),
        looks_at: row.get("looks_at"),
        nulls_not_distinct: row.get("nulls_not_distinct"),
        definition: row.get("definition"),
        columns: row.get("columns"),
    }
}
