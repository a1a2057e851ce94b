//! Rows that lose a unique value and get another one by a rule: none goes.

use std::fs;
use std::sync::Barrier;
use std::thread;

use crate::harness::{Cluster, Plan, SOON, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;
const NORTH: usize = 2;

const ACCOUNT: &str = "CREATE TABLE account (id int PRIMARY KEY, email text UNIQUE, name text, logins int DEFAULT 0);";
const RULE: &str = r#"
    [[rule]]
    name = "nobody loses an account"
    tables = ["public.account"]
    rename = { email = "email || '+' || id" }
"#;

fn rows(cluster: &Cluster, place: usize) -> String {
    cluster.value(place, "SELECT string_agg(concat_ws(' ', id, email, name), ', ' ORDER BY id) FROM account")
}

fn everywhere(cluster: &Cluster, expected: &str) {
    (0..cluster.names().len()).for_each(|place| assert_eq!(rows(cluster, place), expected, "at {place}"));
}

#[test]
fn the_older_row_gets_another_value_and_stays() {
    let mut cluster = Plan::two().schema(ACCOUNT).rules(RULE).run();
    cluster.rows(EAST, "INSERT INTO account VALUES (5, 'e', 'Eve'), (6, 'f', 'Fay'), (7, 'g', 'Gus'), (8, 'h', 'Hal')");
    cluster.settle();
    cluster.without_seeing(&[
        (EAST, "INSERT INTO account VALUES (1, 'a', 'Ann')"),
        (WEST, "INSERT INTO account VALUES (2, 'a', 'Abe')"),
        // the row that loses stands at both nodes
        (EAST, "UPDATE account SET email = 'z', name = 'Eva' WHERE id = 5"),
        (WEST, "UPDATE account SET email = 'z' WHERE id = 6"),
        // and one that a user changes later wins
        (WEST, "UPDATE account SET email = 'y' WHERE id = 7"),
        (EAST, "UPDATE account SET email = 'y' WHERE id = 8"),
    ]);
    everywhere(&cluster, "1 a+1 Ann, 2 a Abe, 5 z+5 Eva, 6 z Fay, 7 y+7 Gus, 8 y Hal");
    let found = cluster.conflicts(&["--table", "account"]);
    for (key, home) in [("1", "east"), ("7", "west")] {
        let entry = cluster.conflicts_of("public.account", key).pop().expect("a conflict");
        let shown = cluster.pgconcord(&["conflicts", "show", &entry["id"].to_string()]);
        assert!(shown.stdout.contains(&format!("gets another email at {home}")), "{shown}");
    }
    let of_unique =
        |one: &serde_json::Value| ["insert_exists", "update_exists"].iter().any(|name| one["type"] == *name);
    assert!(found.iter().all(of_unique), "{found:?}");
    // they go on as rows like any other
    cluster.rows(WEST, "UPDATE account SET name = 'Anna' WHERE id = 1");
    cluster.rows(EAST, "UPDATE account SET name = 'Evi' WHERE id = 5");
    cluster.settle();
    everywhere(&cluster, "1 a+1 Anna, 2 a Abe, 5 z+5 Evi, 6 z Fay, 7 y+7 Gus, 8 y Hal");
}

/// A row that loses two values gets two new ones; one that loses a value for which there is none is deleted, as without a
/// rule.
#[test]
fn what_is_lost_by_several_indexes() {
    let schema = "CREATE TABLE account (id int PRIMARY KEY, email text, name text UNIQUE, phone int UNIQUE);
        CREATE UNIQUE INDEX account_email ON account (lower(email)) WHERE email <> '';";
    let rule = r#"
        [[rule]]
        name = "nobody loses an account"
        tables = ["public.account"]
        rename = { email = "email || '+' || id", name = "coalesce(name, '') || ' the ' || id" }
    "#;
    let mut cluster = Plan::two().schema(schema).rules(rule).run();
    cluster.without_seeing(&[
        (EAST, "INSERT INTO account VALUES (1, 'A@x', 'Ann', 1), (2, '', 'Bob', 2), (3, 'c@x', 'Cy', 3)"),
        (WEST, "INSERT INTO account VALUES (11, 'a@X', 'Ann', 11), (12, '', 'Bob', 12), (13, 'c@x', 'Cem', 3)"),
    ]);
    everywhere(&cluster, "1 A@x+1 Ann the 1, 2  Bob the 2, 11 a@X Ann, 12  Bob, 13 c@x Cem");
}

#[test]
fn three_nodes_that_give_out_one_value_keep_all_rows() {
    let mut cluster = Plan::three().schema(ACCOUNT).rules(RULE).run();
    cluster.rows(EAST, "INSERT INTO account VALUES (7, 'g', 'Gus')");
    cluster.settle();
    cluster.without_seeing(&[
        (EAST, "INSERT INTO account VALUES (1, 'a', 'Ann')"),
        (NORTH, "UPDATE account SET email = 'a' WHERE id = 7"),
        (WEST, "INSERT INTO account VALUES (2, 'a', 'Abe')"),
    ]);
    everywhere(&cluster, "1 a+1 Ann, 2 a Abe, 7 a+7 Gus");
}

/// Both nodes give out the same values at the same time and go on changing the rows.
#[test]
fn no_row_goes_when_both_nodes_decide_at_once() {
    const VALUES: usize = 60;
    let mut cluster = Plan::two().schema(ACCOUNT).rules(RULE).run();
    let together = Barrier::new(2);
    let taken = |place: usize, cluster: &Cluster| {
        let sql = cluster.sql(place);
        let mut taken = 0;
        for value in 0..VALUES {
            let id = 2 * value + place;
            together.wait();
            let insert = format!("INSERT INTO account VALUES ({id}, 'v{value}') ON CONFLICT DO NOTHING RETURNING id");
            taken += sql.rows(&insert).len();
            sql.rows(&format!("UPDATE account SET logins = logins + 1 WHERE id = {id}"));
        }
        taken
    };
    let written: usize = thread::scope(|scope| {
        let (cluster, taken) = (&cluster, &taken);
        let each = [EAST, WEST].map(|place| scope.spawn(move || taken(place, cluster)));
        each.into_iter().map(|each| each.join().expect("an application")).sum()
    });
    cluster.settle();
    assert!(written > VALUES, "no two rows met");
    assert_eq!(cluster.value(EAST, "SELECT count(*) FROM account"), written.to_string(), "rows that were inserted");
    let owned = "SELECT count(DISTINCT split_part(email, '+', 1)) FROM account WHERE email !~ '[+]'";
    assert_eq!(cluster.value(EAST, owned), VALUES.to_string(), "each value has an owner");
}

#[test]
fn what_a_server_does_not_take_is_said_before() {
    let rules = r#"
        [[rule]]
        name = "n"
        tables = ["public.account"]
        rename = { email = "emial || id", name = "name || id", id = "id + 1" }
    "#;
    let cluster = Plan::two().schema(ACCOUNT).rules(rules).set_up();
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "5"]);
    assert_eq!(checked.code, 1, "{checked}");
    for part in ["\"name\" is in no unique index", "\"id\" is a key column"] {
        assert!(checked.stdout.contains(part), "{part}: {checked}");
    }
    cluster.set_rules(&rules.replace(", name = \"name || id\", id = \"id + 1\"", ""));
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "5"]);
    let said = "east does not take what `rename` gives \"email\": column \"emial\" does not exist";
    assert!(checked.code == 1 && checked.stdout.contains(said), "{checked}");
    let run = cluster.pgconcord(&["run"]);
    assert!(run.code == 1 && run.stderr.contains(said), "{run}");
    let told = cluster.pgconcord(&["rules", "explain", "account"]);
    assert!(told.stdout.contains("it gets email = emial || id"), "{told}");
}

