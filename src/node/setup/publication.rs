//! The cluster's publication at one node: exactly the tables of the catalog, whole, with all operations.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_postgres::Client;

use crate::model::Table;
use crate::model::table::quote_identifier;
use crate::node::NodeError;

const READ: &str = "SELECT p.puballtables, \
     p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND p.pubviaroot AS whole \
     FROM pg_publication p WHERE p.pubname = $1";
/// Row filters and column lists exist from 15 on.
const READ_TABLES: &str = "SELECT n.nspname::text AS schema, c.relname::text AS name, \
     COALESCE(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NOT NULL AS filtered \
     FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid \
     JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1";

/// A publication as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Publication {
    /// FOR ALL TABLES: not ours.
    pub all_tables: bool,
    /// Publishes every operation, partitions under the name of their root.
    pub whole: bool,
    /// Has a row filter or a column list, so that changes are hidden.
    pub filtered: bool,
    /// Its tables, schema and name.
    pub tables: BTreeSet<(String, String)>,
}

/// The publication of that name, if it exists.
pub(crate) async fn read(client: &Client, name: &str) -> Result<Option<Publication>, NodeError> {
    let doing = NodeError::doing("read the publication");
    let Some(row) = client.query_opt(READ, &[&name]).await.map_err(&doing)? else { return Ok(None) };
    let tables = client.query(READ_TABLES, &[&name]).await.map_err(&doing)?;
    Ok(Some(Publication {
        all_tables: row.get("puballtables"),
        whole: row.get("whole"),
        filtered: tables.iter().any(|row| row.get("filtered")),
        tables: tables.iter().map(|row| (row.get("schema"), row.get("name"))).collect(),
    }))
}

/// Creates the publication, or makes it what it should be.
pub(super) async fn bring_up(
    client: &Client,
    name: &str,
    tables: &[Arc<Table>],
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<(), NodeError> {
    let found = read(client, name).await?;
    let Some(statement) = statement(name, found.as_ref(), tables)? else { return Ok(()) };
    client.batch_execute(&statement).await.map_err(NodeError::doing("publish the tables"))?;
    match found {
        None => say(&format!("publication {name} created for {} tables", tables.len())),
        Some(found) => changes(&found, tables).iter().for_each(|line| say(line)),
    }
    Ok(())
}

/// What must be run, if anything.
pub(super) fn statement(
    name: &str,
    found: Option<&Publication>,
    tables: &[Arc<Table>],
) -> Result<Option<String>, NodeError> {
    let quoted = quote_identifier(name);
    let Some(found) = found else { return Ok(Some(create(name, tables))) };
    if found.all_tables {
        return Err(NodeError::Operator(format!(
            "the publication {name} exists and is FOR ALL TABLES, so it is not one of pgconcord's: drop it, or rename \
             the cluster"
        )));
    }
    let mut statements = Vec::new();
    if found.filtered || found.tables != names(tables) {
        statements.push(format!("ALTER PUBLICATION {quoted} SET TABLE {};", list(tables)));
    }
    if !found.whole {
        statements.push(format!("ALTER PUBLICATION {quoted} SET ({OPTIONS});"));
    }
    Ok((!statements.is_empty()).then(|| statements.join("\n")))
}

const OPTIONS: &str = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";

fn create(name: &str, tables: &[Arc<Table>]) -> String {
    format!("CREATE PUBLICATION {} FOR TABLE {} WITH ({OPTIONS});", quote_identifier(name), list(tables))
}

fn list(tables: &[Arc<Table>]) -> String {
    tables.iter().map(|table| table.sql_only()).collect::<Vec<_>>().join(", ")
}

fn names(tables: &[Arc<Table>]) -> BTreeSet<(String, String)> {
    tables.iter().map(|table| (table.schema.clone(), table.name.clone())).collect()
}

fn changes(found: &Publication, tables: &[Arc<Table>]) -> Vec<String> {
    let wanted = names(tables);
    let added = wanted.difference(&found.tables).map(|(schema, name)| {
        format!("table {schema}.{name} added to the publication; its rows must be equal at all nodes already")
    });
    let removed = found.tables.difference(&wanted).map(|(schema, name)| {
        format!("table {schema}.{name} taken out of the publication: its changes no longer replicate")
    });
    let mut lines: Vec<String> = added.chain(removed).collect();
    if lines.is_empty() {
        lines.push("publication put right: every operation, no filter, partitions under their root".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Arc<Table> {
        Arc::new(Table::of_texts(name, &["id"]))
    }

    fn publication(tables: &[Arc<Table>]) -> Publication {
        Publication { all_tables: false, whole: true, filtered: false, tables: names(tables) }
    }

    #[test]
    fn a_publication_that_is_right_is_left_alone() {
        let tables = [table("a"), table("b")];
        assert_eq!(statement("p", Some(&publication(&tables)), &tables).unwrap(), None);
    }

    #[test]
    fn tables_come_and_go_in_one_statement() {
        let found = publication(&[table("a"), table("b")]);
        let tables = [table("b"), table("c")];
        let statement = statement("p", Some(&found), &tables).unwrap().unwrap();
        assert_eq!(statement, r#"ALTER PUBLICATION "p" SET TABLE ONLY "public"."b", ONLY "public"."c";"#);
        assert_eq!(changes(&found, &tables).len(), 2);
    }

    #[test]
    fn a_filter_or_a_missing_operation_is_put_right() {
        let tables = [table("a")];
        let filtered = Publication { filtered: true, ..publication(&tables) };
        let partial = Publication { whole: false, ..publication(&tables) };
        assert!(statement("p", Some(&filtered), &tables).unwrap().unwrap().contains("SET TABLE"));
        assert!(statement("p", Some(&partial), &tables).unwrap().unwrap().contains("truncate"));
    }

    #[test]
    fn a_publication_for_all_tables_is_not_ours() {
        let all = Publication { all_tables: true, ..publication(&[]) };
        assert!(statement("p", Some(&all), &[table("a")]).is_err());
    }
}
