//! Conflict storms: both nodes have a backlog of transactions of one update each, of rows of their own or of the same ones,
//! so that every transaction is in conflict. A run lasts until both have everything; then they must have the same rows, and
//! the journal every conflict.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pgconcord::throwaway::{Binaries, Options, SUPERUSER, Server, Servers, free_port};
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::report::median;
use crate::site::{Daemon, PATIENCE, SETTINGS, one};

/// Transactions at each node at scale 1.
const SIZE: u64 = 100_000;
/// How often the nodes are asked.
const LOOK: Duration = Duration::from_millis(5);

/// Which rows the nodes update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rows {
    /// Each its own.
    Apart,
    /// The same ones.
    Same,
}

/// How conflicts are resolved: a name, and the rule.
const RULES: [(&str, &str); 4] = [
    ("last_update_wins", "[[rule]]\nname = \"all\"\nresolve = \"last_update_wins\"\n"),
    (
        "merge",
        "[[rule]]\nname = \"all\"\ntables = [\"public.item\"]\nresolve = \"merge\"\ncolumns = { a = \"delta\" }\n\
         [[rule]]\nname = \"rest\"\nresolve = \"last_update_wins\"\n",
    ),
    (
        "when",
        "[[rule]]\nname = \"some\"\ntables = [\"public.item\"]\nwhen = \"remote.a > 5 || local.b.startsWith('n')\"\n\
         resolve = \"first_update_wins\"\n\
         [[rule]]\nname = \"rest\"\nresolve = \"last_update_wins\"\n",
    ),
    (
        "sql",
        "[[rule]]\nname = \"all\"\ntables = [\"public.item\"]\nresolve = \"merge\"\n\
         columns = { a = \"delta\", b = { sql = \"greatest(local, remote)\" } }\n\
         [[rule]]\nname = \"rest\"\nresolve = \"last_update_wins\"\n",
    ),
];

/// Runs storms and calms in turns, and prints their medians and ratios.
///
/// # Errors
/// If a run fails, or what came out is wrong.
pub async fn compare(runs: usize, scale: f64, binaries: &Binaries) -> anyhow::Result<()> {
    let size = ((SIZE as f64 * scale) as u64).max(10);
    let servers = block_in_place(Servers::new)?;
    let start = |name: &str| {
        let options = Options::new(binaries.clone());
        servers.start(name, SETTINGS.iter().fold(options, |options, (name, value)| options.with(name, value)))
    };
    let nodes = [("east", block_in_place(|| start("east"))?), ("west", block_in_place(|| start("west"))?)];
    println!(
        "\n| conflicts, {size} transactions at each node | apart s | all in conflict s | storm ÷ calm |\n|---|---|---|---|"
    );
    for (name, rule) in RULES {
        let mut seconds = [Vec::new(), Vec::new()];
        for run in 0..runs {
            let mut turns = [(0, Rows::Apart), (1, Rows::Same)];
            turns.rotate_left(run % 2);
            for (place, rows) in turns {
                let database = format!("{}_{run}_{name}", if rows == Rows::Same { "storm" } else { "calm" });
                let took = once(&servers, &nodes, &database, rule, rows, size).await;
                seconds[place].push(took.with_context(|| database.clone())?);
            }
        }
        let middle = |mut all: Vec<f64>| {
            all.sort_by(f64::total_cmp);
            median(&all).unwrap_or(f64::NAN)
        };
        let [calm, storm] = seconds.map(middle);
        println!("| {name} | {calm:.2} | {storm:.2} | {:.2} of the throughput |", calm / storm);
    }
    Ok(())
}

async fn once(
    servers: &Servers,
    nodes: &[(&str, Server); 2],
    database: &str,
    rule: &str,
    rows: Rows,
    size: u64,
) -> anyhow::Result<f64> {
    let home = servers.root().join(format!("{database}-home"));
    fs::create_dir(&home).context("cannot make a directory for the configuration")?;
    let mut text = format!("[cluster]\nname = \"{database}\"\n[tables]\ninclude = [\"public.*\"]\n");
    let port = free_port().context("cannot find a free port")?;
    text += &format!("[rules]\npath = \"rules.toml\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n");
    for (node, server) in nodes {
        server.sql("postgres", &format!("CREATE DATABASE {database}")).await?;
        let base = format!(
            "CREATE TABLE item (id bigint PRIMARY KEY, a int, b text); ALTER TABLE item REPLICA IDENTITY FULL;
             CREATE TABLE done (node text PRIMARY KEY);
             INSERT INTO item SELECT i, 0, 'row ' || i FROM generate_series(1, 2 * {size}) i"
        );
        server.sql(database, &base).await?;
        server.sql(database, "VACUUM ANALYZE").await?;
        text += &format!("[[node]]\nname = \"{node}\"\ndsn = \"{}\"\n", server.dsn(SUPERUSER, database));
    }
    fs::write(home.join("pgconcord.toml"), text).context("cannot write a configuration")?;
    fs::write(home.join("rules.toml"), rule).context("cannot write rules")?;
    let program = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pgconcord"));
        command.current_dir(&home).env("PGCONCORD_LOG", "warn");
        command
    };
    let output = block_in_place(|| program().arg("setup").output()).context("cannot run pgconcord")?;
    ensure!(output.status.success(), "setup: {}", String::from_utf8_lossy(&output.stderr));
    for (place, (node, server)) in nodes.iter().enumerate() {
        let first = if rows == Rows::Apart { place as u64 * size } else { 0 };
        let make = format!(
            "CREATE PROCEDURE make() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..{size} LOOP
             UPDATE item SET a = a + 1, b = '{node}' WHERE id = {first} + i; COMMIT; END LOOP; END $$"
        );
        server.sql(database, &make).await?;
        server.sql(database, "CALL make()").await?;
        server.sql(database, &format!("INSERT INTO done VALUES ('{node}')")).await?;
        server.sql(database, "CHECKPOINT").await?;
    }
    let start = Instant::now();
    let mut daemon = Daemon::start(program(), home.join("log"))?;
    for (_, server) in nodes {
        while one(server, database, "SELECT count(*) FROM done").await? != "2" {
            ensure!(start.elapsed() < PATIENCE, "not done after {PATIENCE:?}");
            daemon.check()?;
            sleep(LOOK).await;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    drop(daemon);
    let sum = "SELECT count(*) || ' ' || sum(hashtextextended(t::text, 0)::numeric) || ' ' || sum(a) FROM item AS t";
    let (east, west) = (one(&nodes[0].1, database, sum).await?, one(&nodes[1].1, database, sum).await?);
    ensure!(east == west, "the nodes differ: {east}, {west}");
    let listed = block_in_place(|| program().args(["conflicts", "export", "--format", "jsonl"]).output());
    let conflicts = listed.context("cannot run pgconcord")?.stdout.iter().filter(|byte| **byte == b'\n').count() as u64;
    let expected = if rows == Rows::Same { 2 * size } else { 0 };
    ensure!(conflicts == expected, "{conflicts} conflicts are on record, and there were {expected}");
    for (_, server) in nodes {
        let slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
        while server.sql(database, slot).await.is_err() {
            sleep(LOOK * 10).await; // its walsender is about to end
        }
        server.sql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)")).await?;
    }
    Ok(seconds)
}
