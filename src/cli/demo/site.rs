//! The demo's two servers, its configuration and its daemon, which is this same program.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::block_in_place;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use crate::throwaway::{Binaries, Options, SUPERUSER, Server, Servers, Stop, free_port};

/// The nodes' names.
const NAMES: [&str; 2] = ["east", "west"];
/// The replicated database.
const DATABASE: &str = "shop";
/// The role that pgconcord connects as: no superuser. `sql/role.sql` has the same name.
const ROLE: &str = "pgconcord";
/// Tables and rows.
const SHOP: &str = include_str!("../../../sql/demo.sql");
/// How conflicts are settled.
const RULES: &str = include_str!("../../../conflict-rules/default.toml");
/// What the role needs beside its rights on the tables.
const GRANTS: &str = include_str!("../../../sql/role.sql");
/// How long the daemon may take to come up, or to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often we look.
const LOOK: Duration = Duration::from_millis(50);

/// Servers, configuration, daemon. `Drop` ends and removes all of it, daemon first.
pub struct Site {
    daemon: Option<Child>,
    nodes: Vec<Server>,
    servers: Servers,
    http: u16,
}

impl Site {
    /// Starts everything and waits until both nodes stream.
    pub async fn open(pg_bin: Option<PathBuf>) -> anyhow::Result<Site> {
        let binaries = pg_bin.map_or_else(Binaries::find, Binaries::at)?;
        println!("starting two PostgreSQL {} primaries", binaries.major());
        let servers = block_in_place(Servers::new)?;
        let nodes = block_in_place(|| start(&servers, &binaries))?;
        let http = free_port().context("cannot find a free port")?;
        let mut site = Site { daemon: None, nodes, servers, http };
        for node in &site.nodes {
            site.create_shop(node).await?;
            println!("  {} on 127.0.0.1:{}", node.name(), node.port());
        }
        site.write_config()?;
        println!("pgconcord setup");
        site.command(&["setup"]).await?;
        println!("pgconcord run");
        site.start_daemon().await?;
        Ok(site)
    }

    async fn create_shop(&self, node: &Server) -> anyhow::Result<()> {
        node.sql("postgres", "CREATE ROLE shop_owner").await?;
        node.sql("postgres", &format!("CREATE DATABASE {DATABASE} OWNER shop_owner")).await?;
        node.sql(DATABASE, "GRANT CREATE ON SCHEMA public TO shop_owner").await?;
        node.sql(DATABASE, &format!("SET ROLE shop_owner; {SHOP}")).await?;
        let password = self.servers.password();
        let role = format!("CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '{password}'; GRANT shop_owner TO {ROLE}");
        node.sql(DATABASE, &role).await?;
        node.sql(DATABASE, GRANTS).await?;
        Ok(())
    }

    /// The configuration, which only we may read: the password is in it.
    fn write_config(&self) -> anyhow::Result<()> {
        let rules = self.servers.root().join("conflict-rules");
        let written = fs::create_dir(&rules).and_then(|()| fs::write(rules.join("default.toml"), RULES));
        written.context("cannot write the demo's conflict rules")?;
        let mut text = format!("# Made by `pgconcord demo`.\n[cluster]\nname = \"{DATABASE}\"\n");
        for node in &self.nodes {
            text.push_str(&format!("\n[[node]]\nname = \"{}\"\ndsn = \"{}\"\n", node.name(), node.dsn(ROLE, DATABASE)));
        }
        text.push_str("\n[tables]\ninclude = [\"public.*\"]\n\n[journal]\npath = \"pgconcord.db\"\n");
        text.push_str(&format!("\n[http]\nlisten = \"127.0.0.1:{}\"\n", self.http));
        let mut file = fs::OpenOptions::new();
        let file = file.write(true).create_new(true).mode(0o600).open(self.config());
        file.and_then(|mut file| file.write_all(text.as_bytes())).context("cannot write the demo's configuration")
    }

