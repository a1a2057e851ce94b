//! `make bench`: pgconcord beside the server's own logical replication, on the same backlogs, in turns.
//!
//! A source and a target server are started on this machine. Each workload's backlog is made once; every run of every
//! contender has a slot from before it and a copy of the target's database as it was. A run lasts from the moment when the
//! contender is started until the backlog's last row is seen at the target; then both ends must have the same rows.

mod contender;
mod latency;
mod measure;
mod report;
mod site;
mod storm;
mod workload;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;
use pgconcord::throwaway::Binaries;

use contender::Contender;
use report::{Report, Run};
use site::Site;
use workload::{ALL, Workload};

/// How pgconcord compares with the server's own logical replication.
#[derive(Parser, Debug)]
struct Args {
    /// Only these workloads: a1,a3
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Only these contenders: native, tuned (native with its fastest settings), pgconcord
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<String>,
    /// Runs of each contender
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Part of each backlog's full size
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Only the conflict storm: both nodes updating their own rows, and the same ones
    #[arg(long)]
    storm: bool,
    /// Only the latency of single commits without a backlog
    #[arg(long)]
    latency: bool,
    /// Binaries of the servers; those of this machine's PostgreSQL without it
    #[arg(long)]
    pg_bin: Option<PathBuf>,
    /// Where results.json and results.svg go
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// `cargo bench` gives it
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let workloads = chosen("workload", &ALL, |workload| workload.name, &args.workloads)?;
    let contenders = chosen("contender", &Contender::ALL, |contender| contender.name(), &args.contenders)?;
    ensure!(args.runs > 0 && args.scale > 0.0, "--runs and --scale are above 0");
    let pg_bin =
        args.pg_bin.map(|path| path.canonicalize().with_context(|| format!("{}", path.display()))).transpose()?;
    let binaries = pg_bin.map_or_else(Binaries::find, Binaries::at)?;
    if args.storm {
        return storm::compare(args.runs, args.scale, &binaries).await;
    }
    if args.latency {
        return latency::compare(&contenders, args.runs, args.scale, &binaries).await;
    }
    let mut report = Report::new(&binaries, args.scale);
    println!("{}", report.heading());
    for workload in &workloads {
        compare(workload, &contenders, args.runs, args.scale, &binaries, &mut report).await?;
    }
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    for (name, text) in [("results.json", report.json()?), ("results.svg", report.svg())] {
        let path = args.out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn chosen<T: Copy>(
    what: &str,
    all: &[T],
    name: impl Fn(&T) -> &'static str,
    asked: &[String],
) -> anyhow::Result<Vec<T>> {
    for each in asked {
        let names: Vec<_> = all.iter().map(&name).collect();
        ensure!(names.contains(&each.as_str()), "there is no {what} {each:?}; there is {}", names.join(", "));
    }
    let wanted = |one: &&T| asked.is_empty() || asked.iter().any(|each| *each == name(one));
    Ok(all.iter().filter(wanted).copied().collect())
}

/// All runs of one workload, in turns: each round begins with another contender.
async fn compare(
    workload: &Workload,
    contenders: &[Contender],
    runs: usize,
    scale: f64,
    binaries: &Binaries,
    report: &mut Report,
) -> anyhow::Result<()> {
    let size = workload.scaled(scale);
    let mut site = Site::open(workload, size, binaries).await?;
    let entries: Vec<(Contender, usize)> = (0..runs)
        .flat_map(|run| (0..contenders.len()).map(move |turn| (contenders[(run + turn) % contenders.len()], run)))
        .collect();
    for (contender, run) in &entries {
        site.enter(*contender, *run).await?;
    }
    site.make_backlog().await?;
    for (contender, run) in entries {
        let measured =
            site.run(contender, run).await.with_context(|| format!("{} {}", workload.name, contender.name()))?;
        report.add(Run { workload: workload.name, contender, size, rows: size * workload.rows, measured });
    }
    println!("{}", report.lines(workload));
    Ok(())
}
