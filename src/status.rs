//! A snapshot of what the daemon is doing: made by the daemon, served by http, printed by `pgconcord status`.
//!
//! Bytes of log are differences of positions in one node's log; positions of different nodes never compare.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::Lsn;

/// Everything at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// `[cluster] name`.
    pub cluster: String,
    /// The daemon's version.
    pub version: String,
    /// When the daemon started.
    pub started_at: DateTime<Utc>,
    /// When this snapshot was made, by the daemon's clock.
    pub now: DateTime<Utc>,
    /// Every node streams and every link applies, or is idle.
    pub ready: bool,
    /// The nodes, in the order of the configuration.
    pub nodes: Vec<NodeStatus>,
    /// The links, by source, then target.
    pub links: Vec<LinkStatus>,
    /// The changes that are not stable yet.
    pub window: WindowStatus,
    /// The conflict journal.
    pub journal: JournalStatus,
    /// Tables whose rule has changed and that are decided as before, until nothing of that is under way.
    #[serde(default)]
    pub rules_pending: Vec<String>,
}

/// How a node's stream is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Not reached yet, or reached and being looked at.
    Connecting,
    /// Reading again from the slot what the window must hold.
    Rebuilding,
    /// Reading what is new.
    Streaming,
    /// The connection is lost; tried again with backoff.
    Down,
    /// Somebody must change something; see `advice`.
    Stopped,
}

/// How a link is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// All that was received is applied.
    Idle,
    /// Writing at the target.
    Applying,
    /// Something must come first: the target's clock, a barrier, a key that another batch holds.
    Waiting,
    /// The last attempt failed; tried again with backoff.
    Retrying,
    /// Somebody must change something; see `advice`.
    Stopped,
}

impl NodeState {
    /// All of them, for metrics.
    pub const ALL: [NodeState; 5] =
        [NodeState::Connecting, NodeState::Rebuilding, NodeState::Streaming, NodeState::Down, NodeState::Stopped];

    /// The name as it is serialised.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Connecting => "connecting",
            NodeState::Rebuilding => "rebuilding",
            NodeState::Streaming => "streaming",
            NodeState::Down => "down",
            NodeState::Stopped => "stopped",
        }
    }
}

impl LinkState {
    /// All of them, for metrics.
    pub const ALL: [LinkState; 5] =
        [LinkState::Idle, LinkState::Applying, LinkState::Waiting, LinkState::Retrying, LinkState::Stopped];

    /// The name as it is serialised.
    pub fn name(self) -> &'static str {
        match self {
            LinkState::Idle => "idle",
            LinkState::Applying => "applying",
            LinkState::Waiting => "waiting",
            LinkState::Retrying => "retrying",
            LinkState::Stopped => "stopped",
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One node and its stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// How its stream is.
    pub state: NodeState,
    /// What went wrong last, while it is wrong.
    pub error: Option<String>,
    /// What to do about it.
    pub advice: Option<String>,
    /// Such as `18.4`; `None` before the first connection.
    pub server_version: Option<String>,
    /// Its stream is not read on for now: enough transactions wait wherever they go, and the server keeps the rest.
    #[serde(default)]
    pub resting: bool,
    /// Up to where its log has been received.
    #[serde(with = "lsn")]
    pub received_lsn: Option<Lsn>,
    /// What its slot may forget.
    #[serde(with = "lsn")]
    pub confirmed_lsn: Option<Lsn>,
    /// Up to where the server has flushed its log.
    #[serde(with = "lsn")]
    pub server_flush_lsn: Option<Lsn>,
    /// Bytes of log that the server keeps for our slot.
    pub retained_bytes: Option<u64>,
    /// Who has not applied it yet.
    pub retained_for: Vec<RetainedFor>,
    /// Its clock minus the daemon's, in µs.
    pub clock_skew_us: Option<i64>,
    /// Since when the stream is connected; `None` while it is not.
    pub connected_since: Option<DateTime<Utc>>,
}

/// For whom a node keeps log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RetainedFor {
    /// The node that has not applied it yet.
    pub node: String,
    /// Bytes of the source's log.
    pub bytes: u64,
    /// Age of the oldest transaction that it lacks, in seconds.
    pub seconds: f64,
}

/// One direction of replication.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Where the changes come from.
    pub source: String,
    /// Where they are applied.
    pub target: String,
    /// How it is.
    pub state: LinkState,
    /// Up to where the source's log is applied at the target.
    #[serde(with = "lsn")]
    pub applied_lsn: Option<Lsn>,
    /// Up to where it has been received.
    #[serde(with = "lsn")]
    pub received_lsn: Option<Lsn>,
    /// Bytes of the source's log that are not applied yet.
    pub lag_bytes: u64,
    /// Age of the oldest transaction that is not applied yet, in seconds; 0 if there is none.
    pub lag_seconds: f64,
    /// Transactions received and not applied yet.
    pub queued_transactions: u64,
    /// Transactions applied since the daemon started.
    pub transactions_total: u64,
    /// Changes applied since then.
    pub changes_total: u64,
    /// Target transactions since then.
    pub batches_total: u64,
    /// Conflicts resolved since then.
    pub conflicts_total: u64,
    /// Batches that were tried again since then.
    pub retries_total: u64,
    /// Decisions made again since then, because a local change was decoded late.
    pub reopened_total: u64,
    /// Large transactions whose rows were written while they still came, since then.
    pub ahead_total: u64,
    /// What went wrong last, while it is wrong.
    pub error: Option<String>,
    /// What to do about it.
    pub advice: Option<String>,
}

