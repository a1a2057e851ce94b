//! A source, its targets, the backlog between them, and one run.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pgconcord::model::Lsn;
use pgconcord::throwaway::{SUPERUSER, Server};

use crate::contender::Contender;
use crate::daemon::Daemon;
use crate::decode;
use crate::measure::{Measured, cpu, cpu_of_server, peak_memory};
use crate::nodes::{self, Nodes, drop_slot, drop_subscription, finished, one, postmaster, wait};
use crate::plan::Plan;
use crate::proxy::Proxy;
use crate::workload::{Backlog, Workload};

/// The source's database, and the targets' as it is before the backlog.
const DATABASE: &str = "bench";
/// What the servers are called, as many as there are.
const NAMES: [&str; 8] = ["source", "target", "target2", "target3", "target4", "target5", "target6", "target7"];

/// A server that is reached through a proxy: its place among [`Site::servers`], and the way.
pub type Far<'p> = (usize, &'p Proxy);

/// Servers and a workload.
pub struct Site {
    workload: Workload,
    size: u64,
    tables: u64,
    nodes: Nodes,
    /// Before the last transaction of the backlog.
    before_last: Lsn,
}

impl Site {
    /// Starts the servers and makes the base rows at all of them.
    pub async fn open(workload: &Workload, plan: &Plan) -> anyhow::Result<Site> {
        let nodes = Nodes::open(&NAMES[..plan.nodes], &plan.binaries)?;
        let size = workload.scaled(plan.scale);
        let site = Site { workload: *workload, size, tables: plan.tables, nodes, before_last: Lsn::ZERO };
        for server in site.servers() {
            server.sql("postgres", &format!("CREATE DATABASE {DATABASE}")).await?;
            match workload.backlog {
                Backlog::Pgbench => site.nodes.pgbench_tables(server, DATABASE).await?,
                Backlog::Sql(_) => drop(server.sql(DATABASE, &site.sized(workload.base)).await?),
            }
            server.sql(DATABASE, "CREATE TABLE done (id int PRIMARY KEY)").await?;
            server.sql(DATABASE, "VACUUM ANALYZE").await?;
        }
        let tables = "SELECT string_agg(format('%I', relname), ', ') FROM pg_class
             WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        let tables = one(site.source(), DATABASE, tables).await?;
        site.source().sql(DATABASE, &format!("CREATE PUBLICATION native FOR TABLE {tables}")).await?;
        Ok(site)
    }

    /// The source first.
    pub fn servers(&self) -> &[Server] {
        &self.nodes.servers
    }

    fn source(&self) -> &Server {
        &self.nodes.servers[0]
    }

    fn targets(&self) -> &[Server] {
        &self.nodes.servers[1..]
    }

    fn sized(&self, sql: &str) -> String {
        sql.replace("{n}", &self.size.to_string()).replace("{t}", &self.tables.to_string())
    }

    /// Rows that the backlog changes.
    pub fn rows(&self) -> u64 {
        self.size * self.workload.rows
    }

    /// Makes the targets' databases for a run, and the slots that keep the backlog for it.
    pub async fn enter(&self, contender: Contender, run: usize, far: Option<Far<'_>>) -> anyhow::Result<()> {
        let name = name(contender, run);
        let dsn = |place: usize| {
            let server = &self.servers()[place];
            let direct = server.dsn(SUPERUSER, if place == 0 { DATABASE } else { &name });
            match far {
                Some((far, proxy)) if far == place => {
                    direct.replace(&format!("port={}", server.port()), &format!("port={}", proxy.port()))
                }
                _ => direct,
            }
        };
        if contender != Contender::Decode {
            for target in self.targets() {
                target.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {DATABASE}")).await?;
            }
        }
        if contender == Contender::Pgconcord {
            let dsns: Vec<_> = (0..self.servers().len()).map(dsn).collect();
            return self.nodes.setup(&name, &dsns, None);
        }
        for target in self.targets() {
            let slot = self.slot(contender, run, target);
            let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
            self.source().sql(DATABASE, &create).await?;
            if contender == Contender::Decode {
                break; // nothing is written: one is enough
            }
            let subscription = format!(
                "CREATE SUBSCRIPTION {name} CONNECTION '{}' PUBLICATION native WITH (slot_name = {slot}, \
                 create_slot = false, enabled = false, copy_data = false{})",
                dsn(0),
                contender.options(self.nodes.major())
            );
            target.sql(&name, &subscription).await?;
        }
        Ok(())
    }

    /// The slot at the source that keeps the backlog for a target.
    fn slot(&self, contender: Contender, run: usize, target: &Server) -> String {
        let name = name(contender, run);
        match contender {
            Contender::Pgconcord => format!("pgconcord_{name}"), // one for all
            _ => format!("{name}_{}", target.name()),
        }
    }

    /// What happens at the source.
    pub async fn make_backlog(&mut self) -> anyhow::Result<()> {
        match self.workload.backlog {
            Backlog::Sql(statements) => {
                for statement in statements {
                    self.source().sql(DATABASE, &self.sized(statement)).await?;
                }
            }
            Backlog::Pgbench => {
                let each = (self.size / 4).max(1).to_string();
                let arguments = ["-n", "-c", "4", "-j", "2", "-t", &each];
                finished(self.nodes.pgbench(self.source(), DATABASE, &arguments))?;
            }
        }
        let position = one(self.source(), DATABASE, "SELECT pg_current_wal_insert_lsn()").await?;
        self.before_last = position.parse().with_context(|| format!("{position:?} is no position"))?;
        self.source().sql(DATABASE, "INSERT INTO done VALUES (1)").await?;
        self.source().sql(DATABASE, "CHECKPOINT").await?;
        Ok(())
    }

