//! `pgconcord.toml`: what the user typed, checked whole, then converted once into what the program works with.
//!
//! [`Config::load`] either gives a configuration in which everything is known to be usable, or all errors at
//! once as annotated source. Relative paths are relative to the configuration file. Nothing connects here.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::NodeId;
use crate::wire::Conninfo;

mod check;
mod reader;
pub mod report;
pub mod rules;
pub mod tables;
pub mod units;

pub use report::{ConfigErrors, Report};
pub use rules::{Facet, Rule};
pub use tables::TableFilter;

/// PostgreSQL's limit for the names of slots and publications, bytes (NAMEDATALEN − 1).
pub const NAME_LIMIT: usize = 63;

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// The cluster's name; see [`Config::object_name`].
    pub cluster: String,
    /// The nodes, at least two, in the order of the file; [`NodeId`] is the place here.
    pub nodes: Vec<NodeConfig>,
    /// Which tables replicate.
    pub tables: TableFilter,
    /// Where the conflict rules lie: a directory of `*.toml`, or one file. Need not exist if the file names none.
    pub rules_path: PathBuf,
    /// The rules, in file-name order, then in the order of the file; the first that matches decides, and where
    /// none does, the last update wins.
    pub conflict_rules: Vec<Rule>,
    /// The conflict journal.
    pub journal: JournalConfig,
    /// What the daemon may use, and how long it waits.
    pub limits: Limits,
    /// Where metrics and status are served; nowhere without an `[http]` section.
    pub http: Option<SocketAddr>,
    /// What is odd but works, for the log.
    pub warnings: Report,
}

/// One primary.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its place in the configuration.
    pub id: NodeId,
    /// Its name, `[a-z0-9_]+`, unique.
    pub name: String,
    /// How to reach it.
    pub conninfo: Conninfo,
}

/// Where conflicts are recorded.
#[derive(Debug, Clone)]
pub struct JournalConfig {
    /// The SQLite file.
    pub path: PathBuf,
    /// How long settled entries are kept.
    pub retention: Duration,
    /// Bytes that the file's contents may take; beyond, the oldest settled entries go.
    pub max_size: u64,
}

/// What the daemon may use, and how long it waits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Clocks of nodes may differ by this much; beyond it, an alarm and no waiting (R2).
    pub max_clock_skew: Duration,
    /// Bytes for the window and for transactions in flight; beyond it, disk.
    pub memory: u64,
    /// Directory for what does not fit in memory.
    pub spill: PathBuf,
    /// How long a batch that met an unknown row waits for the target's stream before it rolls back (R4), or for a function of a
    /// rule.
    pub barrier_timeout: Duration,
    /// The most row changes that are joined in one target transaction, unless one source transaction has more.
    pub batch_rows: usize,
    /// `lock_timeout` of apply sessions; below the servers' `deadlock_timeout`, so that users go first (R14).
    pub lock_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_clock_skew: Duration::from_secs(1),
            memory: 256 << 20,
            spill: std::env::temp_dir(),
            barrier_timeout: Duration::from_secs(5),
            batch_rows: 10_000,
            lock_timeout: Duration::from_millis(800),
        }
    }
}

impl Config {
    /// Reads and checks the file and the rules that it names.
    pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
        check::load(path)
    }

    /// The name of the slot and of the publication at every node: `pgconcord_shop`.
    pub fn object_name(&self) -> String {
        object_name(&self.cluster)
    }

    /// The name of the replication origin that stands for node `source` at the other nodes:
    /// `pgconcord_shop_east`.
    pub fn origin_name(&self, source: &str) -> String {
        origin_name(&self.cluster, source)
    }

    /// The nodes' names, by [`NodeId`].
    pub fn node_names(&self) -> Vec<&str> {
        self.nodes.iter().map(|node| node.name.as_str()).collect()
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&NodeConfig> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

fn object_name(cluster: &str) -> String {
    format!("pgconcord_{cluster}")
}

fn origin_name(cluster: &str, source: &str) -> String {
    format!("pgconcord_{cluster}_{source}")
}

#[cfg(test)]
impl Config {
    /// The cluster "shop" of "east" and "west", for tests that need names only.
    pub(crate) fn sample() -> Config {
        let node = |id: u8, name: &str| NodeConfig {
            id: NodeId(id),
            name: name.to_owned(),
            conninfo: Conninfo::parse(&format!("host={name} user=pgc dbname=shop")).expect("a constant"),
        };
        Config {
            cluster: "shop".to_owned(),
            nodes: vec![node(0, "east"), node(1, "west")],
            tables: TableFilter::all(),
            rules_path: PathBuf::new(),
            conflict_rules: Vec::new(),
            journal: JournalConfig { path: PathBuf::new(), retention: Duration::ZERO, max_size: 0 },
            limits: Limits::default(),
            http: None,
            warnings: Report::default(),
        }
    }
}
