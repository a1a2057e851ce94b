//! Rows that are merged by a function.

use std::fs;

use crate::harness::{Cluster, Plan, SOON, ordinary_role, wait_for};

const TABLES: &str = "
    CREATE SCHEMA shop;
    CREATE TABLE price (item int PRIMARY KEY, cents int, note text, since date);
    ALTER TABLE price REPLICA IDENTITY FULL;
    GRANT USAGE ON SCHEMA shop TO PUBLIC;
    INSERT INTO price SELECT i, 100, 'a', '2026-01-01' FROM generate_series(1, 6) i;";

/// The higher price with both notes, the earlier one's first.
const HIGHER: &str = "CREATE OR REPLACE FUNCTION shop.\"Price\"(earlier jsonb, later jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE AS $$ SELECT later || jsonb_build_object(
        'cents', greatest((earlier->>'cents')::int, (later->>'cents')::int),
        'note', concat_ws('+', earlier->>'note', later->>'note')) $$;";

fn rule(function: &str) -> String {
    format!(
        "[[rule]]\nname = \"prices by our own function\"\ntables = [\"public.price\"]\nresolve = \"function\"\n\
         function = '{function}'\n"
    )
}

const RULE: &str = "shop.\"Price\"";

#[test]
fn three_nodes_make_one_row_of_three() {
    let schema = format!("{TABLES} {HIGHER}");
    let mut cluster = Plan::three().schema(&schema).rules(&rule(RULE)).run();
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "20"]);
    assert!(
        checked.code == 0 && checked.stdout.contains("function (simulated with another function) comes out alike"),
        "{checked}"
    );
    let explained = cluster.pgconcord(&["rules", "explain", "public.price"]);
    assert!(explained.stdout.contains("function (shop.\"Price\"), a delete wins"), "{explained}");
    let recorded = cluster.value(0, "SELECT resolver FROM pgconcord.rules WHERE relation = 'public.price'");
    assert!(recorded.contains(r#"function = "shop.\"Price\"""#), "{recorded}");
    cluster.without_seeing(&[
        (0, "UPDATE price SET cents = 300, note = 'e' WHERE item < 3"),
        (1, "UPDATE price SET cents = 200, note = 'w' WHERE item < 3"),
        (2, "UPDATE price SET note = 'n' WHERE item < 2"),
        (0, "UPDATE price SET note = 'gone' WHERE item = 3"),
        (2, "DELETE FROM price WHERE item = 3; DELETE FROM price WHERE item = 4"),
        (2, "INSERT INTO price VALUES (4, 5, 'new')"),
        (1, "UPDATE price SET cents = 7 WHERE item IN (4, 5)"),
        (0, "INSERT INTO price VALUES (7, 1, 'e')"),
        (1, "INSERT INTO price VALUES (7, NULL, 'w', '2026-02-02')"),
    ]);
    let prices = "SELECT string_agg(concat_ws(' ', item, cents, note, since), ', ' ORDER BY item) FROM price";
    let made = "1 300 e+w+n 2026-01-01, 2 300 e+w 2026-01-01, 4 5 new, 5 7 a 2026-01-01, 6 100 a 2026-01-01, \
                7 1 e+w 2026-02-02";
    cluster.assert_everywhere(prices, made);
    let entries = cluster.conflicts_of("public.price", "2");
    assert!(entries.len() >= 2, "{entries:?}");
    for entry in &entries {
        assert_eq!(
            (entry["resolver"].as_str(), entry["rule"].as_str()),
            (Some("function"), Some("prices by our own function"))
        );
        assert_eq!(
            (entry["resolution"].as_str(), entry["result"]["note"].as_str()),
            (Some("merge"), Some("e+w")),
            "{entry}"
        );
    }
    let shown = cluster.pgconcord(&["conflicts", "show", &entries[0]["id"].to_string()]);
    assert!(shown.code == 0 && shown.stdout.contains("function"), "{shown}");
    let replayed = cluster.pgconcord(&["rules", "replay"]);
    assert!(replayed.stdout.contains("only the server can tell what shop.\"Price\" makes of two rows"), "{replayed}");
    // what is written in turn stays as it is, and one that follows on what was made is no conflict
    cluster.replicate(1, &["UPDATE price SET cents = 1 WHERE item = 1"]);
    cluster.replicate(2, &["UPDATE price SET note = 'x' WHERE item = 1"]);
    cluster.assert_everywhere("SELECT cents || note FROM price WHERE item = 1", "1x");
}

const EXAMPLE: &str = include_str!("../conflict-rules/examples/tariffs.toml");

/// With the very table and function that its comment has.
#[test]
fn the_example_does_what_it_says() {
    let schema: Vec<&str> = EXAMPLE.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    let mut cluster = Plan::two().schema(&schema.join("\n")).rules(EXAMPLE).run();
    cluster.replicate(0, &["INSERT INTO tariff VALUES (1, 100, 'EUR', NULL), (2, 100, 'EUR', '2026-05-01')"]);
    cluster.without_seeing(&[
        (0, "UPDATE tariff SET cents = 90, currency = 'USD', discount_until = '2026-06-01'"),
        (1, "UPDATE tariff SET cents = 95, discount_until = '2026-07-01' WHERE id = 1"),
        (1, "UPDATE tariff SET cents = 80 WHERE id = 2"),
    ]);
    let tariffs =
        "SELECT string_agg(concat_ws(' ', id, cents, currency, discount_until), ', ' ORDER BY id) FROM tariff";
    cluster.assert_everywhere(tariffs, "1 90 USD 2026-07-01, 2 80 EUR 2026-06-01");
}

/// Types whose values jsonb spells otherwise or not at all, each with a value of the first and of the second change.
const SPELLED: [(&str, &str, &str); 22] = [
    ("numeric", "'1.50'", "'2.00'"),
    ("numeric", "'NaN'", "'1e-20'"),
    ("float8", "'1e300'", "'0.1'"),
    ("float4", "'Infinity'", "'-0'"),
    ("bytea", r"'\xdeadbeef'", r"'\x00ff'"),
    ("json", r#"'{"b" : 1.0,  "a":[ ]}'"#, r#"'{"a":1, "a":2}'"#),
    ("json", r#"'{"a":1}'"#, r#"'{"a": 2.0}'"#),
    ("jsonb", r#"'{"n": 1.00}'"#, "'null'"),
    ("timestamptz", "'infinity'", "'2026-01-02 03:04:05.678901+02'"),
    ("timestamp", "'-infinity'", "'0044-03-15 12:00 BC'"),
    ("date", "'infinity'", "'2026-01-01'"),
    ("interval", "'1 mon -1 day 00:00:00.5'", "'1000000 hours'"),
    ("int[]", "'{1,NULL,3}'", "'[0:1][2:3]={{1,2},{3,4}}'"),
    ("text[]", r#"'{"a,b","c\"d",""}'"#, "'{}'"),
    ("timestamptz[]", "'{infinity,NULL}'", "NULL"),
    ("text", "NULL", r"E'a\n\\\u00e4'"),
    ("char(5)", "'ab'", "'c'"),
    ("bit(3)", "'101'", "'000'"),
    ("int4range", "'[1,5)'", "'empty'"),
    ("point", "'(1.5,2)'", "'(0.1,-0)'"),
    ("mood", "'so so'", "'good'"),
    ("pair", "'(1,\"a,b\")'", "'(,)'"),
];

#[test]
fn what_a_function_leaves_alone_stays_as_it_was_spelled() {
    let columns = |prefix: &str| {
        let each = SPELLED.iter().enumerate().map(|(at, (of, ..))| format!("{prefix}{at} {of}"));
        each.collect::<Vec<_>>().join(", ")
    };
    // of the columns a… the earlier change's values, of b… the later one's
    let schema = format!(
        "CREATE TYPE mood AS ENUM ('so so', 'good'); CREATE TYPE pair AS (x int, y text);
        CREATE TABLE spelled (id numeric PRIMARY KEY, {}, {}, made numeric(8,2), list int[], at timestamptz, doc json, raw bytea,
            less text DEFAULT 'x', couple pair, v text DEFAULT 'as an alias of ours');
        ALTER TABLE spelled REPLICA IDENTITY FULL;
        INSERT INTO spelled (id) VALUES (1.0);
        CREATE FUNCTION public.mixed(earlier jsonb, later jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
            SELECT (jsonb_object_agg(key, CASE WHEN key ~ '^a\\d' THEN earlier->key ELSE value END)
                || '{{\"made\": 12.345, \"list\": [1, null, 3], \"at\": \"2026-01-01T00:00:00+02\", \"doc\": {{\"k\": [1]}},
                    \"raw\": \"\\\\x6869\", \"less\": null, \"couple\": {{\"x\": 1, \"y\": \"z\"}}}}') - 'b0'
            FROM jsonb_each(later) $$;",
        columns("a"),
        columns("b")
    );
    let rules =
        "[[rule]]\nname = \"m\"\nresolve = \"function\"\nfunction = \"public.mixed\"\ntables = [\"public.spelled\"]";
    let mut cluster = Plan::two().schema(&schema).rules(rules).run();
    let set = |first: bool| {
        let value = |(_, one, other): &(&str, &'static str, &'static str)| if first { *one } else { *other };
        let each = SPELLED.iter().enumerate().map(|(at, spelled)| format!("a{at} = {0}, b{at} = {0}", value(spelled)));
        format!("UPDATE spelled SET {}", each.collect::<Vec<_>>().join(", "))
    };
    let list = |prefix: &str| {
        let each = (0..SPELLED.len()).map(|at| format!("{prefix}{at}::text"));
        format!("SELECT (ROW({}))::text FROM spelled", each.collect::<Vec<_>>().join(", "))
    };
    cluster.stop_daemon();
    cluster.rows(0, &set(true));
    cluster.rows(1, &set(false));
    let (earlier, later) = (cluster.value(0, &list("a")), cluster.value(1, &list("b")));
    assert!(earlier.contains("1.50") && later.contains("2.00"), "{earlier} {later}");
    cluster.start_daemon();
    cluster.settle();
    cluster.assert_everywhere(&list("a"), &earlier);
    cluster.assert_everywhere(&list("b"), &later);
    cluster.assert_everywhere(
        "SELECT concat_ws(' ', id, made, list, at AT TIME ZONE 'UTC', doc, convert_from(raw, 'UTF8'), coalesce(less, '-'), couple) \
         FROM spelled",
        r#"1.0 12.35 {1,NULL,3} 2025-12-31 22:00:00 {"k": [1]} hi - (1,z)"#,
    );
}

#[test]
fn a_function_that_can_t_be_called_is_refused_with_what_to_do() {
    let functions = "
        CREATE FUNCTION shop.volatile(jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $2';
        CREATE FUNCTION shop.stable(jsonb, jsonb) RETURNS jsonb LANGUAGE sql STABLE AS 'SELECT $2';
        CREATE FUNCTION shop.other(json, text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT NULL::jsonb';
        CREATE FUNCTION shop.texts(jsonb, jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $2::text';
        CREATE FUNCTION shop.many(jsonb, jsonb) RETURNS SETOF jsonb LANGUAGE sql IMMUTABLE AS 'SELECT $2';
        CREATE FUNCTION shop.right(jsonb, jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT $2';
        CREATE PROCEDURE shop.procedure(jsonb, jsonb) LANGUAGE sql AS 'SELECT 1';
        CREATE FUNCTION shop.step(jsonb, jsonb, jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT $2';
        CREATE AGGREGATE shop.aggregate(jsonb, jsonb) (SFUNC = shop.step, STYPE = jsonb);
        CREATE TABLE item (id int PRIMARY KEY);";
    let schema = format!("{TABLES} {functions}");
    let mut cluster = Plan::two().schema(&schema).rules(&rule("shop.volatile")).set_up();
    cluster.launch_daemon();
    let log = cluster.log_file();
    wait_for("the log says what is wrong", SOON, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        (text.contains("shop.volatile(jsonb, jsonb) that is VOLATILE") && text.contains("IMMUTABLE; at every node"))
            .then_some(())
    });
    drop(cluster.take_daemon());
    for (function, says) in [
        ("shop.stable", "that is STABLE"),
        ("shop.missing", "has no function shop.missing(jsonb, jsonb)"),
        ("shop.other", "has no function shop.other(jsonb, jsonb), only shop.other(json, text)"),
        ("shop.texts", "that returns text"),
        ("shop.many", "that returns a set"),
        ("shop.procedure", "that is a procedure"),
        ("shop.aggregate", "that is an aggregate"),
        ("price", "`function` has no schema"),
    ] {
        cluster.set_rules(&rule(function));
        let checked = cluster.pgconcord(&["rules", "check", "--schedules", "1"]);
        let text = format!("{}{}", checked.stdout, checked.stderr);
        assert!(checked.code != 0 && text.contains(says), "{function}: {checked}");
    }
    cluster.set_rules(&rule("shop.right"));
    cluster.start_daemon();
    cluster.set_rules(&rule("shop.stable"));
    let reloaded = cluster.pgconcord(&["rules", "reload"]);
    assert!(reloaded.code == 1 && format!("{reloaded}").contains("that is STABLE"), "{reloaded}");
    cluster.set_rules(&rule("shop.right"));
    let reloaded = cluster.pgconcord(&["rules", "reload"]);
    assert_eq!(reloaded.code, 0, "{reloaded}");
    cluster.stop_daemon();
    for place in 0..2 {
        cluster.rows(place, &ordinary_role());
        cluster.rows(
            place,
            "ALTER TABLE price OWNER TO shop_owner; REVOKE EXECUTE ON FUNCTION shop.right(jsonb, jsonb) FROM PUBLIC",
        );
    }
    let cluster = cluster.into_role("pgconcord");
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "1"]);
    let grant = "GRANT EXECUTE ON FUNCTION \"shop\".\"right\"(jsonb, jsonb) TO pgconcord";
    assert!(checked.code == 1 && checked.stdout.contains(grant), "{checked}");
    (0..2).for_each(|place| drop(cluster.rows(place, grant)));
    (0..2).for_each(|place| drop(cluster.rows(place, "REVOKE USAGE ON SCHEMA shop FROM PUBLIC")));
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "1"]);
    assert!(checked.code == 1 && checked.stdout.contains("GRANT USAGE ON SCHEMA \"shop\" TO pgconcord"), "{checked}");
}

fn replace(cluster: &Cluster, body: &str) {
    let text = format!(
        "CREATE OR REPLACE FUNCTION shop.\"Price\"(earlier jsonb, later jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS \
         $$ BEGIN {body} END $$"
    );
    (0..cluster.nodes.len()).for_each(|place| drop(cluster.rows(place, &text)));
}

/// Until each of the two links says so.
fn wait_stopped(cluster: &Cluster, says: &str) -> String {
    let mut last = String::new();
    for link in 0..2 {
        last = wait_for(&format!("the link says {says:?}"), SOON, || {
            let error = cluster.status()["links"][link]["error"].as_str().map(str::to_owned);
            error.filter(|error| error.contains(says))
        });
    }
    last
}

#[test]
fn a_function_that_fails_stops_the_link_until_it_is_replaced() {
    let schema = format!("{TABLES} {HIGHER}");
    let mut cluster = Plan::two().schema(&schema).rules(&rule(RULE)).run();
    replace(&cluster, "RAISE EXCEPTION 'no price for %', earlier->>'note';");
    let held = [cluster.hold_link(1, 0), cluster.hold_link(0, 1)];
    cluster.rows(0, "UPDATE price SET cents = 7, note = 'secret' WHERE item = 1");
    cluster.rows(1, "UPDATE price SET cents = 8, note = 'west' WHERE item = 1");
    drop(held);
    let stopped = wait_stopped(&cluster, "the function shop.\"Price\" that merges rows of public.price fails");
    assert!(stopped.contains("SQLSTATE P0001") && stopped.contains("CREATE OR REPLACE FUNCTION"), "{stopped}");
    assert!(!stopped.contains("secret"), "{stopped}");
    for (body, says) in [
        ("RETURN NULL;", "has returned NULL for a row of public.price"),
        ("RETURN '[1]';", "has returned jsonb of type array"),
        ("RETURN later || '{\"cent\": 1}';", "has returned names that are no columns, \"cent\""),
        ("RETURN later || '{\"cents\": \"much\"}';", "gives what a column does not take (SQLSTATE 22P02)"),
        ("PERFORM pg_sleep(60); RETURN later;", "it has not returned within 5s"),
    ] {
        replace(&cluster, body);
        let stopped = wait_stopped(&cluster, says);
        assert!(!stopped.contains("secret") && !stopped.contains("much"), "{stopped}");
    }
    (0..2).for_each(|place| drop(cluster.rows(place, HIGHER)));
    cluster.settle();
    cluster.assert_everywhere("SELECT cents || note FROM price WHERE item = 1", "8secret+west");
}
