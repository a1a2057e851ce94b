//! What users have left: each of two nodes takes a load of its own, transactions of pgbench in rows of its own, while nothing,
//! the server's own replication or pgconcord carries them to the other one.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use pgconcord::throwaway::{SUPERUSER, Server};
use serde::Serialize;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::daemon::Daemon;
use crate::nodes::{self, Nodes, drop_slot, drop_subscription, finished, wait};
use crate::plan::Plan;
use crate::report::{cores, median};

/// The database that those of the runs are copies of.
const DATABASE: &str = "bench";
/// TPC-B in the rows of one node: pgbench's tables have ten branches, each with ten tellers and 100,000 accounts.
const LOAD: &str = "\\set bid random(:first, :first + 4)
\\set tid (:bid - 1) * 10 + random(1, 10)
\\set aid (:bid - 1) * 100000 + random(1, 100000)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
";
/// The east's rows; the west has the others.
const EAST: &str = "WHERE bid <= 5";

/// The users.
#[derive(Args, Clone, Copy, Debug)]
pub struct Users {
    /// With --both-ways: how long the users work, s
    #[arg(long, default_value_t = 20, requires = "both_ways", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// With --both-ways: users at each node
    #[arg(long, default_value_t = 2, requires = "both_ways", value_parser = clap::value_parser!(u32).range(1..=50))]
    clients: u32,
}

/// How the nodes replicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Carrier {
    /// Not at all.
    Nothing,
    /// A subscription of the west, to the east.
    NativeOneWay,
    /// A subscription of each, with origin = none.
    NativeBothWays,
    /// pgconcord, both ways.
    Pgconcord,
}

impl Carrier {
    const ALL: [Carrier; 4] = [Carrier::Nothing, Carrier::NativeOneWay, Carrier::NativeBothWays, Carrier::Pgconcord];

    fn name(self) -> &'static str {
        match self {
            Carrier::Nothing => "nothing",
            Carrier::NativeOneWay => "native one way",
            Carrier::NativeBothWays => "native both ways",
            Carrier::Pgconcord => "pgconcord both ways",
        }
    }

    /// Which servers get the other's changes.
    fn targets(self) -> &'static [usize] {
        match self {
            Carrier::Nothing => &[],
            Carrier::NativeOneWay => &[1],
            Carrier::NativeBothWays | Carrier::Pgconcord => &[0, 1],
        }
    }
}

/// What one run came to.
#[derive(Clone, Copy, Debug, Serialize)]
struct Outcome {
    /// Transactions a second of the users in the east.
    east: f64,
    /// In the west.
    west: f64,
    /// How long after the load's end everything was everywhere, s.
    drained: f64,
}

/// Runs the carriers in turns and prints what the users had of each.
///
/// # Errors
/// If a run fails, or the nodes differ afterwards.
pub async fn compare(users: Users, plan: &Plan) -> anyhow::Result<()> {
    let nodes = Nodes::open(&["east", "west"], &plan.binaries)?;
    for server in &nodes.servers {
        server.sql("postgres", &format!("CREATE DATABASE {DATABASE}")).await?;
        nodes.pgbench_tables(server, DATABASE).await?;
        let done = "CREATE TABLE done (id int PRIMARY KEY); CREATE PUBLICATION native FOR ALL TABLES";
        server.sql(DATABASE, done).await?;
        server.sql(DATABASE, "VACUUM ANALYZE").await?;
    }
    fs::write(nodes.path("load.sql"), LOAD).context("cannot write the users' transactions")?;
    let carriers: Vec<Carrier> =
        Carrier::ALL.into_iter().filter(|carrier| *carrier != Carrier::NativeBothWays || nodes.major() >= 16).collect();
    if carriers.len() < Carrier::ALL.len() {
        println!("native both ways needs PostgreSQL 16: before that its changes would go round in circles");
    }
    let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); carriers.len()];
    for (run, place) in plan.turns(carriers.len()) {
        let outcome = once(&nodes, carriers[place], &format!("run{run}_{place}"), users).await;
        outcomes[place].push(outcome.with_context(|| carriers[place].name())?);
    }
    report(users, &carriers, &outcomes, plan)
}

fn report(users: Users, carriers: &[Carrier], outcomes: &[Vec<Outcome>], plan: &Plan) -> anyhow::Result<()> {
    let middle = |of: &[Outcome], value: fn(&Outcome) -> f64| {
        let mut values: Vec<f64> = of.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        (median(&values).unwrap_or(f64::NAN), values[0], values[values.len() - 1])
    };
    let both = |outcome: &Outcome| outcome.east + outcome.west;
    let one_way = carriers
        .iter()
        .position(|carrier| *carrier == Carrier::NativeOneWay)
        .map(|place| middle(&outcomes[place], both).0);
    let Users { seconds, clients } = users;
    println!(
        "\nPostgreSQL {}, {} cores, {clients} users at each node for {seconds} s; medians.\n\n\
         | | east tps | west tps | both (least to most) | ÷ native one way | drained after s |\n|---|---|---|---|---|---|",
        plan.binaries.major(),
        cores()
    );
    let mut medians = serde_json::Map::new();
    for (carrier, of) in carriers.iter().zip(outcomes) {
        let (sum, least, most) = middle(of, both);
        let (east, west) = (middle(of, |outcome| outcome.east).0, middle(of, |outcome| outcome.west).0);
        let (drained, ratio) = (middle(of, |outcome| outcome.drained).0, one_way.map(|one_way| sum / one_way));
        let shown = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let name = carrier.name();
        println!("| {name} | {east:.0} | {west:.0} | {sum:.0} ({least:.0} to {most:.0}) | {shown} | {drained:.2} |");
        let row = json!({"east": east, "west": west, "both": sum, "least": least, "most": most, "ratio": ratio,
                         "drained": drained, "runs": of});
        medians.insert(name.to_owned(), row);
    }
    let all = json!({"postgresql": plan.binaries.major(), "cores": cores(), "seconds": seconds, "clients": clients,
                     "medians": medians});
    plan.write("both-ways.json", &(serde_json::to_string_pretty(&all)? + "\n"))
}

