//! The first contact: every node is reached once, its slot and tables are read (R6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::config::{Config, NodeConfig};
use crate::daemon::error::DaemonError;
use crate::daemon::resolvers::{self, InForce};
use crate::daemon::{reporter, supervisor};
use crate::model::table::Catalog;
use crate::model::{Class, Classify, Cut, Lsn, Resolvers};
use crate::node::catalog::ClusterCatalog;
use crate::node::control::{Control, NodeIdentity, WalLevel};
use crate::node::doctor::encodings;
use crate::node::{Level, NodeError};
use crate::status::{NodeState, Status};

/// What was found.
pub struct Contact {
    /// By node, the session that reached it, and when.
    pub controls: Vec<(Control, Instant)>,
    /// By node.
    pub identities: Vec<NodeIdentity>,
    /// From where each node's stream is needed.
    pub start: Cut,
    /// The tables.
    pub catalog: Catalog,
    /// How conflicts of each table are resolved by the rules.
    pub resolvers: Resolvers,
    /// How they are for now.
    pub in_force: InForce,
}

/// A node that was reached: its session and when that was, who it is, from where on its slot keeps changes.
type Reached = (Control, Instant, NodeIdentity, Lsn);

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Once a node refuses, the others may take so long to refuse, too.
const OTHERS_REFUSE: Duration = Duration::from_secs(1);

/// Reaches every node, waiting for those that are not up.
///
/// # Errors
/// What somebody must mend first.
pub async fn reach_all(
    config: &Config,
    started_at: DateTime<Utc>,
    status: &watch::Sender<Arc<Status>>,
) -> Result<Contact, DaemonError> {
    let starting = reporter::starting(config, started_at);
    status.send_modify(|status| *status = Arc::new(starting.clone()));
    let reached = config.nodes.iter().map(|node| reach(config, node, &starting, status));
    let (mut controls, mut reached_at, mut identities, mut confirmed) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (control, at, identity, slot) in all_or_refusals(reached).await? {
        controls.push(control);
        reached_at.push(at);
        identities.push(identity);
        confirmed.push(slot);
    }
    for (node, identity) in config.nodes.iter().zip(&identities) {
        let (first, there) = (&config.nodes[0].name, &identities[0].encoding);
        match encodings(&identity.encoding, first, there) {
            Some(finding) if finding.level == Level::Error => {
                return Err(DaemonError::Operator(format!("{}: {}", node.name, finding.what)));
            }
            Some(finding) => tracing::warn!(node = node.name, "{}", finding.what),
            None => {}
        }
    }
    let start = latest_cut(config, &controls, confirmed).await?;
    for (i, identity) in identities.iter().enumerate() {
        if let Some(j) = identities[..i].iter().position(|other| other.system_id == identity.system_id) {
            let database = |i: usize| config.nodes[i].conninfo.dbname();
            if database(i) == database(j) {
                return Err(DaemonError::Operator(format!(
                    "{} and {} are the same server and database: give each [[node]] a server of its own",
                    config.nodes[j].name, config.nodes[i].name
                )));
            }
        }
    }
    let clients: Vec<_> =
        config.nodes.iter().zip(&controls).map(|(node, control)| (node.name.as_str(), control.client())).collect();
    let read = ClusterCatalog::read(&config.tables, &config.object_name(), &clients).await;
    let read = read.map_err(|error| DaemonError::Node { node: "reading the tables".into(), error })?;
    let errors: Vec<_> = read.findings.iter().filter(|finding| finding.level == Level::Error).collect();
    let unfit = read.published_but_unfit();
    if !unfit.is_empty() {
        let first = errors.first().map(|finding| format!(" ({})", finding.what)).unwrap_or_default();
        return Err(DaemonError::Operator(format!(
            "{} published but cannot be replicated{first}: run `pgconcord doctor`, mend what it names, or leave the \
             table out under [tables] and run `pgconcord setup`",
            unfit.into_iter().collect::<Vec<_>>().join(", ")
        )));
    }
    for finding in errors {
        tracing::warn!(node = ?finding.node, "{}", finding.what);
    }
    if read.catalog.tables().is_empty() {
        return Err(DaemonError::Operator(
            "no table replicates: see [tables] include, and run `pgconcord doctor`, which says why each table is left \
             out"
            .into(),
        ));
    }
    tracing::info!(tables = read.catalog.tables().len(), nodes = config.nodes.len(), "reached every node");
    let resolvers = resolvers::resolvers(&config.conflict_rules, &read.catalog)?;
    let checked =
        config.nodes.iter().map(|node| resolvers::check_expressions(&config.conflict_rules, &read.catalog, node));
    // Of several nodes that refuse, the first is named, whichever answers first.
    join_all(checked).await.into_iter().collect::<Result<(), _>>()?;
    let in_force = resolvers::keep(config, &controls, &start, &read.catalog, &resolvers).await?;
    let controls = controls.into_iter().zip(reached_at).collect();
    Ok(Contact { controls, identities, start, catalog: read.catalog, resolvers, in_force })
}

/// From where each stream is needed: the latest cut that a node has, or the slots as setup made them.
async fn latest_cut(config: &Config, controls: &[Control], slots: Vec<Lsn>) -> Result<Cut, DaemonError> {
    let names = config.node_names();
    let names = &names;
    let read = config.nodes.iter().zip(controls).map(|(node, control)| async move {
        let cut = control.read_cut(&config.cluster, names).await;
        cut.map_err(|error| DaemonError::Node { node: node.name.clone(), error })
    });
    Ok(Cut::latest(slots, try_join_all(read).await?.into_iter().flatten()))
}

