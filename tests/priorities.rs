//! Which row keeps a unique value, where a rule says so: `unique`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{Cluster, Plan, SOON, Sql, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;
const NORTH: usize = 2;

const ACCOUNT: &str = "CREATE TABLE account (id int PRIMARY KEY, email text UNIQUE, logins int NOT NULL DEFAULT 0);";

fn rule(lines: &str) -> String {
    format!("[[rule]]\nname = \"the head office keeps it\"\ntables = [\"public.account\"]\n{lines}\n")
}

fn priority(nodes: &str) -> String {
    rule(&format!("unique = \"origin_priority\"\npriority = [{nodes}]"))
}

fn rows(cluster: &Cluster, place: usize) -> String {
    cluster.value(place, "SELECT string_agg(id || ' ' || email, ', ' ORDER BY id) FROM account")
}

fn everywhere(cluster: &Cluster, expected: &str) {
    (0..cluster.names().len()).for_each(|place| assert_eq!(rows(cluster, place), expected, "at {place}"));
}

#[test]
fn the_row_of_the_node_that_comes_first_keeps_the_value_be_it_the_older_one() {
    let mut cluster = Plan::two().schema(ACCOUNT).rules(&priority("\"west\", \"east\"")).run();
    let output = cluster.pgconcord(&["rules", "explain", "account"]);
    let says = "Where two rows claim a unique value: the rule \"the head office keeps it\"";
    assert!(output.stdout.contains(says) && output.stdout.contains("origin_priority (west, east)"), "{output}");
    let output = cluster.pgconcord(&["rules", "check", "--schedules", "50"]);
    assert!(output.code == 0 && output.stdout.contains("unique values by origin_priority comes out alike"), "{output}");
    cluster.rows(EAST, "INSERT INTO account VALUES (5, 'e'), (6, 'f'), (7, 'g'), (8, 'h')");
    cluster.settle();
    cluster.without_seeing(&[
        (WEST, "INSERT INTO account VALUES (2, 'a')"),
        (EAST, "INSERT INTO account VALUES (1, 'a')"),
        (WEST, "UPDATE account SET email = 'z' WHERE id = 6"),
        (EAST, "UPDATE account SET email = 'z' WHERE id = 5"),
        // what is changed again claims its value again, and loses it again
        (EAST, "INSERT INTO account VALUES (3, 'b')"),
        (WEST, "INSERT INTO account VALUES (4, 'b')"),
        (EAST, "UPDATE account SET logins = 1 WHERE id = 3"),
        // a value that the other node has given up is free for everybody
        (EAST, "UPDATE account SET email = 'free' WHERE id = 7"),
        (EAST, "UPDATE account SET email = 'g' WHERE id = 8"),
    ]);
    everywhere(&cluster, "2 a, 4 b, 6 z, 7 free, 8 g");
    let found = cluster.conflicts(&["--table", "account"]);
    let by =
        |one: &serde_json::Value| one["resolver"] == "origin_priority" && one["rule"] == "the head office keeps it";
    assert!(found.len() >= 3 && found.iter().all(by), "{found:?}");
    let entry = cluster.conflicts_of("public.account", "1").pop().expect("a conflict");
    let shown = cluster.pgconcord(&["conflicts", "show", &entry["id"].to_string()]);
    assert!(shown.stdout.contains("has less priority and is removed at east"), "{shown}");
    // seen and given up is no conflict, whoever comes first
    cluster.replicate(WEST, &["DELETE FROM account WHERE id = 2"]);
    cluster.replicate(EAST, &["INSERT INTO account VALUES (9, 'a')"]);
    cluster.settle();
    everywhere(&cluster, "4 b, 6 z, 7 free, 8 g, 9 a");
}

#[test]
fn three_nodes_keep_the_row_of_the_node_that_comes_first() {
    let mut cluster = Plan::three().schema(ACCOUNT).rules(&priority("\"north\", \"east\", \"west\"")).run();
    cluster.without_seeing(&[
        (NORTH, "INSERT INTO account VALUES (3, 'a')"),
        (WEST, "INSERT INTO account VALUES (2, 'a'), (5, 'b')"),
        (EAST, "INSERT INTO account VALUES (1, 'a'), (4, 'b')"),
        (WEST, "INSERT INTO account VALUES (6, 'c')"),
    ]);
    everywhere(&cluster, "3 a, 4 b, 6 c");
}

