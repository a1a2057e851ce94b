//! Idle databases and nodes that are down.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use pgconcord::throwaway::Stop;

use crate::harness::{LATER, LEDGER, Plan, SOON, Sql, Writers, wait_for};

#[test]
fn the_slot_of_an_idle_database_advances() {
    let cluster = Plan::two().schema(LEDGER).run();
    let server = &cluster.nodes[0].server;
    let elsewhere = Sql::connect(server, "postgres").expect("a session");
    // 50 MB of log that are none of our business
    elsewhere.rows("CREATE TABLE noise AS SELECT i, repeat('n', 400) AS v FROM generate_series(1, 100000) i");
    let noise = elsewhere.value("SELECT pg_current_wal_insert_lsn()");
    wait_for("the slot lets go of old log", SOON, || {
        elsewhere.rows("CREATE TABLE IF NOT EXISTS tick (); DROP TABLE tick; CHECKPOINT"); // something to decode
        let past =
            format!("SELECT restart_lsn > '{noise}' AND confirmed_flush_lsn > '{noise}' FROM pg_replication_slots");
        (elsewhere.value(&past) == "t").then_some(())
    });
}

#[test]
fn with_one_node_down_the_others_go_on_and_the_status_tells_what_is_kept_for_it() {
    let mut cluster = Plan::three().schema(LEDGER).run();
    cluster.server(2).stop(Stop::Fast).expect("it stops");
    let writers = Writers::start(&cluster, &[0, 1]);
    sleep(Duration::from_secs(5));
    let written = writers.stop();
    cluster.settle_among(&[0, 1], LATER);
    assert!(cluster.daemon().get("/healthz").is_some_and(|(status, _)| status == 200), "the daemon is alive");
    assert!(!cluster.daemon().is_ready(), "not all nodes stream");
    let printed = cluster.pgconcord(&["status"]);
    assert_eq!(printed.code, 1, "a node is down: {printed}");
    assert!(printed.stdout.contains("node north is down"), "{printed}");
    let status = cluster.status();
    for place in [0, 1] {
        let node = &status["nodes"][place];
        let kept = node["retained_for"].as_array().expect("a list");
        let north = kept.iter().find(|kept| kept["node"] == "north").unwrap_or_else(|| panic!("{node}"));
        assert!(north["bytes"].as_u64() > Some(100_000), "{} transactions are kept: {node}", written[place].1);
        assert!(node["retained_bytes"].as_u64() >= north["bytes"].as_u64(), "{node}");
    }
    cluster.server(2).start().expect("it comes back");
    cluster.daemon().wait_ready();
    cluster.settle();
    cluster.assert_ledger(&written);
    cluster.wait_slots_confirmed();
    assert_eq!(cluster.pgconcord(&["status"]).code, 0);
}

/// Every change of the row is concurrent with another one that is still kept; the log must not pile up for that.
#[test]
fn a_row_that_both_sides_change_without_a_pause_holds_no_log_back() {
    let mut cluster = Plan::two().schema(LEDGER).run();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (place, session) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let (sql, stop) = (cluster.sql(place), &stop);
            let update = format!("UPDATE hot SET value = '{place}.{session}.' || clock_timestamp() WHERE id = 0");
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    sql.rows(&update);
                }
            });
        }
        let advance = || {
            for _ in 0..3 {
                sleep(Duration::from_secs(1));
                let written = [0, 1].map(|place| cluster.value(place, "SELECT pg_current_wal_lsn()"));
                for (place, lsn) in written.iter().enumerate() {
                    wait_for("the slot advances under load", SOON, || {
                        let past = format!("SELECT bool_and(confirmed_flush_lsn >= '{lsn}') FROM pg_replication_slots");
                        (cluster.value(place, &past) == "t").then_some(())
                    });
                }
            }
        };
        let advanced = catch_unwind(AssertUnwindSafe(advance));
        stop.store(true, Ordering::SeqCst); // also after a failure, or the scope never ends
        advanced.unwrap_or_else(|panic| resume_unwind(panic));
    });
    cluster.settle();
    assert!(!cluster.conflicts_of("public.hot", "0").is_empty(), "nothing was concurrent");
}

/// Without a node's stream the window is not whole, and a decision could be wrong for good (R6).
#[test]
fn a_start_with_one_node_down_waits_for_it_and_says_so() {
    let mut cluster = Plan::three().schema(LEDGER).run();
    cluster.stop_daemon();
    cluster.server(2).stop(Stop::Immediate).expect("it stops");
    cluster.rows(0, "INSERT INTO ledger VALUES ('by hand', 1, 'while the north is down')");
    cluster.launch_daemon();
    let printed = wait_for("the status names the node", SOON, || {
        let printed = cluster.pgconcord(&["status"]);
        printed.stdout.contains("node north is down").then_some(printed)
    });
    assert_eq!(printed.code, 1, "{printed}");
    assert!(cluster.daemon().get("/healthz").is_some_and(|(status, _)| status == 200), "the daemon is alive");
    assert!(!cluster.daemon().is_ready(), "it cannot be ready");
    cluster.server(2).start().expect("it comes back");
    cluster.daemon().wait_ready();
    cluster.settle();
    for place in [1, 2] {
        assert_eq!(cluster.value(place, "SELECT count(*) FROM ledger"), "1");
    }
}
