//! `pgconcord teardown`: removes exactly what setup made, at every node that can be reached.
//!
//! A slot that somebody reads is left alone, and with it everything else at all nodes, unless the caller says to
//! end its reader. A node that can't be reached does not keep the others from being cleaned: its slot would
//! retain WAL for ever, so what remains there is reported with the statements that remove it.

use std::time::Duration;

use crate::config::{Config, NodeConfig};
use crate::model::table::{quote_identifier, quote_literal};
use crate::node::{Control, NodeError, setup};

/// What to do about a slot that is being read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActiveSlot {
    /// Refuse, naming the process.
    Refuse,
    /// End the process.
    Terminate,
}

/// What remains at one node, and how to remove it by hand.
#[derive(Debug)]
pub struct Remains {
    /// The node.
    pub node: String,
    /// Why.
    pub reason: NodeError,
    /// The statements that are still to be run there.
    pub statements: String,
}

/// How long an ended walsender may take to let go of its slot.
const RELEASE: Duration = Duration::from_secs(10);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Tears down all nodes; each step done goes to `say`. Gives what remains, nothing if all is gone.
///
/// # Errors
/// A slot that is being read, under [`ActiveSlot::Refuse`]: nothing has been changed then.
pub async fn run(
    config: &Config,
    active: ActiveSlot,
    say: &mut (dyn FnMut(&str, &str) + Send),
) -> Result<Vec<Remains>, NodeError> {
    let mut reached = Vec::new();
    let mut remains = Vec::new();
    for node in &config.nodes {
        match Control::connect(&node.conninfo, "pgconcord teardown").await {
            Ok(control) => reached.push((node, control)),
            Err(reason) => remains.push(remaining(config, node, reason)),
        }
    }
    if active == ActiveSlot::Refuse {
        for (node, control) in &reached {
            refuse_active(config, node, control).await?;
        }
    }
    for (node, control) in &reached {
        if let Err(reason) = clean(config, node, control, &mut |line| say(&node.name, line)).await {
            remains.push(remaining(config, node, reason));
        }
    }
    Ok(remains)
}

async fn refuse_active(config: &Config, node: &NodeConfig, control: &Control) -> Result<(), NodeError> {
    let slot = control.slot(&config.object_name()).await.map_err(|error| error.at(&node.name))?;
    match slot.and_then(|slot| slot.active_pid) {
        None => Ok(()),
        Some(pid) => Err(NodeError::Operator(format!(
            "{}: the slot {} is being read by the process {pid}: stop `pgconcord run` first, or use --force to end \
             that process. Nothing has been removed",
            node.name,
            config.object_name()
        ))),
    }
}

async fn clean(
    config: &Config,
    node: &NodeConfig,
    control: &Control,
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<(), NodeError> {
    drop_slot(config, control, say).await?;
    let object = config.object_name();
    if setup::read_publication(control.client(), &object).await?.is_some() {
        let drop = format!("DROP PUBLICATION {}", quote_identifier(&object));
        control.client().batch_execute(&drop).await.map_err(NodeError::doing("drop the publication"))?;
        say(&format!("publication {object} dropped"));
    }
    let origins = origins(config, node);
    for origin in control.origin_ids(&origins).await?.into_keys() {
        let doing = NodeError::doing("drop a replication origin");
        control.client().execute("SELECT pg_replication_origin_drop($1)", &[&origin]).await.map_err(doing)?;
        say(&format!("origin {origin} dropped"));
    }
    if setup::has_schema(control).await? {
        drop_schema(config, control, say).await?;
    }
    Ok(())
}

async fn drop_slot(config: &Config, control: &Control, say: &mut (dyn FnMut(&str) + Send)) -> Result<(), NodeError> {
    let name = config.object_name();
    let Some(slot) = control.slot(&name).await? else { return Ok(()) };
    if let Some(pid) = slot.active_pid {
        let doing = NodeError::doing("end the process that reads the slot");
        control.client().execute("SELECT pg_terminate_backend($1)", &[&pid]).await.map_err(doing)?;
        say(&format!("process {pid}, which read the slot, ended"));
        released(control, &name).await?;
    }
    let doing = NodeError::doing("drop the replication slot");
    control.client().execute("SELECT pg_drop_replication_slot($1)", &[&name]).await.map_err(doing)?;
    say(&format!("slot {name} dropped"));
    Ok(())
}

async fn released(control: &Control, name: &str) -> Result<(), NodeError> {
    let deadline = tokio::time::Instant::now() + RELEASE;
    while control.slot(name).await?.is_some_and(|slot| slot.active_pid.is_some()) {
        if tokio::time::Instant::now() > deadline {
            return Err(NodeError::Operator(format!("the slot {name} is taken again at once: stop `pgconcord run`")));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The cluster's rows go; table and schema too, unless another cluster has rows there.
async fn drop_schema(config: &Config, control: &Control, say: &mut (dyn FnMut(&str) + Send)) -> Result<(), NodeError> {
    let doing = NodeError::doing("remove the schema pgconcord");
    let client = control.client();
    for table in ["progress", "cut", "rules"] {
        let delete = format!("DELETE FROM pgconcord.{table} WHERE cluster = $1");
        client.execute(&delete, &[&config.cluster]).await.map_err(&doing)?;
    }
    let others: bool =
        client.query_one("SELECT EXISTS (SELECT FROM pgconcord.progress)", &[]).await.map_err(&doing)?.get(0);
    if others {
        say("progress removed; the schema pgconcord stays for another cluster");
        return Ok(());
    }
    client.batch_execute(DROP_SCHEMA).await.map_err(&doing)?;
    say("schema pgconcord dropped");
    Ok(())
}

const DROP_SCHEMA: &str =
    "DROP TABLE IF EXISTS pgconcord.progress, pgconcord.cut, pgconcord.rules, pgconcord.held; DROP SCHEMA pgconcord;";

fn origins(config: &Config, node: &NodeConfig) -> Vec<String> {
    config.nodes.iter().filter(|other| other.id != node.id).map(|other| config.origin_name(&other.name)).collect()
}

fn remaining(config: &Config, node: &NodeConfig, reason: NodeError) -> Remains {
    let object = config.object_name();
    let origins = origins(config, node).into_iter().map(|origin| {
        let origin = quote_literal(&origin);
        format!("SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = {origin};\n")
    });
    let slot = quote_literal(&object);
    let statements = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {slot};\n\
         DROP PUBLICATION IF EXISTS {};\n{}DROP TABLE IF EXISTS pgconcord.progress, pgconcord.cut, pgconcord.rules, pgconcord.held;\nDROP SCHEMA IF EXISTS pgconcord;",
        quote_identifier(&object),
        origins.collect::<String>()
    );
    Remains { node: node.name.clone(), reason, statements }
}
