//! `pgconcord doctor`: checks every node and says what to change, each with the statement that does it.
//!
//! First everything is read ([`facts`]); the checks, one file a group, judge what was read and ask nothing, so
//! that they can be tested without a server. Nothing is changed anywhere.

use crate::config::{Config, NodeConfig};
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

pub(crate) use facts::Facts;
pub(crate) use server::encodings;

/// Runs all checks.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut nodes = Vec::new();
    for node in &config.nodes {
        match look(config, node).await {
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

/// Reads one node.
pub(crate) async fn look(config: &Config, node: &NodeConfig) -> Result<Facts, NodeError> {
    let control = Control::connect(&node.conninfo, "pgconcord doctor").await?;
    facts::read(config, &node.name, &control).await
}

/// The statements that give the role what it lacks to replicate.
pub(crate) fn missing_privileges(facts: &Facts) -> Vec<String> {
    privileges::to_replicate(facts).into_iter().filter_map(|finding| finding.fix).collect()
}

/// Judges what was read.
fn judge(config: &Config, nodes: &[Facts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for facts in nodes {
        let mut of_node = server::check(config, facts);
        of_node.extend(privileges::check(facts));
        of_node.extend(tables::check(facts));
        of_node.extend(state::check(config, facts, nodes));
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
