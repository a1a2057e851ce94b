//! What doctor reads from one node, before anything is judged.

use tokio_postgres::{Client, Row};

use crate::config::Config;
use crate::model::table::quote_identifier;
use crate::node::catalog::shape::TableShape;
use crate::node::clock::ClockOffset;
use crate::node::control::{ProgressRow, SlotInfo};
use crate::node::setup::{Publication, has_schema, read_publication};
use crate::node::{Control, NodeError};

const SERVER: &str = include_str!("../../../sql/server.sql");
const TRIGGERS: &str = include_str!("../../../sql/triggers.sql");
const SEQUENCES: &str = include_str!("../../../sql/sequences.sql");
const SUBSCRIPTIONS: &str = include_str!("../../../sql/subscriptions.sql");
/// Samples of a clock; the one with the shortest round trip counts.
const SAMPLES: usize = 7;

/// One node as doctor sees it.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub node: String,
    pub server: Server,
    pub timeline: i32,
    pub tables: Vec<TableShape>,
    pub triggers: Vec<Trigger>,
    pub sequences: Vec<Sequence>,
    /// Table (`schema.name`) and subscription.
    pub subscriptions: Vec<(String, String)>,
    pub clock: ClockOffset,
    pub slot: Option<SlotInfo>,
    pub publication: Option<Publication>,
    pub progress: Vec<ProgressRow>,
    /// Names of the cluster's origins that exist.
    pub origins: Vec<String>,
    /// session_replication_role could be set to replica.
    pub replica_role: ReplicaRole,
}

/// The server and the connected role; `sql/server.sql` explains the columns.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub version: i32,
    pub version_text: String,
    pub database: String,
    pub system_id: String,
    /// When the server was started: tells a copy from the server itself.
    pub started: String,
    pub in_recovery: bool,
    pub wal_level: String,
    pub track_commit_timestamp: bool,
    pub max_replication_slots: i32,
    pub slots_used: i32,
    pub physical_slots: i32,
    pub max_wal_senders: i32,
    pub senders_used: i32,
    pub max_origins: i32,
    pub origins_used: i32,
    /// Megabytes, −1 for no limit.
    pub max_slot_wal_keep_mb: i64,
    pub synchronous_standby_names: String,
    pub max_prepared_transactions: i32,
    pub old_prepared: Vec<String>,
    pub encoding: String,
    pub role: String,
    pub is_superuser: bool,
    pub may_replicate: bool,
    pub may_create: bool,
    pub missing_functions: Vec<String>,
    pub may_read_origins: bool,
    /// None before setup.
    pub missing_on_progress: Option<Vec<String>>,
}

/// A trigger or rule that fires for replicated rows.
#[derive(Clone, Debug)]
pub(crate) struct Trigger {
    pub table: String,
    pub sql_table: String,
    pub name: String,
    /// TRIGGER or RULE.
    pub kind: String,
    /// ENABLE ALWAYS rather than ENABLE REPLICA.
    pub always: bool,
}

/// A sequence behind a column.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub table: String,
    pub column: String,
    /// Quoted, with schema.
    pub sql_name: String,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cycles: bool,
    /// The last value given, or the first to be given; none without SELECT on the sequence.
    pub at: Option<i64>,
}

/// Whether `session_replication_role = replica` can be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReplicaRole {
    Allowed,
    Denied,
}

/// Reads everything.
pub(super) async fn read(config: &Config, node: &str, control: &Control) -> Result<Facts, NodeError> {
    let client = control.client();
    let object = config.object_name();
    let row = client.query_one(SERVER, &[&object]).await.map_err(NodeError::doing("read the server's settings"))?;
    let tables = crate::node::catalog::read::tables(client, &config.tables, &object).await?;
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let origins: Vec<String> = config.nodes.iter().map(|other| config.origin_name(&other.name)).collect();
    let progress = match has_schema(control).await? {
        true => control.progress(&config.cluster).await.unwrap_or_default(),
        false => Vec::new(),
    };
    Ok(Facts {
        node: node.to_owned(),
        server: server(&row),
        timeline: control.identify().await?.timeline,
        triggers: triggers(client, &oids, &tables).await?,
        sequences: sequences(client, &oids, &tables).await?,
        subscriptions: subscriptions(client, &oids, &tables).await?,
        clock: clock(control).await?,
        slot: control.slot(&object).await?,
        publication: read_publication(client, &object).await?,
        progress,
        origins: control.origin_ids(&origins).await?.into_keys().collect(),
        replica_role: replica_role(client).await?,
        tables,
    })
}

fn server(row: &Row) -> Server {
    Server {
        version: row.get("version"),
        version_text: row.get("version_text"),
        database: row.get("database"),
        system_id: row.get("system_id"),
        started: row.get("started"),
        in_recovery: row.get("in_recovery"),
        wal_level: row.get("wal_level"),
        track_commit_timestamp: row.get("track_commit_timestamp"),
        max_replication_slots: row.get("max_replication_slots"),
        slots_used: row.get::<_, i32>("slots_used") - i32::from(row.get::<_, bool>("slot_exists")),
        physical_slots: row.get("physical_slots"),
        max_wal_senders: row.get("max_wal_senders"),
        senders_used: row.get::<_, i32>("senders_used") - i32::from(row.get::<_, bool>("slot_active")),
        max_origins: row.get("max_origins"),
        origins_used: row.get("origins_used"),
        max_slot_wal_keep_mb: row.get("max_slot_wal_keep_mb"),
        synchronous_standby_names: row.get("synchronous_standby_names"),
        max_prepared_transactions: row.get("max_prepared_transactions"),
        old_prepared: row.get("old_prepared"),
        encoding: row.get("encoding"),
        role: row.get("role"),
        is_superuser: row.get("is_superuser"),
        may_replicate: row.get("may_replicate"),
        may_create: row.get("may_create"),
        missing_functions: row.get("missing_functions"),
        may_read_origins: row.get("may_read_origins"),
        missing_on_progress: row.get("missing_on_progress"),
    }
}

