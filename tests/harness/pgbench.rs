//! pgbench, from this machine's PostgreSQL.

use std::process::{Child, Command, Stdio};

use pgconcord::throwaway::{SUPERUSER, Server};

use super::{Version, servers};

/// A running pgbench.
pub struct Pgbench(Option<Child>);

impl Pgbench {
    /// Starts it against one server's database.
    pub fn start(server: &Server, database: &str, arguments: &[&str]) -> Pgbench {
        let beside = Version::Installed.binaries().program("pgbench");
        let mut command = if beside.exists() { Command::new(beside) } else { Command::new("pgbench") };
        command.args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-U", SUPERUSER]);
        command.args(arguments).arg(database).env("PGPASSWORD", servers().password());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Pgbench(Some(child.expect("this test needs pgbench (Debian, Ubuntu: apt-get install postgresql)")))
    }

    /// Waits for the end of `pgbench -i`.
    pub fn initialized(mut self) {
        let output = self.0.take().expect("this is the end").wait_with_output().expect("pgbench can be waited for");
        assert!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits for its end; gives the number of transactions. No transaction may have failed: pgconcord gives way to
    /// users, not the other way round.
    pub fn finish(mut self) -> u64 {
        let output = self.0.take().expect("finish is the end").wait_with_output().expect("pgbench can be waited for");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "pgbench: {text}{errors}");
        let line = text.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
        let number = line.and_then(|rest| rest.split('/').next()?.trim().parse().ok());
        number.unwrap_or_else(|| panic!("pgbench printed no number of transactions: {text}"))
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
