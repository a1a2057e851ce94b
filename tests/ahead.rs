//! Large transactions are written while they still come: whatever happens meanwhile, they are applied whole and once.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use pgconcord::throwaway::Stop;

use crate::harness::{Cluster, Plan, SOON, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;

const BIG: &str = "CREATE TABLE big (id int PRIMARY KEY, v text NOT NULL);
    INSERT INTO big SELECT i, 'start' FROM generate_series(1, 100000) i;";
/// One transaction of all kinds of statements, some of them on the same rows.
const EVERYTHING: &str = "UPDATE big SET v = 'east ' || md5(id::text);
    INSERT INTO big SELECT i, md5(i::text) FROM generate_series(100001, 200000) i;
    UPDATE big SET v = v || ' again' WHERE id % 3 = 0;
    DELETE FROM big WHERE id % 10 = 7;
    INSERT INTO big SELECT i, 'back' FROM generate_series(7, 50000, 20) i";
/// How many sessions of ours at the west are writing to the table.
const WRITING: &str = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE relation = 'big'::regclass AND mode = 'RowExclusiveLock' AND application_name LIKE 'pgconcord apply%'";

/// The server sends transactions of more than 64 kB before their end.
fn streaming(plan: Plan) -> Plan {
    plan.schema(BIG).setting(EAST, "logical_decoding_work_mem", "64kB")
}

/// How many transactions from the east were written ahead, at all other nodes together.
fn ahead(cluster: &Cluster) -> u64 {
    let status = cluster.status();
    let links = status["links"].as_array().expect("links").iter().filter(|link| link["source"] == "east");
    links.map(|link| link["ahead_total"].as_u64().expect("a number")).sum()
}

#[test]
fn a_transaction_is_written_while_it_comes_streamed_or_not() {
    for (plan, targets) in [(streaming(Plan::two()), 1), (Plan::two().schema(BIG), 1), (streaming(Plan::three()), 2)] {
        let mut cluster = plan.set_up();
        cluster.rows(EAST, EVERYTHING);
        cluster.start_daemon();
        cluster.settle();
        // of a start it depends how much has come before the other node was ready, so it may take several
        let mut written = ahead(&cluster);
        for round in 0..5 {
            if written < targets {
                let again = format!("UPDATE big SET v = '{round} ' || md5(id::text)");
                cluster.without_seeing(&[(EAST, again.as_str())]);
                written += ahead(&cluster);
            }
        }
        assert!(written >= targets, "written ahead: {written} of {targets}");
        cluster.assert_no_conflicts();
        cluster.rows(WEST, "UPDATE big SET v = 'west' WHERE id = 9");
        cluster.settle();
        cluster.wait_slots_confirmed();
    }
}

#[test]
fn what_subtransactions_did_counts_unless_they_were_rolled_back() {
    let mut cluster = streaming(Plan::two()).run();
    let subtransactions = "BEGIN; UPDATE big SET v = 'kept ' || md5(id::text); SAVEPOINT one;
         UPDATE big SET v = 'not kept' WHERE id < 50000; DELETE FROM big WHERE id > 90000; ROLLBACK TO one;
         INSERT INTO big SELECT i, md5(i::text) FROM generate_series(100001, 150000) i; COMMIT";
    cluster.without_seeing(&[(EAST, subtransactions)]);
    cluster.assert_everywhere("SELECT count(*) FROM big WHERE v LIKE 'kept%'", "100000");
    cluster.assert_everywhere("SELECT count(*) FROM big", "150000");
    cluster.assert_no_conflicts();
}

#[test]
fn what_the_other_node_changed_is_decided_about() {
    let mut cluster = streaming(Plan::two()).run();
    cluster.without_seeing(&[
        (EAST, EVERYTHING),
        (WEST, "UPDATE big SET v = 'west' WHERE id = 5; DELETE FROM big WHERE id = 66"),
        (WEST, "INSERT INTO big VALUES (150000, 'west')"),
    ]);
    cluster
        .assert_everywhere("SELECT string_agg(v, ',' ORDER BY id) FROM big WHERE id IN (5, 66, 150000)", "west,west");
    for key in ["5", "66", "150000"] {
        assert_eq!(cluster.conflicts_of("public.big", key).len(), 2, "of {key}, one at each node");
    }
    assert_eq!(cluster.conflicts(&[]).len(), 6);
}

#[test]
fn a_row_that_is_there_already_fails_the_first_statement() {
    let mut cluster = streaming(Plan::two()).run();
    cluster.without_seeing(&[
        (EAST, "INSERT INTO big SELECT i, md5(i::text) FROM generate_series(100001, 200000) i"),
        (WEST, "INSERT INTO big VALUES (100001, 'west')"),
    ]);
    cluster.assert_everywhere("SELECT v FROM big WHERE id = 100001", "west");
    assert_eq!(cluster.conflicts(&[]).len(), 2, "one at each node");
    let log = fs::read_to_string(cluster.log_file()).expect("the log");
    assert!(!log.contains("stops until"), "the link took it for something that somebody must mend: {log}");
}

#[test]
fn nothing_is_locked_for_a_transaction_that_has_not_committed() {
    let mut cluster = streaming(Plan::two()).run();
    let user = cluster.sql(EAST);
    for (end, left) in [("ROLLBACK", "100000"), ("COMMIT", "200000")] {
        user.rows("BEGIN; UPDATE big SET v = 'open ' || md5(id::text)");
        user.rows("INSERT INTO big SELECT i, md5(i::text) FROM generate_series(100001, 200000) i");
        for _ in 0..15 {
            assert_eq!(cluster.value(WEST, WRITING), "0", "rows are locked for a transaction that is open");
            sleep(Duration::from_millis(100));
        }
        user.rows(end);
        cluster.settle();
        cluster.assert_everywhere("SELECT count(*) FROM big", left);
    }
}

#[test]
fn daemon_servers_and_connections_may_go_meanwhile() {
    let mut cluster = streaming(Plan::two()).proxied().run();
    for round in 0..8 {
        cluster.stop_daemon();
        cluster.rows(EAST, &format!("UPDATE big SET v = '{round} ' || md5(id::text)"));
        cluster.launch_daemon();
        wait_for("rows are written at the west", SOON, || (cluster.value(WEST, WRITING) == "1").then_some(()));
        cluster.rows(WEST, &format!("INSERT INTO big VALUES (20000{round}, '{round} west')"));
        match round % 4 {
            0 => {
                cluster.kill_daemon();
                cluster.launch_daemon();
            }
            1 => cluster.proxy(EAST).cut(),
            2 => cluster.proxy(WEST).cut(),
            _ => cluster.server(EAST).restart(Stop::Immediate).expect("the server comes back"),
        }
        cluster.daemon().wait_ready();
        cluster.settle();
        let arrived = format!("SELECT count(*) FROM big WHERE v LIKE '{round} %' AND id <= 100000");
        cluster.assert_everywhere(&arrived, "100000");
    }
    cluster.assert_no_conflicts();
}

#[test]
fn a_user_who_locks_a_row_meanwhile_keeps_it() {
    let mut cluster = streaming(Plan::two()).run();
    cluster.stop_daemon();
    cluster.rows(EAST, EVERYTHING);
    let user = cluster.sql(WEST);
    user.rows("BEGIN; UPDATE big SET v = 'user' WHERE id = 50000");
    cluster.start_daemon();
    sleep(Duration::from_secs(3));
    user.rows("COMMIT");
    cluster.settle();
    cluster.wait_journal_settled();
    cluster.assert_everywhere("SELECT v FROM big WHERE id = 50000", "user");
    assert_eq!(cluster.conflicts_of("public.big", "50000").len(), 2, "one at each node");
    assert_eq!(cluster.conflicts(&[]).len(), 2);
}