/// Under load at both nodes, with the daemon killed in between: for every value that both nodes wanted the west's row stays.
#[test]
fn the_order_of_nodes_holds_through_kills() {
    let mut cluster = Plan::two().schema(ACCOUNT).rules(&priority("\"west\", \"east\"")).run();
    let (killed, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let [east, west] = [EAST, WEST].map(|place| cluster.sql(place));
    let write = |place: usize, sql: Sql| {
        for value in (0..).take_while(|_| !done.load(Ordering::Relaxed)) {
            let id = 2 * value + place;
            sql.rows(&format!("INSERT INTO account VALUES ({id}, 'v{value}') ON CONFLICT DO NOTHING"));
            sql.rows(&format!("UPDATE account SET logins = logins + 1 WHERE id = {id}"));
            thread::sleep(Duration::from_millis(20)); // a conflict takes about as long
        }
    };
    thread::scope(|scope| {
        let write = &write;
        scope.spawn(move || write(EAST, east));
        scope.spawn(move || write(WEST, west));
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(1_500));
            cluster.kill_daemon();
            killed.store(true, Ordering::Relaxed);
            cluster.start_daemon();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(killed.load(Ordering::Relaxed));
    cluster.settle();
    let found = cluster.conflicts(&["--table", "account"]);
    assert!(found.len() > 20, "few rows met: {}", found.len());
    let lost =
        "SELECT count(*) FROM (SELECT max(id) / 2 AS most FROM account) AS m, generate_series(0, m.most - 1) AS i
        WHERE NOT EXISTS (SELECT FROM account WHERE email = 'v' || i)";
    assert_eq!(cluster.value(EAST, lost), "0", "values of which every row was removed");
    let kept = |one: &serde_json::Value| one["result"]["id"].as_str().and_then(|id| id.parse::<usize>().ok());
    let by_order = found.iter().filter(|one| one["resolver"] == "origin_priority");
    let of_east: Vec<_> = by_order.filter(|one| kept(one).is_none_or(|id| id % 2 == EAST)).collect();
    assert!(of_east.is_empty(), "{of_east:?}");
}

#[test]
fn conflicts_over_unique_values_may_be_held_or_stop_the_link_by_themselves() {
    let mut cluster = Plan::two().schema(ACCOUNT).rules(&rule("unique = \"error\"")).run();
    cluster.rows(EAST, "INSERT INTO account VALUES (5, 'e')");
    cluster.settle();
    // other conflicts of the table are decided
    cluster.without_seeing(&[
        (EAST, "UPDATE account SET logins = 1 WHERE id = 5"),
        (WEST, "UPDATE account SET logins = 2 WHERE id = 5"),
    ]);
    let resolved = cluster.conflicts_of("public.account", "5").pop().expect("a conflict");
    assert_eq!((&resolved["status"], &resolved["rule"]), (&"resolved".into(), &"default".into()));
    let held = [cluster.hold_link(WEST, EAST), cluster.hold_link(EAST, WEST)];
    cluster.rows(EAST, "INSERT INTO account VALUES (1, 'a')");
    cluster.rows(WEST, "INSERT INTO account VALUES (2, 'a')");
    drop(held);
    let stopped = wait_for("the link to stop", SOON, || {
        let error = cluster.status()["links"][0]["error"].as_str().map(str::to_owned);
        error.filter(|error| error.contains("has no conflict of public.account decided"))
    });
    assert!(stopped.contains("give this rule unique = \"last_update_wins\""), "{stopped}");
    assert_eq!((rows(&cluster, EAST), rows(&cluster, WEST)), ("1 a, 5 e".into(), "2 a, 5 e".into()));
    cluster.set_rules(&rule("unique = \"hold\""));
    let output = cluster.pgconcord(&["rules", "reload"]);
    assert_eq!(output.code, 0, "{output}");
    cluster.settle();
    everywhere(&cluster, "2 a, 5 e");
    cluster.wait_journal_settled();
    assert!(!cluster.conflicts(&["--table", "account", "--status", "held"]).is_empty(), "a person decides later");
    // another order takes over once nothing is under way
    cluster.set_rules(&priority("\"east\", \"west\""));
    let output = cluster.pgconcord(&["rules", "reload"]);
    assert_eq!(output.code, 0, "{output}");
    // which counts once both nodes keep it
    let kept = "SELECT resolver LIKE '%origin_priority%' FROM pgconcord.rules WHERE relation = 'public.account'";
    wait_for("the rules to be taken", SOON, || {
        [EAST, WEST].iter().all(|place| cluster.value(*place, kept) == "t").then_some(())
    });
    cluster.without_seeing(&[
        (EAST, "INSERT INTO account VALUES (11, 'k')"),
        (WEST, "INSERT INTO account VALUES (12, 'k')"),
    ]);
    everywhere(&cluster, "2 a, 5 e, 11 k");
}

#[test]
fn a_rule_about_unique_values_for_a_table_that_has_none_is_refused() {
    let cluster = Plan::two().schema("CREATE TABLE account (id int PRIMARY KEY, email text);").set_up();
    cluster.set_rules(&rule("unique = \"hold\""));
    let output = cluster.pgconcord(&["rules", "check", "--schedules", "5"]);
    assert!(output.code == 1 && output.stdout.contains("has no unique index beside the key"), "{output}");
    assert!(output.stdout.contains("remove `unique`"), "{output}");
    drop(cluster); // one at a time
    // one that is for others, too, is for those
    let schema =
        "CREATE TABLE account (id int PRIMARY KEY, email text); CREATE TABLE other (id int PRIMARY KEY, v int UNIQUE);";
    let cluster = Plan::two().schema(schema).set_up();
    cluster.set_rules("[[rule]]\nname = \"all\"\nunique = \"hold\"\n");
    let output = cluster.pgconcord(&["rules", "check", "--schedules", "5"]);
    assert_eq!(output.code, 0, "{output}");
}
