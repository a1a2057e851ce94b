//! The statements that the daemon and the commands run on a node's control connection, one function each.
//!
//! What a start asks goes with the types of its parameters, for then it takes one round trip and not two.
//!
//! Several may be under way at once on one connection (tokio-postgres pipelines them), but a barrier that waits
//! behind a slow statement is a slow barrier: give it a connection of its own.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::OnceCell;
use tokio_postgres::types::{PgLsn, ToSql, Type};
use tokio_postgres::{Client, Row, Statement};

use crate::model::{Cut, Lsn, Xid};
use crate::node::NodeError;
use crate::wire::Conninfo;

/// The prefix of our logical messages (`pg_logical_emit_message`), by which a stream knows them.
pub const MESSAGE_PREFIX: &str = "pgconcord";

/// A control connection.
pub struct Control {
    client: Client,
    /// Prepared once, at the first barrier: others are waited for while rows are locked.
    barrier: OnceCell<Statement>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("client", &self.client).finish_non_exhaustive()
    }
}

/// Who a server is, as IDENTIFY_SYSTEM would say, and what it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeIdentity {
    /// Unique to the cluster of databases; standbys have that of their primary.
    pub system_id: String,
    /// Incremented by every promotion.
    pub timeline: i32,
    /// `server_version_num`: 150018, 180004.
    pub server_version: u32,
    /// When the server was started, for telling a copy, which has the same system identifier, from the server
    /// itself.
    pub started: String,
    /// Whether it is a standby, which can't be a node.
    pub in_recovery: bool,
    /// What its WAL tells.
    pub wal_level: WalLevel,
    /// The database's encoding.
    pub encoding: String,
}

/// `wal_level`, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalLevel {
    /// Enough for logical decoding.
    Logical,
    /// `replica` or `minimal`.
    Less,
}

/// A row of `pg_replication_slots`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotInfo {
    /// The stream starts after this at the earliest.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// WAL from here on is retained for it.
    pub restart_lsn: Option<Lsn>,
    /// The process that reads it now.
    pub active_pid: Option<i32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Why it was invalidated (17+; 16 has only `conflicting`, which concerns standbys).
    pub invalidation_reason: Option<String>,
    /// Bytes that may still be written before it is lost; none with `max_slot_wal_keep_size = -1`.
    pub safe_wal_size: Option<i64>,
    /// The output plugin.
    pub plugin: Option<String>,
    /// The database that it belongs to.
    pub database: Option<String>,
}

impl SlotInfo {
    /// Whether it can't be read any more: changes are missing, and the node needs a repair.
    pub fn is_lost(&self) -> bool {
        self.invalidation_reason.is_some() || self.wal_status.as_deref() == Some("lost")
    }
}

/// A row of `pgconcord.progress`: how far a source has been applied at this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgressRow {
    /// The source's name.
    pub source: String,
    /// Its system identifier.
    pub system_id: String,
    /// Its timeline.
    pub timeline: i32,
    /// All its transactions that end at or before this are applied here.
    pub lsn: Lsn,
    /// Counts the batches of the link.
    pub batch: i64,
}

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01 00:00 UTC, for SQL.
const CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - 946684800000000 AS micros";
const COMMITTED_AT: &str =
    "SELECT (extract(epoch FROM pg_xact_commit_timestamp($1::text::xid)) * 1000000)::bigint - 946684800000000";
/// The control file's timeline is that of the last checkpoint, which after a promotion is the old one for a while; the name of
/// the current WAL file has the true one, and a standby has none.
const IDENTIFY: &str = "SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system_id, \
     pg_is_in_recovery() AS in_recovery, current_setting('server_version_num')::int AS version, current_setting('wal_level') AS wal_level, \
     pg_postmaster_start_time()::text AS started, getdatabaseencoding()::text AS encoding, \
     CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint()) \
     ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END AS timeline";
/// Where the last commit of any of our origins ends. The server forgets that when it starts again, unless it commits or
/// recovers one; then it may be anywhere before now.
const LAST_OWN_COMMIT: &str = "SELECT coalesce(max(CASE WHEN local_lsn = '0/0' AND remote_lsn <> '0/0' \
     THEN pg_current_wal_insert_lsn() ELSE local_lsn END), '0/0') FROM pg_replication_origin_status \
     WHERE external_id = ANY($1)";
const BARRIER: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS xmin, \
     pg_logical_emit_message(true, $1, $2::text) AS lsn";
