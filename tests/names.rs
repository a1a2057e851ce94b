//! Names that need care, schemas of their own, encodings.

use std::collections::BTreeSet;

use crate::harness::{Plan, SOON, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;

/// Whatever can be quoted can be a name, of a schema, a table, a column, a type, an index.
#[test]
fn names_that_need_quotes() {
    let longest = "ü".repeat(31) + "x";
    let names = [
        "Mixed Case",
        "quo\"te",
        "dot.ted",
        "semi;colon",
        "select",
        "user",
        "null",
        "\\back\\slash",
        "per%cent",
        "{brace}",
        "$1",
        "new\nline",
        "u",
        "t",
        "c0",
        "ord",
        "known",
        "xmin_",
        "'single'",
        "日本語",
        &longest,
        "--comment",
        "/*c*/",
    ];
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut schema = String::new();
    for name in names {
        let of_type = quoted(&format!("T{}", name.chars().take(20).collect::<String>()));
        let name = quoted(name);
        schema.push_str(&format!(
            "CREATE SCHEMA {name}; CREATE TYPE {name}.{of_type} AS ENUM ('a', 'b');
             CREATE TABLE {name}.{name} ({name} int PRIMARY KEY, {other} {name}.{of_type}, \"v\" text UNIQUE);",
            other = quoted(&format!("é{}", &names[0])),
        ));
    }
    let mut cluster = Plan::two().schema(&schema).include("*.*").run();
    let each = |statement: &dyn Fn(&str) -> String| names.map(|name| statement(&quoted(name))).to_vec();
    cluster.replicate(
        EAST,
        &each(&|name| format!("INSERT INTO {name}.{name} VALUES (1, 'a', 'x'), (2, 'b', 'y'), (3, NULL, 'z')")),
    );
    cluster.replicate(WEST, &each(&|name| format!("UPDATE {name}.{name} SET v = 'w' WHERE {name} = 1")));
    cluster.replicate(EAST, &each(&|name| format!("UPDATE {name}.{name} SET {name} = 4 WHERE {name} = 2")));
    cluster.replicate(WEST, &each(&|name| format!("DELETE FROM {name}.{name} WHERE {name} = 3")));
    // the same unique value at both sides
    cluster.stop_daemon();
    each(&|name| format!("INSERT INTO {name}.{name} VALUES (5, 'a', 'same')"))
        .iter()
        .for_each(|sql| drop(cluster.rows(EAST, sql)));
    each(&|name| format!("INSERT INTO {name}.{name} VALUES (6, 'a', 'same')"))
        .iter()
        .for_each(|sql| drop(cluster.rows(WEST, sql)));
    cluster.start_daemon();
    cluster.settle();
    let conflicts = cluster.conflicts(&[]);
    // by one link or by both
    let tables: BTreeSet<String> = conflicts.iter().map(|one| one["table"].to_string()).collect();
    assert_eq!(tables.len(), names.len());
    cluster.replicate(EAST, &each(&|name| format!("TRUNCATE {name}.{name}")));
    let listed = cluster.pgconcord(&["conflicts", "list", "--table", "dot.ted.dot.ted"]);
    assert_eq!(listed.code, 0, "{listed}");
}

/// A table that the peer has in another schema is another table.
#[test]
fn a_table_in_another_schema_at_the_peer_is_missing_there() {
    let here = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);";
    let there = "CREATE SCHEMA other; CREATE TABLE other.t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);";
    let cluster = Plan::two().include("other.*").at(EAST, here).at(WEST, there).servers_only();
    let printed = cluster.pgconcord(&["doctor"]);
    assert_eq!(printed.code, 1, "{printed}");
    for part in ["public.t: is missing here; east has it", "other.t: is missing here; west has it"] {
        assert!(printed.stdout.contains(part), "{part}\n{printed}");
    }
}

#[test]
fn latin1_beside_utf8() {
    let schema = "CREATE TABLE t (k text PRIMARY KEY, v text);";
    let mut cluster = Plan::two().encoding(EAST, "LATIN1").schema(schema).run();
    cluster.replicate(EAST, &["INSERT INTO t VALUES ('größe', 'ÿ¿')".to_owned()]);
    cluster.replicate(
        WEST,
        &["UPDATE t SET v = 'é' WHERE k = 'größe'".to_owned(), "INSERT INTO t VALUES ('à', 'ß')".to_owned()],
    );
    assert_eq!(cluster.value(EAST, "SELECT v FROM t WHERE k = 'größe'"), "é");
    // a character that LATIN1 lacks stops the link, says so, and is lost to nobody
    cluster.rows(WEST, "INSERT INTO t VALUES ('snow', '☃')");
    let stopped = wait_for("the link to stop", SOON, || {
        let error = cluster.status()["links"][1]["error"].as_str().map(str::to_owned);
        error.filter(|error| error.contains("LATIN1"))
    });
    assert!(stopped.contains("0xe2 0x98 0x83"), "{stopped}");
    let printed = cluster.pgconcord(&["doctor"]);
    assert!(printed.stdout.contains("a character that one of them lacks stops the link"), "{printed}");
}

#[test]
fn bytes_of_sql_ascii_pass_as_they_are() {
    let schema = "CREATE TABLE t (k text PRIMARY KEY, v text);";
    let mut cluster = Plan::two().encoding(EAST, "SQL_ASCII").encoding(WEST, "SQL_ASCII").schema(schema).run();
    // bytes that are no UTF-8: made there, for this session would not send them
    cluster.replicate(EAST, &["INSERT INTO t VALUES (chr(255) || 'k', chr(254))".to_owned()]);
    cluster.replicate(WEST, &["UPDATE t SET v = v || chr(200) WHERE k = chr(255) || 'k'".to_owned()]);
    assert_eq!(cluster.value(EAST, "SELECT encode(v::bytea, 'hex') FROM t"), "fec8");
}

/// Where a row is looked for by such a key: the loser of a unique value at its home, a value that was left out at its source.
#[test]
fn bytes_of_sql_ascii_in_rows_that_are_removed_or_read_at_their_home() {
    let schema = "CREATE TABLE t (k text PRIMARY KEY, v text UNIQUE);
        CREATE TABLE doc (k text PRIMARY KEY, v text, body text);
        ALTER TABLE doc ALTER body SET STORAGE EXTERNAL;
        INSERT INTO doc VALUES (chr(255) || 'k', 'old', repeat(chr(254), 5000));";
    let mut cluster = Plan::two().encoding(EAST, "SQL_ASCII").encoding(WEST, "SQL_ASCII").schema(schema).run();
    cluster.without_seeing(&[
        (EAST, "INSERT INTO t VALUES (chr(255) || 'east', chr(254) || 'v')"),
        (WEST, "INSERT INTO t VALUES (chr(255) || 'west', chr(254) || 'v')"),
        (WEST, "DELETE FROM doc"),
        (EAST, "UPDATE doc SET v = 'new'"),
    ]);
    for place in [EAST, WEST] {
        assert_eq!(cluster.value(place, "SELECT string_agg(encode(k::bytea, 'hex'), ' ') FROM t"), "ff77657374");
        assert_eq!(
            cluster.value(place, "SELECT v || count(*) FROM doc WHERE body = repeat(chr(254), 5000) GROUP BY v"),
            "new1"
        );
    }
}

#[test]
fn sql_ascii_beside_anything_else_is_refused() {
    let schema = "CREATE TABLE t (k text PRIMARY KEY, v text);";
    let cluster = Plan::two().encoding(EAST, "SQL_ASCII").schema(schema).set_up();
    let printed = cluster.pgconcord(&["doctor"]);
    assert!(printed.stdout.contains("bytes of SQL_ASCII are no text in particular"), "{printed}");
    let ran = cluster.pgconcord(&["run"]);
    assert_eq!(ran.code, 1, "{ran}");
    assert!(ran.text().contains("bytes of SQL_ASCII are no text in particular"), "{ran}");
}
