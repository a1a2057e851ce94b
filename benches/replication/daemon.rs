//! The daemon as a process.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running daemon; `Drop` ends it.
pub struct Daemon(Child, PathBuf);

impl Daemon {
    pub fn start(mut command: Command, log: PathBuf) -> anyhow::Result<Daemon> {
        let file = File::create(&log).context("cannot write the daemon's log")?;
        let errors = file.try_clone().context("cannot share the daemon's log")?;
        let child = command.arg("run").stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        Ok(Daemon(child.context("cannot run pgconcord")?, log))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
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
