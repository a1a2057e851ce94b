//! Tables of which nothing but the inserts replicate: with a key, and without one.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::harness::{Plan, SOON, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;

/// Equal rows are as many rows; nothing is applied twice, whatever happens to the daemon.
#[test]
fn rows_without_a_key() {
    let schema = "CREATE TABLE log (at timestamptz DEFAULT now(), line text, n int GENERATED ALWAYS AS IDENTITY);
        ALTER TABLE log REPLICA IDENTITY FULL;
        INSERT INTO log (at, line) VALUES ('2026-01-01', 'before');";
    let mut cluster =
        Plan::two().setting(EAST, "logical_decoding_work_mem", "64kB").schema(schema).insert_only("public.l*").run();
    cluster.rows(EAST, "INSERT INTO log (at, line) SELECT '2026-01-01', 'same' FROM generate_series(1, 3)");
    cluster.rows(WEST, "INSERT INTO log (at, line) VALUES ('2026-01-01', 'same'), (NULL, NULL), (NULL, NULL)");
    cluster.rows(EAST, "INSERT INTO log (line) SELECT repeat('x', 100) FROM generate_series(1, 25000)");
    cluster.rows(EAST, "BEGIN; INSERT INTO log (line) VALUES ('never'); ROLLBACK");
    for _ in 0..3 {
        cluster.kill_daemon();
        cluster.rows(WEST, "INSERT INTO log (line) VALUES ('while it was down')");
        cluster.start_daemon();
        cluster.rows(EAST, "INSERT INTO log (line) VALUES ('while it was down')");
    }
    cluster.settle();
    let counts = "SELECT string_agg(line || ' ' || n, ', ' ORDER BY line) FROM
        (SELECT coalesce(left(line, 9), 'null') AS line, count(*) AS n FROM log GROUP BY 1) c";
    assert_eq!(cluster.value(WEST, counts), "before 1, null 2, same 4, while it  6, xxxxxxxxx 25000");
    // what one side does to its rows is its own affair
    cluster.rows(EAST, "UPDATE log SET line = 'changed' WHERE line = 'same'; DELETE FROM log WHERE line LIKE 'x%'");
    cluster.rows(WEST, "TRUNCATE log");
    cluster.rows(EAST, "INSERT INTO log (line) VALUES ('last')");
    cluster.wait_applied();
    assert_eq!(cluster.value(WEST, "SELECT line FROM log"), "last");
    assert_eq!(cluster.value(EAST, "SELECT count(*) FROM log WHERE line = 'changed'"), "4");
    cluster.assert_no_conflicts();
}

/// A row that a trigger keeps out can't be looked for: the link says so and waits.
#[test]
fn a_trigger_that_keeps_rows_out_stops_the_link_with_a_sentence() {
    let schema = "CREATE TABLE log (line text); ALTER TABLE log REPLICA IDENTITY FULL;";
    let trigger = "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER swallow BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION swallow();
        ALTER TABLE log ENABLE ALWAYS TRIGGER swallow;";
    let mut cluster = Plan::two().schema(schema).at(WEST, trigger).insert_only("public.log").run();
    cluster.rows(EAST, "INSERT INTO log VALUES ('one'), ('two')");
    let log = cluster.log_file();
    wait_for("the log says what to do", SOON, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        (text.contains("a trigger that is ENABLE ALWAYS") && text.contains("public.log")).then_some(())
    });
    cluster.rows(WEST, "ALTER TABLE log DISABLE TRIGGER swallow");
    cluster.settle();
    assert_eq!(cluster.value(WEST, "SELECT count(*) FROM log"), "2");
}

#[test]
fn rows_with_a_key() {
    let schema = "CREATE TABLE event (id int PRIMARY KEY, who text);";
    let mut cluster = Plan::two().schema(schema).insert_only("public.event").run();
    cluster.rows(EAST, "INSERT INTO event SELECT i, 'east' FROM generate_series(1, 10) i");
    cluster.settle();
    cluster.rows(WEST, "UPDATE event SET who = 'west' WHERE id = 1; DELETE FROM event WHERE id > 5");
    cluster.wait_applied();
    assert_eq!(cluster.value(EAST, "SELECT count(*) FROM event WHERE who = 'east'"), "10");
    // the same key at both sides is a conflict as ever
    cluster.stop_daemon();
    cluster.rows(EAST, "INSERT INTO event VALUES (20, 'east')");
    sleep(Duration::from_millis(20));
    cluster.rows(WEST, "INSERT INTO event VALUES (20, 'west')");
    cluster.start_daemon();
    wait_for("the later one", SOON, || {
        (cluster.value(EAST, "SELECT who FROM event WHERE id = 20") == "west").then_some(())
    });
    assert_eq!(cluster.value(WEST, "SELECT who FROM event WHERE id = 20"), "west");
    let found = cluster.conflicts(&["--table", "public.event"]);
    assert!(!found.is_empty() && found.iter().all(|one| one["type"] == "insert_exists"), "{found:?}");
}

