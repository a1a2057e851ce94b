//! One throwaway server: started, asked, stopped in every way there is, started again on the same port.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::servers::{Servers, run};
use super::templates::Lease;
use super::{Binaries, Error, SUPERUSER, doing, tail};

/// How long a server may take to come up (crash recovery included) or to go down.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many ports are tried.
const PORTS: usize = 5;
/// How often we look.
const LOOK: Duration = Duration::from_millis(20);

/// What a server is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its version.
    pub binaries: Binaries,
    /// Settings besides ours, which they override: `("wal_level", "replica")`.
    pub settings: Vec<(String, String)>,
    /// Environment variables of the server process: `LD_PRELOAD` and `FAKETIME` shift its clock.
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// Ready for logical replication, and without fsync: it has to survive its processes, not the machine.
    pub fn new(binaries: Binaries) -> Options {
        Options { binaries, settings: Vec::new(), environment: Vec::new() }
    }

    /// The same with one setting more; a later value of the same setting wins.
    pub fn with(mut self, setting: &str, value: &str) -> Options {
        self.settings.push((setting.to_owned(), value.to_owned()));
        self
    }
}

/// Set at every server unless [`Options`] say otherwise.
const SETTINGS: [(&str, &str); 13] = [
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    ("track_commit_timestamp", "on"),
    ("max_replication_slots", "20"),
    ("max_wal_senders", "20"),
    ("max_connections", "120"),
    ("fsync", "off"),
    ("shared_buffers", "64MB"),
    ("max_wal_size", "1GB"),
    ("autovacuum_naptime", "5s"),
    ("log_line_prefix", "%m [%p] %u@%d %a: "),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
];

/// How to end a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Disconnects the clients, writes a checkpoint.
    Fast,
    /// Every process quits on the spot; the next start recovers.
    Immediate,
    /// kill -9 of the postmaster.
    Kill,
}

impl Stop {
    fn signal(self) -> Signal {
        match self {
            Stop::Fast => Signal::SIGINT,
            Stop::Immediate => Signal::SIGQUIT,
            Stop::Kill => Signal::SIGKILL,
        }
    }
}

/// A server; `Drop` ends it and removes its files.
#[derive(Debug)]
pub struct Server {
    name: String,
    servers: Servers,
    options: Options,
    home: PathBuf,
    port: u16,
    child: Option<Child>,
    /// What its cluster is a copy of, if it is one.
    template: Option<Lease>,
}

impl Server {
    pub(super) fn create(servers: Servers, name: &str, options: Options) -> Result<Server, Error> {
        let home = servers.root().join(name);
        servers.shared.owner.create_dir(&home)?;
        let template = servers.shared.templates.as_ref().map(|templates| templates.lend(&options.binaries));
        let mut server = Server { name: name.to_owned(), servers, options, home, port: 0, child: None, template };
        server.initialize()?;
        let mut more = 1..PORTS;
        loop {
            server.port = free_port().map_err(doing("cannot find a free port"))?;
            match server.start() {
                // somebody was faster: every outgoing connection takes a port, too
                Err(Error::NotStarted { log, .. })
                    if log.contains("Address already in use") && more.next().is_some() => {}
                started => return started.map(|()| server),
            }
        }
    }

    fn initialize(&self) -> Result<(), Error> {
        let Some(template) = &self.template else { return self.initdb(&self.data_dir()) };
        let owner = &self.servers.shared.owner;
        let directory = self.servers.root().join(template.name());
        let data = directory.join("data");
        if !data.exists() {
            _ = fs::remove_dir_all(&directory); // what a failure has left
            owner.create_dir(&directory)?;
            let unfinished = directory.join("unfinished");
            self.initdb(&unfinished)?;
            fs::rename(unfinished, &data).map_err(doing("cannot rename a template"))?;
        }
        run(owner.command(Path::new("cp")).current_dir(&self.home).arg("-a").args([&data, &self.data_dir()]))
    }

