//! Two and three primaries under pgbench, all on the same rows.

use std::fs;

use crate::harness::{Cluster, Pgbench, Plan, Version};

/// pgbench's TPC-B-like transaction at every node for 30 s, then everything that must be true.
fn survives_pgbench(versions: &[Version]) {
    let mut cluster = Plan::of(versions).pgbench(1).run();
    let load: Vec<Pgbench> =
        cluster.nodes.iter().map(|node| Pgbench::start(&node.server, "shop", &["-c", "2", "-T", "30", "-n"])).collect();
    let done: Vec<u64> = load.into_iter().map(Pgbench::finish).collect();
    cluster.settle();
    let expected: u64 = done.iter().sum();
    for place in 0..cluster.nodes.len() {
        let rows = cluster.sql(place).number("SELECT count(*) FROM pgbench_history");
        assert_eq!(rows, expected, "history at {} after {done:?}", cluster.name(place));
    }
    cluster.wait_journal_settled();
    cluster.wait_slots_confirmed();
    found_conflicts(&cluster, &done);
    cluster.stop_daemon();
}

/// Concurrent updates of the one branch row cannot but conflict.
fn found_conflicts(cluster: &Cluster, done: &[u64]) {
    let branches = cluster.conflicts(&["--table", "public.pgbench_branches"]);
    assert!(!branches.is_empty(), "no conflict on the branch row in {done:?} transactions");
    assert!(branches.iter().all(|entry| entry["type"] == "update_origin_differs"), "{:?}", branches[0]);
    let history = cluster.conflicts(&["--table", "public.pgbench_history"]);
    assert!(history.is_empty(), "rows with keys of their own met conflicts: {history:?}");
    let log = fs::read_to_string(cluster.log_file()).unwrap_or_default();
    assert!(!log.contains("panicked"), "a task panicked: {log}");
}

#[test]
fn two_primaries_on_15_are_equal_after_pgbench() {
    survives_pgbench(&[Version::V15; 2]);
}

#[test]
fn two_primaries_on_18_are_equal_after_pgbench() {
    survives_pgbench(&[Version::V18; 2]);
}

#[test]
fn three_primaries_of_three_versions_are_equal_after_pgbench() {
    survives_pgbench(&[Version::V15, Version::V18, Version::V16]);
}

#[test]
fn the_oldest_version_and_17_get_along() {
    let mut cluster = Plan::of(&[Version::V14, Version::V17]).pgbench(1).run();
    let load = [0, 1].map(|place| Pgbench::start(&cluster.nodes[place].server, "shop", &["-T", "5", "-n"]));
    let done: u64 = load.into_iter().map(Pgbench::finish).sum();
    cluster.settle();
    assert_eq!(cluster.sql(0).number("SELECT count(*) FROM pgbench_history"), done);
}
