//! `pgconcord run`: the daemon in the foreground.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::EnvFilter;

use crate::cli::{Global, USAGE};
use crate::config::Config;
use crate::daemon;
use crate::http::Request;

/// Arguments of `pgconcord run`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs the command.
pub async fn run(global: Global, _args: Args) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&global.config) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let filter = EnvFilter::try_from_env("PGCONCORD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let (ask, asked) = mpsc::channel(1);
    let mut hangup = signal(SignalKind::hangup())?;
    let on_hangup = ask.clone();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // the daemon says in its log what came of it
            if on_hangup.send((Request::ReloadRules, oneshot::channel().0)).await.is_err() {
                break;
            }
        }
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), cluster = config.cluster, "pgconcord starts");
    daemon::run(config, shutdown, ask, asked).await?;
    Ok(ExitCode::SUCCESS)
}
