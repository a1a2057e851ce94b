//! A cluster: servers, configuration, daemon, and what a test wants to know about them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgconcord::throwaway::{SUPERUSER, Server, free_port};
use serde_json::Value;
use tempfile::TempDir;

use super::plan::{NAMES, Tables};
use super::{Daemon, LATER, Output, Pgbench, Plan, Proxy, Reach, Rows, SOON, Sql, compare, daemon, quiet, wait_for};

/// The database that replicates.
pub const DATABASE: &str = "shop";

/// One server and the way to it.
pub struct Node {
    pub server: Server,
    pub proxy: Option<Proxy>,
}

/// A running cluster. `Drop` ends everything; after a failure, logs and journal are kept.
pub struct Cluster {
    daemon: Option<Daemon>,
    pub nodes: Vec<Node>,
    directory: TempDir,
    journal: PathBuf,
    http: u16,
    role: &'static str,
    tables: Tables,
    marks: u64,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    pub(super) fn create(plan: Plan) -> Cluster {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let alone = quiet();
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let node = &|place: usize| {
            let server = plan.start_server(place, &format!("{number}-{}", NAMES[place]));
            let proxy = (plan.reach == Reach::Proxied).then(|| Proxy::to(server.port()));
            Node { server, proxy }
        };
        let nodes: Vec<Node> = thread::scope(|scope| {
            let starting: Vec<_> = (0..plan.versions.len()).map(|place| scope.spawn(move || node(place))).collect();
            starting.into_iter().map(|thread| thread.join().expect("a server")).collect()
        });
        let directory = tempfile::tempdir().expect("a directory for the configuration");
        let http = free_port().expect("a free port");
        let journal = plan.journal.clone().unwrap_or_else(|| directory.path().join("pgconcord.db"));
        let rules = directory.path().join("conflict-rules");
        fs::create_dir(&rules).expect("a directory for the rules");
        let cluster = Cluster {
            daemon: None,
            nodes,
            directory,
            journal,
            http,
            role: SUPERUSER,
            tables: plan.tables.clone(),
            marks: 0,
            _alone: alone,
        };
        cluster.write_config();
        cluster.set_rules(&plan.rules);
        (0..cluster.nodes.len()).for_each(|place| cluster.create_database(&plan, place));
        cluster
    }

    fn create_database(&self, plan: &Plan, place: usize) {
        let server = &self.nodes[place].server;
        let encoding = plan
            .encodings
            .iter()
            .find(|(at, _)| *at == place)
            .map(|(_, encoding)| format!(" ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"));
        let create = format!("CREATE DATABASE {DATABASE}{}", encoding.unwrap_or_default());
        Sql::connect(server, "postgres").expect("a session").rows(&create);
        if let Some(scale) = plan.pgbench_scale {
            Pgbench::start(server, DATABASE, &["-i", "-q", "-s", &scale.to_string()]).initialized();
            self.rows(place, "ALTER TABLE pgbench_history ADD id uuid PRIMARY KEY DEFAULT gen_random_uuid()");
        }
        let names: Vec<_> = self.names().iter().map(|name| format!("('{name}', 0)")).collect();
        let marker = "CREATE TABLE marker (node text PRIMARY KEY, n bigint NOT NULL)";
        self.rows(place, &format!("{marker}; INSERT INTO marker VALUES {}", names.join(", ")));
        self.rows(place, &plan.schema);
        plan.different.iter().filter(|(at, _)| *at == place).for_each(|(_, sql)| drop(self.rows(place, sql)));
    }

    /// Writes the configuration file.
    fn write_config(&self) {
        let mut text = format!("[cluster]\nname = \"{DATABASE}\"\n");
        for place in 0..self.nodes.len() {
            let dsn = self.daemons_dsn(place);
            text.push_str(&format!("\n[[node]]\nname = \"{}\"\ndsn = \"{dsn}\"\n", self.name(place)));
        }
        let journal = self.journal.display();
        let Tables { include, exclude, insert_only } = &self.tables;
        text.push_str(&format!(
            "\n[tables]\ninclude = {include:?}\nexclude = {exclude:?}\ninsert_only = {insert_only:?}\n\n\
             [journal]\npath = \"{journal}\"\n"
        ));
        text.push_str(&format!("\n[http]\nlisten = \"127.0.0.1:{}\"\n", self.http));
        fs::write(self.config(), text).expect("the configuration file");
    }