#[test]
fn what_is_missing_for_it_is_said_with_the_statement() {
    let schema = "CREATE TABLE a (v text); CREATE TABLE b (v text UNIQUE); ALTER TABLE b REPLICA IDENTITY FULL;
        CREATE TABLE c (v text);";
    let cluster = Plan::two().schema(schema).insert_only("public.[ab]").servers_only();
    let printed = cluster.pgconcord(&["doctor"]);
    for part in [
        "public.a: is for inserts only; without REPLICA IDENTITY FULL the server would refuse its UPDATE and DELETE",
        r#"ALTER TABLE "public"."a" REPLICA IDENTITY FULL;"#,
        "public.b: is for inserts only and has no key: a collision in b_v_key could not be resolved",
        "public.c: has no primary key, so its rows can't be told apart",
    ] {
        assert!(printed.stdout.contains(part), "{part}\n{printed}");
    }
}

/// So many rows that they are copied: with values that look like COPY's own marks, and where keys and unique values are
/// there of which the other node does not know yet.
#[test]
fn many_rows_at_once() {
    let schema = r#"CREATE TABLE "Odd rows" ("the ""key""" text PRIMARY KEY, a text, n int GENERATED BY DEFAULT AS IDENTITY,
            twice int GENERATED ALWAYS AS (length(a) * 2) STORED, b bytea, list text[], day date DEFAULT 'today');
        CREATE TABLE item (id int PRIMARY KEY, name text UNIQUE);
        CREATE TABLE drawn (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);"#;
    let mut cluster = Plan::two().schema(schema).run();
    let fill = r#"INSERT INTO "Odd rows" ("the ""key""", a, b, list, day) SELECT k || chr(9) || i, v, decode('5c00094e0a', 'hex'),
            ARRAY[v, NULL, k, ''], CASE WHEN i % 3 = 0 THEN date '2024-02-29' END
        FROM generate_series(1, 60) AS i,
            (VALUES (E'\\N', E'\\N'), (E'\\.', E'\\.'), ('', ''), (E'a\r\n\t\\b', NULL), ('ünï', E'\\\\')) AS t(k, v)"#;
    cluster.rows(EAST, fill);
    cluster.rows(EAST, "INSERT INTO drawn (v) SELECT 'v' FROM generate_series(1, 100)");
    cluster.settle();
    assert_eq!(cluster.value(WEST, r#"SELECT count(*) FROM "Odd rows""#), "300");
    cluster.without_seeing(&[
        (EAST, "INSERT INTO item SELECT i, 'east ' || i FROM generate_series(1, 500) AS i"),
        (WEST, "INSERT INTO item VALUES (77, 'west'), (1000, 'east 5')"),
    ]);
    assert_eq!(cluster.value(EAST, "SELECT count(*) || ' ' || count(*) FILTER (WHERE id = 1000) FROM item"), "500 1");
    assert_eq!(cluster.value(EAST, "SELECT name FROM item WHERE id = 77"), "west");
}

/// Many rows are copied in binary, which the server reads as whatever the column's type is by now. Each change has a cluster of its own,
/// for after one COPY that failed the next rows go without.
#[test]
fn a_column_whose_type_was_changed_meanwhile() {
    let insert = |first: u32| {
        let last = first + 99;
        format!("INSERT INTO item SELECT i, i, i, jsonb_build_object('i', i) FROM generate_series({first}, {last}) i")
    };
    let sum =
        "SELECT count(*) || ' ' || sum(wide) || ' ' || sum(number) || ' ' || sum((doc::jsonb ->> 'i')::int) FROM item";
    for change in ["wide TYPE bigint", "number TYPE float8", "doc TYPE text"] {
        let schema = "CREATE TABLE item (id int PRIMARY KEY, wide int, number bigint, doc jsonb)";
        let mut cluster = Plan::two().schema(schema).run();
        cluster.rows(EAST, &insert(1));
        cluster.settle();
        cluster.rows(WEST, &format!("ALTER TABLE item ALTER {change}"));
        cluster.rows(EAST, &insert(101));
        cluster.wait_applied();
        assert_eq!(cluster.value(WEST, sum), "200 20100 20100 20100", "{change}");
        cluster.assert_no_conflicts();
        let log = fs::read_to_string(cluster.log_file()).expect("the log");
        assert!(!log.contains("change by change"), "for {change} statements will do: {log}");
    }
}
