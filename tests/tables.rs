//! Plain tables: keys, TOAST, TRUNCATE, unique values, names and values that need quoting.

use std::thread::sleep;
use std::time::Duration;

use crate::harness::{Plan, SOON, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;

#[test]
fn keys_of_the_common_types() {
    let types = [
        ("smallint", "1", "2"),
        ("bigint", "-9223372036854775808", "9223372036854775807"),
        ("text", "'it''s'", "E'tab\\tand \\\\ and \"quotes\"'"),
        ("varchar(20)", "''", "'ünïcödé'"),
        ("uuid", "'00000000-0000-0000-0000-000000000001'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"),
        ("timestamptz", "'2000-01-01 00:00:00.000001+02'", "'1969-12-31 23:59:59Z'"),
        ("date", "'0044-03-15 BC'", "'2024-02-29'"),
        ("numeric", "1.50", "-12345678901234567890.123"),
        ("boolean", "true", "false"),
        ("bytea", "'\\x00ff'", "'\\x'"),
        ("inet", "'10.0.0.1'", "'::1'"),
    ];
    let table = |i: usize, sql: &str| format!("CREATE TABLE k{i} (k {sql} PRIMARY KEY, v text);");
    let schema: String = types.iter().enumerate().map(|(i, (name, ..))| table(i, name)).collect();
    let mut cluster = Plan::two().schema(&schema).run();
    for (i, (_, one, two)) in types.iter().enumerate() {
        cluster.rows(EAST, &format!("INSERT INTO k{i} VALUES ({one}, 'one'), ({two}, 'two')"));
    }
    cluster.settle();
    for (i, (_, one, two)) in types.iter().enumerate() {
        cluster.rows(WEST, &format!("UPDATE k{i} SET v = 'changed' WHERE k = {one}; DELETE FROM k{i} WHERE k = {two}"));
    }
    cluster.settle();
    for (i, (name, ..)) in types.iter().enumerate() {
        assert_eq!(cluster.value(EAST, &format!("SELECT v FROM k{i}")), "changed", "{name}");
    }
    cluster.assert_no_conflicts();
}

#[test]
fn keys_of_several_columns_and_names_that_need_quotes() {
    let schema = r#"
        CREATE SCHEMA "Odd ""Schema""";
        CREATE TABLE line (note text, "order" int, "Line No" int, qty int, PRIMARY KEY ("Line No", "order"));
        CREATE TABLE "select" ("from" int PRIMARY KEY, "weird ""name""" text);
    "#;
    let mut cluster = Plan::two().schema(schema).run();
    cluster.replicate(
        EAST,
        &[
            r#"INSERT INTO line SELECT 'n' || i, i % 5, i / 5, i FROM generate_series(0, 99) i"#,
            r#"UPDATE line SET qty = qty * 2 WHERE "order" = 3"#,
            r#"DELETE FROM line WHERE "Line No" = 4"#,
            r#"INSERT INTO "select" VALUES (1, 'a'), (2, NULL), (3, '')"#,
        ],
    );
    cluster.replicate(
        WEST,
        &[
            r#"UPDATE line SET "Line No" = "Line No" + 100 WHERE "order" = 1"#,
            r#"UPDATE "select" SET "weird ""name""" = NULL WHERE "from" = 1"#,
            r#"UPDATE "select" SET "weird ""name""" = 'set' WHERE "from" = 2"#,
        ],
    );
    assert_eq!(cluster.value(EAST, "SELECT count(*) FROM line"), "95");
    assert_eq!(cluster.value(EAST, r#"SELECT "weird ""name""" FROM "select" WHERE "from" = 3"#), "");
    cluster.assert_no_conflicts();
}

#[test]
fn a_large_value_that_an_update_leaves_alone_stays() {
    let schema = "CREATE TABLE doc (id int PRIMARY KEY, title text, body text);
        ALTER TABLE doc ALTER body SET STORAGE EXTERNAL;
        INSERT INTO doc SELECT i, 'start', repeat(md5(i::text), 1000) FROM generate_series(1, 10) i;";
    let mut cluster = Plan::two().schema(schema).run();
    cluster.replicate(EAST,
        &[
            "UPDATE doc SET title = 'east' WHERE id <= 3",
            "BEGIN; UPDATE doc SET title = 'once' WHERE id = 4; UPDATE doc SET title = 'twice' WHERE id = 4; COMMIT",
            "BEGIN; UPDATE doc SET body = repeat('new ', 5000) WHERE id = 5; UPDATE doc SET title = 'new' WHERE id = 5; COMMIT",
            "INSERT INTO doc VALUES (11, 'fresh', repeat('fresh ', 5000))",
            "UPDATE doc SET title = 'fresher' WHERE id = 11",
            "UPDATE doc SET id = 112 WHERE id = 10",
        ],
    );
    assert_eq!(cluster.value(WEST, "SELECT count(*) FROM doc WHERE length(body) >= 20000"), "11");
    cluster.assert_no_conflicts();
    // both change the row, one of them the large value, without seeing each other: no mixture of the two
    cluster.stop_daemon();
    cluster.rows(EAST, "UPDATE doc SET title = 'of east', body = repeat('east ', 8000) WHERE id = 6");
    sleep(Duration::from_millis(20));
    cluster.rows(WEST, "UPDATE doc SET title = 'of west' WHERE id = 6");
    cluster.start_daemon();
    cluster.settle();
    let body = "SELECT title || ' ' || (body = repeat(md5('6'), 1000))::text FROM doc WHERE id = 6";
    assert_eq!(cluster.value(EAST, body), "of west true", "the newer row, whole");
}

/// What the authors of these changes had seen no commit of ours tells.
#[test]
fn a_large_value_left_alone_before_the_daemon_first_starts() {
    let schema = "CREATE TABLE doc (id int PRIMARY KEY, title text, body text);
        ALTER TABLE doc ALTER body SET STORAGE EXTERNAL;
        INSERT INTO doc SELECT i, 'start', repeat(md5(i::text), 1000) FROM generate_series(1, 4) i;";
    let mut cluster = Plan::two().schema(schema).set_up();
    cluster.rows(EAST, "UPDATE doc SET title = 'east' WHERE id <= 2");
    cluster.rows(EAST, "UPDATE doc SET title = 'east again' WHERE id = 1");
    cluster.rows(WEST, "UPDATE doc SET title = 'west' WHERE id >= 2");
    cluster.start_daemon();
    cluster.settle();
    let rows = "SELECT string_agg(title || ' ' || length(body), ', ' ORDER BY id) FROM doc";
    assert_eq!(cluster.value(WEST, rows), "east again 32000, west 32000, west 32000, west 32000");
}

#[test]
fn changed_keys_chains_and_swaps() {
    let schema = "CREATE TABLE room (n int PRIMARY KEY, who text, badge int UNIQUE);
        INSERT INTO room SELECT i, 'p' || i, i FROM generate_series(1, 10) i;";
    let mut cluster = Plan::two().schema(schema).run();
    cluster.replicate(EAST,
        &[
            "UPDATE room SET n = 20 WHERE n = 1",
            "BEGIN; UPDATE room SET n = 1 WHERE n = 20; UPDATE room SET n = 21 WHERE n = 1; COMMIT",
            // a chain: 4 to 40, 3 to 4, 2 to 3
            "BEGIN; UPDATE room SET n = 40 WHERE n = 4; UPDATE room SET n = 4 WHERE n = 3; UPDATE room SET n = 3 WHERE n = 2; COMMIT",
            // a swap by way of a third key
            "BEGIN; UPDATE room SET n = -5 WHERE n = 5; UPDATE room SET n = 5 WHERE n = 6; UPDATE room SET n = 6 WHERE n = -5; COMMIT",
            // unique values that rotate
            "BEGIN; UPDATE room SET badge = -7 WHERE badge = 7; UPDATE room SET badge = 7 WHERE badge = 8;
         UPDATE room SET badge = 8 WHERE badge = 9; UPDATE room SET badge = 9 WHERE badge = -7; COMMIT",
            // a key that is left, taken and left again
            "BEGIN; DELETE FROM room WHERE n = 10; INSERT INTO room VALUES (10, 'new', 10); UPDATE room SET n = 11 WHERE n = 10; COMMIT",
        ],
    );
    let rows = cluster.rows(WEST, "SELECT string_agg(n || who, ' ' ORDER BY n) FROM room");
    assert_eq!(rows[0][0].as_deref(), Some("3p2 4p3 5p6 6p5 7p7 8p8 9p9 11new 21p1 40p4"));
    let badges =
        cluster.value(WEST, "SELECT string_agg(n || ':' || badge, ' ' ORDER BY n) FROM room WHERE n BETWEEN 7 AND 9");
    assert_eq!(badges, "7:9 8:7 9:8");
    cluster.assert_no_conflicts();
}

/// A batch is written in pieces of 10,000 changes; what an earlier piece left is what a later one meets.
#[test]
fn a_transaction_larger_than_a_piece_comes_back_to_its_keys() {
    let schema = "CREATE TABLE item (id int PRIMARY KEY, v text); CREATE TABLE filler (id int PRIMARY KEY);";
    let mut cluster = Plan::two().schema(schema).run();
    cluster.replicate(EAST, &["INSERT INTO item VALUES (1, 'old'), (2, 'old'), (3, 'old'), (4, 'old')"]);
    cluster.replicate(EAST, &["DELETE FROM item WHERE id IN (3, 4)"]);
    let filler = |turn: i32| format!("INSERT INTO filler SELECT i FROM generate_series({turn}0001, {turn}9999) i");
    let pieces = [
        "DELETE FROM item WHERE id IN (1, 2); INSERT INTO item VALUES (3, 'one'), (4, 'one'), (5, 'one')",
        "INSERT INTO item VALUES (1, 'two'); UPDATE item SET v = 'two' WHERE id IN (3, 5); DELETE FROM item WHERE id = 4",
        "UPDATE item SET v = 'three' WHERE id = 1; DELETE FROM item WHERE id = 5; INSERT INTO item VALUES (2, 'three')",
    ];
    let mut statements = String::from("BEGIN;");
    for (turn, piece) in (1..).zip(pieces) {
        statements += &format!("{piece}; {}; {};", filler(turn * 2), filler(turn * 2 + 1));
    }
    cluster.rows(EAST, &(statements + "COMMIT"));
    cluster.settle();
    let rows = cluster.value(WEST, "SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) FROM item");
    assert_eq!(rows, "1 three, 2 three, 3 two");
    cluster.assert_no_conflicts();
}

#[test]
fn truncate_empties_the_other_side_and_spares_what_it_had_not_seen() {
    let schema = "CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
        CREATE TABLE log (id int PRIMARY KEY, who text);
        INSERT INTO parent SELECT generate_series(1, 5);
        INSERT INTO child SELECT i, i FROM generate_series(1, 5) i;
        INSERT INTO log SELECT i, 'start' FROM generate_series(1, 100) i;";
    let mut cluster = Plan::two().schema(schema).run();
    cluster.replicate(EAST, &["TRUNCATE parent, child", "INSERT INTO parent VALUES (7)"]);
    assert_eq!(cluster.value(WEST, "SELECT count(*) FROM child"), "0");
    assert_eq!(cluster.value(WEST, "SELECT id FROM parent"), "7");
    cluster.assert_no_conflicts();
    cluster.stop_daemon();
    cluster.rows(WEST, "INSERT INTO log VALUES (101, 'before')");
    sleep(Duration::from_millis(20));
    cluster.rows(EAST, "TRUNCATE log");
    sleep(Duration::from_millis(20));
    cluster.rows(WEST, "INSERT INTO log VALUES (102, 'after'); UPDATE log SET who = 'after' WHERE id = 1");
    cluster.start_daemon();
    cluster.settle();
    let left = cluster.rows(EAST, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM log");
    assert_eq!(left[0][0].as_deref(), Some("1 102"), "what is newer than the TRUNCATE stays");
}

#[test]
fn foreign_keys_and_user_triggers_do_not_stand_in_the_way() {
    let schema = "CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent ON DELETE CASCADE);
        CREATE TABLE audit (id int PRIMARY KEY, n int NOT NULL);
        INSERT INTO audit VALUES (1, 0);
        CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN UPDATE audit SET n = n + 1; RETURN NEW; END';
        CREATE TRIGGER counts AFTER INSERT ON child FOR EACH ROW EXECUTE FUNCTION count_it();";
    let mut cluster = Plan::two().schema(schema).run();
    cluster.replicate(
        EAST,
        &[
            "BEGIN; INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 1), (3, 2); COMMIT",
            "DELETE FROM parent WHERE id = 1",
        ],
    );
    assert_eq!(cluster.value(WEST, "SELECT count(*) FROM child"), "1");
    assert_eq!(cluster.value(WEST, "SELECT n FROM audit"), "3", "the trigger fired where the rows were written, only");
    cluster.assert_no_conflicts();
}

#[test]
fn a_reader_never_sees_half_a_transaction() {
    let schema = "CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL);
        INSERT INTO account SELECT i, 100 FROM generate_series(1, 20) i;";
    let mut cluster = Plan::two().schema(schema).run();
    let (writer, reader) = (cluster.sql(EAST), cluster.sql(WEST));
    for round in 0..300 {
        let (from, to) = (round % 20 + 1, (round * 7 + 3) % 20 + 1);
        writer.rows(&format!(
            "BEGIN; UPDATE account SET balance = balance - 1 WHERE id = {from};
             UPDATE account SET balance = balance + 1 WHERE id = {to}; COMMIT"
        ));
        assert_eq!(reader.value("SELECT sum(balance) FROM account"), "2000", "round {round}");
    }
    cluster.settle();
    cluster.assert_no_conflicts();
}

#[test]
fn rolled_back_and_partly_rolled_back_transactions() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text);";
    // small enough that transactions are streamed while they run
    let mut cluster = Plan::two().setting(EAST, "logical_decoding_work_mem", "64kB").schema(schema).run();
    cluster.replicate(
        EAST,
        &[
            "BEGIN; INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i; ROLLBACK",
            "BEGIN; INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 3000) i; SAVEPOINT s;
         INSERT INTO t SELECT i, repeat('y', 100) FROM generate_series(3001, 6000) i; ROLLBACK TO s;
         INSERT INTO t SELECT i, repeat('z', 100) FROM generate_series(6001, 9000) i; COMMIT",
        ],
    );
    assert_eq!(cluster.value(WEST, "SELECT count(*) || ' ' || count(*) FILTER (WHERE v LIKE 'y%') FROM t"), "6000 0");
    cluster.assert_no_conflicts();
}

#[test]
fn a_unique_value_that_moves_on_while_its_row_is_under_way() {
    // R12: removing the loser at one node only would diverge here
    let schema = "CREATE TABLE mail (id int PRIMARY KEY, address text UNIQUE);";
    let mut cluster = Plan::three().schema(schema).proxied().run();
    cluster.proxy(EAST).refuse();
    cluster.rows(EAST, "INSERT INTO mail VALUES (1, 'e')");
    sleep(Duration::from_millis(20));
    cluster.rows(2, "INSERT INTO mail VALUES (2, 'e')");
    wait_for("the west has it", SOON, || (cluster.value(WEST, "SELECT count(*) FROM mail") == "1").then_some(()));
    cluster.rows(2, "UPDATE mail SET address = 'f' WHERE id = 2");
    cluster.proxy(EAST).accept();
    cluster.daemon().wait_ready();
    cluster.settle();
    assert_eq!(cluster.value(EAST, "SELECT count(*) FROM mail WHERE id = 2 AND address = 'f'"), "1");
}

#[test]
fn everyday_rows_inserted_at_both_sides() {
    let schema = "CREATE TABLE orders (id bigint PRIMARY KEY, customer int, total numeric(10, 2), tags text[],
        doc jsonb, at timestamptz DEFAULT now(), flag boolean, ratio double precision, raw bytea, gone date)";
    let mut cluster = Plan::two().schema(schema).run();
    for place in [EAST, WEST] {
        cluster.rows(
            place,
            &format!(
            "INSERT INTO orders SELECT i * 2 + {place}, i, i * 1.25, ARRAY['a', NULL, 'c\"d'], '{{\"k\": [1, null]}}',
             now(), i % 2 = 0, i / 3.0::float8, decode('00ff', 'hex'), NULL FROM generate_series(1, 500) i"
        ),
        );
    }
    cluster.settle();
    assert_eq!(cluster.value(EAST, "SELECT count(*) FROM orders"), "1000");
    cluster.rows(EAST, "UPDATE orders SET ratio = 'NaN', doc = NULL, tags = '{}', gone = 'infinity' WHERE id % 3 = 0");
    cluster.settle();
    cluster.assert_no_conflicts();
}