/// Values that others have, or that are none, are told and written by nobody; another rule lets the links go on.
#[test]
fn a_value_that_is_taken_or_no_other_one_stops_the_link_until_the_rule_is_mended() {
    let schema = "CREATE TABLE account (id int PRIMARY KEY, email text, name text);
        CREATE UNIQUE INDEX account_email ON account (lower(email));";
    let rule = |value: &str| RULE.replace("email || '+' || id", value);
    let mut cluster = Plan::two().schema(schema).rules(&rule("'nobody'")).run();
    cluster.rows(EAST, "INSERT INTO account VALUES (9, 'nobody', 'N')");
    cluster.settle();
    cluster.stop_daemon();
    cluster.rows(EAST, "INSERT INTO account VALUES (1, 'a', 'Ann')");
    cluster.rows(WEST, "INSERT INTO account VALUES (2, 'A', 'Abe')");
    cluster.launch_daemon();
    let log = cluster.log_file();
    let says = |what: &str| {
        wait_for(what, SOON, || fs::read_to_string(&log).unwrap_or_default().contains(what).then_some(()));
    };
    says("east can't give a row of public.account another email: another row has the one that `rename` makes");
    cluster.set_rules(&rule("upper(email)"));
    assert_eq!(cluster.pgconcord(&["rules", "reload"]).code, 0);
    says(
        "east can't give a row of public.account another email: the one that `rename` makes is the same one to account_email",
    );
    assert_eq!(rows(&cluster, EAST), "1 a Ann, 9 nobody N");
    wait_for("the status says so", SOON, || {
        cluster.pgconcord(&["status"]).stdout.contains("is the same one to account_email").then_some(())
    });
    cluster.set_rules(&rule("email || '+' || id"));
    assert_eq!(cluster.pgconcord(&["rules", "reload"]).code, 0);
    cluster.settle();
    everywhere(&cluster, "1 a+1 Ann, 2 A Abe, 9 nobody N");
}
