//! `setup --print-sql`: what setup would do at a node, for an administrator to run instead.
//!
//! The progress rows are left to `pgconcord setup`: they hold positions of the other nodes' slots. Run after
//! this, it finds the rest done and needs no more than write access to `pgconcord.progress`.

use std::fmt::Write;
use std::sync::Arc;

use crate::config::Config;
use crate::model::Table;
use crate::model::key::KeyHasher;
use crate::model::table::{quote_identifier, quote_literal};
use crate::node::NodeError;
use crate::node::catalog::ClusterCatalog;
use crate::node::doctor::{self, Facts};
use crate::node::setup::{SCHEMA, publication};

/// The statements for every node.
pub async fn print(config: &Config) -> Result<String, NodeError> {
    let mut nodes = Vec::new();
    for node in &config.nodes {
        nodes.push(doctor::look(config, node).await.map_err(|error| error.at(&node.name))?);
    }
    let shapes = nodes.iter().map(|facts| (facts.node.clone(), facts.tables.clone())).collect();
    let catalog = ClusterCatalog::build(shapes, KeyHasher::random());
    Ok(nodes.iter().map(|facts| script(config, catalog.catalog.tables(), facts)).collect())
}

/// What is not there yet at one node.
fn script(config: &Config, tables: &[Arc<Table>], facts: &Facts) -> String {
    let role = quote_identifier(&facts.server.role);
    let mut out = format!("-- Node {}: run as superuser in the database {}\n\n", facts.node, facts.server.database);
    let object = config.object_name();
    for fix in doctor::missing_privileges(facts) {
        let _ = writeln!(out, "{fix}");
    }
    if facts.server.missing_on_progress.is_none() {
        let _ = writeln!(out, "\n{SCHEMA}");
    }
    let _ = writeln!(out, "GRANT USAGE ON SCHEMA pgconcord TO {role};");
    let _ = writeln!(out, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgconcord TO {role};\n");
    match publication::statement(&object, facts.publication.as_ref(), tables) {
        Ok(Some(statement)) => writeln!(out, "-- the publication before the slot\n{statement}"),
        Ok(None) => Ok(()),
        Err(error) => writeln!(out, "-- {error}"),
    }
    .expect("writing to a string does not fail");
    if facts.slot.is_none() {
        let _ = writeln!(out, "SELECT pg_create_logical_replication_slot({}, 'pgoutput');", quote_literal(&object));
    }
    let others = config.nodes.iter().filter(|other| other.name != facts.node);
    for origin in others.map(|other| config.origin_name(&other.name)).filter(|name| !facts.origins.contains(name)) {
        let _ = writeln!(out, "SELECT pg_replication_origin_create({});", quote_literal(&origin));
    }
    let _ = writeln!(out, "\n-- when this is done at every node: pgconcord setup\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_makes_the_publication_before_the_slot() {
        let table = Table::of_texts("t", &["id"]);
        let script = script(&Config::sample(), &[Arc::new(table)], &Facts::sample());
        let place = |part: &str| script.find(part).unwrap_or_else(|| panic!("{part} is not in {script}"));
        assert!(place("CREATE SCHEMA") < place("GRANT USAGE ON SCHEMA pgconcord"));
        assert!(place("CREATE PUBLICATION") < place("pg_create_logical_replication_slot('pgconcord_shop'"));
        assert!(script.contains("pg_replication_origin_create('pgconcord_shop_west')"));
        assert!(!script.contains("pgconcord_shop_east"), "no origin for itself");
    }

    #[test]
    fn what_is_there_is_left_out() {
        let facts = Facts { origins: vec!["pgconcord_shop_west".to_owned()], ..Facts::sample() };
        assert!(!script(&Config::sample(), &[], &facts).contains("origin_create"));
    }
}