/// What all nodes come to, asked at once: to a distant server each question takes its time. What somebody must mend first is
/// named for all nodes that say it within a moment, in their order.
async fn all_or_refusals<T>(
    nodes: impl Iterator<Item = impl Future<Output = Result<T, DaemonError>>>,
) -> Result<Vec<T>, DaemonError> {
    let asked = nodes.enumerate().map(|(place, node)| async move { (place, node.await) });
    let mut asked: FuturesUnordered<_> = asked.collect();
    let (mut found, mut refusals) = (BTreeMap::new(), BTreeMap::new());
    let mut until = None;
    while let Some((place, answer)) = match until {
        None => asked.next().await,
        Some(until) => timeout_at(until, asked.next()).await.ok().flatten(),
    } {
        match answer {
            Ok(node) => _ = found.insert(place, node),
            Err(error) => {
                refusals.insert(place, error);
                until.get_or_insert_with(|| Instant::now() + OTHERS_REFUSE);
            }
        }
    }
    match refusals.pop_first() {
        None => Ok(found.into_values().collect()),
        Some((_, only)) if refusals.is_empty() => Err(only),
        Some((_, first)) => {
            let rest: Vec<_> = refusals.values().map(|error| format!("\n{error}")).collect();
            Err(DaemonError::Operator(format!("{first}{}", rest.concat())))
        }
    }
}

async fn reach(
    config: &Config,
    node: &NodeConfig,
    starting: &Status,
    status: &watch::Sender<Arc<Status>>,
) -> Result<Reached, DaemonError> {
    let place = node.id.index();
    let mut wait = FIRST_RETRY;
    loop {
        let error = match look(config, node).await {
            Ok(found) => {
                status.send_modify(|status| Arc::make_mut(status).nodes[place] = starting.nodes[place].clone());
                return Ok(found);
            }
            Err(error) => error,
        };
        if error.class() == Class::Operator {
            return Err(error);
        }
        tracing::warn!(node = node.name, %error, ?wait, "not reached yet; every node must be reached once at the start");
        status.send_modify(|status| {
            let node = &mut Arc::make_mut(status).nodes[place];
            (node.state, node.error) = (NodeState::Down, Some(error.to_string()));
        });
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LAST_RETRY);
    }
}

async fn look(config: &Config, node: &NodeConfig) -> Result<Reached, DaemonError> {
    let named = |error: NodeError| DaemonError::Node { node: node.name.clone(), error };
    let control = Control::connect(&node.conninfo, supervisor::CONTROL).await.map_err(named)?;
    let at = Instant::now();
    let name = config.object_name();
    let (identity, slot) = tokio::join!(control.identify(), control.slot(&name));
    let identity = identity.map_err(named)?;
    let refused = |what: String| DaemonError::Operator(format!("{}: {what}", node.name));
    if identity.in_recovery {
        return Err(refused(
            "the server is a standby: name the primary, or several hosts with target_session_attrs=read-write".into(),
        ));
    }
    if identity.wal_level != WalLevel::Logical {
        return Err(refused(
            "wal_level is not logical: run ALTER SYSTEM SET wal_level = 'logical' and restart the server".into(),
        ));
    }
    let Some(slot) = slot.map_err(named)? else {
        return Err(refused(format!(
            "there is no replication slot {name}. If this node was never set up, run `pgconcord setup`; if it was, \
             changes may have been lost to us: run `pgconcord teardown`, compare the nodes, and run `pgconcord setup`"
        )));
    };
    if slot.is_lost() {
        return Err(refused(format!(
            "replication slot {name} was invalidated by the server, so changes were lost to us: run `pgconcord teardown`, \
             compare the nodes, and run `pgconcord setup`; raise max_slot_wal_keep_size"
        )));
    }
    let confirmed = slot.confirmed_flush_lsn.ok_or_else(|| refused(format!("slot {name} is not a logical slot")))?;
    Ok((control, at, identity, confirmed))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn node(after: Duration, refusal: Option<&str>) -> Result<u8, DaemonError> {
        tokio::time::sleep(after).await;
        refusal.map_or(Ok(1), |what| Err(DaemonError::Operator(what.to_owned())))
    }

    #[tokio::test(start_paused = true)]
    async fn all_nodes_that_refuse_are_named_whichever_answers_first() {
        let at = Duration::from_millis;
        let said = all_or_refusals([node(at(100), Some("east: a")), node(at(10), Some("west: b"))].into_iter()).await;
        assert_eq!(said.unwrap_err().to_string(), "east: a\nwest: b");
        let alone = all_or_refusals([node(at(10), Some("east: a")), node(at(20), None)].into_iter()).await;
        assert_eq!(alone.unwrap_err().to_string(), "east: a");
        assert_eq!(all_or_refusals([node(at(50), None), node(at(20), None)].into_iter()).await.unwrap(), [1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_answer_hides_no_refusal() {
        let away = Duration::from_secs(3600);
        let said = all_or_refusals([node(away, None), node(Duration::ZERO, Some("west: b"))].into_iter()).await;
        assert_eq!(said.unwrap_err().to_string(), "west: b");
    }
}