/// By way of JSON, for the columns differ by version.
const SLOT: &str = "SELECT confirmed_flush_lsn, restart_lsn, active_pid, wal_status, safe_wal_size, plugin::text, \
     database::text, to_jsonb(s) ->> 'invalidation_reason' AS invalidation_reason \
     FROM pg_replication_slots s WHERE slot_name = $1";
const PROGRESS: &str = "SELECT source, system_id, timeline, lsn, batch FROM pgconcord.progress \
     WHERE cluster = $1 ORDER BY source";
const INSERT_PROGRESS: &str = "INSERT INTO pgconcord.progress (cluster, source, system_id, timeline, lsn, batch) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";

/// A cut never goes back, whoever writes it.
const WRITE_CUT: &str = "INSERT INTO pgconcord.cut (cluster, node, lsn, settled, seen) \
     SELECT $1, u.node, u.lsn, u.settled, u.seen::jsonb \
     FROM unnest($2::text[], $3::pg_lsn[], $4::pg_lsn[], $5::text[]) AS u(node, lsn, settled, seen) \
     ON CONFLICT (cluster, node) DO UPDATE SET lsn = GREATEST(cut.lsn, EXCLUDED.lsn), \
     settled = GREATEST(cut.settled, EXCLUDED.settled), \
     seen = CASE WHEN cut.lsn > EXCLUDED.lsn THEN cut.seen ELSE EXCLUDED.seen END, \
     updated_at = clock_timestamp() \
     WHERE cut.lsn < EXCLUDED.lsn OR cut.settled < EXCLUDED.settled";
/// One statement, so that it is done whole or not at all.
const WRITE_RULES: &str = "INSERT INTO pgconcord.rules (cluster, relation, resolver) \
     SELECT $1, u.* FROM unnest($2::text[], $3::text[]) AS u(relation, resolver) \
     ON CONFLICT (cluster, relation) DO UPDATE SET resolver = EXCLUDED.resolver, updated_at = clock_timestamp() \
     WHERE rules.resolver <> EXCLUDED.resolver";
const GIVE_UP_HELD: &str = "DELETE FROM pgconcord.held AS h USING unnest($1::int8[], $2::pg_lsn[]) AS u(id, before) \
     WHERE h.id = u.id AND h.at <= u.before";
const READ_RULES: &str = "SELECT relation, resolver FROM pgconcord.rules WHERE cluster = $1";
const READ_CUT: &str = "SELECT node, lsn, settled, seen::text FROM pgconcord.cut WHERE cluster = $1";

impl Control {
    /// Connects as [`crate::node::connect`] does; own logical messages are not waited for on other machines.
    pub async fn connect(info: &Conninfo, application_name: &str) -> Result<Control, NodeError> {
        let client = crate::node::connect(info, application_name).await?;
        Ok(Control { client, barrier: OnceCell::new() })
    }

    /// The connection, for statements that have no function here.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Writes from where each of these nodes' streams is needed; on disk when it returns.
    pub async fn write_cut(&self, cluster: &str, nodes: &[&str], cut: &Cut) -> Result<(), NodeError> {
        let positions = |of: &[Lsn]| of.iter().map(|lsn| PgLsn::from(lsn.0)).collect::<Vec<_>>();
        let (confirmed, settled) = (positions(&cut.confirmed), positions(&cut.settled));
        let by_name = |of: &Vec<Lsn>| {
            let positions = nodes.iter().zip(of).map(|(name, lsn)| ((*name).to_owned(), lsn.to_string()));
            serde_json::json!(positions.collect::<BTreeMap<_, _>>()).to_string()
        };
        let seen: Vec<String> = cut.seen.iter().map(by_name).collect();
        let doing = NodeError::doing("write from where the streams are needed");
        self.client.execute(WRITE_CUT, &[&cluster, &nodes, &confirmed, &settled, &seen]).await.map(drop).map_err(doing)
    }

    /// Takes refused rows off the record, each if it was refused by that position; on disk when it returns.
    pub async fn give_up_held(&self, rows: &[(i64, Lsn)]) -> Result<(), NodeError> {
        let (ids, before): (Vec<i64>, Vec<PgLsn>) = rows.iter().map(|(id, at)| (*id, PgLsn::from(at.0))).unzip();
        let doing = NodeError::doing("take refused rows off the record");
        self.client.execute(GIVE_UP_HELD, &[&ids, &before]).await.map(drop).map_err(doing)
    }

