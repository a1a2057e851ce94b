//! Conflict storms: both nodes have a backlog of transactions of one update each, of rows of their own or of the same ones,
//! so that every transaction is in conflict. A run lasts until both have everything; then they must have the same rows, and
//! the journal every conflict.

use std::time::Instant;

use anyhow::{Context, bail, ensure};

use crate::nodes::{self, Nodes, drop_slot, finished, wait};
use crate::plan::Plan;
use crate::report::median;

/// Transactions at each node at scale 1.
const SIZE: u64 = 100_000;

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
pub async fn compare(plan: &Plan) -> anyhow::Result<()> {
    let size = ((SIZE as f64 * plan.scale) as u64).max(10);
    let nodes = Nodes::open(&["east", "west"], &plan.binaries)?;
    println!(
        "\n| conflicts, {size} transactions at each node | apart s | all in conflict s | storm ÷ calm |\n|---|---|---|---|"
    );
    for (name, rule) in RULES {
        let mut seconds = [Vec::new(), Vec::new()];
        for run in 0..plan.runs {
            let mut turns = [(0, Rows::Apart), (1, Rows::Same)];
            turns.rotate_left(run % 2);
            for (place, rows) in turns {
                let database = format!("{}_{run}_{name}", if rows == Rows::Same { "storm" } else { "calm" });
                let took = once(&nodes, &database, rule, rows, size).await;
                seconds[place].push(took.with_context(|| database.clone())?);
            }
        }
        let [calm, storm] = seconds.map(|mut all| {
            all.sort_by(f64::total_cmp);
            median(&all).unwrap_or(f64::NAN)
        });
        println!("| {name} | {calm:.2} | {storm:.2} | {:.2} of the throughput |", calm / storm);
    }
    Ok(())
}

async fn once(nodes: &Nodes, database: &str, rule: &str, rows: Rows, size: u64) -> anyhow::Result<f64> {
    for server in &nodes.servers {
        server.sql("postgres", &format!("CREATE DATABASE {database}")).await?;
        let base = format!(
            "CREATE TABLE item (id bigint PRIMARY KEY, a int, b text); ALTER TABLE item REPLICA IDENTITY FULL;
             CREATE TABLE done (id int PRIMARY KEY);
             INSERT INTO item SELECT i, 0, 'row ' || i FROM generate_series(1, 2 * {size}) i"
        );
        server.sql(database, &base).await?;
        server.sql(database, "VACUUM ANALYZE").await?;
    }
    nodes.setup(database, &nodes.dsns(database), Some(rule))?;
    for (place, server) in (0_u32..).zip(&nodes.servers) {
        let first = if rows == Rows::Apart { u64::from(place) * size } else { 0 };
        let make = format!(
            "CREATE PROCEDURE make() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..{size} LOOP
             UPDATE item SET a = a + 1, b = '{}' WHERE id = {first} + i; COMMIT; END LOOP; END $$",
            server.name()
        );
        server.sql(database, &make).await?;
        server.sql(database, "CALL make()").await?;
        server.sql(database, &format!("INSERT INTO done VALUES ({place})")).await?;
        server.sql(database, "CHECKPOINT").await?;
    }
    let start = Instant::now();
    let mut daemon = nodes.daemon(database)?;
    for (other, server) in [1, 0].into_iter().zip(&nodes.servers) {
        wait(&nodes::connect(server, database).await?, other, Some(&mut daemon)).await?;
    }
    let seconds = start.elapsed().as_secs_f64();
    drop(daemon);
    let [east, west] = &nodes.servers[..] else { bail!("there are two nodes") };
    nodes::compare((east, database), (west, database), "%", "").await?;
    let mut export = nodes.program(database);
    export.args(["conflicts", "export", "--format", "jsonl"]);
    let conflicts = finished(export)?.lines().count() as u64;
    let expected = if rows == Rows::Same { 2 * size } else { 0 };
    ensure!(conflicts == expected, "{conflicts} conflicts are on record, and there were {expected}");
    for server in &nodes.servers {
        drop_slot(server, database, &format!("pgconcord_{database}")).await?;
        server.sql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)")).await?;
    }
    Ok(seconds)
}
