//! The commands that users type: one file a command, each with its arguments and a `run` that gives the exit code.
//!
//! 0 all is well, 1 something is wrong, 2 the command line or the configuration is.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, report};

pub mod conflicts;
pub mod demo;
pub mod doctor;
pub mod init;
pub mod rules;
pub mod run;
pub mod setup;
pub mod status;
pub mod teardown;
mod text;

/// Exit code for a usage or configuration error.
pub const USAGE: u8 = 2;

/// Keeps two or more writable PostgreSQL primaries equal, from outside the servers.
#[derive(Parser, Debug)]
#[command(name = "pgconcord", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// The configuration file
    #[arg(long, global = true, env = "PGCONCORD_CONFIG", default_value = "pgconcord.toml", value_name = "FILE")]
    pub config: PathBuf,
}

impl Global {
    /// The configuration, its warnings shown; or all its errors shown, and the exit code for them.
    pub fn load(&self) -> Result<Config, ExitCode> {
        let style = match std::io::stderr().is_terminal() {
            true => report::Style::Coloured,
            false => report::Style::Plain,
        };
        match Config::load(&self.config) {
            Ok(config) => {
                if !config.warnings.is_empty() {
                    eprintln!("{}\n", config.warnings.render(style));
                }
                Ok(config)
            }
            Err(errors) => {
                eprintln!("{}", errors.0.render(style));
                Err(ExitCode::from(USAGE))
            }
        }
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Two throwaway primaries, the daemon and a workload with conflicts, on this machine
    Demo(demo::Args),
    /// Write a commented pgconcord.toml and conflict-rules/ from two or more connection strings
    Init(init::Args),
    /// Check every node and say what to change, each with the statement that does it
    Doctor(doctor::Args),
    /// Create schema, publication, slot and origins on every node; does nothing twice
    Setup(setup::Args),
    /// Remove exactly what setup created
    Teardown(teardown::Args),
    /// The daemon, in the foreground; SIGTERM drains
    Run(run::Args),
    /// How far each link has come: received, applied, confirmed, retained
    Status(status::Args),
    /// The conflicts on record
    Conflicts(conflicts::Args),
    /// The conflict rules: check, explain
    Rules(rules::Args),
}

impl Cli {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let global = self.global;
        match self.command {
            Command::Demo(args) => demo::run(global, args).await,
            Command::Init(args) => init::run(global, args).await,
            Command::Doctor(args) => doctor::run(global, args).await,
            Command::Setup(args) => setup::run(global, args).await,
            Command::Teardown(args) => teardown::run(global, args).await,
            Command::Run(args) => run::run(global, args).await,
            Command::Status(args) => status::run(global, args).await,
            Command::Conflicts(args) => conflicts::run(global, args).await,
            Command::Rules(args) => rules::run(global, args).await,
        }
    }
}
