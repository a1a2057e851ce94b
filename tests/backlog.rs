//! A backlog of many small transactions: each batch is made while the one before it is written, and what there is no use for yet
//! stays where it was written.

use std::fs::File;
use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use pgconcord::throwaway::Stop;
use serde_json::{Value, json};

use crate::harness::{Cluster, LATER, Plan, SOON, Sql, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;

#[test]
fn a_backlog_with_conflicts_here_and_there_is_applied_once() {
    let schema = "CREATE TABLE items (id int PRIMARY KEY, v text NOT NULL);
         INSERT INTO items SELECT i, 'start' FROM generate_series(-8, -1) i;
         INSERT INTO items SELECT i, 'start' FROM generate_series(20001, 24000) i";
    let mut cluster = Plan::two().schema(schema).run();
    // several times the changes of a batch, some of them of the same rows, across batches too
    let many = "DO $$ BEGIN FOR i IN 1..20000 LOOP
             INSERT INTO items VALUES (i, 'east ' || i); COMMIT;
             IF i % 3 = 0 THEN UPDATE items SET v = v || ' again' WHERE id = i - 1; COMMIT; END IF;
             IF i % 5 = 0 THEN DELETE FROM items WHERE id = 20000 + i / 5; COMMIT; END IF;
             IF i % 2500 = 0 THEN UPDATE items SET v = 'east' WHERE id = i / -2500; COMMIT; END IF;
             IF i % 1000 = 0 THEN UPDATE items SET v = 'late' WHERE id = i / 1000 * 5 + 3; COMMIT; END IF;
         END LOOP; END $$";
    // with these rows the east does nothing more
    let few = "INSERT INTO items SELECT 1000 + 3000 * i, 'west' FROM generate_series(0, 6) i;
         UPDATE items SET v = 'west' WHERE id < 0";
    let held = cluster.hold_link(EAST, WEST);
    cluster.rows(EAST, many);
    cluster.rows(WEST, few);
    cluster.settle_applied_from(WEST, EAST);
    sleep(Duration::from_secs(3)); // what the west wrote is older than what is known of it by then
    drop(held);
    cluster.settle();
    cluster.wait_journal_settled();
    cluster.assert_everywhere("SELECT count(*) FROM items WHERE v = 'west'", "15");
    cluster.assert_everywhere("SELECT count(*) FROM items", "20008");
    assert_eq!(cluster.conflicts(&[]).len(), 30, "one of each key at each node");
    cluster.without_seeing(&[(EAST, "DELETE FROM items WHERE id > 10000"), (EAST, "UPDATE items SET v = v || '!'")]);
    cluster.assert_everywhere("SELECT count(*) FROM items WHERE v LIKE '%!'", "10008");
    assert_eq!(cluster.conflicts(&[]).len(), 30);
}

/// So many transactions wait with [`LITTLE`] memory before a stream rests.
const ENOUGH: u64 = 4096;
const LITTLE: &str = "\n[limits]\nmemory = \"16MB\"\n";

/// Nodes with a table, replicated with little memory.
fn little_memory(plan: Plan) -> Cluster {
    let mut cluster = plan.schema("CREATE TABLE items (id int PRIMARY KEY, v text NOT NULL)").set_up();
    let mut config = File::options().append(true).open(cluster.config()).expect("the configuration");
    config.write_all(LITTLE.as_bytes()).expect("the configuration");
    cluster.start_daemon();
    cluster
}

/// Such a cluster whose east's stream rests, since the west gets nothing of it while the session lives.
fn at_rest() -> (Cluster, Sql) {
    let cluster = little_memory(Plan::two());
    let held = cluster.hold_link(EAST, WEST);
    insert(&cluster, EAST, 1, 20_000);
    wait_until_resting(&cluster, EAST);
    (cluster, held)
}

/// Rows of these numbers, a transaction each.
fn insert(cluster: &Cluster, place: usize, from: u32, to: u32) {
    let each = format!("FOR i IN {from}..{to} LOOP INSERT INTO items VALUES (i, 'row ' || i); COMMIT; END LOOP");
    cluster.rows(place, &format!("DO $$ BEGIN {each}; END $$"));
}

fn rests(cluster: &Cluster, place: usize) -> bool {
    cluster.status()["nodes"][place]["resting"] == true
}

fn wait_until_resting(cluster: &Cluster, place: usize) {
    wait_for("the stream rests", LATER, || rests(cluster, place).then_some(()));
}

fn queued(cluster: &Cluster) -> u64 {
    to_west(cluster)["queued_transactions"].as_u64().expect("a number")
}

/// The link from the east to the west.
fn to_west(cluster: &Cluster) -> Value {
    let link = cluster.status()["links"][0].clone();
    assert_eq!((&link["source"], &link["target"]), (&json!("east"), &json!("west")));
    link
}

#[test]
fn what_waits_for_a_node_that_is_down_stays_where_it_was_written() {
    let mut cluster = little_memory(Plan::two());
    cluster.server(WEST).stop(Stop::Immediate).expect("it stops");
    insert(&cluster, EAST, 1, 60_000);
    wait_until_resting(&cluster, EAST);
    // wherever it waits, it counts
    let lag = |cluster: &Cluster| to_west(cluster)["lag_bytes"].as_u64();
    wait_for("the lag is that of all", LATER, || lag(&cluster).filter(|bytes| *bytes > 60_000 * 80).map(drop));
    let queued = queued(&cluster);
    assert!((ENOUGH..30_000).contains(&queued), "{queued}");
    let page = cluster.pgconcord(&["status"]).stdout;
    assert!(page.contains("resting  east"), "{page}");
    cluster.server(WEST).start().expect("it comes back");
    cluster.settle();
    cluster.assert_everywhere("SELECT count(*) FROM items", "60000");
    assert!(!rests(&cluster, EAST));
}

#[test]
fn a_stream_that_rests_is_read_on_for_who_must_know_what_it_brings() {
    let (mut cluster, held) = at_rest();
    let before = queued(&cluster);
    assert!((ENOUGH..19_000).contains(&before), "{before}");
    // the last of the east's rows, of which nothing is known yet
    cluster.rows(WEST, "INSERT INTO items VALUES (20000, 'west')");
    cluster.settle_applied_from(WEST, EAST);
    wait_for("all of it is known", SOON, || (queued(&cluster) == 20_000).then_some(()));
    drop(held);
    cluster.settle();
    cluster.assert_everywhere("SELECT v FROM items WHERE id = 20000", "west");
    cluster.assert_everywhere("SELECT count(*) FROM items", "20000");
    assert_eq!(cluster.conflicts(&[]).len(), 2, "one at each node");
}

#[test]
fn a_daemon_that_is_killed_while_a_stream_rests_reads_it_all_when_it_starts() {
    let (mut cluster, held) = at_rest();
    cluster.kill_daemon();
    // what the west writes is not held up by what does not get there
    cluster.start_daemon();
    cluster.rows(WEST, "INSERT INTO items VALUES (-1, 'west')");
    cluster.settle_applied_from(WEST, EAST);
    drop(held);
    cluster.settle();
    cluster.assert_everywhere("SELECT count(*) FROM items", "20001");
    cluster.assert_no_conflicts();
}

#[test]
fn two_nodes_that_are_both_lost_while_their_streams_rest_come_back() {
    let mut cluster = little_memory(Plan::two().proxied());
    let held = [cluster.hold_link(EAST, WEST), cluster.hold_link(WEST, EAST)];
    // more than a batch in flight and ENOUGH together: tried again, it may have taken in all that has come by then
    insert(&cluster, EAST, 1, 20_000);
    insert(&cluster, WEST, 20_001, 40_000);
    [EAST, WEST].into_iter().for_each(|place| wait_until_resting(&cluster, place));
    [EAST, WEST].into_iter().for_each(|place| cluster.proxy(place).refuse());
    let states = |cluster: &Cluster| [EAST, WEST].map(|place| cluster.status()["nodes"][place]["state"].clone());
    wait_for("both are lost", LATER, || (states(&cluster) == ["down", "down"]).then_some(()));
    [EAST, WEST].into_iter().for_each(|place| cluster.proxy(place).accept());
    wait_for("both are back", LATER, || (states(&cluster) == ["streaming", "streaming"]).then_some(()));
    drop(held);
    cluster.settle();
    cluster.assert_everywhere("SELECT count(*) FROM items", "40000");
}

#[test]
fn where_something_is_applied_the_stream_does_not_rest_for_long() {
    let (mut cluster, held) = at_rest();
    cluster.rows(WEST, "INSERT INTO items VALUES (-1, 'in nobody''s way')");
    cluster.settle_applied_from(WEST, EAST);
    assert!(queued(&cluster) < 19_000, "nobody had to wait for what the east's stream brings");
    wait_for("it is read through all the same", SOON, || (queued(&cluster) == 20_000).then_some(()));
    drop(held);
    cluster.settle();
}