    /// Forgets what [`Control::write_cut`] wrote at this node.
    pub async fn forget_cut(&self, cluster: &str) -> Result<(), NodeError> {
        let doing = NodeError::doing("forget from where the streams were needed");
        self.client.execute("DELETE FROM pgconcord.cut WHERE cluster = $1", &[&cluster]).await.map(drop).map_err(doing)
    }

    /// The cut that [`Control::write_cut`] wrote last at this node; nothing before the first time. Of a node that it
    /// does not tell it says nothing.
    pub async fn read_cut(&self, cluster: &str, nodes: &[&str]) -> Result<Option<Cut>, NodeError> {
        let rows = self.client.query_typed(READ_CUT, &[(&cluster, Type::TEXT)]).await;
        let rows = rows.map_err(NodeError::doing("read from where the streams are needed"))?;
        if rows.is_empty() {
            return Ok(None);
        }
        let nothing = || vec![Lsn::ZERO; nodes.len()];
        let mut cut = Cut { confirmed: nothing(), settled: nothing(), seen: vec![nothing(); nodes.len()] };
        let place = |name: &str| nodes.iter().position(|node| *node == name);
        for row in &rows {
            let Some(at) = place(row.get(0)) else { continue };
            (cut.confirmed[at], cut.settled[at]) = (lsn(row.get(1)), lsn(row.get(2)));
            let seen: BTreeMap<String, String> = serde_json::from_str(row.get(3)).unwrap_or_default();
            for (source, lsn) in &seen {
                if let (Some(source), Ok(lsn)) = (place(source), lsn.parse()) {
                    cut.seen[at][source] = lsn;
                }
            }
        }
        Ok(Some(cut))
    }

    /// Writes how conflicts of each table are resolved.
    pub async fn write_rules(&self, cluster: &str, rules: &BTreeMap<String, String>) -> Result<(), NodeError> {
        let (relations, resolvers): (Vec<&String>, Vec<&String>) = rules.iter().unzip();
        let doing = NodeError::doing("write pgconcord.rules");
        let params: [(&(dyn ToSql + Sync), Type); 3] =
            [(&cluster, Type::TEXT), (&relations, Type::TEXT_ARRAY), (&resolvers, Type::TEXT_ARRAY)];
        self.client.query_typed(WRITE_RULES, &params).await.map(drop).map_err(doing)
    }