    /// The connection string that the daemon gets: past or through the proxy.
    fn daemons_dsn(&self, place: usize) -> String {
        let node = &self.nodes[place];
        let direct = node.server.dsn(self.role, DATABASE);
        let Some(proxy) = &node.proxy else { return direct };
        direct.replace(&format!("port={}", node.server.port()), &format!("port={}", proxy.port()))
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("pgconcord.toml")
    }

    /// Writes the file of conflict rules; a running daemon has the old ones until it is told.
    pub fn set_rules(&self, text: &str) {
        fs::write(self.directory().join("conflict-rules/rules.toml"), text).expect("the rules");
    }

    /// The directory of configuration, journal and log.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the daemon's output goes.
    pub fn log_file(&self) -> PathBuf {
        self.directory.path().join("daemon.log")
    }

    /// The port of the HTTP address.
    pub fn http(&self) -> u16 {
        self.http
    }

    /// The name of a node.
    pub fn name(&self, place: usize) -> &'static str {
        NAMES[place]
    }

    /// All names.
    pub fn names(&self) -> &'static [&'static str] {
        &NAMES[..self.nodes.len()]
    }

    /// The server of a node.
    pub fn server(&mut self, place: usize) -> &mut Server {
        &mut self.nodes[place].server
    }

    /// The proxy before a node.
    pub fn proxy(&self, place: usize) -> &Proxy {
        self.nodes[place].proxy.as_ref().expect("a plan that is proxied")
    }

    /// A connection string past the proxy.
    pub fn dsn(&self, place: usize) -> String {
        self.nodes[place].server.dsn(SUPERUSER, DATABASE)
    }

    /// The same cluster with pgconcord connecting as another role, such as that of [`super::ordinary_role`].
    pub fn into_role(mut self, role: &'static str) -> Cluster {
        self.role = role;
        self.write_config();
        self
    }

    /// Runs the statements, one transaction each, and waits until all nodes are equal.
    pub fn replicate(&mut self, place: usize, statements: &[impl AsRef<str>]) {
        let sql = self.sql(place);
        statements.iter().for_each(|statement| drop(sql.rows(statement.as_ref())));
        self.settle();
    }

    /// Nothing is in the journal.
    pub fn assert_no_conflicts(&self) {
        let entries = self.conflicts(&[]);
        assert!(entries.is_empty(), "{entries:?}");
    }

    /// A session at a node, past the proxy.
    pub fn sql(&self, place: usize) -> Sql {
        Sql::connect(&self.nodes[place].server, DATABASE).expect("a session")
    }

    /// Runs SQL at a node.
    pub fn rows(&self, place: usize, sql: &str) -> Rows {
        self.sql(place).rows(sql)
    }

    /// The one value that a query gives at a node.
    pub fn value(&self, place: usize, sql: &str) -> String {
        self.sql(place).value(sql)
    }

    /// Runs a command of pgconcord to its end.
    pub fn pgconcord(&self, arguments: &[&str]) -> Output {
        daemon::run(&self.config(), arguments)
    }

    /// Keeps one link from applying for as long as the session lives: it holds the link's progress row.
    pub fn hold_link(&self, source: usize, target: usize) -> Sql {
        let sql = self.sql(target);
        let row = format!("cluster = '{DATABASE}' AND source = '{}'", self.name(source));
        sql.rows(&format!("BEGIN; SELECT FROM pgconcord.progress WHERE {row} FOR UPDATE"));
        sql
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start_daemon(&mut self) {
        self.launch_daemon();
        self.daemon().wait_ready();
    }

    /// Starts the daemon; something may be in its way.
    pub fn launch_daemon(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        self.daemon = Some(Daemon::start(&self.config(), &self.log_file(), self.http));
    }

    /// Puts a daemon in place that was started otherwise.
    pub fn adopt_daemon(&mut self, daemon: Daemon) {
        self.daemon = Some(daemon);
    }

    /// The running daemon.
    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("a running daemon")
    }

    /// Takes the daemon out of the cluster, to be ended or watched.
    pub fn take_daemon(&mut self) -> Daemon {
        self.daemon.take().expect("a running daemon")
    }

    /// SIGTERM; it must end well.
    pub fn stop_daemon(&mut self) {
        let (status, _) = self.take_daemon().terminate();
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        assert!(status.success(), "the daemon ended with {status}: {log}");
    }

    /// kill -9.
    pub fn kill_daemon(&mut self) {
        self.take_daemon().kill();
    }

    /// What `pgconcord status --json` prints.
    pub fn status(&self) -> Value {
        let output = self.pgconcord(&["status", "--json"]);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// What `pgconcord conflicts list --json` prints, with more arguments.
    pub fn conflicts(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.pgconcord(&[&["conflicts", "list", "--json", "--limit", "0"], arguments].concat());
        assert_eq!(output.code, 0, "conflicts list: {output}");
        output.json_lines()
    }

    /// The entries about one row; `key` is the text of its only key column.
    pub fn conflicts_of(&self, table: &str, key: &str) -> Vec<Value> {
        let mut entries = self.conflicts(&["--table", table]);
        entries.retain(|entry| entry["key"].as_object().is_some_and(|key_of| key_of.values().any(|v| v == key)));
        entries
    }

    /// Waits until everything written anywhere before now is applied everywhere, and the tables are equal.
    pub fn settle(&mut self) {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.settle_among(&all, LATER);
    }

    /// Waits until what was written before now is applied everywhere; other tables than `marker` may differ, since
    /// the test made them so.
    pub fn wait_applied(&mut self) {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.exchange_marks(&all, LATER);
        self.wait_journal_settled();
    }

    /// What the query gives at every node.
    pub fn assert_everywhere(&self, query: &str, expected: &str) {
        for place in 0..self.nodes.len() {
            assert_eq!(self.value(place, query), expected, "{query} at {}", self.name(place));
        }
    }

    /// Lets all write without seeing each other, in this order, and waits until all nodes are equal.
    pub fn without_seeing(&mut self, statements: &[(usize, &str)]) {
        self.stop_daemon();
        for (place, statement) in statements {
            self.rows(*place, statement);
            thread::sleep(Duration::from_millis(20));
        }
        self.start_daemon();
        self.settle();
        self.wait_journal_settled();
    }

    /// Waits until one node has what another wrote before now; the others may be down.
    pub fn settle_applied_from(&mut self, source: usize, target: usize) {
        self.marks += 1;
        let (mark, name) = (self.marks, self.name(source));
        self.rows(source, &format!("UPDATE marker SET n = {mark} WHERE node = '{name}'"));
        let arrived = format!("SELECT count(*) FROM marker WHERE node = '{name}' AND n = {mark}");
        wait_for(&format!("{} has what {name} wrote", self.name(target)), LATER, || {
            self.check_daemon();
            (self.value(target, &arrived) == "1").then_some(())
        });
    }

    /// The same among some of the nodes: a mark written at each has arrived at all others, then tables are compared
    /// until they are equal.
    pub fn settle_among(&mut self, places: &[usize], limit: Duration) {
        self.exchange_marks(places, limit);
        self.wait_equal_among(places, limit);
    }

    fn exchange_marks(&mut self, places: &[usize], limit: Duration) {
        self.marks += 1;
        let mark = self.marks;
        for &place in places {
            let name = self.name(place);
            self.rows(place, &format!("UPDATE marker SET n = {mark} WHERE node = '{name}'"));
        }
        let names: Vec<_> = places.iter().map(|&place| format!("'{}'", self.name(place))).collect();
        let behind = format!("SELECT count(*) FROM marker WHERE n < {mark} AND node IN ({})", names.join(", "));
        for &place in places {
            let what = format!("{} has what the others wrote before", self.name(place));
            wait_for(&what, limit, || {
                self.check_daemon();
                (self.value(place, &behind) == "0").then_some(())
            });
        }
    }

    /// Waits until the tables of all nodes are equal.
    pub fn wait_equal_among(&mut self, places: &[usize], limit: Duration) {
        let sessions: Vec<Sql> = places.iter().map(|&place| self.sql(place)).collect();
        let names: Vec<_> = places.iter().map(|&place| self.name(place)).collect();
        let start = Instant::now();
        loop {
            let differing = compare::differing(&sessions);
            if differing.is_empty() {
                return;
            }
            self.check_daemon();
            if start.elapsed() > limit {
                panic!("the nodes are not equal after {limit:?}\n{}", compare::explain(&sessions, &names, &differing));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// A daemon that has ended by itself makes waiting useless.
    fn check_daemon(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            assert!(daemon.exited().is_none(), "the daemon ended: {}", daemon.log());
        }
    }

    /// Waits until no journal entry is pending.
    pub fn wait_journal_settled(&self) {
        wait_for("no journal entry is pending", SOON, || {
            let open = |entry: &Value| entry["status"] == "pending";
            (!self.conflicts(&[]).iter().any(open)).then_some(())
        });
    }

    /// Waits until every slot has confirmed whatever its server had written by now. A change is written after that:
    /// without one, links that are idle leave the last few kB for later, since telling of them would write as much.
    pub fn wait_slots_confirmed(&self) {
        let before: Vec<String> = (0..self.nodes.len())
            .map(|place| {
                let now = self.value(place, "SELECT pg_current_wal_insert_lsn()");
                self.rows(place, &format!("UPDATE marker SET n = n WHERE node = '{}'", self.name(place)));
                now
            })
            .collect();
        for (place, now) in before.iter().enumerate() {
            let what = format!("the slot at {} has confirmed {now}", self.name(place));
            wait_for(&what, SOON, || (self.confirmed(place, now) == "t").then_some(()));
        }
    }

    fn confirmed(&self, place: usize, lsn: &str) -> String {
        let slot = format!("slot_name = 'pgconcord_{DATABASE}'");
        self.value(place, &format!("SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE {slot}"))
    }

    /// Exactly these ledger rows are at every node, and none of them met a conflict.
    pub fn assert_ledger(&self, written: &[(String, u64)]) {
        for place in 0..self.nodes.len() {
            for (writer, count) in written {
                let query =
                    format!("SELECT count(*) || ' ' || coalesce(max(n), 0) FROM ledger WHERE node = '{writer}'");
                let found = self.value(place, &query);
                assert_eq!(found, format!("{count} {count}"), "rows of {writer} at {}", self.name(place));
            }
        }
        let twice = self.conflicts(&["--table", "public.ledger"]);
        assert!(twice.is_empty(), "ledger rows met conflicts, so they were applied twice: {twice:?}");
    }

    /// Copies what tells about a failure to `target/tmp/failed/<test>/`.
    fn keep_evidence(&self) {
        let thread = thread::current();
        let test = thread.name().unwrap_or("test").replace("::", ".");
        let to = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("failed").join(test);
        let _ = fs::remove_dir_all(&to);
        let _ = fs::create_dir_all(&to);
        for entry in fs::read_dir(self.directory.path()).into_iter().flatten().flatten() {
            let _ = fs::copy(entry.path(), to.join(entry.file_name()));
        }
        for (node, name) in self.nodes.iter().zip(NAMES) {
            let _ = fs::copy(node.server.log(), to.join(format!("{name}.log")));
        }
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        eprintln!("the end of the daemon's log (all of it and more is in {}):", to.display());
        lines[lines.len().saturating_sub(30)..].iter().for_each(|line| eprintln!("    {line}"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.keep_evidence();
        }
        self.daemon.take();
    }
}