    /// One run.
    pub async fn run(&self, contender: Contender, run: usize) -> anyhow::Result<Measured> {
        for target in self.targets() {
            target.sql("postgres", "CHECKPOINT").await?;
        }
        if contender == Contender::Pgconcord {
            self.skip_other_runs(&name(contender, run)).await?;
        }
        let taken = |servers: &[Server]| {
            let each = servers.iter().map(|server| postmaster(server).map(cpu_of_server));
            each.sum::<anyhow::Result<Duration>>()
        };
        let before = (taken(&self.servers()[..1])?, taken(self.targets())?);
        let start = Instant::now();
        let daemon = self.begin(contender, run).await?;
        let seconds = start.elapsed().as_secs_f64();
        let (cpu_daemon, memory) = match &daemon {
            Some(daemon) => (cpu(daemon.pid(), false), peak_memory(daemon.pid())),
            None => (Duration::ZERO, 0.0),
        };
        let cpu_source = taken(&self.servers()[..1])?.saturating_sub(before.0).as_secs_f64();
        let cpu_target = taken(self.targets())?.saturating_sub(before.1).as_secs_f64();
        drop(daemon);
        self.finish(contender, run).await?;
        Ok(Measured { seconds, cpu_source, cpu_target, cpu_daemon: cpu_daemon.as_secs_f64(), memory })
    }

    /// From the start of a contender until all of the backlog is where it goes.
    async fn begin(&self, contender: Contender, run: usize) -> anyhow::Result<Option<Daemon>> {
        if contender == Contender::Decode {
            let slot = self.slot(contender, run, &self.targets()[0]);
            let rows = decode::read(&self.source().dsn(SUPERUSER, DATABASE), &slot, self.before_last).await?;
            let expected = self.rows() + 1; // and that of `done`
            ensure!(rows == expected, "{rows} changes were read, and {expected} were made");
            return Ok(None);
        }
        let mut daemon = self.start(contender, run).await?;
        for target in self.targets() {
            let client = nodes::connect(target, &name(contender, run)).await?;
            wait(&client, 1, daemon.as_mut()).await?;
        }
        Ok(daemon)
    }

    /// pgconcord reads the targets' logs, too: those of the other runs, which came after its slot was made, are not part of this
    /// one. Where decoding begins again moves with the second checkpoint only.
    async fn skip_other_runs(&self, name: &str) -> anyhow::Result<()> {
        let skip =
            format!("SELECT end_lsn FROM pg_replication_slot_advance('pgconcord_{name}', pg_current_wal_flush_lsn())");
        for target in self.targets() {
            let mut end = String::new();
            for _ in 0..3 {
                target.sql("postgres", "CHECKPOINT").await?;
                end = one(target, name, &skip).await?;
            }
            let begin = format!(
                "UPDATE pgconcord.progress SET lsn = '{end}' WHERE cluster = '{name}' AND source = '{}'",
                target.name()
            );
            for (place, other) in self.servers().iter().enumerate().filter(|(_, other)| other.name() != target.name()) {
                other.sql(if place == 0 { DATABASE } else { name }, &begin).await?;
            }
        }
        Ok(())
    }

    /// Has the contender of a run begin.
    pub async fn start(&self, contender: Contender, run: usize) -> anyhow::Result<Option<Daemon>> {
        let name = name(contender, run);
        if contender == Contender::Pgconcord {
            return self.nodes.daemon(&name).map(Some);
        }
        for target in self.targets() {
            target.sql(&name, &format!("ALTER SUBSCRIPTION {name} ENABLE")).await?;
        }
        Ok(None)
    }

    /// Ends a run whose daemon, if it has one, is gone: all ends must have the same rows, and nothing keeps log for it any more.
    pub async fn finish(&self, contender: Contender, run: usize) -> anyhow::Result<()> {
        let name = name(contender, run);
        for target in self.targets() {
            let slot = self.slot(contender, run, target);
            if matches!(contender, Contender::Native | Contender::Tuned) {
                drop_subscription(target, &name, &name).await?;
            }
            drop_slot(self.source(), DATABASE, &slot).await?;
            if contender == Contender::Decode {
                break;
            }
            drop_slot(target, &name, &slot).await?;
            nodes::compare((self.source(), DATABASE), (target, &name), "%", "").await?;
            target.sql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)")).await?;
        }
        Ok(())
    }

    /// A connection of a user: to the source, or to the first target of a run.
    pub async fn connect(&self, to: Option<(Contender, usize)>) -> anyhow::Result<tokio_postgres::Client> {
        match to {
            None => nodes::connect(self.source(), DATABASE).await,
            Some((contender, run)) => nodes::connect(&self.targets()[0], &name(contender, run)).await,
        }
    }
}

fn name(contender: Contender, run: usize) -> String {
    format!("{}_{run}", contender.name())
}
