//! The servers of a comparison, and what is done with them whatever is compared: databases, pgbench, pgconcord's configuration
//! and setup, slots removed, rows compared.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pgconcord::throwaway::{Binaries, Options, SUPERUSER, Server, Servers, free_port};
use tokio::task::block_in_place;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use crate::daemon::Daemon;

/// How often a target is asked.
pub const LOOK: Duration = Duration::from_millis(5);
/// No run of any contender takes so long.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Tables that are summed up with one message: each is locked until its end.
const SUMMED_AT_ONCE: usize = 1_000;
/// Beside those of throwaway servers: what a server of this size would have, and nothing that would happen in one run and
/// not in another.
const SETTINGS: [(&str, &str); 10] = [
    ("shared_buffers", "512MB"),
    ("max_wal_size", "16GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    ("synchronous_commit", "off"),
    ("max_replication_slots", "64"),
    ("max_wal_senders", "64"),
    ("max_logical_replication_workers", "8"),
    ("max_locks_per_transaction", "1024"), // thousands of tables are made in one transaction
    ("wal_retrieve_retry_interval", "10ms"), // else a worker may wait 5 s for its turn to start
];

/// Servers on this machine.
pub struct Nodes {
    /// They; each knows its name.
    pub servers: Vec<Server>,
    owner: Servers,
    binaries: Binaries,
}

impl Nodes {
    /// Starts one of each name.
    pub fn open(names: &[&str], binaries: &Binaries) -> anyhow::Result<Nodes> {
        let owner = block_in_place(Servers::new)?;
        let start = |name: &&str| {
            let options = Options::new(binaries.clone());
            owner.start(name, SETTINGS.iter().fold(options, |options, (name, value)| options.with(name, value)))
        };
        let servers = block_in_place(|| names.iter().map(start).collect::<Result<_, _>>())?;
        Ok(Nodes { servers, owner, binaries: binaries.clone() })
    }

    /// The servers' version.
    pub fn major(&self) -> u32 {
        self.binaries.major()
    }

    /// A superuser's way to a database at each.
    pub fn dsns(&self, database: &str) -> Vec<String> {
        self.servers.iter().map(|server| server.dsn(SUPERUSER, database)).collect()
    }

    /// pgbench on a database.
    pub fn pgbench(&self, server: &Server, database: &str, arguments: &[&str]) -> Command {
        let beside = self.binaries.program("pgbench");
        let mut command = if beside.exists() { Command::new(beside) } else { Command::new("pgbench") };
        command.args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-U", SUPERUSER]);
        command.args(arguments).arg(database).env("PGPASSWORD", self.owner.password()).stdin(Stdio::null());
        command
    }

    /// pgbench's tables, scale 10, with a key for the one that has none.
    pub async fn pgbench_tables(&self, server: &Server, database: &str) -> anyhow::Result<()> {
        finished(self.pgbench(server, database, &["-i", "-q", "-s", "10"]))?;
        let keyed = "ALTER TABLE pgbench_history ADD id uuid PRIMARY KEY DEFAULT gen_random_uuid()";
        server.sql(database, keyed).await?;
        Ok(())
    }

    /// A file or directory beside the servers'.
    pub fn path(&self, name: &str) -> PathBuf {
        self.owner.root().join(name)
    }

    fn home(&self, cluster: &str) -> PathBuf {
        self.path(&format!("{cluster}-home"))
    }

    /// Writes pgconcord's configuration for a cluster, a connection string for each server, and runs `setup`.
    pub fn setup(&self, cluster: &str, dsns: &[String], rules: Option<&str>) -> anyhow::Result<()> {
        let home = self.home(cluster);
        fs::create_dir(&home).context("cannot make a directory for the configuration")?;
        let port = free_port().context("cannot find a free port")?;
        let mut text = format!(
            "[cluster]\nname = \"{cluster}\"\n[tables]\ninclude = [\"public.*\"]\n[http]\nlisten = \"127.0.0.1:{port}\"\n"
        );
        if let Some(rules) = rules {
            text += "[rules]\npath = \"rules.toml\"\n";
            fs::write(home.join("rules.toml"), rules).context("cannot write rules")?;
        }
        for (server, dsn) in self.servers.iter().zip(dsns) {
            text += &format!("[[node]]\nname = \"{}\"\ndsn = \"{dsn}\"\n", server.name());
        }
        fs::write(home.join("pgconcord.toml"), text).context("cannot write a configuration")?;
        let mut setup = self.program(cluster);
        setup.arg("setup");
        finished(setup)?;
        Ok(())
    }

    /// pgconcord with the configuration of a cluster.
    pub fn program(&self, cluster: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgconcord"));
        command.current_dir(self.home(cluster)).env("PGCONCORD_LOG", "warn");
        command
    }

    /// The daemon of a cluster.
    pub fn daemon(&self, cluster: &str) -> anyhow::Result<Daemon> {
        Daemon::start(self.program(cluster), self.home(cluster).join("log"))
    }
}

/// Runs a program to its end; what it printed, or the error that it ended with.
pub fn finished(mut command: Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = block_in_place(|| command.output()).with_context(|| format!("cannot run {name}"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A connection of a user.
pub async fn connect(server: &Server, database: &str) -> anyhow::Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(&server.dsn(SUPERUSER, database), NoTls).await.context("a connection")?;
    tokio::spawn(connection);
    Ok(client)
}

/// Until a row of `done` is seen.
pub async fn wait(client: &Client, id: i32, mut daemon: Option<&mut Daemon>) -> anyhow::Result<()> {
    let statement = client.prepare("SELECT FROM done WHERE id = $1").await.context("the target")?;
    let start = Instant::now();
    while client.query_opt(&statement, &[&id]).await.context("the target")?.is_none() {
        ensure!(start.elapsed() < PATIENCE, "not done after {PATIENCE:?}");
        if let Some(daemon) = &mut daemon {
            daemon.check()?;
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// The first value of what a statement gives.
pub async fn one(server: &Server, database: &str, sql: &str) -> anyhow::Result<String> {
    let rows = server.sql(database, sql).await?;
    rows.into_iter().next().and_then(|mut row| row.pop()?).with_context(|| format!("nothing came of {sql}"))
}

/// Removes a subscription; its slot stays.
pub async fn drop_subscription(server: &Server, database: &str, name: &str) -> anyhow::Result<()> {
    for change in ["DISABLE", "SET (slot_name = NONE)"] {
        server.sql(database, &format!("ALTER SUBSCRIPTION {name} {change}")).await?;
    }
    server.sql(database, &format!("DROP SUBSCRIPTION {name}")).await?;
    Ok(())
}

/// Removes a slot, if it is there.
pub async fn drop_slot(server: &Server, database: &str, slot: &str) -> anyhow::Result<()> {
    let drop =
        format!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let start = Instant::now();
    while let Err(error) = server.sql(database, &drop).await {
        ensure!(start.elapsed() < Duration::from_secs(20), "{error}"); // its walsender is about to end
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Both databases have the same rows in the tables whose names are LIKE `tables`, as far as `condition` (a WHERE, or nothing)
/// says.
pub async fn compare(
    one: (&Server, &str),
    other: (&Server, &str),
    tables: &str,
    condition: &str,
) -> anyhow::Result<()> {
    let sums = [sums(one, tables, condition).await?, sums(other, tables, condition).await?];
    let [here, there] = &sums;
    ensure!(here.len() == there.len(), "{} tables at one end, {} at the other", here.len(), there.len());
    for (one_table, other_table) in here.iter().zip(there) {
        let (one_name, other_name) = (one.0.name(), other.0.name());
        ensure!(one_table == other_table, "{one_table} at {one_name} differs from {other_table} at {other_name}");
    }
    Ok(())
}

/// Each table's name, its number of rows and their sum.
async fn sums((server, database): (&Server, &str), tables: &str, condition: &str) -> anyhow::Result<Vec<String>> {
    let listed =
        format!("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename LIKE '{tables}' ORDER BY 1");
    let names: Vec<String> = server.sql(database, &listed).await?.into_iter().flatten().flatten().collect();
    let mut all = Vec::new();
    for names in names.chunks(SUMMED_AT_ONCE) {
        let sum = |name: &String| {
            let sum = "coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)";
            format!("SELECT '{name}: ' || count(*) || ' rows, ' || {sum} FROM {name} AS t {condition};")
        };
        let statements: String = names.iter().map(sum).collect();
        all.extend(server.sql(database, &statements).await?.into_iter().flatten().flatten());
    }
    Ok(all)
}

/// The first process of a server.
pub fn postmaster(server: &Server) -> anyhow::Result<u32> {
    let file = server.data_dir().join("postmaster.pid");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines().next().and_then(|line| line.parse().ok()).context("a process id")
}
