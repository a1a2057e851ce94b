//! `pgconcord setup`: what pgconcord needs at every node, made in an order in which nothing can be missed.
//!
//! Publications first, for a slot decodes by the publication as it was at each transaction; then the slots; then
//! origins and progress, which say "applied up to the slot's consistent point". Each step does nothing where it
//! finds its work done. What would hide a loss is refused: a slot that is gone or lost while progress rows
//! remember it.

use std::time::Duration;

use crate::config::Config;
use crate::model::Lsn;
use crate::node::catalog::ClusterCatalog;
use crate::node::control::{NodeIdentity, ProgressRow, SlotInfo, WalLevel};
use crate::node::{Control, Finding, NodeError};

mod publication;
pub mod script;
mod slot;

pub(crate) use publication::{Publication, read as read_publication};

const SCHEMA: &str = include_str!("../../sql/schema.sql");
/// Its tables.
const TABLES: [&str; 4] = ["pgconcord.progress", "pgconcord.cut", "pgconcord.rules", "pgconcord.held"];
const TABLES_THERE: &str = "SELECT count(*) FROM unnest($1::text[]) AS t(name) WHERE to_regclass(t.name) IS NOT NULL";
/// How these connections call themselves.
pub(crate) const APPLICATION: &str = "pgconcord setup";

/// A node that setup works on.
struct Site<'a> {
    name: &'a str,
    control: Control,
    identity: NodeIdentity,
    /// The slot as it was found.
    slot: Option<SlotInfo>,
    /// The progress rows as they were found.
    progress: Vec<ProgressRow>,
}

/// What setup did.
#[derive(Debug)]
pub struct SetupReport {
    /// Number of tables that replicate now.
    pub tables: usize,
    /// Warnings and errors about tables.
    pub findings: Vec<Finding>,
    /// Tables that the configuration means and that do not replicate, `schema.name`.
    pub left_out: Vec<String>,
}

/// Sets up all nodes, or as many steps as it can; each step done goes to `say` as a line. `slot_wait` bounds
/// how long the creation of a slot may wait for running transactions.
///
/// # Errors
/// Any node that can't be reached, any refusal; run again after mending it.
pub async fn run(
    config: &Config,
    slot_wait: Duration,
    say: &mut (dyn FnMut(&str, &str) + Send),
) -> Result<SetupReport, NodeError> {
    let sites = open(config).await?;
    refuse(config, &sites)?;
    let clients: Vec<_> = sites.iter().map(|site| (site.name, site.control.client())).collect();
    let catalog = ClusterCatalog::read(&config.tables, &config.object_name(), &clients).await?;
    if catalog.catalog.tables().is_empty() {
        return Err(NodeError::Operator(nothing_fits(config, &catalog)));
    }
    for site in &sites {
        schema(site, say).await.map_err(|error| error.at(site.name))?;
        publication::bring_up(site.control.client(), &config.object_name(), catalog.catalog.tables(), &mut |line| {
            say(site.name, line)
        })
        .await
        .map_err(|error| error.at(site.name))?;
    }
    let mut points = Vec::new();
    for site in &sites {
        points.push(slot_of(config, site, slot_wait, say).await.map_err(|error| error.at(site.name))?);
    }
    if sites.iter().any(|site| site.slot.is_none()) {
        for site in &sites {
            // An older life's cut says nothing about slots that were made just now.
            let forgotten = site.control.forget_cut(&config.cluster).await;
            forgotten.map_err(|error| error.at(site.name))?;
        }
    }
    for site in &sites {
        origins_and_progress(config, site, &sites, &points, say).await.map_err(|error| error.at(site.name))?;
    }
    Ok(SetupReport { tables: catalog.catalog.tables().len(), findings: catalog.findings, left_out: catalog.left_out })
}

async fn open(config: &Config) -> Result<Vec<Site<'_>>, NodeError> {
    let mut sites = Vec::new();
    for node in &config.nodes {
        let site = async {
            let control = Control::connect(&node.conninfo, APPLICATION).await?;
            let identity = control.identify().await?;
            let slot = control.slot(&config.object_name()).await?;
            let progress = if has_schema(&control).await? { control.progress(&config.cluster).await? } else { vec![] };
            Ok(Site { name: &node.name, control, identity, slot, progress })
        };
        sites.push(site.await.map_err(|error: NodeError| error.at(&node.name))?);
    }
    Ok(sites)
}

pub(crate) async fn has_schema(control: &Control) -> Result<bool, NodeError> {
    let doing = NodeError::doing("look for the schema pgconcord");
    let row = control.client().query_one("SELECT to_regclass('pgconcord.progress') IS NOT NULL", &[]).await;
    Ok(row.map_err(doing)?.get(0))
}

