//! Clocks that are apart: the west's is 5 s ahead.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::{Plan, SOON};

const ROWS: &str = "
    CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL);
    INSERT INTO item SELECT i, 0 FROM generate_series(0, 99) i;
";

fn apart() -> Plan {
    Plan::two().schema(ROWS).clock(1, 5)
}

#[test]
fn the_clocks_are_apart() {
    let cluster = apart().servers_only();
    let clock =
        |place| -> f64 { cluster.value(place, "SELECT extract(epoch FROM clock_timestamp())").parse().unwrap() };
    let difference = clock(1) - clock(0);
    assert!((4.0..7.0).contains(&difference), "they are {difference} s apart");
}

#[test]
fn a_thousand_edits_in_turn_are_no_conflict() {
    let mut cluster = apart().run();
    let sessions = [cluster.sql(0), cluster.sql(1)];
    for edit in 1..=1000 {
        let (author, reader) = (&sessions[edit % 2], &sessions[(edit + 1) % 2]);
        let row = edit % 10;
        author.rows(&format!("UPDATE item SET n = {edit} WHERE id = {row}"));
        let arrived = format!("SELECT count(*) FROM item WHERE id = {row} AND n = {edit}");
        let start = Instant::now();
        while reader.value(&arrived) == "0" {
            assert!(start.elapsed() < SOON, "edit {edit} was lost");
            sleep(Duration::from_millis(1));
        }
    }
    cluster.settle();
    let entries = cluster.conflicts(&[]);
    assert!(entries.is_empty(), "edits in turn were taken for conflicts: {entries:?}");
}

#[test]
fn concurrent_edits_are_resolved_alike_with_one_entry_a_link() {
    let mut cluster = apart().run();
    cluster.stop_daemon();
    for row in 20..40 {
        cluster.rows(row % 2, &format!("UPDATE item SET n = 1 WHERE id = {row}"));
        cluster.rows((row + 1) % 2, &format!("UPDATE item SET n = 2 WHERE id = {row}"));
    }
    cluster.start_daemon();
    cluster.settle();
    cluster.wait_journal_settled();
    for row in 20..40 {
        let winner = cluster.value(0, &format!("SELECT n FROM item WHERE id = {row}"));
        let entries = cluster.conflicts_of("public.item", &row.to_string());
        let mut targets: Vec<_> = entries.iter().map(|entry| entry["target"].as_str().unwrap()).collect();
        targets.sort_unstable();
        assert_eq!(targets, ["east", "west"], "row {row}: {entries:?}");
        assert!(entries.iter().all(|entry| entry["result"]["n"] == winner.as_str()), "row {row}: {entries:?}");
    }
}
