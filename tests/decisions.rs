//! What people decide about conflicts: held ones, and those that a rule has decided otherwise than they want.

use serde_json::Value;

use crate::harness::{Cluster, Plan, SOON, wait_for};

const TABLES: &str = "
    CREATE TABLE note (id int PRIMARY KEY, v text, email text);
    CREATE TABLE mail (id int PRIMARY KEY, address text UNIQUE);
    CREATE TABLE odd (k numeric, l bool, v \"char\", b bytea, n int GENERATED ALWAYS AS IDENTITY,
                      PRIMARY KEY (k, l, n));
    ALTER TABLE note REPLICA IDENTITY FULL;
    INSERT INTO note SELECT i, 'start', 'a@b.c' FROM generate_series(1, 6) i;
    INSERT INTO odd (k, l, v, b) VALUES (1.0, true, 'a', 'a');
";

const RULES: &str = r#"
[[rule]]
name = "a person reads notes"
tables = ["public.note"]
resolve = "hold"
mask = ["email"]
"#;

const EAST: usize = 0;
const WEST: usize = 1;

/// The conflict about the key that the east's change met at the west.
fn of(cluster: &Cluster, table: &str, key: &str) -> Value {
    let entries = cluster.conflicts_of(table, key);
    let found = entries.iter().find(|entry| entry["target"] == "west");
    found.unwrap_or_else(|| panic!("none found at west: {entries:?}")).clone()
}

fn id(entry: &Value) -> String {
    entry["id"].as_i64().expect("a number").to_string()
}

#[test]
fn a_held_conflict_stands_by_the_last_update_until_a_person_decides() {
    let mut cluster = Plan::two().schema(TABLES).rules(RULES).run();
    cluster.without_seeing(&[
        (EAST, "UPDATE note SET v = 'east' WHERE id IN (1, 2, 3)"),
        (WEST, "UPDATE note SET v = 'west' WHERE id IN (1, 2); DELETE FROM note WHERE id = 3"),
    ]);
    for place in [EAST, WEST] {
        let rows = cluster.rows(place, "SELECT id, v FROM note WHERE id < 4 ORDER BY id");
        let rows: Vec<String> = rows.into_iter().map(|row| row.into_iter().flatten().collect()).collect();
        assert_eq!(rows, ["1west", "2west"], "the last update stands everywhere");
    }
    let entry = of(&cluster, "public.note", "1");
    assert_eq!((entry["status"].as_str(), entry["resolution"].as_str()), (Some("held"), Some("hold")), "{entry}");
    assert_eq!(entry["rule"], "a person reads notes");
    wait_for("status counts them", SOON, || (cluster.status()["journal"]["held"] == 3).then_some(()));
    let page = cluster.pgconcord(&["status"]);
    assert!(page.stdout.contains("held     3 rows wait for a person"), "{page}");
    let page = cluster.pgconcord(&["conflicts", "show", &id(&entry)]);
    assert!(page.stdout.contains("what west had stands until a person decides: pgconcord conflicts resolve"), "{page}");

    let output = cluster.pgconcord(&["conflicts", "resolve", &id(&entry), "--keep", "remote"]);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.contains("public.note (id=1): what east had is written at west"), "{output}");
    assert!(output.stdout.contains("email stays, for the journal lacks it"), "{output}");
    let gone = id(&of(&cluster, "public.note", "3"));
    let lacking = cluster.pgconcord(&["conflicts", "undo", &gone]);
    assert_eq!(lacking.code, 1, "a masked value is not made up: {lacking}");
    assert!(lacking.stderr.contains("lacks its values of email") && lacking.stderr.contains("--set"), "{lacking}");
    let set = r#"{"email": "d@e.f"}"#;
    let output = cluster.pgconcord(&["conflicts", "resolve", &gone, "--keep", "remote", "--set", set]);
    assert_eq!(output.code, 0, "{output}");
    let output = cluster.pgconcord(&["conflicts", "resolve", &id(&of(&cluster, "public.note", "2")), "--drop"]);
    assert_eq!(output.code, 0, "{output}");
    cluster.settle();
    for place in [EAST, WEST] {
        let rows = cluster.rows(place, "SELECT id, v, email FROM note WHERE id < 4 ORDER BY id");
        let rows: Vec<String> = rows.into_iter().map(|row| row.into_iter().flatten().collect()).collect();
        assert_eq!(rows, ["1easta@b.c", "3eastd@e.f"]);
    }
    for entry in cluster.conflicts_of("public.note", "1") {
        assert_eq!(
            (entry["status"].as_str(), entry["resolution"].as_str()),
            (Some("resolved"), Some("hold")),
            "{entry}"
        );
    }
    let page = cluster.pgconcord(&["conflicts", "show", &id(&entry)]);
    assert!(page.stdout.contains("decided by hand on") && page.stdout.contains("a person has decided since"), "{page}");
    wait_for("nothing is held", SOON, || (cluster.status()["journal"]["held"] == 0).then_some(()));
}

