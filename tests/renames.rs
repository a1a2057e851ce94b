//! Rows that lose a unique value and get another one by a rule: none goes.

use std::fs;
use std::sync::Barrier;
use std::thread;

use crate::harness::{Cluster, Plan, SOON, ordinary_role, wait_for};

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

fn wait_for_log(cluster: &Cluster, what: &str) {
    let said = || fs::read_to_string(cluster.log_file()).unwrap_or_default().contains(what);
    wait_for(what, SOON, || said().then_some(()));
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
        assert!(
            shown.stdout.contains(&format!("gets another email by the rule \"nobody loses an account\" at {home}")),
            "{shown}"
        );
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

/// A row that loses two values gets two new ones; the others it keeps.
#[test]
fn what_is_lost_by_several_indexes() {
    let schema = "CREATE TABLE account (id int PRIMARY KEY, email text, name text UNIQUE, phone int UNIQUE);
        CREATE UNIQUE INDEX account_email ON account (lower(email)) WHERE email <> '';";
    let rule = r#"
        [[rule]]
        name = "nobody loses an account"
        tables = ["public.account"]
        rename = { email = "email || '+' || id", name = "coalesce(name, '') || ' the ' || id", phone = "NULL" }
    "#;
    let mut cluster = Plan::two().schema(schema).rules(rule).run();
    cluster.without_seeing(&[
        (EAST, "INSERT INTO account VALUES (1, 'A@x', 'Ann', 1), (2, '', 'Bob', 2), (3, 'c@x', 'Cy', 3)"),
        (WEST, "INSERT INTO account VALUES (11, 'a@X', 'Ann', 11), (12, '', 'Bob', 12), (13, 'c@x', 'Cem', 3)"),
    ]);
    everywhere(&cluster, "1 A@x+1 Ann the 1, 2  Bob the 2, 3 c@x+3 Cy, 11 a@X Ann, 12  Bob, 13 c@x Cem");
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
    let says = |what: &str| wait_for_log(&cluster, what);
    says(
        "east can't give a row of public.account another email by the rule \"nobody loses an account\": another row has the one",
    );
    let reload = |to: &str| {
        cluster.set_rules(&rule(to));
        let printed = cluster.pgconcord(&["rules", "reload"]);
        let said = "rows that lose a unique value get something else than before in public.account";
        assert!(printed.code == 0 && printed.stdout.contains(said), "{printed}");
    };
    reload("upper(email)");
    says("the one that it makes is the same one to account_email");
    assert_eq!(rows(&cluster, EAST), "1 a Ann, 9 nobody N");
    wait_for("the status says so", SOON, || {
        cluster.pgconcord(&["status"]).stdout.contains("is the same one to account_email").then_some(())
    });
    reload("email || '+' || id");
    cluster.settle();
    everywhere(&cluster, "1 a+1 Ann, 2 A Abe, 9 nobody N");
}

/// What the server refuses is told without the row, of which a column is masked; a trigger is told as one.
#[test]
fn what_a_home_refuses_is_told_without_values() {
    let schema = "CREATE TABLE account (id int PRIMARY KEY, email text UNIQUE, name text);";
    let checks = "ALTER TABLE account ADD CONSTRAINT plain CHECK (email !~ '[+]');
        CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';";
    let rules = RULE.to_owned() + "    mask = [\"name\"]\n";
    let mut cluster = Plan::two().schema(schema).at(EAST, checks).rules(&rules).run();
    cluster.stop_daemon();
    cluster.rows(EAST, "INSERT INTO account VALUES (1, 'a', 'top secret')");
    cluster.rows(WEST, "INSERT INTO account VALUES (2, 'a', 'Abe')");
    cluster.launch_daemon();
    let says = |what: &str| wait_for_log(&cluster, what);
    says("new row for relation \"account\" violates check constraint \"plain\"; have its `rename` make values");
    cluster.rows(
        EAST,
        "ALTER TABLE account DROP CONSTRAINT plain;
         CREATE TRIGGER keep BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION keep();",
    );
    says("a BEFORE UPDATE trigger there takes its UPDATE back");
    assert!(!fs::read_to_string(cluster.log_file()).expect("the log").contains("top secret"));
    cluster.rows(EAST, "DROP TRIGGER keep ON account");
    cluster.settle();
    everywhere(&cluster, "1 a+1 top secret, 2 a Abe");
}

/// Where an older row stands it is changed in its place: what refers to it and columns that only one node has stay.
#[test]
fn what_hangs_on_a_row_stays_with_it() {
    let schema = "CREATE TABLE item (id int PRIMARY KEY, email text UNIQUE);
        CREATE TABLE child (id int PRIMARY KEY, item int REFERENCES item ON DELETE CASCADE);
        INSERT INTO item VALUES (5, 'e'), (6, 'f'); INSERT INTO child VALUES (1, 5), (2, 6);";
    let rules = RULE.replace("public.account", "public.item");
    let own = "ALTER TABLE item ADD note text; UPDATE item SET note = 'mine ' || id;";
    let cluster = Plan::two().schema(schema).at(WEST, own).rules(&rules).servers_only();
    for place in [EAST, WEST] {
        cluster.rows(place, &ordinary_role());
        cluster.rows(place, "ALTER TABLE child OWNER TO shop_owner");
        // so that foreign keys act on what is replicated
        cluster.rows(place, "REVOKE SET ON PARAMETER session_replication_role FROM pgconcord");
    }
    let mut cluster = cluster.into_role("pgconcord");
    assert_eq!(cluster.pgconcord(&["setup"]).code, 0);
    cluster.rows(EAST, "UPDATE item SET email = 'z' WHERE id = 5");
    cluster.rows(WEST, "UPDATE item SET email = 'z' WHERE id = 6");
    cluster.start_daemon();
    for place in [EAST, WEST] {
        let items = "SELECT string_agg(id || ' ' || email, ', ' ORDER BY id) FROM item";
        wait_for("the older row has another value", SOON, || {
            (cluster.value(place, items) == "5 z+5, 6 z").then_some(())
        });
    }
    cluster.wait_applied();
    for place in [EAST, WEST] {
        assert_eq!(
            cluster.value(place, "SELECT string_agg(id || ' ' || item, ', ' ORDER BY id) FROM child"),
            "1 5, 2 6"
        );
    }
    assert_eq!(cluster.value(WEST, "SELECT note FROM item WHERE id = 5"), "mine 5");
}

/// A new value that is stored out of line would be left out of a third node's change, and completed by the old one.
#[test]
fn a_long_value_that_a_third_node_leaves_out() {
    let schema = "CREATE TABLE doc (id int PRIMARY KEY, slug text, name text);
        ALTER TABLE doc ALTER slug SET STORAGE EXTERNAL;
        CREATE UNIQUE INDEX doc_slug ON doc (left(slug, 20));";
    let rules = "[[rule]]\nname = \"r\"\ntables = [\"public.doc\"]\nrename = { slug = \"id || '-' || slug\" }\n";
    let mut cluster = Plan::three().schema(schema).rules(rules).run();
    let to_west = cluster.hold_link(EAST, WEST);
    cluster.rows(EAST, "INSERT INTO doc VALUES (1, repeat('same', 2000), 'one')");
    cluster.settle_applied_from(EAST, NORTH);
    let to_north = cluster.hold_link(EAST, NORTH);
    cluster.rows(WEST, "INSERT INTO doc VALUES (2, repeat('same', 2000), 'two')");
    cluster.settle_applied_from(WEST, NORTH);
    cluster.rows(NORTH, "UPDATE doc SET name = 'local' WHERE id = 1");
    drop((to_north, to_west));
    cluster.settle();
    let slugs = "SELECT string_agg(id || ' ' || left(slug, 6), ', ' ORDER BY id) FROM doc";
    assert_eq!(cluster.value(EAST, slugs), "1 1-same, 2 samesa");
}

/// Somebody who alters the table keeps nobody waiting for long, and no rule is called wrong for it.
#[test]
fn a_table_that_is_locked_does_not_make_a_rule_wrong() {
    let mut cluster = Plan::two().schema(ACCOUNT).rules(RULE).run();
    cluster.settle();
    let locked = cluster.sql(EAST);
    locked.rows("BEGIN; LOCK TABLE account IN ACCESS EXCLUSIVE MODE");
    let reloaded = cluster.pgconcord(&["rules", "reload"]);
    assert_eq!(reloaded.code, 0, "{reloaded}");
    locked.rows("ROLLBACK");
}
