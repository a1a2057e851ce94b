//! `pgconcord doctor`: checks every node and says what to change, each with the statement that does it.
//!
//! First everything is read ([`facts`]); the checks, one file a group, judge what was read and ask nothing, so
//! that they can be tested without a server. Nothing is changed anywhere.

use crate::config::Config;
use crate::model::key::KeyHasher;
use crate::node::catalog::ClusterCatalog;
use crate::node::{Control, Finding, NodeError};

mod clock;
mod facts;
mod privileges;
mod sequences;
mod server;
mod state;
mod tables;

use facts::Facts;

/// Runs all checks.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut nodes = Vec::new();
    for node in &config.nodes {
        match look(config, &node.name, &node.conninfo).await {
            Ok(facts) => {
                findings.push(Finding::ok("connection", node.conninfo.describe()).at(&node.name));
                nodes.push(facts);
            }
            Err(error) => findings.push(Finding::error("connection", error.to_string()).at(&node.name)),
        }
    }
    findings.extend(judge(config, &nodes));
    findings
}

async fn look(config: &Config, name: &str, conninfo: &crate::wire::Conninfo) -> Result<Facts, NodeError> {
    let control = Control::connect(conninfo, "pgconcord doctor").await?;
    facts::read(config, name, &control).await
}

/// Judges what was read.
fn judge(config: &Config, nodes: &[Facts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for facts in nodes {
        let mut of_node = server::check(config, facts);
        of_node.extend(privileges::check(facts));
        of_node.extend(tables::check(facts));
        of_node.extend(state::check(config, facts));
        findings.extend(of_node.into_iter().map(|finding| finding.at(&facts.node)));
    }
    findings.extend(server::check_distinct(nodes));
    findings.extend(state::check_sources(nodes));
    let shapes = nodes.iter().map(|facts| (facts.node.clone(), facts.tables.clone())).collect();
    let catalog = ClusterCatalog::build(shapes, KeyHasher::random());
    findings.extend(tables::check_catalog(config, &catalog));
    findings.extend(sequences::check(nodes, &catalog.catalog));
    findings.extend(clock::check(nodes, config.limits.max_clock_skew));
    findings
}
