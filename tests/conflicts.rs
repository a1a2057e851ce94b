//! Each conflict type, made on purpose: the daemon stands still, both sides write, it starts again.

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, Plan, SOON, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;

const TABLES: &str = "
    CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL);
    INSERT INTO item SELECT i, 'start' FROM generate_series(1, 30) i WHERE i NOT IN (4, 5);
    CREATE TABLE coupon (id int PRIMARY KEY, code text UNIQUE, serial text UNIQUE, note text NOT NULL);
    INSERT INTO coupon VALUES (20, 'code 20', 'serial 20', 'start');
";

fn cluster() -> Cluster {
    Plan::two().schema(TABLES).run()
}

/// The rows 4 and 5 are in the east only, which no setup can know.
fn unequal_cluster() -> Cluster {
    Plan::two().schema(TABLES).at(EAST, "INSERT INTO item VALUES (4, 'start'), (5, 'start')").run()
}

/// Lets both write without seeing each other: first one statement, then the other, then replication goes on.
fn without_seeing(cluster: &mut Cluster, earlier: (usize, &str), later: (usize, &str)) {
    cluster.stop_daemon();
    cluster.rows(earlier.0, earlier.1);
    sleep(Duration::from_millis(20));
    cluster.rows(later.0, later.1);
    cluster.start_daemon();
    cluster.settle();
    cluster.wait_journal_settled();
}

/// Type and resolution of the one entry about that row at a target.
fn entry(cluster: &Cluster, table: &str, key: &str, target: usize) -> Value {
    let target = cluster.name(target);
    let mut entries = cluster.conflicts_of(table, key);
    entries.retain(|entry| entry["target"] == target);
    assert_eq!(entries.len(), 1, "entries about {table} {key} at {target}: {entries:?}");
    assert_eq!(entries[0]["status"], "resolved", "{:?}", entries[0]);
    entries.remove(0)
}

fn assert_entry(cluster: &Cluster, key: &str, target: usize, conflict: &str, resolution: &str) -> Value {
    let found = entry(cluster, "public.item", key, target);
    assert_eq!(found["type"], conflict, "{found}");
    assert_eq!(found["resolution"], resolution, "{found}");
    found
}

fn name_of(cluster: &Cluster, id: u32) -> String {
    cluster
        .rows(EAST, &format!("SELECT name FROM item WHERE id = {id}"))
        .pop()
        .map_or("none".into(), |mut row| row.remove(0).expect("a name"))
}

#[test]
fn insert_exists() {
    let mut cluster = cluster();
    let insert = |name| format!("INSERT INTO item VALUES (101, '{name}')");
    without_seeing(&mut cluster, (EAST, &insert("east")), (WEST, &insert("west")));
    assert_eq!(name_of(&cluster, 101), "west");
    let at_west = assert_entry(&cluster, "101", WEST, "insert_exists", "keep_local");
    assert_eq!(at_west["remote"]["row"]["name"], "east");
    assert_eq!(at_west["local"]["row"]["name"], "west");
    assert_eq!(at_west["local"]["node"], "west");
    assert_eq!(at_west["result"]["name"], "west");
    let at_east = assert_entry(&cluster, "101", EAST, "insert_exists", "apply_remote");
    assert_eq!(at_east["result"]["name"], "west");
}

#[test]
fn update_origin_differs() {
    let mut cluster = cluster();
    let update = |name| format!("UPDATE item SET name = '{name}' WHERE id = 2");
    without_seeing(&mut cluster, (WEST, &update("west")), (EAST, &update("east")));
    assert_eq!(name_of(&cluster, 2), "east");
    assert_entry(&cluster, "2", WEST, "update_origin_differs", "apply_remote");
    let at_east = assert_entry(&cluster, "2", EAST, "update_origin_differs", "keep_local");
    assert_eq!(at_east["key"]["id"], "2");
    assert_eq!(at_east["source"], "west");
    assert_eq!(at_east["resolver"], "last_update_wins");
}

#[test]
fn update_exists() {
    let mut cluster = cluster();
    let (rekey, insert) = ("UPDATE item SET id = 103 WHERE id = 3", "INSERT INTO item VALUES (103, 'west')");
    without_seeing(&mut cluster, (EAST, rekey), (WEST, insert));
    assert_eq!((name_of(&cluster, 3), name_of(&cluster, 103)), ("none".into(), "west".into()));
    assert_entry(&cluster, "103", WEST, "update_exists", "keep_local");
    assert_entry(&cluster, "103", EAST, "insert_exists", "apply_remote");
}

#[test]
fn update_missing() {
    let mut cluster = unequal_cluster();
    cluster.rows(EAST, "UPDATE item SET name = 'east' WHERE id = 4");
    cluster.wait_applied();
    assert_entry(&cluster, "4", WEST, "update_missing", "apply_remote");
    assert_eq!(cluster.value(WEST, "SELECT name FROM item WHERE id = 4"), "east");
}

