//! Changes that a node refuses: the link stops, or, where a rule says so, goes on without the row until it can be written.

use serde_json::Value;

use crate::harness::{Cluster, Plan, SOON, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;

const TABLES: &str = "
    CREATE TABLE item (id int PRIMARY KEY, n int, note text);
    CREATE TABLE other (id int PRIMARY KEY);
    ALTER TABLE item REPLICA IDENTITY FULL;
    INSERT INTO item SELECT i, 0, 'start' FROM generate_series(1, 9) i;
";

const RULES: &str = r#"
[[rule]]
name = "items may wait"
tables = ["public.item"]
errors = "hold"
"#;

/// The west takes no number above ten.
fn picky() -> Plan {
    Plan::two().schema(TABLES).rules(RULES).at(WEST, "ALTER TABLE item ADD CONSTRAINT small CHECK (n <= 10)")
}

fn items(cluster: &Cluster, place: usize) -> String {
    cluster.value(place, "SELECT coalesce(string_agg(id || ':' || n, ' ' ORDER BY id), '') FROM item WHERE n <> 0")
}

fn held(cluster: &Cluster) -> Vec<Value> {
    cluster.conflicts(&["--status", "held"])
}

/// Waits until the journal says that nothing is held.
fn released(cluster: &Cluster) {
    wait_for("nothing is held", SOON, || held(cluster).is_empty().then_some(()));
    assert_eq!(cluster.value(WEST, "SELECT count(*) FROM pgconcord.held"), "0");
}

fn equal(cluster: &mut Cluster, items_there: &str) {
    cluster.settle();
    for place in [EAST, WEST] {
        assert_eq!(items(cluster, place), items_there, "at {place}");
    }
}

/// Waits until everything that the east has is applied at the west, but for what that refuses.
fn goes_on(cluster: &mut Cluster) {
    cluster.rows(EAST, "INSERT INTO other SELECT coalesce(max(id), 0) + 1 FROM other");
    let count = cluster.value(EAST, "SELECT count(*) FROM other");
    wait_for("the link goes on", SOON, || (cluster.value(WEST, "SELECT count(*) FROM other") == count).then_some(()));
}

#[test]
fn a_refused_row_is_held_and_the_link_goes_on() {
    let mut cluster = picky().run();
    cluster.rows(EAST, "BEGIN; UPDATE item SET n = 5 WHERE id = 1; UPDATE item SET n = 50 WHERE id = 2; COMMIT");
    cluster.rows(EAST, "INSERT INTO item VALUES (20, 99, 'new'); UPDATE item SET n = 7 WHERE id = 3");
    cluster.rows(EAST, "UPDATE item SET id = 30, n = 30 WHERE id = 4");
    goes_on(&mut cluster);
    assert_eq!(items(&cluster, WEST), "1:5 3:7");
    assert_eq!(
        cluster.value(WEST, "SELECT count(*) FROM item WHERE id = 4"),
        "0",
        "half of the key change could be written"
    );
    wait_for("they are held", SOON, || (held(&cluster).len() == 3).then_some(()));
    let entry = cluster.conflicts_of("public.item", "2").remove(0);
    assert_eq!((entry["type"].as_str(), entry["resolution"].as_str()), (Some("apply_error"), Some("hold")), "{entry}");
    assert_eq!((entry["rule"].as_str(), entry["remote"]["row"]["n"].as_str()), (Some("items may wait"), Some("50")));
    assert_eq!(entry["result"]["n"], "0", "what stands there instead");
    let page = cluster.pgconcord(&["conflicts", "show", &entry["id"].to_string()]);
    for part in ["west refused it", "violates check constraint \"small\"", "23514"] {
        assert!(page.stdout.contains(part), "{part} is not in {page}");
    }
    assert_eq!(cluster.pgconcord(&["status"]).code, 0, "nothing is wrong with the links");

    // what can be written after all is: a later change of the row, or the same one once the server takes it
    cluster.rows(EAST, "UPDATE item SET n = 6 WHERE id = 2");
    goes_on(&mut cluster);
    assert_eq!(items(&cluster, WEST), "1:5 2:6 3:7");
    cluster.rows(WEST, "ALTER TABLE item DROP CONSTRAINT small");
    let output = cluster.pgconcord(&["conflicts", "retry"]);
    assert!(output.code == 0 && output.stdout.contains("2 rows are tried again"), "{output}");
    equal(&mut cluster, "1:5 2:6 3:7 20:99 30:30");
    released(&cluster);
}

#[test]
fn a_local_change_takes_the_place_of_a_held_one_at_every_node() {
    let mut cluster = picky().run();
    cluster
        .rows(EAST, "UPDATE item SET n = 50 WHERE id IN (1, 2); INSERT INTO item VALUES (20, 99), (21, 99), (22, 5)");
    cluster.rows(EAST, "UPDATE item SET n = 11 WHERE id = 22; DELETE FROM item WHERE id = 22");
    goes_on(&mut cluster);
    wait_for("they are held", SOON, || (held(&cluster).len() >= 4).then_some(()));
    cluster.rows(WEST, "UPDATE item SET note = 'west' WHERE id = 1; DELETE FROM item WHERE id = 2");
    cluster.rows(WEST, "INSERT INTO item VALUES (20, 3, 'west')");
    wait_for("given up", SOON, || (cluster.value(WEST, "SELECT count(*) FROM pgconcord.held") == "1").then_some(()));
    cluster.rows(EAST, "DELETE FROM item WHERE id = 21");
    equal(&mut cluster, "20:3");
    assert_eq!(cluster.value(EAST, "SELECT note FROM item WHERE id = 1"), "west");
    released(&cluster);
    cluster.rows(EAST, "UPDATE item SET n = 50 WHERE id = 5");
    goes_on(&mut cluster);
    assert_eq!(cluster.value(WEST, "SELECT count(*) FROM pgconcord.held"), "1");
    cluster.rows(EAST, "TRUNCATE item");
    equal(&mut cluster, "");
    released(&cluster);
}

#[test]
fn what_is_held_survives_the_daemon_and_a_change_that_it_did_not_see() {
    let mut cluster = picky().run();
    cluster.rows(EAST, "UPDATE item SET n = 50 WHERE id IN (1, 2, 3)");
    goes_on(&mut cluster);
    cluster.kill_daemon();
    // while it is away: one is overtaken where it is held, one where it was made
    cluster.rows(WEST, "UPDATE item SET n = 4 WHERE id = 1");
    cluster.rows(EAST, "UPDATE item SET n = 8 WHERE id = 2");
    cluster.start_daemon();
    goes_on(&mut cluster);
    wait_for("one is left", SOON, || (cluster.value(WEST, "SELECT count(*) FROM pgconcord.held") == "1").then_some(()));
    wait_for("one is held", SOON, || (held(&cluster).len() == 1).then_some(()));
    assert_eq!(items(&cluster, WEST), "1:4 2:8");
    cluster.rows(WEST, "ALTER TABLE item DROP CONSTRAINT small");
    cluster.stop_daemon();
    cluster.start_daemon();
    cluster.pgconcord(&["conflicts", "retry"]);
    equal(&mut cluster, "1:4 2:8 3:50");
    released(&cluster);
}

#[test]
fn a_person_decides_about_what_is_held() {
    let mut cluster = picky().run();
    cluster.rows(EAST, "UPDATE item SET n = 50 WHERE id < 4; INSERT INTO item VALUES (20, 99), (21, 99)");
    goes_on(&mut cluster);
    wait_for("they are held", SOON, || (held(&cluster).len() == 5).then_some(()));
    let id = |key: &str| cluster.conflicts_of("public.item", key).remove(0)["id"].to_string();
    for (key, decision, code, says) in [
        ("1", &["--keep", "remote"][..], 1, "small"),
        ("1", &["--keep", "local"], 0, "what west had is written at west"),
        ("2", &["--set", r#"{"n": 9}"#], 0, "what was set is written at west"),
        ("3", &["--drop"], 0, "no row is written at west"),
        ("20", &["--keep", "local"], 0, "is written at east"),
        ("21", &["--keep", "remote", "--set", r#"{"n": 2}"#], 0, "is written at west"),
    ] {
        let output = cluster.pgconcord(&[&["conflicts", "resolve", &id(key)], decision].concat());
        assert_eq!(output.code, code, "{key} {decision:?} {output}");
        assert!(output.text().contains(says), "{key} {decision:?} {output}");
    }
    let undo = cluster.pgconcord(&["conflicts", "undo", &id("1")]);
    assert!(undo.code == 1 && undo.stderr.contains("nothing was decided"), "{undo}");
    equal(&mut cluster, "2:9 21:2");
    assert_eq!(cluster.value(EAST, "SELECT count(*) FROM item WHERE id IN (1, 3, 20)"), "1");
    released(&cluster);
}

#[test]
fn without_a_rule_the_link_stops_and_where_the_rule_does_not_fit_so_does_the_start() {
    let mut cluster = picky().rules("").run();
    cluster.rows(EAST, "UPDATE item SET n = 5 WHERE id = 1");
    cluster.rows(EAST, "UPDATE item SET n = 50 WHERE id = 2");
    let stopped = || {
        let status = cluster.status();
        let links = status["links"].as_array().expect("links").clone();
        links.into_iter().find(|link| link["state"] == "stopped").map(|link| link.to_string())
    };
    let link = wait_for("the link stops", SOON, stopped);
    assert!(link.contains("small"), "{link}");
    assert_eq!(items(&cluster, WEST), "1:5", "what comes before is applied");
    cluster.set_rules(RULES);
    let output = cluster.pgconcord(&["rules", "reload"]);
    assert_eq!(output.code, 0, "{output}");
    goes_on(&mut cluster);
    wait_for("it is held", SOON, || (held(&cluster).len() == 1).then_some(()));
    cluster.rows(EAST, "UPDATE item SET n = 1 WHERE id = 2");
    equal(&mut cluster, "1:5 2:1");
    cluster.set_rules(&RULES.replace("public.item", "public.*"));
    let output = cluster.pgconcord(&["rules", "check", "--schedules", "20"]);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.text().contains("ALTER TABLE \"public\".\"other\" REPLICA IDENTITY FULL"), "{output}");
}

#[test]
fn a_held_row_gives_way_to_a_later_one_with_its_unique_value() {
    let table =
        "CREATE TABLE mail (id int PRIMARY KEY, address text UNIQUE, n int); ALTER TABLE mail REPLICA IDENTITY FULL;";
    let rules = RULES.replace("public.item", "public.mail");
    let check = "ALTER TABLE mail ADD CONSTRAINT small CHECK (n <= 10)";
    let mut cluster = Plan::two().schema(TABLES).schema(table).rules(&rules).at(WEST, check).run();
    cluster.rows(EAST, "INSERT INTO mail VALUES (1, 'a@b.c', 99), (3, 'd@e.f', 99), (5, 'g@h.i', 99)");
    goes_on(&mut cluster);
    wait_for("they are held", SOON, || (held(&cluster).len() == 3).then_some(()));
    // the later row takes the value, at the east at once; the earlier one is deleted there, and given up here
    cluster.rows(WEST, "INSERT INTO mail VALUES (2, 'a@b.c', 1)");
    wait_for("it gives way", SOON, || {
        (cluster.value(EAST, "SELECT count(*) FROM mail WHERE id = 1") == "0").then_some(())
    });
    cluster.rows(WEST, "ALTER TABLE mail DROP CONSTRAINT small");
    cluster.pgconcord(&["conflicts", "retry"]);
    cluster.settle();
    for place in [EAST, WEST] {
        let rows = cluster.value(place, "SELECT string_agg(id || address, ' ' ORDER BY id) FROM mail");
        assert_eq!(rows, "2a@b.c 3d@e.f 5g@h.i");
    }
    released(&cluster);
}

#[test]
fn a_trigger_that_raises_and_a_type_that_does_not_fit_are_refusals_too() {
    let table = "CREATE TABLE odd (id int PRIMARY KEY, v varchar(9)); ALTER TABLE odd REPLICA IDENTITY FULL;";
    let picky = "
        ALTER TABLE odd ALTER v TYPE varchar(3);
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not today'; END$$;
        CREATE TRIGGER no BEFORE DELETE ON odd FOR EACH ROW EXECUTE FUNCTION no();
        ALTER TABLE odd ENABLE ALWAYS TRIGGER no;";
    let rules = RULES.replace("name = ", "mask = [\"v\"]\nname = ").replace("public.item", "public.odd");
    let mut cluster = Plan::two().schema(TABLES).schema(table).rules(&rules).at(WEST, picky).run();
    cluster.rows(EAST, "INSERT INTO odd VALUES (1, 'abc'), (2, 'secret')");
    cluster.rows(EAST, "DELETE FROM odd WHERE id = 1");
    goes_on(&mut cluster);
    wait_for("they are held", SOON, || (held(&cluster).len() == 2).then_some(()));
    let mut told = String::new();
    for entry in held(&cluster) {
        told += &cluster.pgconcord(&["conflicts", "show", &entry["id"].to_string(), "--json"]).stdout;
    }
    assert!(told.contains("P0001") && told.contains("22001") && told.contains("***"), "{told}");
    for secret in ["secret", "not today"] {
        assert!(!told.contains(secret), "{secret} is masked: {told}");
    }
    assert!(!cluster.daemon().log().contains("secret"), "{}", cluster.daemon().log());
    cluster.rows(WEST, "DROP TRIGGER no ON odd; ALTER TABLE odd ALTER v TYPE varchar(9)");
    cluster.pgconcord(&["conflicts", "retry"]);
    cluster.settle();
    assert_eq!(cluster.value(WEST, "SELECT string_agg(id || v, ' ') FROM odd"), "2secret");
    released(&cluster);
}

#[test]
fn a_refused_change_in_a_backlog_costs_few_attempts() {
    let mut cluster = picky().run();
    cluster.stop_daemon();
    let make = "DO $$ BEGIN FOR i IN 1..3000 LOOP
        INSERT INTO item VALUES (100 + i, CASE WHEN i % 1000 = 999 THEN 99 ELSE 1 END); COMMIT; END LOOP; END $$";
    cluster.rows(EAST, make);
    cluster.start_daemon();
    goes_on(&mut cluster);
    assert_eq!(cluster.value(WEST, "SELECT count(*) FROM item WHERE id > 100"), "2997");
    let status = cluster.status();
    let retries: Vec<u64> =
        status["links"].as_array().expect("links").iter().filter_map(|link| link["retries"].as_u64()).collect();
    assert!(retries.iter().sum::<u64>() < 150, "one transaction after the other: {status}");
    wait_for("they are held", SOON, || (held(&cluster).len() == 3).then_some(()));
    cluster.rows(WEST, "ALTER TABLE item DROP CONSTRAINT small");
    cluster.pgconcord(&["conflicts", "retry"]);
    cluster.settle();
    released(&cluster);
}
