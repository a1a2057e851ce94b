//! The daemon, the servers and the connections between them, cut down under load.

use std::thread::sleep;
use std::time::Duration;

use pgconcord::throwaway::Stop;

use crate::harness::{Cluster, LEDGER, Plan, SOON, Writers, wait_for};

/// After the trouble: everything that was written is everywhere, once.
fn check(cluster: &mut Cluster, written: &[(String, u64)]) {
    cluster.settle();
    cluster.assert_ledger(written);
    cluster.wait_journal_settled();
    cluster.wait_slots_confirmed();
}

#[test]
fn the_daemon_is_killed_every_second_twenty_times() {
    let mut cluster = Plan::two().schema(LEDGER).run();
    let writers = Writers::start(&cluster, &[0, 1]);
    for _ in 0..20 {
        sleep(Duration::from_secs(1));
        cluster.kill_daemon();
        cluster.launch_daemon();
    }
    let written = writers.stop();
    assert!(written.iter().all(|(_, count)| *count > 100), "hardly a load: {written:?}");
    cluster.daemon().wait_ready();
    check(&mut cluster, &written);
}

#[test]
fn either_server_quits_under_load_five_times() {
    let mut cluster = Plan::two().schema(LEDGER).run();
    let writers = Writers::start(&cluster, &[0, 1]);
    for _ in 0..5 {
        for place in [0, 1] {
            sleep(Duration::from_secs(1));
            cluster.server(place).restart(Stop::Immediate).expect("the server comes back");
            cluster.daemon().wait_ready();
        }
    }
    let written = writers.stop();
    check(&mut cluster, &written);
}

#[test]
fn connections_are_cut_within_messages_twenty_times() {
    let mut cluster = Plan::two().schema(LEDGER).proxied().run();
    let writers = Writers::start(&cluster, &[0, 1]);
    for round in 0..20 {
        sleep(Duration::from_millis(800));
        cluster.proxy(round % 2).cut();
    }
    let written = writers.stop();
    let inside = cluster.proxy(0).cut_inside() + cluster.proxy(1).cut_inside();
    assert!(inside >= 20, "only {inside} connections were cut within a message");
    check(&mut cluster, &written);
}

#[test]
fn a_stop_under_load_takes_less_than_five_seconds() {
    let mut cluster = Plan::two().schema(LEDGER).run();
    let writers = Writers::start(&cluster, &[0, 1]);
    sleep(Duration::from_secs(3));
    let (status, took) = cluster.take_daemon().terminate();
    assert!(status.success(), "it ended with {status}");
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    cluster.start_daemon();
    let written = writers.stop();
    check(&mut cluster, &written);
}

#[test]
fn a_stop_without_load_confirms_everything() {
    let mut cluster = Plan::two().schema(LEDGER).run();
    let written = Writers::start(&cluster, &[0, 1]);
    sleep(Duration::from_secs(1));
    let written = written.stop();
    cluster.settle();
    let before = [0, 1].map(|place| cluster.value(place, "SELECT pg_current_wal_insert_lsn()"));
    cluster.stop_daemon();
    for (place, lsn) in before.iter().enumerate() {
        wait_for("the slot is free", SOON, || {
            let active = cluster.value(place, "SELECT active FROM pg_replication_slots");
            (active == "f").then_some(())
        });
        // whatever it had applied is confirmed: at most the daemon's own last transactions, which carry an Origin
        // message, remain
        let rest = format!(
            "SELECT count(*) FROM (SELECT FROM pg_logical_slot_peek_binary_changes('pgconcord_shop', '{lsn}', NULL,
            'proto_version', '1', 'publication_names', 'pgconcord_shop') GROUP BY xid
            HAVING bool_or(chr(get_byte(data, 0)) IN ('I', 'U', 'D'))
               AND NOT bool_or(chr(get_byte(data, 0)) = 'O')) transaction"
        );
        assert_eq!(cluster.value(place, &rest), "0", "unconfirmed changes at {}", cluster.name(place));
    }
    cluster.start_daemon();
    check(&mut cluster, &written);
}
