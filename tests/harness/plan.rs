//! What a test's cluster is to be like.

use std::path::PathBuf;

use pgconcord::throwaway::{Options, Server};

use super::{Cluster, Version, servers};

/// The nodes' names, in order.
pub const NAMES: [&str; 4] = ["east", "west", "north", "south"];

/// How the daemon gets to the servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// To their ports.
    Direct,
    /// Through a [`super::Proxy`] each.
    Proxied,
}

/// What a cluster is to be like: versions, tables, settings, clocks.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) versions: Vec<Version>,
    pub(super) schema: String,
    pub(super) different: Vec<(usize, String)>,
    pub(super) settings: Vec<(usize, String, String)>,
    pub(super) clocks: Vec<(usize, i64)>,
    pub(super) stepping: Option<(usize, PathBuf)>,
    pub(super) reach: Reach,
    pub(super) pgbench_scale: Option<u32>,
    pub(super) journal: Option<PathBuf>,
    pub(super) rules: String,
    pub(super) encodings: Vec<(usize, String)>,
    pub(super) tables: Tables,
}

/// Which tables replicate: patterns.
#[derive(Clone, Debug)]
pub struct Tables {
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    pub(super) insert_only: Vec<String>,
}

impl Plan {
    /// Nodes of these versions, called east, west, north, south.
    pub fn of(versions: &[Version]) -> Plan {
        assert!(versions.len() <= NAMES.len(), "there are {} names", NAMES.len());
        Plan {
            versions: versions.to_vec(),
            schema: String::new(),
            different: Vec::new(),
            settings: Vec::new(),
            clocks: Vec::new(),
            stepping: None,
            reach: Reach::Direct,
            pgbench_scale: None,
            journal: None,
            rules: include_str!("../../conflict-rules/default.toml").to_owned(),
            encodings: Vec::new(),
            tables: Tables { include: vec!["public.*".to_owned()], exclude: Vec::new(), insert_only: Vec::new() },
        }
    }

    /// Two nodes of the version that this machine has.
    pub fn two() -> Plan {
        Plan::of(&[Version::Installed; 2])
    }

    /// Three of them.
    pub fn three() -> Plan {
        Plan::of(&[Version::Installed; 3])
    }

    /// Tables and rows that every node has before `pgconcord setup`.
    pub fn schema(mut self, sql: &str) -> Plan {
        self.schema.push_str(sql);
        self
    }

    /// More tables than those in the schema public: a pattern.
    pub fn include(mut self, pattern: &str) -> Plan {
        self.tables.include.push(pattern.to_owned());
        self
    }

    /// Tables of which nothing but the inserts replicate: a pattern.
    pub fn insert_only(mut self, pattern: &str) -> Plan {
        self.tables.insert_only.push(pattern.to_owned());
        self
    }

    /// The encoding of one node's database.
    pub fn encoding(mut self, node: usize, encoding: &str) -> Plan {
        self.encodings.push((node, encoding.to_owned()));
        self
    }

    /// Tables to leave out: a pattern.
    pub fn exclude(mut self, pattern: &str) -> Plan {
        self.tables.exclude.push(pattern.to_owned());
        self
    }

    /// What only one node has before `pgconcord setup`.
    pub fn at(mut self, node: usize, sql: &str) -> Plan {
        self.different.push((node, sql.to_owned()));
        self
    }

    /// A server setting of one node.
    pub fn setting(mut self, node: usize, name: &str, value: &str) -> Plan {
        self.settings.push((node, name.to_owned(), value.to_owned()));
        self
    }

    /// Shifts the clock of one node's server by seconds (libfaketime).
    pub fn clock(mut self, node: usize, seconds: i64) -> Plan {
        self.clocks.push((node, seconds));
        self
    }

    /// A clock of one node's server that can be set: the file has the seconds that it is shifted by ("-5s").
    pub fn clock_file(mut self, node: usize, file: impl Into<PathBuf>) -> Plan {
        self.stepping = Some((node, file.into()));
        self
    }

    /// Puts a proxy before every server.
    pub fn proxied(mut self) -> Plan {
        self.reach = Reach::Proxied;
        self
    }

    /// The tables of pgbench, with a key on the history.
    pub fn pgbench(mut self, scale: u32) -> Plan {
        self.pgbench_scale = Some(scale);
        self
    }

    /// Puts the journal elsewhere than beside the configuration.
    pub fn journal(mut self, path: impl Into<PathBuf>) -> Plan {
        self.journal = Some(path.into());
        self
    }

    /// Other conflict rules than the default ones.
    pub fn rules(mut self, text: &str) -> Plan {
        self.rules = text.to_owned();
        self
    }

    /// Starts the servers, runs `pgconcord setup` and the daemon, and waits until it is ready.
    pub fn run(self) -> Cluster {
        let mut cluster = self.set_up();
        cluster.start_daemon();
        cluster
    }

    /// Starts the servers and runs `pgconcord setup`; no daemon yet.
    pub fn set_up(self) -> Cluster {
        let cluster = self.servers_only();
        let output = cluster.pgconcord(&["setup"]);
        assert_eq!(output.code, 0, "setup: {output}");
        cluster
    }

    /// Starts the servers, with their tables; no setup yet.
    pub fn servers_only(self) -> Cluster {
        Cluster::create(self)
    }

    /// Starts the server of one node.
    pub(super) fn start_server(&self, node: usize, directory: &str) -> Server {
        let mut options = Options::new(self.versions[node].binaries());
        for (_, name, value) in self.settings.iter().filter(|(which, ..)| *which == node) {
            options = options.with(name, value);
        }
        for (_, seconds) in self.clocks.iter().filter(|(which, _)| *which == node) {
            options.environment.extend(faketime("FAKETIME", format!("{seconds:+}s")));
        }
        for (_, file) in self.stepping.iter().filter(|(which, _)| *which == node) {
            options.environment.extend(faketime("FAKETIME_TIMESTAMP_FILE", file.display().to_string()));
        }
        servers().start(directory, options).expect("a server")
    }
}

/// The environment that shifts a process's clock, and nothing but the clock that tells the date.
fn faketime(name: &str, value: String) -> Vec<(String, String)> {
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
        .iter()
        .map(|place| PathBuf::from(place).join("faketime/libfaketime.so.1"))
        .find(|path| path.exists())
        .expect("this test needs libfaketime (Debian, Ubuntu: apt-get install libfaketime)");
    let pair = |name: &str, value: String| (name.to_owned(), value);
    vec![
        pair("LD_PRELOAD", library.display().to_string()),
        pair(name, value),
        pair("FAKETIME_CACHE_DURATION", "1".into()),
        pair("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        pair("DONT_FAKE_MONOTONIC", "1".into()),
        pair("NO_FAKE_STAT", "1".into()),
        pair("FAKETIME_DISABLE_SHM", "1".into()),
    ]
}