    /// What [`Control::write_rules`] wrote last at this node, by table.
    pub async fn read_rules(&self, cluster: &str) -> Result<BTreeMap<String, String>, NodeError> {
        let rows = self.client.query_typed(READ_RULES, &[(&cluster, Type::TEXT)]).await;
        let rows = rows.map_err(NodeError::doing("read pgconcord.rules"))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Where the last commit of these origins ends, or a position behind it.
    pub async fn last_own_commit(&self, origins: impl Iterator<Item = &String>) -> Result<Lsn, NodeError> {
        let origins: Vec<&String> = origins.collect();
        let row = self.client.query_typed_one(LAST_OWN_COMMIT, &[(&origins, Type::TEXT_ARRAY)]).await;
        Ok(lsn(row.map_err(NodeError::doing("read where our last commit ended"))?.get(0)))
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Who the server is.
    pub async fn identify(&self) -> Result<NodeIdentity, NodeError> {
        let doing = NodeError::doing("identify the server");
        let row = self.client.query_typed_one(IDENTIFY, &[]).await.map_err(doing)?;
        Ok(NodeIdentity {
            encoding: row.get("encoding"),
            system_id: row.get("system_id"),
            timeline: row.get("timeline"),
            server_version: row.get::<_, i32>("version").unsigned_abs(),
            started: row.get("started"),
            in_recovery: row.get("in_recovery"),
            wal_level: if row.get::<_, &str>("wal_level") == "logical" { WalLevel::Logical } else { WalLevel::Less },
        })
    }

    /// Emits the barrier message `nonce` (its text in decimal, prefix [`MESSAGE_PREFIX`], transactional) and
    /// gives the horizon X, the oldest transaction that was still running *before* the message was written, and
    /// the message's own position. Once a stream has passed it, everything older than X has been decoded (R4).
    ///
    /// The transaction commits without waiting for its flush or for standbys.
    pub async fn barrier(&self, nonce: u64) -> Result<(Xid, Lsn), NodeError> {
        let doing = NodeError::doing("emit a barrier");
        let prepared = self.barrier.get_or_try_init(|| self.client.prepare(BARRIER)).await.map_err(&doing)?;
        let row = self.client.query_one(prepared, &[&MESSAGE_PREFIX, &nonce.to_string()]).await.map_err(&doing)?;
        let text: String = row.get("xmin");
        let xid: u64 = text.parse().map_err(|_| NodeError::Answer { doing: "emit a barrier", answer: text.clone() })?;
        // rows carry the low 32 bits
        Ok((Xid(xid as u32), lsn(row.get("lsn"))))
    }

    /// The server's clock: microseconds since 2000-01-01 00:00 UTC. The caller times the round trip.
    pub async fn clock_sample(&self) -> Result<i64, NodeError> {
        let doing = NodeError::doing("read the clock");
        Ok(self.client.query_typed_one(CLOCK, &[]).await.map_err(doing)?.get(0))
    }

    /// When a transaction committed, in microseconds since 2000-01-01 00:00 UTC; `None` if it has not.
    pub async fn committed_at(&self, xid: Xid) -> Result<Option<i64>, NodeError> {
        let doing = NodeError::doing("ask whether a transaction has committed");
        Ok(self.client.query_one(COMMITTED_AT, &[&xid.to_string()]).await.map_err(doing)?.get(0))
    }

    /// Up to where the server's WAL is on disk.
    pub async fn wal_flush_lsn(&self) -> Result<Lsn, NodeError> {
        let doing = NodeError::doing("read the flush position");
        Ok(lsn(self.client.query_typed_one("SELECT pg_current_wal_flush_lsn()", &[]).await.map_err(doing)?.get(0)))
    }

    /// The slot of that name, if it exists.
    pub async fn slot(&self, name: &str) -> Result<Option<SlotInfo>, NodeError> {
        let doing = NodeError::doing("read the replication slot");
        let row = self.client.query_typed_opt(SLOT, &[(&name, Type::NAME)]).await.map_err(doing)?;
        Ok(row.map(|row| SlotInfo {
            confirmed_flush_lsn: row.get::<_, Option<PgLsn>>("confirmed_flush_lsn").map(lsn),
            restart_lsn: row.get::<_, Option<PgLsn>>("restart_lsn").map(lsn),
            active_pid: row.get("active_pid"),
            wal_status: row.get("wal_status"),
            invalidation_reason: row.get("invalidation_reason"),
            safe_wal_size: row.get("safe_wal_size"),
            plugin: row.get("plugin"),
            database: row.get("database"),
        }))
    }

    /// How far each source has been applied here.
    pub async fn progress(&self, cluster: &str) -> Result<Vec<ProgressRow>, NodeError> {
        let doing = NodeError::doing("read pgconcord.progress");
        let rows = self.client.query_typed(PROGRESS, &[(&cluster, Type::TEXT)]).await.map_err(doing)?;
        Ok(rows.iter().map(progress_row).collect())
    }

    /// Inserts a progress row unless there is one.
    pub async fn insert_progress(&self, cluster: &str, row: &ProgressRow) -> Result<(), NodeError> {
        let doing = NodeError::doing("write pgconcord.progress");
        let at = PgLsn::from(row.lsn.0);
        self.client
            .execute(INSERT_PROGRESS, &[&cluster, &row.source, &row.system_id, &row.timeline, &at, &row.batch])
            .await
            .map_err(doing)?;
        Ok(())
    }

    /// The ids (`roident`) of the replication origins with these names, by name; a missing one is left out.
    pub async fn origin_ids(&self, names: &[String]) -> Result<HashMap<String, u32>, NodeError> {
        let doing = NodeError::doing("read the replication origins");
        let query = "SELECT roname, roident FROM pg_replication_origin WHERE roname = ANY ($1)";
        let rows = self.client.query(query, &[&names]).await.map_err(doing)?;
        Ok(rows.iter().map(|row| (row.get("roname"), row.get("roident"))).collect())
    }
}

fn progress_row(row: &Row) -> ProgressRow {
    ProgressRow {
        source: row.get("source"),
        system_id: row.get("system_id"),
        timeline: row.get("timeline"),
        lsn: lsn(row.get("lsn")),
        batch: row.get("batch"),
    }
}

fn lsn(lsn: PgLsn) -> Lsn {
    Lsn(lsn.into())
}