/// Everything that must stop setup before it has changed anything.
fn refuse(config: &Config, sites: &[Site<'_>]) -> Result<(), NodeError> {
    for site in sites {
        if site.identity.in_recovery {
            return Err(NodeError::Operator(format!(
                "{}: the server is a standby; a node must be writable",
                site.name
            )));
        }
        let server = |site: &Site<'_>| (site.identity.system_id.clone(), site.identity.started.clone());
        if let Some(other) = sites.iter().find(|other| other.name < site.name && server(other) == server(site)) {
            return Err(NodeError::Operator(same_server(other.name, site.name)));
        }
        if site.identity.wal_level != WalLevel::Logical {
            return Err(NodeError::Operator(format!(
                "{}: wal_level is not logical: run ALTER SYSTEM SET wal_level = 'logical' there and restart the server",
                site.name
            )));
        }
        let known_by: Vec<&str> = sites
            .iter()
            .filter(|other| other.progress.iter().any(|row| row.source == site.name))
            .map(|other| other.name)
            .collect();
        refuse_gone_slot(config, site, &known_by)?;
        refuse_late_join(config, site, sites)?;
    }
    Ok(())
}

/// What doctor and setup say of two nodes on one server: slots and origins are the server's, not the database's.
pub(crate) fn same_server(one: &str, other: &str) -> String {
    format!(
        "{one} and {other} are databases of one server, whose slot and origins can serve one node only: put them on \
         two servers"
    )
}

fn refuse_gone_slot(config: &Config, site: &Site<'_>, known_by: &[&str]) -> Result<(), NodeError> {
    let state = match &site.slot {
        None => "is gone",
        Some(slot) if slot.is_lost() => "was invalidated by the server",
        Some(_) => return Ok(()),
    };
    if known_by.is_empty() && site.slot.is_none() {
        return Ok(());
    }
    Err(NodeError::Operator(format!(
        "{}: the slot {} {state}, but {} has applied changes from it: what {} wrote since may be missing elsewhere. \
         Run `pgconcord teardown`, compare and copy the tables, then run `pgconcord setup` again",
        site.name,
        config.object_name(),
        if known_by.is_empty() { "somebody".to_owned() } else { known_by.join(", ") },
        site.name
    )))
}

/// A node that has no progress of a source whose changes others have already applied would begin in the middle.
fn refuse_late_join(config: &Config, source: &Site<'_>, sites: &[Site<'_>]) -> Result<(), NodeError> {
    if source.slot.is_none() {
        return Ok(());
    }
    let row = |site: &Site<'_>| site.progress.iter().find(|row| row.source == source.name).cloned();
    let others = || sites.iter().filter(|site| site.name != source.name);
    let has_begun = others().filter_map(row).any(|row| row.batch > 0);
    match others().find(|site| row(site).is_none()) {
        Some(late) if has_begun => Err(NodeError::Operator(format!(
            "{}: has no progress of {}, whose earlier changes others have applied and the slot {} no longer holds. \
             This version can't add a node to a running cluster: run `pgconcord teardown`, make the tables equal, \
             then run `pgconcord setup` again",
            late.name,
            source.name,
            config.object_name()
        ))),
        _ => Ok(()),
    }
}

fn nothing_fits(config: &Config, catalog: &ClusterCatalog) -> String {
    if catalog.left_out.is_empty() {
        return format!("no table matches [tables] include = {:?}", config.tables.patterns());
    }
    format!(
        "none of the tables {} can replicate; `pgconcord doctor` says why and what to do",
        catalog.left_out.join(", ")
    )
}

async fn schema(site: &Site<'_>, say: &mut (dyn FnMut(&str, &str) + Send)) -> Result<(), NodeError> {
    let client = site.control.client();
    let there = client.query_one(TABLES_THERE, &[&TABLES.as_slice()]).await;
    let there: i64 = there.map_err(NodeError::doing("look for the schema pgconcord"))?.get(0);
    if there < TABLES.len() as i64 {
        client.batch_execute(SCHEMA).await.map_err(NodeError::doing("create the schema pgconcord"))?;
        // an earlier version makes fewer tables
        say(site.name, if there == 0 { "schema pgconcord created" } else { "schema pgconcord completed" });
    }
    Ok(())
}

/// The position from which the node's slot decodes.
async fn slot_of(
    config: &Config,
    site: &Site<'_>,
    wait: Duration,
    say: &mut (dyn FnMut(&str, &str) + Send),
) -> Result<Lsn, NodeError> {
    let name = config.object_name();
    if let Some(found) = &site.slot {
        return slot::usable(&name, found, site.control.client()).await;
    }
    let lsn = slot::create(site.control.client(), &name, wait).await?;
    say(site.name, &format!("slot {name} created at {lsn}"));
    Ok(lsn)
}

async fn origins_and_progress(
    config: &Config,
    site: &Site<'_>,
    sites: &[Site<'_>],
    points: &[Lsn],
    say: &mut (dyn FnMut(&str, &str) + Send),
) -> Result<(), NodeError> {
    for (source, lsn) in sites.iter().zip(points).filter(|(source, _)| source.name != site.name) {
        let origin = config.origin_name(source.name);
        if site.control.origin_ids(std::slice::from_ref(&origin)).await?.is_empty() {
            let doing = NodeError::doing("create a replication origin");
            site.control
                .client()
                .execute("SELECT pg_replication_origin_create($1)", &[&origin])
                .await
                .map_err(doing)?;
            say(site.name, &format!("origin {origin} created"));
        }
        if site.progress.iter().all(|row| row.source != source.name) {
            let row = ProgressRow {
                source: source.name.to_owned(),
                system_id: source.identity.system_id.clone(),
                timeline: source.identity.timeline,
                lsn: *lsn,
                batch: 0,
            };
            site.control.insert_progress(&config.cluster, &row).await?;
            say(site.name, &format!("progress of {} begins at {lsn}", source.name));
        }
    }
    Ok(())
}