    async fn start_daemon(&mut self) -> anyhow::Result<()> {
        let log = fs::File::create(self.log()).context("cannot write the daemon's log")?;
        let errors = log.try_clone().context("cannot share the daemon's log")?;
        let daemon =
            self.program()?.arg("run").stdout(log).stderr(errors).spawn().context("cannot start the daemon")?;
        if let Some(pid) = daemon.id() {
            self.servers.adopt(pid);
        }
        self.daemon = Some(daemon);
        let start = Instant::now();
        while !self.is_ready().await {
            self.check_daemon()?;
            ensure!(start.elapsed() < PATIENCE, "the daemon is not ready after {PATIENCE:?}: {}", self.log_text());
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// SIGTERM, and waits until it has drained.
    pub async fn stop_daemon(&mut self) -> anyhow::Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let Some(pid) = daemon.id() else { bail!("the daemon ended by itself: {}", self.log_text()) };
        let id = nix::unistd::Pid::from_raw(i32::try_from(pid).context("a process id")?);
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).context("cannot stop the daemon")?;
        let status = tokio::time::timeout(PATIENCE, daemon.wait()).await;
        let status = status.context("the daemon does not stop")?.context("cannot wait for the daemon")?;
        self.servers.release(pid);
        ensure!(status.success(), "the daemon ended with {status}: {}", self.log_text());
        Ok(())
    }

    /// Fails if the daemon has ended by itself.
    pub fn check_daemon(&mut self) -> anyhow::Result<()> {
        let ended = self.daemon.as_mut().map(Child::try_wait).transpose().context("cannot look after the daemon")?;
        match ended.flatten() {
            Some(status) => bail!("the daemon ended with {status}: {}", self.log_text()),
            None => Ok(()),
        }
    }

    /// Whether the daemon is still up.
    pub fn daemon_runs(&self) -> bool {
        self.daemon.is_some()
    }

    /// The nodes' names.
    pub fn names(&self) -> [&'static str; 2] {
        NAMES
    }

    /// A session of a user of the shop at each side.
    pub async fn sessions(&self) -> anyhow::Result<[Client; 2]> {
        Ok([self.session(0).await?, self.session(1).await?])
    }

    /// A session at one side.
    pub async fn session(&self, side: usize) -> anyhow::Result<Client> {
        let dsn = self.nodes[side].dsn(SUPERUSER, DATABASE);
        let (client, connection) =
            tokio_postgres::connect(&dsn, NoTls).await.context("cannot connect to a demo server")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// All entries of the conflict journal, as `conflicts list --json` prints them.
    pub async fn conflicts(&self) -> anyhow::Result<Vec<Value>> {
        let text = self.command(&["conflicts", "list", "--json", "--limit", "1000000"]).await?;
        text.lines().map(|line| serde_json::from_str(line).context("conflicts list printed no JSON")).collect()
    }

    /// Lines that say where things are.
    pub fn places(&self) -> Vec<String> {
        let program = std::env::current_exe().map_or_else(|_| "pgconcord".into(), |path| path.display().to_string());
        let config = self.config().display().to_string();
        let mut lines = vec![
            format!("conflicts   {program} --config {config} conflicts list"),
            format!("journal     {} (SQLite)", self.servers.root().join("pgconcord.db").display()),
            format!("status      http://127.0.0.1:{}/status and /metrics", self.http),
            format!("daemon log  {}", self.log().display()),
        ];
        let password = self.servers.password();
        lines.extend(self.nodes.iter().map(|node| {
            format!("{:<11} psql postgres://{SUPERUSER}:{password}@127.0.0.1:{}/{DATABASE}", node.name(), node.port())
        }));
        lines
    }

    fn config(&self) -> PathBuf {
        self.servers.root().join("pgconcord.toml")
    }

    fn log(&self) -> PathBuf {
        self.servers.root().join("daemon.log")
    }

    /// The end of the daemon's log.
    fn log_text(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// This program with the demo's configuration. What it puts into the temporary directory goes with the demo.
    fn program(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        let root: &Path = self.servers.root();
        command.env("PGCONCORD_CONFIG", self.config()).env("TMPDIR", root).current_dir(root);
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        Ok(command)
    }

    /// Runs one of our commands and gives what it printed.
    async fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.program()?.args(arguments).output().await.context("cannot run this program")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "pgconcord {} ended with {}: {text}{errors}",
            arguments.join(" "),
            output.status
        );
        Ok(text)
    }

    /// Whether `/readyz` answers 200.
    async fn is_ready(&self) -> bool {
        self.ask("/readyz").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    async fn ask(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

/// Both servers, side by side.
fn start(servers: &Servers, binaries: &Binaries) -> anyhow::Result<Vec<Server>> {
    thread::scope(|scope| {
        let one = |name| scope.spawn(move || servers.start(name, Options::new(binaries.clone())));
        let starting = NAMES.map(one);
        starting.into_iter().map(|thread| Ok(thread.join().expect("starting a server does not panic")?)).collect()
    })
}

impl Drop for Site {
    /// Nobody waits for a throwaway server's checkpoint.
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.start_kill();
        }
        block_in_place(|| {
            for node in &mut self.nodes {
                let _ = node.stop(Stop::Immediate);
            }
        });
    }
}