#[test]
fn delete_missing() {
    let mut cluster = unequal_cluster();
    cluster.rows(EAST, "DELETE FROM item WHERE id = 5");
    cluster.wait_applied();
    assert_entry(&cluster, "5", WEST, "delete_missing", "skip");
}

#[test]
fn a_delete_beats_an_older_update() {
    let mut cluster = cluster();
    let (update, delete) = ("UPDATE item SET name = 'east' WHERE id = 6", "DELETE FROM item WHERE id = 6");
    without_seeing(&mut cluster, (EAST, update), (WEST, delete));
    assert_eq!(name_of(&cluster, 6), "none");
    let at_west = assert_entry(&cluster, "6", WEST, "update_deleted", "keep_local");
    assert_eq!(at_west["remote"]["row"]["name"], "east");
    assert!(at_west["result"].is_null(), "{at_west}");
    let at_east = assert_entry(&cluster, "6", EAST, "delete_origin_differs", "apply_remote");
    assert_eq!(at_east["local"]["row"]["name"], "east", "the row that was removed is on record");
}

#[test]
fn an_update_beats_an_older_delete() {
    let mut cluster = cluster();
    let (delete, update) = ("DELETE FROM item WHERE id = 7", "UPDATE item SET name = 'west' WHERE id = 7");
    without_seeing(&mut cluster, (EAST, delete), (WEST, update));
    assert_eq!(name_of(&cluster, 7), "west");
    assert_entry(&cluster, "7", WEST, "delete_origin_differs", "keep_local");
    assert_entry(&cluster, "7", EAST, "update_deleted", "apply_remote");
}

#[test]
fn two_deletes_want_the_same() {
    let mut cluster = cluster();
    let delete = "DELETE FROM item WHERE id = 8";
    without_seeing(&mut cluster, (EAST, delete), (WEST, delete));
    assert_eq!(name_of(&cluster, 8), "none");
    assert_entry(&cluster, "8", WEST, "delete_missing", "skip");
    assert_entry(&cluster, "8", EAST, "delete_missing", "skip");
}

/// Ids of coupons that are left, in order.
fn coupons(cluster: &Cluster) -> Vec<String> {
    let rows = cluster.rows(EAST, "SELECT id FROM coupon WHERE id > 20 ORDER BY id");
    rows.into_iter().map(|mut row| row.remove(0).expect("an id")).collect()
}

/// Types of all entries about coupons.
fn coupon_types(cluster: &Cluster) -> Vec<String> {
    let entries = cluster.conflicts(&["--table", "public.coupon"]);
    entries.iter().map(|entry| entry["type"].as_str().expect("a type").to_owned()).collect()
}

/// A row that had to go is whole in the journal.
fn assert_on_record(cluster: &Cluster, note: &str) {
    let entries = cluster.conflicts(&["--table", "public.coupon"]);
    let rows = entries.iter().flat_map(|entry| [&entry["remote"]["row"], &entry["local"]["row"]]);
    let mut rows = rows.filter(|row| row["note"] == note);
    let row = rows.next().unwrap_or_else(|| panic!("{note:?} is not on record: {entries:?}"));
    assert_eq!(row.as_object().map(serde_json::Map::len), Some(4), "{row}");
}

/// As [`without_seeing`]; `first` meets the change of the other before the other meets its own, and goes on alone
/// until a query is true at a node.
fn meets_first(
    cluster: &mut Cluster,
    first: usize,
    until: (usize, &str),
    earlier: (usize, &str),
    later: (usize, &str),
) {
    cluster.stop_daemon();
    cluster.rows(earlier.0, earlier.1);
    sleep(Duration::from_millis(20));
    cluster.rows(later.0, later.1);
    let held = cluster.hold_link(first, EAST + WEST - first);
    cluster.start_daemon();
    wait_for(until.1, SOON, || (cluster.value(until.0, until.1) == "t").then_some(()));
    drop(held);
    cluster.settle();
    cluster.wait_journal_settled();
}

const TWO: &str = "INSERT INTO coupon VALUES (201, 'A', 'x', 'first'), (202, 'B', 'y', 'second')";
const ONE: &str = "INSERT INTO coupon VALUES (203, 'A', 'y', 'third')";

/// The entries about coupons at a target: row, type and resolution.
fn coupon_entries(cluster: &Cluster, target: usize) -> Vec<[String; 3]> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut entries = cluster.conflicts(&["--table", "public.coupon"]);
    entries.retain(|entry| entry["target"] == cluster.name(target));
    let each = |entry: &Value| [text(&entry["key"]["id"]), text(&entry["type"]), text(&entry["resolution"])];
    let mut found: Vec<_> = entries.iter().map(each).collect();
    found.sort_unstable();
    found
}

