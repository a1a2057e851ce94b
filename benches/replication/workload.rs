//! The backlogs: what both ends have beforehand, and what then happens at the source.

/// A backlog.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its short name, as in docs/performance.md.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// What both ends have, beside `done`; `{n}` is the size, `{t}` a number of tables.
    pub base: &'static str,
    /// What happens at the source; `{n}` and `{t}` as well.
    pub backlog: Backlog,
    /// Its size at scale 1.
    pub size: u64,
    /// Rows changed for each of the size.
    pub rows: u64,
}

/// How a backlog is made.
#[derive(Clone, Copy, Debug)]
pub enum Backlog {
    /// Statements, each sent by itself.
    Sql(&'static [&'static str]),
    /// Transactions of pgbench, from a few clients.
    Pgbench,
}

/// Calls a procedure that commits after each round.
macro_rules! each_committed {
    ($statement:literal) => {
        Backlog::Sql(&[
            concat!(
                "CREATE PROCEDURE make() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..{n} LOOP ",
                $statement,
                "; COMMIT; END LOOP; END $$"
            ),
            "CALL make()",
        ])
    };
}

const ITEM: &str = "CREATE TABLE item (id bigint PRIMARY KEY, a int, b text, c timestamptz);";
const FULL_ITEM: &str = "CREATE TABLE item (id bigint PRIMARY KEY, a int, b text, c timestamptz);
    INSERT INTO item SELECT i, i % 1000, 'row ' || i, '2026-01-01' FROM generate_series(1, {n}) i;";

/// Many tables: t1, t2 and so on.
const TABLES: &str = "DO $$ BEGIN FOR i IN 1..{t} LOOP
    EXECUTE 'CREATE TABLE t' || i || ' (id bigint PRIMARY KEY, a int, b text, c timestamptz)'; END LOOP; END $$;";

/// Those that take many tables, and long to prepare.
pub const MANY_TABLES: [&str; 2] = ["t0", "t2"];
/// All of them.
pub const ALL: [Workload; 12] = [
    Workload {
        name: "a0",
        what: "one row: what a start takes",
        base: ITEM,
        backlog: Backlog::Sql(&["INSERT INTO item VALUES (1, 1, 'row', now())"]),
        size: 1,
        rows: 1,
    },
    Workload {
        name: "a1",
        what: "one transaction of inserts",
        base: ITEM,
        backlog: Backlog::Sql(&[
            "INSERT INTO item SELECT i, i % 1000, 'row ' || i, now() FROM generate_series(1, {n}) i",
        ]),
        size: 1_000_000,
        rows: 1,
    },
    Workload {
        name: "a2",
        what: "transactions of one insert",
        base: ITEM,
        backlog: each_committed!("INSERT INTO item VALUES (i, i % 1000, 'row ' || i, now())"),
        size: 200_000,
        rows: 1,
    },
    Workload {
        name: "a3",
        what: "transactions of one update, of random rows of 1,000,000",
        base: "CREATE TABLE item (id bigint PRIMARY KEY, a int, b text, c timestamptz);
            INSERT INTO item SELECT i, i % 1000, 'row ' || i, '2026-01-01' FROM generate_series(1, 1000000) i;",
        backlog: each_committed!("UPDATE item SET a = a + 1, c = now() WHERE id = (SELECT 1 + floor(random() * 1000000)::int)"),
        size: 200_000,
        rows: 1,
    },
    Workload {
        name: "a4",
        what: "TPC-B transactions of pgbench, scale 10",
        base: "", // pgbench -i
        backlog: Backlog::Pgbench,
        size: 100_000,
        rows: 4,
    },
    Workload {
        name: "a5u",
        what: "one UPDATE of all rows",
        base: FULL_ITEM,
        backlog: Backlog::Sql(&["UPDATE item SET a = a + 1, c = now()"]),
        size: 500_000,
        rows: 1,
    },
    Workload {
        name: "a5d",
        what: "one DELETE of all rows",
        base: FULL_ITEM,
        backlog: Backlog::Sql(&["DELETE FROM item"]),
        size: 500_000,
        rows: 1,
    },
    Workload {
        name: "a7",
        what: "transactions of ten inserts of 50 columns, 2 kB",
        base: "DO $$ BEGIN EXECUTE (SELECT 'CREATE TABLE item (id bigint PRIMARY KEY, '
            || string_agg('c' || i || ' text', ', ') || ')' FROM generate_series(1, 49) i); END $$;",
        backlog: Backlog::Sql(&[
            "CREATE PROCEDURE make() LANGUAGE plpgsql AS $$ DECLARE v text; BEGIN
             SELECT string_agg('md5((i + ' || c || ')::text) || ''-padding''', ', ') INTO v FROM generate_series(1, 49) c;
             FOR t IN 0..{n} / 10 - 1 LOOP
                 EXECUTE 'INSERT INTO item SELECT i, ' || v || ' FROM generate_series($1, $1 + 9) i' USING t * 10;
                 COMMIT;
             END LOOP; END $$",
            "CALL make()",
        ]),
        size: 50_000,
        rows: 1,
    },
    Workload {
        name: "a8",
        what: "transactions of one insert of 100 kB of jsonb and text",
        base: "CREATE TABLE item (id bigint PRIMARY KEY, j jsonb, t text);
            ALTER TABLE item ALTER j SET STORAGE EXTERNAL, ALTER t SET STORAGE EXTERNAL;",
        backlog: each_committed!(
            "INSERT INTO item SELECT i, jsonb_build_object('k', repeat(md5(i::text), 1500)), repeat(md5(i::text), 1600)"
        ),
        size: 2_000,
        rows: 1,
    },
    Workload {
        name: "a9",
        what: "transactions that all update one row",
        base: "CREATE TABLE item (id bigint PRIMARY KEY, a int); INSERT INTO item VALUES (1, 0);",
        backlog: each_committed!("UPDATE item SET a = a + 1 WHERE id = 1"),
        size: 100_000,
        rows: 1,
    },
    Workload {
        name: "t0",
        what: "one row, beside many tables: what a start takes",
        base: TABLES,
        backlog: Backlog::Sql(&["INSERT INTO t1 VALUES (1, 1, 'row', now())"]),
        size: 1,
        rows: 1,
    },
    Workload {
        name: "t2",
        what: "transactions of one insert, into many tables in turn",
        base: TABLES,
        backlog: each_committed!(
            "EXECUTE 'INSERT INTO t' || 1 + i % {t} || ' VALUES ($1, $1 % 1000, ''row '' || $1, now())' USING i"
        ),
        size: 200_000,
        rows: 1,
    },
];

/// Sizes are multiples of it: pgbench's clients make the same number each, the transactions of a7 ten.
const STEP: u64 = 20;

impl Workload {
    /// The size at a scale, at least [`STEP`] (one where that is all there is).
    pub fn scaled(&self, scale: f64) -> u64 {
        if self.size == 1 { 1 } else { ((self.size as f64 * scale) as u64 / STEP * STEP).max(STEP) }
    }
}
