//! What the servers know where no daemon answers: each slot, what is retained for it, and how far each node has
//! applied the others.

use serde::{Serialize, Serializer};

use crate::cli::text::{Align, Paint, bytes, shown, table};
use crate::config::{Config, NodeConfig};
use crate::model::Lsn;
use crate::node::NodeError;
use crate::node::control::{Control, SlotInfo};

/// All nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Servers {
    /// `[cluster] name`.
    pub cluster: String,
    /// Whether a process reads one of the slots: then a daemon runs that does not answer.
    pub daemon: Daemon,
    /// In the order of the configuration.
    pub nodes: Vec<ServerView>,
}

/// What the slots tell of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Daemon {
    /// Nobody reads a slot.
    NotRunning,
    /// Somebody does.
    NotAnswering,
}

/// One node, as its server tells.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct ServerView {
    /// Its name.
    pub name: String,
    /// Why nothing is known.
    pub error: Option<String>,
    /// How the slot is.
    pub slot: Option<String>,
    /// The process that reads it.
    pub active_pid: Option<i32>,
    /// Where the server's log ends.
    #[serde(serialize_with = "crate::status::lsn::serialize")]
    pub server_flush_lsn: Option<Lsn>,
    /// Everything before it is applied everywhere.
    #[serde(serialize_with = "crate::status::lsn::serialize")]
    pub confirmed_lsn: Option<Lsn>,
    /// Bytes of log that the server keeps for the slot.
    pub retained_bytes: Option<u64>,
    /// How far each source is applied here.
    pub applied: Vec<Applied>,
}

/// A row of `pgconcord.progress`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Applied {
    /// The source's name.
    pub source: String,
    /// Everything of it that ends at or before this is applied.
    #[serde(serialize_with = "as_text")]
    pub lsn: Lsn,
}

fn as_text<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(lsn)
}

/// Asks every server.
pub async fn ask(config: &Config) -> Servers {
    let mut nodes = Vec::new();
    for node in &config.nodes {
        nodes.push(look(config, node).await);
    }
    let read = nodes.iter().any(|node| node.active_pid.is_some());
    let daemon = if read { Daemon::NotAnswering } else { Daemon::NotRunning };
    Servers { cluster: config.cluster.clone(), daemon, nodes }
}

async fn look(config: &Config, node: &NodeConfig) -> ServerView {
    match look_at(config, node).await {
        Ok(view) => view,
        Err(error) => ServerView { name: node.name.clone(), error: Some(error.to_string()), ..ServerView::default() },
    }
}

async fn look_at(config: &Config, node: &NodeConfig) -> Result<ServerView, NodeError> {
    let control = Control::connect(&node.conninfo, "pgconcord status").await?;
    let flush = control.wal_flush_lsn().await?;
    let slot = control.slot(&config.object_name()).await?;
    let progress = match slot {
        Some(_) => control.progress(&config.cluster).await?,
        None => Vec::new(), // never set up, or torn down: the table may not be there
    };
    Ok(ServerView {
        name: node.name.clone(),
        error: None,
        slot: Some(condition(slot.as_ref())),
        active_pid: slot.as_ref().and_then(|slot| slot.active_pid),
        server_flush_lsn: Some(flush),
        confirmed_lsn: slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn),
        retained_bytes: slot.as_ref().and_then(|slot| slot.restart_lsn).map(|restart| flush.bytes_since(restart)),
        applied: progress.into_iter().map(|row| Applied { source: row.source, lsn: row.lsn }).collect(),
    })
}

fn condition(slot: Option<&SlotInfo>) -> String {
    match slot {
        None => "missing".to_owned(),
        Some(slot) if slot.is_lost() => "lost".to_owned(),
        Some(SlotInfo { active_pid: Some(pid), .. }) => format!("read by process {pid}"),
        Some(_) => "waiting".to_owned(),
    }
}

impl Servers {
    /// The page for people; `reason` is why the daemon did not answer.
    pub fn text(&self, reason: &str, paint: Paint) -> String {
        let daemon = match self.daemon {
            Daemon::NotRunning => "daemon not running",
            Daemon::NotAnswering => "the daemon does not answer, but somebody reads the slots",
        };
        let headings = [
            ("NODE", Align::Left),
            ("SLOT", Align::Left),
            ("FLUSHED", Align::Right),
            ("CONFIRMED", Align::Right),
            ("RETAINED", Align::Right),
            ("APPLIED THERE", Align::Left),
        ];
        let lsn = |lsn: Option<Lsn>| lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
        let row = |node: &ServerView| {
            let applied = node.applied.iter().map(|it| format!("{} {}", shown(&it.source), it.lsn));
            vec![
                shown(&node.name),
                node.slot.clone().unwrap_or_else(|| "-".to_owned()),
                lsn(node.server_flush_lsn),
                lsn(node.confirmed_lsn),
                node.retained_bytes.map_or_else(|| "-".to_owned(), bytes),
                applied.collect::<Vec<_>>().join("; "),
            ]
        };
        let rows: Vec<_> = self.nodes.iter().map(row).collect();
        let mut out = format!("cluster {}, {}: {}\n\n", self.cluster, paint.notice(daemon), shown(reason));
        out += &table(&headings, &rows, paint);
        let errors = self.nodes.iter().filter_map(|node| Some((&node.name, node.error.as_ref()?)));
        for (at, (name, error)) in errors.enumerate() {
            let gap = if at == 0 { "\n" } else { "" };
            out += &format!("{gap}{}\n", paint.notice(&shown(&format!("node {name}: {error}"))));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> Servers {
        let up = ServerView {
            name: "east".into(),
            error: None,
            slot: Some("waiting".into()),
            active_pid: None,
            server_flush_lsn: Some(Lsn(0x16_B374_D848)),
            confirmed_lsn: Some(Lsn(0x16_B374_0000)),
            retained_bytes: Some(5_000_000),
            applied: vec![Applied { source: "west".into(), lsn: Lsn(0x1_0000_0000) }],
        };
        let down = ServerView { name: "west".into(), error: Some("cannot connect".into()), ..ServerView::default() };
        Servers { cluster: "shop".into(), daemon: Daemon::NotRunning, nodes: vec![up, down] }
    }

    #[test]
    fn the_page_tells_what_each_server_keeps_and_has() {
        let expected = "\
cluster shop, daemon not running: nobody listens

NODE  SLOT         FLUSHED    CONFIRMED  RETAINED  APPLIED THERE
east  waiting  16/B374D848  16/B3740000    4.8 MB  west 1/0
west  -                  -            -         -

node west: cannot connect
";
        assert_eq!(servers().text("nobody listens", Paint::Plain), expected);
    }

    #[test]
    fn json_says_that_no_daemon_runs() {
        let json = serde_json::to_value(servers()).unwrap();
        assert_eq!(json["daemon"], "not_running");
        assert_eq!(json["nodes"][0]["confirmed_lsn"], "16/B3740000");
    }
}
