//! `make bench`: pgconcord beside the server's own logical replication, on the same backlogs, in turns.
//!
//! A source and a target server are started on this machine. Each workload's backlog is made once; every run of every
//! contender has a slot from before it and a copy of the target's database as it was. A run lasts from the moment when the
//! contender is started until the backlog's last row is seen at the target; then both ends must have the same rows.
//!
//! Beside backlogs there are latency, conflict storms, distance, the users' own throughput and the journal.

mod both_ways;
mod contender;
mod daemon;
mod decode;
mod distance;
mod journal;
mod latency;
mod measure;
mod nodes;
mod plan;
mod proxy;
mod report;
mod site;
mod storm;
mod workload;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;
use pgconcord::throwaway::Binaries;

use both_ways::Users;
use contender::Contender;
use plan::Plan;
use report::{Report, Run};
use site::Site;
use workload::{ALL, MANY_TABLES, Workload};

/// How pgconcord compares with the server's own logical replication.
#[derive(Parser, Debug)]
struct Args {
    /// Only these workloads: a1,a3. Without it all but t0 and t2, which have many tables
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["storm", "latency", "both_ways", "journal"])]
    workloads: Vec<String>,
    /// Only these contenders: native, tuned (native with its fastest settings), pgconcord; also decode, which is a reader that
    /// throws everything away
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["storm", "both_ways", "journal"])]
    contenders: Vec<String>,
    /// Runs of each contender
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Part of each backlog's full size
    #[arg(long, default_value_t = 1.0, conflicts_with = "both_ways")]
    scale: f64,
    /// Servers: one that has the backlog, and those that get it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=8), conflicts_with = "mode")]
    nodes: u8,
    /// Tables of the workloads that have many, t0 and t2
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    tables: u64,
    /// Only the conflict storm: both nodes updating their own rows, and the same ones
    #[arg(long, group = "mode")]
    storm: bool,
    /// Only the latency of single commits without a backlog
    #[arg(long, group = "mode")]
    latency: bool,
    /// Only decode alone beside pgconcord; a1, a2 and a4 unless --workloads says otherwise
    #[arg(long, group = "mode")]
    decode: bool,
    /// Only backlogs between servers that are far from each other, the daemon beside either; a0, a2 and a3 unless --workloads
    /// says otherwise
    #[arg(long, group = "mode")]
    distance: bool,
    /// With --distance: how far, milliseconds there and back
    #[arg(long, value_delimiter = ',', default_value = "0,1,20,100", requires = "distance", value_parser = round_trip)]
    round_trips: Vec<f64>,
    /// Only the throughput that users at two nodes have while nothing, native replication or pgconcord carries what they write to
    /// the other one
    #[arg(long, group = "mode")]
    both_ways: bool,
    #[command(flatten)]
    users: Users,
    /// Only a journal of a million conflicts: writing it, and what `conflicts` takes to answer
    #[arg(long, group = "mode")]
    journal: bool,
    /// Binaries of the servers; those of this machine's PostgreSQL without it
    #[arg(long)]
    pg_bin: Option<PathBuf>,
    /// Where the results go: results.json and results.svg, and those of distance, decode and both-ways
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// `cargo bench` gives it
    #[arg(long, hide = true)]
    bench: bool,
}

fn round_trip(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ms) if (0.0..=10_000.0).contains(&ms) => Ok(ms),
        _ => Err("a round trip is 0 to 10000 ms".to_owned()),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.runs > 0 && args.scale > 0.0 && args.scale.is_finite(), "--runs and --scale are above 0");
    let (workloads, contenders) = (workloads(&args)?, contenders(&args)?);
    let pg_bin =
        args.pg_bin.map(|path| path.canonicalize().with_context(|| format!("{}", path.display()))).transpose()?;
    let binaries = pg_bin.map_or_else(Binaries::find, Binaries::at)?;
    let (nodes, tables) = (usize::from(args.nodes), args.tables);
    let plan = Plan { runs: args.runs, scale: args.scale, nodes, tables, binaries, out: args.out };
    if args.storm {
        return storm::compare(&plan).await;
    }
    if args.latency {
        return latency::compare(&contenders, &plan).await;
    }
    if args.journal {
        return journal::measure(&plan).await;
    }
    if args.both_ways {
        return both_ways::compare(args.users, &plan).await;
    }
    if args.distance {
        let mut round_trips = args.round_trips;
        round_trips.sort_by(f64::total_cmp);
        round_trips.dedup();
        return distance::compare(&workloads, &contenders, &round_trips, &plan).await;
    }
    let mut report = Report::new(&plan);
    println!("{}", report.heading());
    for workload in &workloads {
        compare(workload, &contenders, &plan, &mut report).await?;
    }
    report.write(&plan, if args.decode { "decode" } else { "results" })
}

fn workloads(args: &Args) -> anyhow::Result<Vec<Workload>> {
    let usual = match (args.distance, args.decode) {
        (true, _) => distance::WORKLOADS.to_vec(),
        (_, true) => decode::WORKLOADS.to_vec(),
        _ => ALL.iter().map(|workload| workload.name).filter(|name| !MANY_TABLES.contains(name)).collect(),
    };
    chosen("workload", &ALL, |workload| workload.name, &args.workloads, &usual)
}

fn contenders(args: &Args) -> anyhow::Result<Vec<Contender>> {
    let usual: &[Contender] = match (args.distance, args.decode) {
        (true, _) => &[Contender::Native, Contender::Pgconcord],
        (_, true) => &[Contender::Decode, Contender::Pgconcord],
        _ => &[Contender::Native, Contender::Tuned, Contender::Pgconcord],
    };
    let usual: Vec<_> = usual.iter().map(Contender::name).collect();
    let contenders = chosen("contender", &Contender::ALL, Contender::name, &args.contenders, &usual)?;
    ensure!(
        !contenders.contains(&Contender::Decode) || !(args.distance || args.latency),
        "decode writes nothing: it has a part in backlogs only"
    );
    Ok(contenders)
}

/// Those of the names that were asked for, or the usual ones.
fn chosen<T: Copy>(
    what: &str,
    all: &[T],
    name: impl Fn(&T) -> &'static str,
    asked: &[String],
    usual: &[&str],
) -> anyhow::Result<Vec<T>> {
    for each in asked {
        let names: Vec<_> = all.iter().map(&name).collect();
        ensure!(names.contains(&each.as_str()), "there is no {what} {each:?}; there is {}", names.join(", "));
    }
    let wanted = |one: &&T| match asked {
        [] => usual.contains(&name(one)),
        asked => asked.iter().any(|each| *each == name(one)),
    };
    Ok(all.iter().filter(wanted).copied().collect())
}

/// All runs of one workload, in turns: each round begins with another contender.
async fn compare(
    workload: &Workload,
    contenders: &[Contender],
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut site = Site::open(workload, plan).await?;
    let turns = plan.turns(contenders.len());
    let entries: Vec<_> = turns.into_iter().map(|(run, place)| (contenders[place], run)).collect();
    for (contender, run) in &entries {
        site.enter(*contender, *run, None).await?;
    }
    site.make_backlog().await?;
    let (size, rows) = (workload.scaled(plan.scale), site.rows());
    for (contender, run) in entries {
        let measured =
            site.run(contender, run).await.with_context(|| format!("{} {}", workload.name, contender.name()))?;
        report.add(Run { workload: workload.name.to_owned(), contender: contender.name(), size, rows, measured });
    }
    println!("{}", report.lines(workload.name, workload.what));
    Ok(())
}