#[test]
fn what_a_rule_decided_is_undone_unless_the_row_has_changed() {
    let mut cluster = Plan::two().schema(TABLES).run();
    cluster.without_seeing(&[
        (EAST, "UPDATE note SET v = 'east' WHERE id = 1; UPDATE note SET v = 'it''s east' WHERE id = 2"),
        (WEST, "UPDATE note SET v = 'west' WHERE id = 1; DELETE FROM note WHERE id = 2"),
    ]);
    let (changed, deleted) = (id(&of(&cluster, "public.note", "1")), id(&of(&cluster, "public.note", "2")));
    let dry = cluster.pgconcord(&["conflicts", "undo", &changed, "--dry-run"]);
    assert!(dry.stdout.starts_with("UPDATE ONLY \"public\".\"note\" SET \"v\" = 'east'"), "{dry}");
    assert_eq!(cluster.value(WEST, "SELECT v FROM note WHERE id = 1"), "west");
    cluster.rows(EAST, "UPDATE note SET v = 'later' WHERE id = 1");
    cluster.settle();
    let refused = cluster.pgconcord(&["conflicts", "undo", &changed]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(refused.stderr.contains("v: west then, later now") && refused.stderr.contains("--force"), "{refused}");
    let undone = cluster.pgconcord(&["conflicts", "undo", &deleted, "--at", "east"]);
    assert_eq!(undone.code, 0, "{undone}");
    cluster.settle();
    for place in [EAST, WEST] {
        assert_eq!(cluster.value(place, "SELECT v FROM note WHERE id = 1"), "later");
        assert_eq!(cluster.value(place, "SELECT v FROM note WHERE id = 2"), "it's east");
    }
    let output = cluster.pgconcord(&["conflicts", "resolve", &changed, "--keep", "remote", "--force"]);
    assert_eq!(output.code, 0, "{output}");
    // twice is once
    let again = cluster.pgconcord(&["conflicts", "resolve", &changed, "--keep", "remote"]);
    assert!(again.stdout.contains("what east had stands already"), "{again}");
    let set = r#"{"v": null, "emil": "x"}"#;
    let slip = cluster.pgconcord(&["conflicts", "resolve", &changed, "--set", set, "--force"]);
    assert_eq!(slip.code, 1, "{slip}");
    assert!(slip.stderr.contains("did you mean `email`?"), "{slip}");
    let set = cluster.pgconcord(&["conflicts", "resolve", &changed, "--set", r#"{"v": null}"#, "--force"]);
    assert_eq!(set.code, 0, "{set}");
    cluster.settle();
    for place in [EAST, WEST] {
        assert_eq!(cluster.value(place, "SELECT coalesce(v, '-') || email FROM note WHERE id = 1"), "-a@b.c");
    }
    for (arguments, code, says) in [
        (&["undo", "4711"][..], 1, "no conflict 4711 is on record"),
        (&["undo", &changed, "--at", "north"], 2, "no node \"north\""),
        (&["resolve", &changed], 2, "--keep"),
        (&["resolve", &changed, "--drop", "--keep", "local"], 2, "cannot be used with"),
        (&["resolve", &changed, "--set", "5"], 2, "write a JSON object"),
    ] {
        let output = cluster.pgconcord(&[&["conflicts"], arguments].concat());
        assert_eq!(output.code, code, "{arguments:?} {output}");
        assert!(output.stderr.contains(says), "{arguments:?} {output}");
    }
}

#[test]
fn the_loser_of_a_unique_value_comes_back_with_another() {
    let mut cluster = Plan::two().schema(TABLES).run();
    cluster.without_seeing(&[
        (EAST, "INSERT INTO mail VALUES (1, 'x@y.z')"),
        (WEST, "INSERT INTO mail VALUES (2, 'x@y.z')"),
    ]);
    assert_eq!(cluster.value(EAST, "SELECT id FROM mail"), "2");
    let entry = cluster.conflicts(&["--table", "public.mail"]).remove(0);
    let taken = cluster.pgconcord(&["conflicts", "undo", &id(&entry)]);
    assert_eq!(taken.code, 1, "{taken}");
    assert!(taken.stderr.contains("mail_address_key"), "{taken}");
    let side = if entry["remote"]["row"]["id"] == "1" { "remote" } else { "local" };
    let set = r#"{"address": "x2@y.z"}"#;
    let output = cluster.pgconcord(&["conflicts", "resolve", &id(&entry), "--keep", side, "--set", set]);
    assert_eq!(output.code, 0, "{output}");
    cluster.settle();
    for place in [EAST, WEST] {
        assert_eq!(
            cluster.value(place, "SELECT string_agg(id || address, ' ' ORDER BY id) FROM mail"),
            "1x2@y.z 2x@y.z"
        );
    }
}

#[test]
fn values_of_any_type_are_written_as_they_were() {
    let mut cluster = Plan::two().schema(TABLES).run();
    cluster
        .without_seeing(&[(EAST, r"UPDATE odd SET v = '\303', b = '\x00ff' WHERE k = 1"), (WEST, "DELETE FROM odd")]);
    let before = r"\303 \x00ff";
    let entry = cluster.conflicts(&["--table", "public.odd"]).pop().expect("a conflict");
    let undone = cluster.pgconcord(&["conflicts", "undo", &id(&entry)]);
    assert_eq!(undone.code, 0, "{undone}");
    cluster.settle();
    for place in [EAST, WEST] {
        assert_eq!(cluster.value(place, "SELECT v::text || ' ' || b::text FROM odd WHERE k = 1.00 AND l"), before);
    }
}
