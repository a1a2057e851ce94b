//! `pgconcord demo`: two throwaway primaries, the daemon and a shop that is open on both sides.
//!
//! The story: start two servers, `setup`, `run`, write on both sides (some of it on purpose to the same rows at the
//! same moment), stop writing, wait, compare every row, tell what happened. Everything is removed at the end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::cli::Global;

mod equal;
mod report;
mod site;
mod workload;

use site::Site;
use workload::Done;

/// The last line of a demo that went well.
const EQUAL: &str = "both primaries are equal";
/// How long the sides may take to become equal after the last write.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `pgconcord demo`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Leave servers and daemon running afterwards, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// How long to write
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    seconds: u64,
    /// Directory of the PostgreSQL server binaries [default: the newest on this machine]
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If servers or daemon cannot be started; sides that differ are exit code 1.
pub async fn run(_global: Global, args: Args) -> anyhow::Result<ExitCode> {
    let interrupted = interrupted()?;
    tokio::select! {
        result = play(&args) => result,
        () = interrupted => {
            println!("interrupted; servers, daemon and files are removed");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The demo from the first server to the last line.
async fn play(args: &Args) -> anyhow::Result<ExitCode> {
    let mut site = Site::open(args.pg_bin.clone()).await?;
    println!("writing on both sides for {} s, some of it to the same rows at the same moment", args.seconds);
    let done = workload::run(&site, Duration::from_secs(args.seconds)).await?;
    println!("stopped writing; waiting until everything has arrived");
    let start = Instant::now();
    let comparison = equal::wait(&site, PATIENCE).await?;
    let waited = start.elapsed();
    site.check_daemon()?;
    if !args.keep {
        site.stop_daemon().await?;
    }
    tell(&site, &done, &comparison, waited).await?;
    if args.keep {
        println!("\nEverything is left running. Press Ctrl-C to stop and remove it.");
        println!("{}", verdict(&comparison));
        std::future::pending::<()>().await;
    }
    println!("\n{}", verdict(&comparison));
    Ok(if comparison.is_equal() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verdict(comparison: &equal::Comparison) -> &'static str {
    if comparison.is_equal() { EQUAL } else { "the primaries differ" }
}

/// Prints what was done, what was found and where to look on.
async fn tell(site: &Site, done: &Done, comparison: &equal::Comparison, waited: Duration) -> anyhow::Result<()> {
    println!("\nWhat was written");
    for (name, side) in site.names().iter().zip(done.sides()) {
        println!("  at {name}: {} transactions, {} of them made to meet the other side's", side.all, side.deliberate);
    }
    println!("\nWhat is there, compared row by row {:.1} s after the last write", waited.as_secs_f64());
    comparison.lines().iter().for_each(|line| println!("  {line}"));
    println!("\nConflicts");
    let entries = site.conflicts().await.context("cannot read the conflict journal")?;
    report::lines(&entries).iter().for_each(|line| println!("  {line}"));
    println!("\nWhere to look on{}", if site.daemon_runs() { "" } else { " (with --keep)" });
    site.places().iter().for_each(|line| println!("  {line}"));
    Ok(())
}

/// Ends at Ctrl-C or SIGTERM.
fn interrupted() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    })
}
