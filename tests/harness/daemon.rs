//! The `pgconcord` command as a child process.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{LATER, servers, wait_for};

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as one JSON value a line.
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        self.stdout.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
    }

    /// Both outputs, for looking something up.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}\n{}{}", self.code, self.stdout, self.stderr)
    }
}

/// The command with a configuration file, in that file's directory.
pub fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgconcord"));
    command.current_dir(config.parent().expect("the file lies in a directory")).stdin(Stdio::null());
    command.env("PGCONCORD_CONFIG", config).env_remove("PGPASSWORD").env_remove("RUST_LOG");
    command
}

/// Runs the command to its end; the servers' password is in the environment, as for a user who sets PGPASSWORD.
pub fn run(config: &Path, arguments: &[&str]) -> Output {
    let output =
        command(config).env("PGPASSWORD", servers().password()).args(arguments).output().expect("pgconcord runs");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `pgconcord run`; `Drop` kills it.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    http: u16,
}

impl Daemon {
    /// Starts it; its output is appended to `log`.
    pub fn start(config: &Path, log: &Path, http: u16) -> Daemon {
        let mut command = command(config);
        command.arg("run");
        Daemon::spawn(command, log, http)
    }

    /// Starts it by a command line of one's own.
    pub fn spawn(mut command: Command, log: &Path, http: u16) -> Daemon {
        let file = File::options().create(true).append(true).open(log).expect("the daemon's log");
        command.stdout(file.try_clone().expect("a second handle")).stderr(file);
        let child = command.spawn().expect("pgconcord runs");
        servers().adopt(child.id());
        Daemon { child, log: log.to_owned(), http }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed, the starts before included.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `/readyz` answers 200.
    pub fn wait_ready(&mut self) {
        wait_for("the daemon is ready", LATER, || {
            assert!(self.exited().is_none(), "the daemon ended: {}", self.log());
            self.is_ready().then_some(())
        });
    }

    /// Whether `/readyz` answers 200.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// Status code and body of a GET; `None` if nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// The most memory it has used so far, KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the daemon runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux tells VmHWM");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of kB")
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).expect("process ids fit")), signal).expect("the daemon runs");
    }

    /// SIGTERM; how it ended and how long that took.
    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = wait_for("the daemon ends", LATER, || self.exited());
        (status, start.elapsed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        servers().release(self.child.id());
    }
}