/// One run, in databases of its own.
async fn once(nodes: &Nodes, carrier: Carrier, database: &str, users: Users) -> anyhow::Result<Outcome> {
    for server in &nodes.servers {
        server.sql("postgres", &format!("CREATE DATABASE {database} TEMPLATE {DATABASE}")).await?;
    }
    let [east, west] = &nodes.servers[..] else { bail!("there are two nodes") };
    let mut daemon = begin(nodes, carrier, database).await?;
    arrive(nodes, carrier, database, 0, &mut daemon).await?;
    for server in &nodes.servers {
        server.sql("postgres", "CHECKPOINT").await?;
    }
    let load = |server: &Server, first: &str| {
        let (file, first) = (format!("{}", nodes.path("load.sql").display()), format!("first={first}"));
        let (clients, seconds) = (users.clients.to_string(), users.seconds.to_string());
        let arguments = ["-n", "-f", &file, "-D", &first, "-c", &clients, "-j", "1", "-T", &seconds];
        let command = nodes.pgbench(server, database, &arguments);
        spawn_blocking(move || finished(command))
    };
    let loads = [load(east, "1"), load(west, "6")];
    let mut tps = [0.0; 2];
    for (tps, load) in tps.iter_mut().zip(loads) {
        *tps = transactions_per_second(&load.await.context("the users")??)?;
    }
    let end = Instant::now();
    arrive(nodes, carrier, database, 1, &mut daemon).await?;
    let drained = if carrier == Carrier::Nothing { Duration::ZERO } else { end.elapsed() };
    drop(daemon);
    leave(nodes, carrier, database).await?;
    match carrier {
        Carrier::Nothing => {}
        Carrier::NativeOneWay => nodes::compare((east, database), (west, database), "pgbench%", EAST).await?,
        Carrier::NativeBothWays | Carrier::Pgconcord => {
            nodes::compare((east, database), (west, database), "%", "").await?
        }
    }
    for server in &nodes.servers {
        server.sql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)")).await?;
    }
    Ok(Outcome { east: tps[0], west: tps[1], drained: drained.as_secs_f64() })
}

/// Writes a row at each node, the last of what there is, and returns when all have come to where they go.
async fn arrive(
    nodes: &Nodes,
    carrier: Carrier,
    database: &str,
    round: i32,
    daemon: &mut Option<Daemon>,
) -> anyhow::Result<()> {
    let id = |server: usize| 2 * round + i32::from(server == 1);
    for (place, server) in nodes.servers.iter().enumerate() {
        // without waiting for it, it leaves the server only when its WAL writer comes by
        let last = format!("SET synchronous_commit = on; INSERT INTO done VALUES ({})", id(place));
        server.sql(database, &last).await?;
    }
    for target in carrier.targets() {
        let client = nodes::connect(&nodes.servers[*target], database).await?;
        wait(&client, id(1 - target), daemon.as_mut()).await?;
    }
    Ok(())
}

/// Has the nodes replicate.
async fn begin(nodes: &Nodes, carrier: Carrier, database: &str) -> anyhow::Result<Option<Daemon>> {
    if carrier == Carrier::Pgconcord {
        nodes.setup(database, &nodes.dsns(database), None)?;
        return nodes.daemon(database).map(Some);
    }
    for target in carrier.targets() {
        let origin = if carrier == Carrier::NativeBothWays { ", origin = none" } else { "" };
        let subscription = format!(
            "CREATE SUBSCRIPTION {database} CONNECTION '{}' PUBLICATION native WITH (slot_name = {database}, \
             copy_data = false{origin})",
            nodes.servers[1 - target].dsn(SUPERUSER, database)
        );
        nodes.servers[*target].sql(database, &subscription).await?;
    }
    Ok(None)
}

/// Removes what replicates; a daemon is gone.
async fn leave(nodes: &Nodes, carrier: Carrier, database: &str) -> anyhow::Result<()> {
    for target in carrier.targets() {
        let source = &nodes.servers[1 - target];
        if carrier == Carrier::Pgconcord {
            drop_slot(source, database, &format!("pgconcord_{database}")).await?;
        } else {
            drop_subscription(&nodes.servers[*target], database, database).await?;
            drop_slot(source, database, database).await?;
        }
    }
    Ok(())
}

/// `tps = 123.4 (without initial connection time)`
fn transactions_per_second(printed: &str) -> anyhow::Result<f64> {
    let number = printed.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    number.with_context(|| format!("pgbench has not told its transactions a second: {printed}"))
}
