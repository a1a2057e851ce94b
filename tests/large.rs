//! Large transactions, long backlogs.

use std::thread::sleep;
use std::time::Duration;

use crate::harness::{LATER, LEDGER, Pgbench, Plan, SOON, Writers, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;
/// How many of our sessions wait for a lock.
const WAITS: &str = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE NOT granted AND application_name LIKE 'pgconcord apply%'";

#[test]
fn one_transaction_of_two_million_rows_is_applied_as_one_in_bounded_memory() {
    const MANY: u64 = 2_000_000;
    let mut cluster = Plan::two().schema("CREATE TABLE big (id int PRIMARY KEY, v text NOT NULL);").run();
    cluster.rows(EAST, &format!("INSERT INTO big SELECT i, md5(i::text) FROM generate_series(1, {MANY}) i"));
    let reader = cluster.sql(WEST);
    let ends = "SELECT coalesce(min(id), 0) || ' ' || coalesce(max(id), 0) FROM big";
    let whole = format!("1 {MANY}");
    wait_for("the rows are at the west", LATER * 2, || {
        let found = reader.value(ends);
        assert!(found == "0 0" || found == whole, "half a transaction: {found}");
        (found == whole).then_some(())
    });
    assert_eq!(reader.number("SELECT count(*) FROM big"), MANY);
    cluster.settle();
    let peak = cluster.daemon().peak_memory_kib() / 1024;
    assert!(peak < 300, "the daemon used {peak} MiB");
    let entries = cluster.conflicts(&[]);
    assert!(entries.is_empty(), "{} conflicts, such as {:?}", entries.len(), entries[0]);
    cluster.rows(WEST, "UPDATE big SET v = 'west' WHERE id = 77");
    cluster.settle();
}

#[test]
fn a_backlog_of_a_hundred_thousand_transactions_drains_while_reading_goes_on() {
    let schema = "CREATE TABLE event (id bigserial PRIMARY KEY, v text NOT NULL DEFAULT 'event');";
    let mut cluster = Plan::two().schema(LEDGER).schema(schema).run();
    cluster.stop_daemon();
    let script = cluster.directory().join("event.sql");
    std::fs::write(&script, "INSERT INTO event DEFAULT VALUES;\n").expect("a script");
    let script = script.display().to_string();
    let load = Pgbench::start(&cluster.nodes[EAST].server, "shop", &["-c", "4", "-t", "25000", "-n", "-f", &script]);
    assert_eq!(load.finish(), 100_000);
    cluster.start_daemon();
    // both sides write while it drains
    let writers = Writers::start(&cluster, &[EAST, WEST]);
    wait_for("the backlog is drained", LATER, || {
        (cluster.value(WEST, "SELECT count(*) FROM event") == "100000").then_some(())
    });
    sleep(Duration::from_millis(500));
    let written = writers.stop();
    cluster.settle();
    cluster.assert_ledger(&written);
    cluster.wait_slots_confirmed();
    assert!(cluster.conflicts(&["--table", "public.event"]).is_empty());
}

#[test]
fn a_row_that_changes_while_the_pieces_after_it_are_on_their_way_is_settled() {
    let schema = "CREATE TABLE item (id int PRIMARY KEY, v text NOT NULL);
        INSERT INTO item SELECT i, 'start' FROM generate_series(1, 25000) i;";
    // of three pieces the second waits for the user, and the third is sent meanwhile
    for (again, retries) in [("id = 24999", 0), ("id BETWEEN 14000 AND 16000", 1)] {
        let mut cluster = Plan::two().schema(schema).run();
        let user = cluster.sql(WEST);
        user.rows("BEGIN; UPDATE item SET v = 'west' WHERE id = 15000");
        cluster.rows(EAST, &format!("UPDATE item SET v = 'east'; UPDATE item SET v = v || ' again' WHERE {again}"));
        wait_for("the user is waited for", SOON, || (cluster.value(WEST, WAITS) != "0").then_some(()));
        user.rows("COMMIT");
        cluster.settle();
        cluster.assert_everywhere("SELECT v FROM item WHERE id = 15000", "west");
        cluster.assert_everywhere("SELECT count(*) FROM item WHERE v LIKE 'east%'", "24999");
        let status = cluster.status();
        let links = status["links"].as_array().expect("links");
        let retried: u64 = links.iter().map(|link| link["retries_total"].as_u64().expect("a number")).sum();
        assert_eq!(retried, retries, "rolled back where a later piece has the row, only");
    }
}

#[test]
fn a_row_that_turns_up_while_the_pieces_after_it_are_on_their_way_is_a_conflict() {
    let schema = "CREATE TABLE item (id int PRIMARY KEY, v text NOT NULL);
        INSERT INTO item SELECT i, 'start' FROM generate_series(1, 25000) i;
        CREATE TABLE extra (id int PRIMARY KEY, v text NOT NULL);";
    let mut cluster = Plan::two().schema(schema).run();
    let user = cluster.sql(WEST);
    user.rows("BEGIN; INSERT INTO extra VALUES (5, 'west')");
    let middle = "UPDATE item SET v = 'east' WHERE id <= 15000;
        INSERT INTO extra SELECT i, 'east' FROM generate_series(1, 10) i;
        UPDATE item SET v = 'east' WHERE id > 15000";
    cluster.rows(EAST, middle);
    wait_for("the user is waited for", SOON, || (cluster.value(WEST, WAITS) != "0").then_some(()));
    user.rows("COMMIT");
    cluster.settle();
    cluster
        .assert_everywhere("SELECT string_agg(v, ',' ORDER BY id) FROM extra WHERE id IN (4, 5, 6)", "east,west,east");
    let entries = cluster.conflicts(&[]);
    assert_eq!(entries.len(), 2, "one at each node: {entries:?}");
    assert!(entries.iter().all(|entry| entry["type"] == "insert_exists"), "{entries:?}");
}
