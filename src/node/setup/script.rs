//! `setup --print-sql`: what setup would do at a node, for an administrator to run instead.
//!
//! The progress rows are left to `pgconcord setup`: they hold positions of the other nodes' slots. Run after
//! this, it finds the rest done and needs no more than write access to `pgconcord.progress`.

use std::fmt::Write;

use crate::config::Config;
use crate::model::table::{quote_identifier, quote_literal};
use crate::node::catalog::ClusterCatalog;
use crate::node::setup::{APPLICATION, SCHEMA, publication};
use crate::node::{Control, NodeError};

const GRANTS: &str = include_str!("../../../sql/grants.sql");

/// The statements for every node.
pub async fn print(config: &Config) -> Result<String, NodeError> {
    let mut controls = Vec::new();
    for node in &config.nodes {
        controls.push(Control::connect(&node.conninfo, APPLICATION).await.map_err(|error| error.at(&node.name))?);
    }
    let clients: Vec<_> =
        config.nodes.iter().zip(&controls).map(|(node, control)| (node.name.as_str(), control.client())).collect();
    let catalog = ClusterCatalog::read(&config.tables, &config.object_name(), &clients).await?;
    let mut out = String::new();
    for (name, client) in &clients {
        let doing = NodeError::doing("read the role's name");
        let row = client.query_one("SELECT current_user::text, current_database()::text", &[]).await;
        let row = row.map_err(doing)?;
        out.push_str(&node(config, &catalog, name, row.get(0), row.get(1)));
    }
    Ok(out)
}

fn node(config: &Config, catalog: &ClusterCatalog, name: &str, role: &str, database: &str) -> String {
    let quoted = quote_identifier(role);
    let mut out = format!("-- Node {name}: run as superuser in the database {database}\n\n");
    let _ = writeln!(out, "ALTER ROLE {quoted} REPLICATION;\n{}", grants(role));
    for line in tables(catalog, &quoted) {
        let _ = writeln!(out, "{line}");
    }
    let _ = writeln!(out, "\n{SCHEMA}");
    let _ = writeln!(out, "GRANT USAGE ON SCHEMA pgconcord TO {quoted};");
    let _ = writeln!(out, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgconcord TO {quoted};\n");
    let object = config.object_name();
    let _ =
        writeln!(out, "-- the publication before the slot\n{}", publication::create(&object, catalog.catalog.tables()));
    let slot = quote_literal(&object);
    let _ = writeln!(out, "SELECT pg_create_logical_replication_slot({slot}, 'pgoutput');");
    for other in config.nodes.iter().filter(|other| other.name != name) {
        let origin = quote_literal(&config.origin_name(&other.name));
        let _ = writeln!(out, "SELECT pg_replication_origin_create({origin});");
    }
    let _ = writeln!(out, "\n-- when this is done at every node: pgconcord setup\n");
    out
}

/// The grants on replication origins, for one role.
pub(crate) fn grants(role: &str) -> String {
    GRANTS.replace("@ROLE@", &quote_literal(role))
}

fn tables(catalog: &ClusterCatalog, role: &str) -> Vec<String> {
    let mut schemas: Vec<&str> = catalog.catalog.tables().iter().map(|table| table.schema.as_str()).collect();
    schemas.sort_unstable();
    schemas.dedup();
    let usage = schemas.iter().map(|schema| format!("GRANT USAGE ON SCHEMA {} TO {role};", quote_identifier(schema)));
    let writes = catalog
        .catalog
        .tables()
        .iter()
        .map(|table| format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {} TO {role};", table.sql_name()));
    usage.chain(writes).collect()
}
