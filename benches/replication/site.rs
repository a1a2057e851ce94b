//! Two servers, the backlog between them, and one run.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgconcord::throwaway::{Binaries, Options, SUPERUSER, Server, Servers, free_port};
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::contender::Contender;
use crate::measure::{Measured, cpu, cpu_of_server, peak_memory};
use crate::workload::{Backlog, Workload};

/// The source's database, and the target's as it is before the backlog.
const DATABASE: &str = "bench";
/// How often the target is asked.
const LOOK: Duration = Duration::from_millis(5);
/// No run of any contender takes so long.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Beside those of throwaway servers: what a server of this size would have, and nothing that would happen in one run and
/// not in another.
pub const SETTINGS: [(&str, &str); 9] = [
    ("shared_buffers", "512MB"),
    ("max_wal_size", "16GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    ("synchronous_commit", "off"),
    ("max_replication_slots", "64"),
    ("max_wal_senders", "64"),
    ("max_logical_replication_workers", "8"),
    ("wal_retrieve_retry_interval", "10ms"), // else a worker may wait 5 s for its turn to start
];

/// Two servers and a workload.
pub struct Site {
    workload: Workload,
    size: u64,
    source: Server,
    target: Server,
    servers: Servers,
    binaries: Binaries,
}

impl Site {
    /// Starts the servers and makes the base rows at both.
    pub async fn open(workload: &Workload, size: u64, binaries: &Binaries) -> anyhow::Result<Site> {
        let servers = block_in_place(Servers::new)?;
        let start = |name: &str| {
            let options = Options::new(binaries.clone());
            servers.start(name, SETTINGS.iter().fold(options, |options, (name, value)| options.with(name, value)))
        };
        let (source, target) = (block_in_place(|| start("source"))?, block_in_place(|| start("target"))?);
        let site = Site { workload: *workload, size, source, target, servers, binaries: binaries.clone() };
        let done = "CREATE TABLE done (id int PRIMARY KEY)";
        for server in [&site.source, &site.target] {
            server.sql("postgres", &format!("CREATE DATABASE {DATABASE}")).await?;
            match workload.backlog {
                Backlog::Pgbench => {
                    site.pgbench(server, &["-i", "-q", "-s", "10"])?;
                    let keyed = "ALTER TABLE pgbench_history ADD id uuid PRIMARY KEY DEFAULT gen_random_uuid()";
                    server.sql(DATABASE, keyed).await?;
                }
                Backlog::Sql(_) => drop(server.sql(DATABASE, &site.sized(workload.base)).await?),
            }
            server.sql(DATABASE, done).await?;
            server.sql(DATABASE, "VACUUM ANALYZE").await?;
        }
        let tables = "SELECT string_agg(format('%I', relname), ', ') FROM pg_class
             WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        let tables = one(&site.source, DATABASE, tables).await?;
        site.source.sql(DATABASE, &format!("CREATE PUBLICATION native FOR TABLE {tables}")).await?;
        Ok(site)
    }

    fn sized(&self, sql: &str) -> String {
        sql.replace("{n}", &self.size.to_string())
    }

    fn pgbench(&self, server: &Server, arguments: &[&str]) -> anyhow::Result<()> {
        let beside = self.binaries.program("pgbench");
        let mut command = if beside.exists() { Command::new(beside) } else { Command::new("pgbench") };
        command.args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-U", SUPERUSER]);
        command.args(arguments).arg(DATABASE).env("PGPASSWORD", self.servers.password());
        let output = block_in_place(|| command.stdin(Stdio::null()).output()).context("cannot run pgbench")?;
        ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Makes the target's database for a run, and the slot that keeps the backlog for it.
    pub async fn enter(&self, contender: Contender, run: usize) -> anyhow::Result<()> {
        let name = name(contender, run);
        self.target.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {DATABASE}")).await?;
        if contender == Contender::Pgconcord {
            let home = self.home(run);
            fs::create_dir(&home).context("cannot make a directory for the configuration")?;
            let dsns = [("source", &self.source, DATABASE), ("target", &self.target, name.as_str())];
            let nodes = dsns.map(|(node, server, database)| {
                format!("[[node]]\nname = \"{node}\"\ndsn = \"{}\"\n", server.dsn(SUPERUSER, database))
            });
            let port = free_port().context("cannot find a free port")?;
            let text = format!(
                "[cluster]\nname = \"{name}\"\n{}[tables]\ninclude = [\"public.*\"]\n[http]\nlisten = \"127.0.0.1:{port}\"\n",
                nodes.concat()
            );
            fs::write(home.join("pgconcord.toml"), text).context("cannot write a configuration")?;
            let output = block_in_place(|| self.program(run).arg("setup").output()).context("cannot run pgconcord")?;
            ensure!(output.status.success(), "setup: {}", String::from_utf8_lossy(&output.stderr));
            return Ok(());
        }
        let slot = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
        self.source.sql(DATABASE, &slot).await?;
        let subscription = format!(
            "CREATE SUBSCRIPTION {name} CONNECTION '{}' PUBLICATION native WITH (slot_name = {name}, create_slot = false, \
             enabled = false, copy_data = false{})",
            self.source.dsn(SUPERUSER, DATABASE),
            contender.options(self.binaries.major())
        );
        self.target.sql(&name, &subscription).await?;
        Ok(())
    }

    fn home(&self, run: usize) -> PathBuf {
        self.servers.root().join(name(Contender::Pgconcord, run))
    }

    fn program(&self, run: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgconcord"));
        command.arg("--config").arg(self.home(run).join("pgconcord.toml")).env("PGCONCORD_LOG", "warn");
        command
    }

    /// What happens at the source.
    pub async fn make_backlog(&self) -> anyhow::Result<()> {
        match self.workload.backlog {
            Backlog::Sql(statements) => {
                for statement in statements {
                    self.source.sql(DATABASE, &self.sized(statement)).await?;
                }
            }
            Backlog::Pgbench => {
                let each = (self.size / 4).max(1).to_string();
                self.pgbench(&self.source, &["-n", "-c", "4", "-j", "2", "-t", &each])?;
            }
        }
        self.source.sql(DATABASE, "INSERT INTO done VALUES (1)").await?;
        self.source.sql(DATABASE, "CHECKPOINT").await?;
        Ok(())
    }

    /// One run.
    pub async fn run(&mut self, contender: Contender, run: usize) -> anyhow::Result<Measured> {
        self.target.sql("postgres", "CHECKPOINT").await?;
        if contender == Contender::Pgconcord {
            self.skip_other_runs(&name(contender, run)).await?;
        }
        let cpu_before = [&self.source, &self.target].map(|server| postmaster(server).map(cpu_of_server));
        let start = Instant::now();
        let mut daemon = self.start(contender, run).await?;
        let client = self.connect(Some((contender, run))).await?;
        wait(&client, daemon.as_mut()).await?;
        let seconds = start.elapsed().as_secs_f64();
        let (cpu_daemon, memory) = match &daemon {
            Some(daemon) => (cpu(daemon.0.id(), false), peak_memory(daemon.0.id())),
            None => (Duration::ZERO, 0.0),
        };
        let mut taken = [0.0; 2];
        for ((server, before), taken) in [&self.source, &self.target].iter().zip(cpu_before).zip(&mut taken) {
            *taken = cpu_of_server(postmaster(server)?).saturating_sub(before?).as_secs_f64();
        }
        drop(daemon);
        self.finish(contender, run).await?;
        let [cpu_source, cpu_target] = taken;
        Ok(Measured { seconds, cpu_source, cpu_target, cpu_daemon: cpu_daemon.as_secs_f64(), memory })
    }

    /// pgconcord reads the target's log, too: that of the other runs, which came after its slot was made, is not part of this one.
    /// Where decoding begins again moves with the second checkpoint only.
    async fn skip_other_runs(&self, name: &str) -> anyhow::Result<()> {
        let skip =
            format!("SELECT end_lsn FROM pg_replication_slot_advance('pgconcord_{name}', pg_current_wal_flush_lsn())");
        let mut end = String::new();
        for _ in 0..3 {
            self.target.sql("postgres", "CHECKPOINT").await?;
            end = one(&self.target, name, &skip).await?;
        }
        let begin =
            format!("UPDATE pgconcord.progress SET lsn = '{end}' WHERE cluster = '{name}' AND source = 'target'");
        self.source.sql(DATABASE, &begin).await?;
        Ok(())
    }

    /// Has the contender of a run begin.
    pub async fn start(&self, contender: Contender, run: usize) -> anyhow::Result<Option<Daemon>> {
        let name = name(contender, run);
        match contender {
            Contender::Pgconcord => Ok(Some(Daemon::start(self.program(run), self.home(run).join("log"))?)),
            _ => {
                self.target.sql(&name, &format!("ALTER SUBSCRIPTION {name} ENABLE")).await?;
                Ok(None)
            }
        }
    }

    /// Ends a run whose daemon, if it has one, is gone: both ends must have the same rows.
    pub async fn finish(&self, contender: Contender, run: usize) -> anyhow::Result<()> {
        let name = name(contender, run);
        self.leave(contender, &name).await?;
        self.compare(&name).await?;
        self.target.sql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)")).await?;
        Ok(())
    }

    /// A connection of a user: to the source, or to the target of a run.
    pub async fn connect(&self, to: Option<(Contender, usize)>) -> anyhow::Result<tokio_postgres::Client> {
        let dsn = match to {
            None => self.source.dsn(SUPERUSER, DATABASE),
            Some((contender, run)) => self.target.dsn(SUPERUSER, &name(contender, run)),
        };
        let (client, connection) =
            tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.context("a connection")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Removes what keeps log for a run that is done.
    async fn leave(&self, contender: Contender, name: &str) -> anyhow::Result<()> {
        let slots: Vec<(&Server, &str, String)> = if contender == Contender::Pgconcord {
            let slot = || format!("pgconcord_{name}");
            vec![(&self.source, DATABASE, slot()), (&self.target, name, slot())]
        } else {
            for change in ["DISABLE", "SET (slot_name = NONE)"] {
                self.target.sql(name, &format!("ALTER SUBSCRIPTION {name} {change}")).await?;
            }
            self.target.sql(name, &format!("DROP SUBSCRIPTION {name}")).await?;
            vec![(&self.source, DATABASE, name.to_owned())]
        };
        for (server, database, slot) in slots {
            let drop = format!(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
            );
            let start = Instant::now();
            while let Err(error) = server.sql(database, &drop).await {
                ensure!(start.elapsed() < Duration::from_secs(20), "{error}"); // its walsender is about to end
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Both ends have the same rows.
    async fn compare(&self, name: &str) -> anyhow::Result<()> {
        let tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
        for row in self.source.sql(DATABASE, tables).await? {
            let table = row[0].clone().context("a name")?;
            let sum = format!(
                "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM {table} AS t"
            );
            let (source, target) = (one(&self.source, DATABASE, &sum).await?, one(&self.target, name, &sum).await?);
            ensure!(source == target, "{table} differs: {source} at the source, {target} at the target");
        }
        Ok(())
    }
}

/// Until the backlog's last row is seen.
async fn wait(client: &tokio_postgres::Client, mut daemon: Option<&mut Daemon>) -> anyhow::Result<()> {
    let statement = client.prepare("SELECT FROM done WHERE id = 1").await.context("the target")?;
    let start = Instant::now();
    while client.query_opt(&statement, &[]).await.context("the target")?.is_none() {
        ensure!(start.elapsed() < PATIENCE, "not done after {PATIENCE:?}");
        if let Some(daemon) = &mut daemon {
            daemon.check()?;
        }
        sleep(LOOK).await;
    }
    Ok(())
}

fn name(contender: Contender, run: usize) -> String {
    format!("{}_{run}", contender.name())
}

pub async fn one(server: &Server, database: &str, sql: &str) -> anyhow::Result<String> {
    let rows = server.sql(database, sql).await?;
    rows.into_iter().next().and_then(|mut row| row.pop()?).with_context(|| format!("nothing came of {sql}"))
}

fn postmaster(server: &Server) -> anyhow::Result<u32> {
    let file = server.data_dir().join("postmaster.pid");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines().next().and_then(|line| line.parse().ok()).context("a process id")
}

/// A running daemon; `Drop` ends it.
pub struct Daemon(Child, PathBuf);

impl Daemon {
    pub fn start(mut command: Command, log: PathBuf) -> anyhow::Result<Daemon> {
        let file = File::create(&log).context("cannot write the daemon's log")?;
        let errors = file.try_clone().context("cannot share the daemon's log")?;
        let child = command.arg("run").stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        Ok(Daemon(child.context("cannot run pgconcord")?, log))
    }

    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.0.try_wait().context("cannot look after the daemon")? {
            None => Ok(()),
            Some(status) => {
                bail!("the daemon ended with {status}: {}", fs::read_to_string(&self.1).unwrap_or_default())
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("process ids fit"));
        let _ = kill(pid, Signal::SIGKILL);
        let _ = self.0.wait();
    }
}