#[test]
fn multiple_unique_conflicts_the_newer_row_takes_all() {
    let mut cluster = cluster();
    let written = (WEST, "SELECT count(*) = 1 FROM coupon WHERE id = 203");
    meets_first(&mut cluster, WEST, written, (WEST, TWO), (EAST, ONE));
    assert_eq!(coupons(&cluster), ["203"]);
    let multiple = |id| [id, "multiple_unique_conflicts", "apply_remote"];
    assert_eq!(coupon_entries(&cluster, WEST), [multiple("201"), multiple("202")], "one a row that went");
    assert_on_record(&cluster, "first");
    assert_on_record(&cluster, "second");
}

#[test]
fn multiple_unique_conflicts_the_older_row_goes() {
    let mut cluster = cluster();
    let gone_at_home = (EAST, "SELECT count(*) = 0 FROM coupon WHERE id = 203");
    meets_first(&mut cluster, WEST, gone_at_home, (EAST, ONE), (WEST, TWO));
    assert_eq!(coupons(&cluster), ["201", "202"]);
    assert_eq!(coupon_entries(&cluster, WEST), [["203", "multiple_unique_conflicts", "keep_local"]]);
    assert!(coupon_entries(&cluster, EAST).is_empty(), "nothing stood in the way there any more");
    assert_on_record(&cluster, "third");
}

#[test]
fn a_unique_value_that_two_inserts_claim_goes_to_the_newer() {
    let mut cluster = cluster();
    let (older, newer) =
        ("INSERT INTO coupon VALUES (211, 'C', 's', 'older')", "INSERT INTO coupon VALUES (212, 'C', 't', 'newer')");
    without_seeing(&mut cluster, (WEST, older), (EAST, newer));
    assert_eq!(coupons(&cluster), ["212"]);
    assert!(coupon_types(&cluster).iter().all(|kind| kind == "insert_exists"), "{:?}", coupon_types(&cluster));
    assert_on_record(&cluster, "older");
}

#[test]
fn the_removal_of_a_row_that_lost_is_no_conflict_of_its_own() {
    let mut cluster = cluster();
    let (older, newer) =
        ("INSERT INTO coupon VALUES (211, 'C', 's', 'older')", "INSERT INTO coupon VALUES (212, 'C', 't', 'newer')");
    let gone_at_home = (WEST, "SELECT count(*) = 0 FROM coupon WHERE id = 211");
    meets_first(&mut cluster, EAST, gone_at_home, (WEST, older), (EAST, newer));
    assert_eq!(coupons(&cluster), ["212"]);
    assert_eq!(coupon_entries(&cluster, EAST), [["211", "insert_exists", "keep_local"]]);
    assert!(coupon_entries(&cluster, WEST).is_empty(), "nothing stood in the way there any more");
    assert_on_record(&cluster, "older");
}

#[test]
fn a_unique_value_that_an_update_claims_is_update_exists() {
    let mut cluster = cluster();
    let (older, newer) = (
        "INSERT INTO coupon VALUES (221, 'D', 'u', 'older')",
        "UPDATE coupon SET code = 'D', note = 'newer' WHERE id = 20",
    );
    without_seeing(&mut cluster, (WEST, older), (EAST, newer));
    assert!(coupons(&cluster).is_empty());
    assert_eq!(cluster.value(WEST, "SELECT note FROM coupon WHERE id = 20"), "newer");
    assert!(coupon_types(&cluster).contains(&"update_exists".to_owned()), "{:?}", coupon_types(&cluster));
    assert_on_record(&cluster, "older");
}

#[test]
fn list_filters_and_show_finds_with_the_daemon_stopped() {
    let mut cluster = cluster();
    let update = |name| format!("UPDATE item SET name = '{name}' WHERE id = 2");
    without_seeing(&mut cluster, (WEST, &update("west")), (EAST, &update("east")));
    cluster.stop_daemon();
    let count = |arguments: &[&str]| cluster.conflicts(arguments).len();
    assert_eq!(count(&[]), 2);
    assert_eq!((count(&["--table", "public.item"]), count(&["--table", "public.coupon"])), (2, 0));
    assert_eq!((count(&["--type", "update_origin_differs"]), count(&["--type", "insert_exists"])), (2, 0));
    assert_eq!((count(&["--node", "east"]), count(&["--key", "2"]), count(&["--key", "3"])), (2, 2, 0));
    assert_eq!((count(&["--since", "1h"]), count(&["--since", "2100-01-01"])), (2, 0));
    let id = cluster.conflicts(&[])[0]["id"].to_string();
    let shown = cluster.pgconcord(&["conflicts", "show", &id]);
    assert_eq!(shown.code, 0, "{shown}");
    for part in ["update_origin_differs", "public.item", "east", "west", "last_update_wins"] {
        assert!(shown.stdout.contains(part), "{part:?} is not in {shown}");
    }
    assert_eq!(cluster.pgconcord(&["conflicts", "show", "999999"]).code, 1);
}
