//! Distance: a backlog between servers that are a round trip apart, with the daemon beside the target or beside the source.
//! native's worker is in the target.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Context;

use crate::contender::Contender;
use crate::plan::Plan;
use crate::proxy::Proxy;
use crate::report::{Report, Run};
use crate::site::Site;
use crate::workload::Workload;

/// What runs if no workload is asked for.
pub const WORKLOADS: [&str; 3] = ["a0", "a2", "a3"];
/// Whose time over all other workloads is that of a start.
const START: &str = "a0";

/// A contender in its place.
#[derive(Clone, Copy, Debug)]
struct Seat {
    contender: Contender,
    name: &'static str,
    /// The server that it is far from: the source, 0, or the target.
    far: usize,
}

/// Where contenders may be.
const SEATS: [Seat; 4] = [
    Seat { contender: Contender::Native, name: "native", far: 0 },
    Seat { contender: Contender::Tuned, name: "tuned", far: 0 },
    Seat { contender: Contender::Pgconcord, name: "pgconcord beside target", far: 0 },
    Seat { contender: Contender::Pgconcord, name: "pgconcord beside source", far: 1 },
];

/// Runs the workloads over all distances in turns.
///
/// # Errors
/// If a run fails.
pub async fn compare(
    workloads: &[Workload],
    contenders: &[Contender],
    round_trips: &[f64],
    plan: &Plan,
) -> anyhow::Result<()> {
    let seats: Vec<Seat> = SEATS.into_iter().filter(|seat| contenders.contains(&seat.contender)).collect();
    let turn: Vec<(f64, Seat)> =
        round_trips.iter().flat_map(|round_trip| seats.iter().map(|seat| (*round_trip, *seat))).collect();
    let mut report = Report::new(plan);
    println!("{}", report.heading());
    for workload in workloads {
        let mut site = Site::open(workload, plan).await?;
        let proxies = site.servers().iter().map(|server| Proxy::open(server.port())).collect::<Result<Vec<_>, _>>()?;
        let entries: Vec<_> = plan.turns(turn.len()).into_iter().map(|(_, place)| turn[place]).collect();
        for (run, (_, seat)) in entries.iter().enumerate() {
            site.enter(seat.contender, run, Some((seat.far, &proxies[seat.far]))).await?;
        }
        site.make_backlog().await?;
        for (run, (round_trip, seat)) in entries.iter().enumerate() {
            proxies[seat.far].set(Duration::from_secs_f64(round_trip / 1e3));
            let label = label(workload, *round_trip);
            let measured = site.run(seat.contender, run).await.with_context(|| format!("{label}, {}", seat.name))?;
            report.add(Run {
                workload: label,
                contender: seat.name,
                size: workload.scaled(plan.scale),
                rows: site.rows(),
                measured,
            });
        }
        for round_trip in round_trips {
            println!("{}", report.lines(&label(workload, *round_trip), workload.what));
        }
    }
    println!("{}", summary(&report, workloads, &seats, round_trips));
    report.write(plan, "distance")
}

fn label(workload: &Workload, round_trip: f64) -> String {
    format!("{} {round_trip} ms", workload.name)
}

/// Seconds by distance, and how much of the throughput over the shortest one is left over the longest.
fn summary(report: &Report, workloads: &[Workload], seats: &[Seat], round_trips: &[f64]) -> String {
    let (Some(near), Some(far)) = (round_trips.first(), round_trips.last()) else { return String::new() };
    let columns: String = round_trips.iter().map(|round_trip| format!(" {round_trip} ms |")).collect();
    let lines = "---|".repeat(round_trips.len());
    let mut text = format!(
        "Seconds by round trip; throughput at {far} ms ÷ at {near} ms, and the same without what a start takes ({START}).\n\n\
         | | |{columns} throughput left | without the start |\n|---|---|{lines}---|---|\n"
    );
    for workload in workloads {
        for seat in seats {
            let seconds = |of: &str, round_trip: &f64| report.seconds(&format!("{of} {round_trip} ms"), seat.name);
            let all: String = round_trips
                .iter()
                .map(|round_trip| format!(" {:.2} |", seconds(workload.name, round_trip).unwrap_or(f64::NAN)))
                .collect();
            let left = seconds(workload.name, near).zip(seconds(workload.name, far));
            let start = seconds(START, near).zip(seconds(START, far)).filter(|_| workload.name != START);
            let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"));
            let with = share(left.map(|(near, far)| near / far));
            let without = share(left.zip(start).map(|((near, far), (first, last))| (near - first) / (far - last)));
            writeln!(text, "| {} | {} |{all} {with} | {without} |", workload.name, seat.name).expect("a String");
        }
    }
    text
}
