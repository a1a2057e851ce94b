//! Columns that are merged by an SQL expression.

use std::fs;

use crate::harness::{Plan, SOON, ordinary_role, wait_for};

const TABLES: &str = "
    CREATE SCHEMA shop;
    CREATE FUNCTION shop.longer(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE
        AS $$ SELECT CASE WHEN length(a) >= length(b) THEN a ELSE b END $$;
    CREATE FUNCTION public.longer(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT a';
    CREATE TABLE offer (id int PRIMARY KEY, price numeric(8,2), sum int, ratio int NOT NULL DEFAULT 1, note text);
    ALTER TABLE offer REPLICA IDENTITY FULL;
    GRANT USAGE ON SCHEMA shop TO PUBLIC;
    INSERT INTO offer SELECT i, 100, 10, 1, 'a' FROM generate_series(1, 4) i;";

fn rule(columns: &str) -> String {
    format!(
        "[[rule]]\nname = \"offers\"\ntables = [\"public.offer\"]\nresolve = \"merge\"\n[rule.columns]\n{columns}\n"
    )
}

#[test]
fn three_nodes_make_one_value_of_three() {
    let columns = r#"
price = { sql = "(local + remote) / 2 -- a mean" }
sum = { sql = "local + remote - coalesce(old, 0)" }
note = { sql = "shop.longer(local, remote)" }"#;
    let mut cluster = Plan::three().schema(TABLES).rules(&rule(columns)).run();
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "20"]);
    assert!(
        checked.code == 0 && checked.stdout.contains("merging by sql (simulated with another expression)"),
        "{checked}"
    );
    cluster.without_seeing(&[
        (0, "UPDATE offer SET price = 200, sum = sum + 1, note = 'east' WHERE id < 3"),
        (1, "UPDATE offer SET price = 400, sum = sum + 10, note = 'the west' WHERE id < 3"),
        (2, "UPDATE offer SET price = 500, sum = sum + 100, note = 'n' WHERE id < 2"),
        (0, "UPDATE offer SET price = NULL WHERE id = 3; UPDATE offer SET price = 300 WHERE id = 4"),
        (2, "UPDATE offer SET price = 50, note = 'north' WHERE id = 3"),
        (0, "INSERT INTO offer VALUES (5, 10, 1)"),
        (1, "INSERT INTO offer VALUES (5, 20, 2)"),
    ]);
    let offers = "SELECT string_agg(concat_ws(' ', id, price, sum, note), ', ' ORDER BY id) FROM offer";
    let all = "1 400.00 121 the west, 2 300.00 21 the west, 3 10 north, 4 300.00 10 a, 5 15.00 3";
    cluster.assert_everywhere(offers, all);
    // what is written in turn stays as it is
    cluster.replicate(1, &["UPDATE offer SET price = 1 WHERE id = 1"]);
    cluster.assert_everywhere("SELECT price FROM offer WHERE id = 1", "1.00");
}

#[test]
fn an_expression_that_a_node_does_not_take_stops_the_start() {
    let mut cluster = Plan::two().schema(TABLES).rules(&rule("price = { sql = \"local + random()\" }")).set_up();
    cluster.launch_daemon();
    let log = cluster.log_file();
    wait_for("the log says what is wrong", SOON, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        (text.contains("does not take the expression that merges \"price\"") && text.contains("immutable"))
            .then_some(())
    });
    drop(cluster.take_daemon());
    for (columns, says) in [
        ("price = { sql = \"local + remotee\" }", "remotee"),
        ("note = { sql = \"shop.shorter(local, remote)\" }", "shop.shorter"),
        ("note = { sql = \"longer(local, remote)\" }", "function longer(text, text) does not exist"),
        ("sum = { sql = \"point(local, remote)\" } ", "cast"),
        ("sum = { sql = \"(SELECT max(sum) FROM offer)\" } ", "subquery"),
        ("sum = { sql = \"local +\" } ", "syntax error"),
        ("id = { sql = \"local + remote\" } ", "is a key column"),
    ] {
        cluster.set_rules(&rule(columns));
        let checked = cluster.pgconcord(&["rules", "check", "--schedules", "1"]);
        assert!(checked.code == 1 && checked.stdout.contains(says), "{columns}: {checked}");
    }
}

#[test]
fn an_expression_that_fails_stops_the_link_until_the_value_is_another_one() {
    let mut cluster = Plan::two().schema(TABLES).rules(&rule("ratio = { sql = \"100 / (local - remote)\" }")).run();
    let held = [cluster.hold_link(1, 0), cluster.hold_link(0, 1)];
    cluster.rows(0, "UPDATE offer SET ratio = 7, note = 'east' WHERE id = 1");
    cluster.rows(1, "UPDATE offer SET ratio = 7 WHERE id = 1");
    drop(held);
    for link in 0..2 {
        let stopped = wait_for("the link stops", SOON, || {
            let error = cluster.status()["links"][link]["error"].as_str().map(str::to_owned);
            error.filter(|error| error.contains("public.offer.ratio fails (SQLSTATE 22012)"))
        });
        assert!(stopped.contains("change the value at the target"), "{stopped}");
    }
    cluster.rows(0, "UPDATE offer SET ratio = 2 WHERE id = 1");
    cluster.settle();
    // 7 of the west was written first, 2 of the east later
    cluster.assert_everywhere("SELECT ratio || note FROM offer WHERE id = 1", "20east");
}

/// Of a role that may make no temporary table the immutability is not known; everything else is.
#[test]
fn without_temporary_tables_the_rest_is_still_checked() {
    // the table that the role's rights are written for
    let schema = format!("{TABLES} CREATE TABLE item (id int PRIMARY KEY);");
    let cluster = Plan::two().schema(&schema).rules(&rule("sum = { sql = \"local + remote\" }")).set_up();
    for place in 0..2 {
        cluster.rows(place, &ordinary_role());
        cluster.rows(place, "ALTER TABLE offer OWNER TO shop_owner");
        cluster.rows(place, "REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC");
    }
    let cluster = cluster.into_role("pgconcord");
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "1"]);
    assert!(
        checked.code == 0 && checked.stdout.contains("warning") && checked.stdout.contains("GRANT TEMPORARY"),
        "{checked}"
    );
    cluster.set_rules(&rule("sum = { sql = \"local + remotee\" }"));
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "1"]);
    assert!(checked.code == 1 && checked.stdout.contains("remotee"), "{checked}");
}

#[test]
fn a_reload_refuses_an_expression_that_a_node_does_not_take() {
    let cluster = Plan::two().schema(TABLES).rules(&rule("sum = { sql = \"local + remote\" }")).run();
    cluster.set_rules(&rule("sum = { sql = \"local + pg_backend_pid()\" }"));
    let reloaded = cluster.pgconcord(&["rules", "reload"]);
    let says = |part: &str| reloaded.stdout.contains(part) || reloaded.stderr.contains(part);
    assert!(reloaded.code == 1 && says("does not take the expression that merges \"sum\""), "{reloaded}");
    cluster.set_rules(&rule("sum = { sql = \"greatest(local, remote)\" }"));
    let reloaded = cluster.pgconcord(&["rules", "reload"]);
    assert!(reloaded.code == 0 && reloaded.stdout.contains("public.offer"), "{reloaded}");
}