fn by_oid(tables: &[TableShape], oid: u32) -> &TableShape {
    tables.iter().find(|table| table.oid == oid).expect("the query is restricted to the OIDs of these tables")
}

async fn triggers(client: &Client, oids: &[u32], tables: &[TableShape]) -> Result<Vec<Trigger>, NodeError> {
    let rows = client.query(TRIGGERS, &[&oids]).await.map_err(NodeError::doing("read the triggers"))?;
    let trigger = |row: &Row| {
        let table = by_oid(tables, row.get("relation"));
        Trigger {
            table: table.shown(),
            sql_table: table.sql_name(),
            name: row.get("name"),
            kind: row.get("kind"),
            always: row.get::<_, &str>("enabled") == "A",
        }
    };
    Ok(rows.iter().map(trigger).collect())
}

async fn subscriptions(
    client: &Client,
    oids: &[u32],
    tables: &[TableShape],
) -> Result<Vec<(String, String)>, NodeError> {
    let rows = client.query(SUBSCRIPTIONS, &[&oids]).await.map_err(NodeError::doing("read the subscriptions"))?;
    Ok(rows.iter().map(|row| (by_oid(tables, row.get("relation")).shown(), row.get("subscription"))).collect())
}

async fn sequences(client: &Client, oids: &[u32], tables: &[TableShape]) -> Result<Vec<Sequence>, NodeError> {
    let doing = NodeError::doing("read the sequences");
    let mut sequences = Vec::new();
    for row in client.query(SEQUENCES, &[&oids]).await.map_err(&doing)? {
        let quoted = |column: &str| quote_identifier(row.get(column));
        let sql_name = format!("{}.{}", quoted("sequence_schema"), quoted("sequence_name"));
        let at = match row.get("readable") {
            true => {
                let position = client.query_one(&format!("SELECT last_value FROM {sql_name}"), &[]).await;
                Some(position.map_err(&doing)?.get(0))
            }
            false => None,
        };
        sequences.push(Sequence {
            table: by_oid(tables, row.get("relation")).shown(),
            column: row.get("column"),
            sql_name,
            increment: row.get("increment"),
            min: row.get("min"),
            max: row.get("max"),
            cycles: row.get("cycles"),
            at,
        });
    }
    Ok(sequences)
}

/// The surest of some measurements.
async fn clock(control: &Control) -> Result<ClockOffset, NodeError> {
    let mut best = ClockOffset::measure(control).await?;
    for _ in 1..SAMPLES {
        let next = ClockOffset::measure(control).await?;
        best = std::cmp::min_by_key(best, next, |offset| offset.uncertainty);
    }
    Ok(best)
}

/// By trying: the function that tells exists from 15 on only, and providers have ways of their own.
async fn replica_role(client: &Client) -> Result<ReplicaRole, NodeError> {
    match client.batch_execute("SET session_replication_role = replica").await {
        Ok(()) => {
            let reset = client.batch_execute("RESET session_replication_role").await;
            reset.map_err(NodeError::doing("reset session_replication_role"))?;
            Ok(ReplicaRole::Allowed)
        }
        Err(error) if error.code().is_some() => Ok(ReplicaRole::Denied),
        Err(error) => Err(NodeError::doing("set session_replication_role")(error)),
    }
}

#[cfg(test)]
impl Facts {
    /// The node "east", sound, before setup, for tests.
    pub fn sample() -> Facts {
        Facts {
            node: "east".to_owned(),
            server: Server::sample(),
            timeline: 1,
            tables: vec![TableShape::sample()],
            triggers: Vec::new(),
            sequences: Vec::new(),
            subscriptions: Vec::new(),
            clock: ClockOffset { micros: 0, uncertainty: 0 },
            slot: None,
            publication: None,
            progress: Vec::new(),
            origins: Vec::new(),
            replica_role: ReplicaRole::Allowed,
        }
    }
}

#[cfg(test)]
impl Server {
    fn sample() -> Server {
        Server {
            version: 15_00_18,
            version_text: "15.18".to_owned(),
            database: "shop".to_owned(),
            system_id: "77".to_owned(),
            started: "2026-01-01 00:00:00.000001+00".to_owned(),
            in_recovery: false,
            wal_level: "logical".to_owned(),
            track_commit_timestamp: true,
            max_replication_slots: 10,
            slots_used: 0,
            physical_slots: 0,
            max_wal_senders: 10,
            senders_used: 0,
            max_origins: 10,
            origins_used: 0,
            max_slot_wal_keep_mb: 51_200,
            synchronous_standby_names: String::new(),
            max_prepared_transactions: 0,
            old_prepared: Vec::new(),
            encoding: "UTF8".to_owned(),
            role: "pgc".to_owned(),
            is_superuser: true,
            may_replicate: true,
            may_create: true,
            missing_functions: Vec::new(),
            may_read_origins: true,
            missing_on_progress: None,
        }
    }
}