/// The changes that are not stable yet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct WindowStatus {
    /// Keys with such changes.
    pub keys: u64,
    /// Transactions.
    pub transactions: u64,
    /// What they take in memory.
    pub bytes_in_memory: u64,
    /// What they take on disk.
    pub bytes_on_disk: u64,
}

/// The conflict journal.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Entries in the file.
    pub entries: u64,
    /// Those whose batch is not known to be committed.
    pub pending: u64,
    /// Rows that wait for a person.
    #[serde(default)]
    pub held: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Why it can't be written, while it can't.
    pub error: Option<String>,
}

impl Status {
    /// What is not as it should be, one sentence each; empty if all is well.
    pub fn complaints(&self) -> Vec<String> {
        let says = |who: String, state: &str, error: &Option<String>, advice: &Option<String>| {
            let parts = [Some(format!("{who} is {state}")), error.clone(), advice.clone()];
            parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
        };
        let nodes = self
            .nodes
            .iter()
            .filter(|node| node.state != NodeState::Streaming || node.error.is_some())
            .map(|node| says(format!("node {}", node.name), node.state.name(), &node.error, &node.advice));
        let links = self
            .links
            .iter()
            .filter(|link| matches!(link.state, LinkState::Retrying | LinkState::Stopped) || link.error.is_some())
            .map(|link| {
                says(format!("link {} → {}", link.source, link.target), link.state.name(), &link.error, &link.advice)
            });
        let journal = self.journal.error.iter().map(|error| format!("journal: {error}"));
        nodes.chain(links).chain(journal).collect()
    }
}

/// Positions as PostgreSQL writes them.
pub(crate) mod lsn {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::Lsn;

    pub fn serialize<S: Serializer>(lsn: &Option<Lsn>, serializer: S) -> Result<S::Ok, S::Error> {
        match lsn {
            Some(lsn) => serializer.collect_str(lsn),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Lsn>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two nodes, one down, with a link each way.
    pub(crate) fn example() -> Status {
        let at = |seconds: i64| DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap();
        let node = |name: &str, state| NodeStatus {
            name: name.into(),
            state,
            error: None,
            advice: None,
            server_version: Some("18.4".into()),
            resting: false,
            received_lsn: Some(Lsn(0x16_B374_D848)),
            confirmed_lsn: Some(Lsn(0x16_B374_0000)),
            server_flush_lsn: Some(Lsn(0x16_B374_D848)),
            retained_bytes: Some(5_242_880),
            retained_for: vec![RetainedFor { node: "west".into(), bytes: 55_368, seconds: 12.5 }],
            clock_skew_us: Some(-1500),
            connected_since: Some(at(1)),
        };
        let link = |source: &str, target: &str, state| LinkStatus {
            source: source.into(),
            target: target.into(),
            state,
            applied_lsn: Some(Lsn(0x16_B374_0000)),
            received_lsn: Some(Lsn(0x16_B374_D848)),
            lag_bytes: 55_368,
            lag_seconds: 12.5,
            queued_transactions: 3,
            transactions_total: 1_000,
            changes_total: 4_000,
            batches_total: 20,
            conflicts_total: 7,
            retries_total: 2,
            reopened_total: 1,
            ahead_total: 0,
            error: None,
            advice: None,
        };
        Status {
            cluster: "shop".into(),
            version: "0.1.0".into(),
            started_at: at(0),
            now: at(3725),
            ready: false,
            nodes: vec![
                NodeStatus { resting: true, ..node("east", NodeState::Streaming) },
                NodeStatus {
                    error: Some("connection refused".into()),
                    advice: Some("start the server".into()),
                    connected_since: None,
                    received_lsn: None,
                    ..node("west", NodeState::Down)
                },
            ],
            links: vec![link("east", "west", LinkState::Retrying), link("west", "east", LinkState::Idle)],
            window: WindowStatus { keys: 12, transactions: 3, bytes_in_memory: 2_048, bytes_on_disk: 0 },
            journal: JournalStatus { entries: 9, pending: 1, held: 2, bytes: 98_304, error: None },
            rules_pending: Vec::new(),
        }
    }

    #[test]
    fn a_snapshot_reads_back_as_it_was_written() {
        let text = serde_json::to_string(&example()).unwrap();
        assert!(text.contains(r#""received_lsn":"16/B374D848""#) && text.contains(r#""state":"streaming""#), "{text}");
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), example());
    }

    #[test]
    fn names_of_states_are_those_in_the_json() {
        for state in NodeState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for state in LinkState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
    }

    #[test]
    fn complaints_name_who_why_and_what_to_do() {
        let mut status = example();
        status.journal.error = Some("disk full".into());
        assert_eq!(
            status.complaints(),
            [
                "node west is down: connection refused: start the server",
                "link east → west is retrying",
                "journal: disk full"
            ]
        );
    }
}