    fn initdb(&self, data: &Path) -> Result<(), Error> {
        let owner = &self.servers.shared.owner;
        let password = self.home.join("password");
        fs::write(&password, self.servers.password()).map_err(doing("cannot write the password file"))?;
        owner.give(&password)?;
        let mut initdb = owner.command(&self.options.binaries.program("initdb"));
        initdb.current_dir(&self.home).arg("--pgdata").arg(data).arg("--pwfile").arg(&password);
        initdb.args(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]);
        run(initdb.arg("--no-sync"))?;
        fs::remove_file(&password).map_err(doing("cannot remove the password file"))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its TCP port on 127.0.0.1; stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.home
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// A connection string over TCP, with the superuser's password.
    pub fn dsn(&self, user: &str, database: &str) -> String {
        let password = self.servers.password();
        format!("host=127.0.0.1 port={} user={user} dbname={database} password={password}", self.port)
    }

    /// Changes what the server is started with the next time.
    pub fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// Starts it, and comes back when it takes connections. Does nothing if it runs.
    ///
    /// # Errors
    /// If it ends instead, or is not ready in a minute.
    pub fn start(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_running() {
            self.spawn()?;
            if self.wait_until_ready(deadline)? {
                break;
            }
            // After a kill -9 the old backends still hold the shared memory for a moment.
            let log = tail(&self.log());
            if !log.contains("still in use") || Instant::now() > deadline {
                return Err(Error::NotStarted { name: self.name.clone(), log });
            }
            sleep(LOOK * 5);
        }
        Ok(())
    }

    /// Stops it and waits until it has gone.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn stop(&mut self, how: Stop) -> Result<(), Error> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("process ids fit"));
        let _ = kill(pid, how.signal()); // it may have ended by itself
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().map_err(doing("cannot wait for a server"))?.is_none() {
            if Instant::now() > deadline {
                let _ = kill(pid, Signal::SIGKILL);
            }
            sleep(LOOK);
        }
        self.servers.release(child.id());
        Ok(())
    }

    /// Stops and starts it.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn restart(&mut self, how: Stop) -> Result<(), Error> {
        self.stop(how)?;
        self.start()
    }

    /// Runs SQL as the superuser and gives the rows of all its statements as text; NULL is `None`.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses it.
    pub async fn sql(&self, database: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        let failed = |source| Error::Sql { name: self.name.clone(), source };
        let (client, connection) =
            tokio_postgres::connect(&self.dsn(SUPERUSER, database), NoTls).await.map_err(failed)?;
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(sql).await.map_err(failed)?;
        drop(client);
        let _ = connection.await;
        Ok(messages.iter().filter_map(row_of).collect())
    }

    fn spawn(&mut self) -> Result<(), Error> {
        let log = OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.map_err(doing(format!("cannot write {}", self.log().display())))?;
        let errors = log.try_clone().map_err(doing("cannot share the log"))?;
        let owner = &self.servers.shared.owner;
        let mut command = owner.command(&self.options.binaries.program("postgres"));
        command.current_dir(&self.home).stdout(log).stderr(errors);
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command.arg("-D").arg(self.data_dir()).arg("-k").arg(&self.home).args(["-p", &self.port.to_string()]);
        let ours = SETTINGS.iter().map(|(name, value)| (*name, *value));
        for (name, value) in ours.chain(self.options.settings.iter().map(|(n, v)| (n.as_str(), v.as_str()))) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let child = command.spawn().map_err(doing(format!("cannot run {:?}", command.get_program())))?;
        self.servers.adopt(child.id());
        self.child = Some(child);
        Ok(())
    }

    /// Whether it came up; false if it ended. The eighth line of `postmaster.pid` is its state.
    fn wait_until_ready(&mut self, deadline: Instant) -> Result<bool, Error> {
        let pid_file = self.data_dir().join("postmaster.pid");
        loop {
            let child = self.child.as_mut().expect("just spawned");
            let pid = child.id();
            if child.try_wait().map_err(doing("cannot wait for a server"))?.is_some() {
                self.child = None;
                self.servers.release(pid);
                return Ok(false);
            }
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            let mut lines = text.lines();
            if lines.next() == Some(&pid.to_string()) && lines.nth(6).is_some_and(|state| state.trim() == "ready") {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Err(Error::NotStarted { name: self.name.clone(), log: tail(&self.log()) });
            }
            sleep(LOOK);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop(Stop::Immediate);
        let _ = fs::remove_dir_all(&self.home);
    }
}

fn row_of(message: &SimpleQueryMessage) -> Option<Vec<Option<String>>> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
}

/// A loopback port that nobody listens on just now.
///
/// # Errors
/// If there is none left.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
