//! Rules that are for some conflicts of a table and not for others.

use std::collections::BTreeSet;
use std::fs;

use crate::harness::{Cluster, Plan, SOON, wait_for};

const ORDERS: &str = "
    CREATE TABLE orders (id bigint PRIMARY KEY, total numeric, state text, address text, placed timestamptz);
    ALTER TABLE orders REPLICA IDENTITY FULL;
    INSERT INTO orders SELECT i, 10 * i, 'open', 'old', '2026-01-01 00:00Z' FROM generate_series(1, 6) i;";
const EXAMPLE: &str = include_str!("../conflict-rules/examples/orders.toml");
const EAST: usize = 0;
const WEST: usize = 1;
const NORTH: usize = 2;

/// The rules that decided about the order, and what was done.
fn decided(cluster: &Cluster, order: &str) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let entries = cluster.conflicts_of("public.orders", order);
    let mut all: Vec<_> = entries.iter().map(|entry| (text(&entry["rule"]), text(&entry["resolution"]))).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn the_example_decides_each_conflict_by_its_rule() {
    let mut cluster = Plan::two().schema(ORDERS).rules(EXAMPLE).run();
    cluster.without_seeing(&[
        (EAST, "UPDATE orders SET address = 'east' WHERE id = 1"),
        (WEST, "UPDATE orders SET address = 'west', state = 'paid' WHERE id = 1"),
        (WEST, "UPDATE orders SET total = 900 WHERE id IN (2, 3)"),
        (EAST, "UPDATE orders SET total = 1000.5 WHERE id = 2; UPDATE orders SET total = 999.99 WHERE id = 3"),
        (EAST, "UPDATE orders SET state = 'shipped' WHERE id = 4; UPDATE orders SET state = 'paid' WHERE id = 5"),
        (WEST, "DELETE FROM orders WHERE id IN (4, 5)"),
        (WEST, "INSERT INTO orders VALUES (7, 1, 'open', 'west', now())"),
        (EAST, "INSERT INTO orders VALUES (7, 2, 'open', 'east', now())"),
    ]);
    cluster.assert_everywhere("SELECT address || ' ' || state FROM orders WHERE id = 1", "east open");
    cluster.assert_everywhere(
        "SELECT string_agg(total::text, ' ' ORDER BY id) FROM orders WHERE id IN (2, 3)",
        "1000.5 999.99",
    );
    cluster.assert_everywhere("SELECT string_agg(id || state, ' ') FROM orders WHERE id IN (4, 5)", "4shipped");
    cluster.assert_everywhere("SELECT address FROM orders WHERE id = 7", "east");
    let rules = |order: &str| -> Vec<String> {
        let mut rules: Vec<String> = decided(&cluster, order).into_iter().map(|(rule, _)| rule).collect();
        rules.dedup();
        rules
    };
    assert_eq!(rules("1"), ["addresses are set in the east"]);
    assert_eq!(decided(&cluster, "2"), [("large orders are looked at".into(), "hold".into())]);
    assert_eq!(rules("3"), ["other orders"]);
    assert_eq!(rules("4"), ["shipped orders stay"]);
    assert_eq!(rules("5"), ["other orders"], "a delete changes no address, and is later");
    assert_eq!(rules("7"), ["addresses are set in the east"]);

    let explained = cluster.pgconcord(&["rules", "explain", "orders"]);
    for part in [
        "if `remote.total >= 1000 || local.total >= 1000`, the rule \"large orders are looked at\"",
        "held until a person decides",
        "Else if address changed, the rule \"addresses are set in the east\"",
        "Else the rule \"other orders\"",
    ] {
        assert!(explained.stdout.contains(part), "{part}: {explained}");
    }
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "200"]);
    assert!(checked.code == 0 && !checked.stdout.contains("warning"), "{checked}");
    let simulated = "last_update_wins under a condition, else update_wins under a condition, else origin_priority under a \
        condition, else last_update_wins comes out alike in 200 random schedules";
    assert!(checked.stdout.contains(simulated), "{checked}");

    // the journal's texts are compared by the types of the table's columns
    let rules = EXAMPLE
        .replace("total >= 1000 ", "total >= 999.99 ")
        .replace("local.total >= 1000\"", "local.total >= 999.99\"");
    fs::write(cluster.directory().join("others.toml"), rules.replace("changed = [\"address\"]", "source = \"east\""))
        .expect("rules");
    let path = cluster.directory().join("others.toml").display().to_string();
    let replayed = cluster.pgconcord(&["rules", "replay", "--rules", &path, "--table", "orders", "--json"]);
    assert_eq!(replayed.code, 0, "{replayed}");
    let verdicts = replayed.json_lines();
    assert!(verdicts.len() >= 6, "{replayed}");
    for verdict in verdicts {
        let expected = match verdict["key"]["id"].as_str() {
            Some("3" | "5") => "otherwise", // held; and the east, whose change met the delete, has the say
            _ => "alike",
        };
        assert_eq!(verdict["verdict"], expected, "{verdict}");
    }
    let replayed = cluster.pgconcord(&["rules", "replay", "--table", "orders"]);
    assert!(replayed.stdout.contains("what the local change had changed is not on record"), "{replayed}");
}

#[test]
fn three_nodes_decide_by_who_met_whom() {
    let rules = r#"
[[rule]]
name = "between east and north the first one counts"
tables = ["public.orders"]
source = "north"
target = "east"
resolve = "first_update_wins"

[[rule]]
name = "what the west writes counts"
tables = ["public.orders"]
when = "source == 'west' && remote.placed >= timestamp('2026-01-01T00:00:00Z') && old.state == 'open'"
resolve = "origin_priority"
priority = ["west", "east", "north"]
"#;
    let mut cluster = Plan::three().schema(ORDERS).rules(rules).run();
    for round in 0..2 {
        cluster.replicate(EAST, &["UPDATE orders SET state = 'open', address = 'old'"]);
        let set = |name: &str, id: i32| format!("UPDATE orders SET address = '{name}' WHERE id = {id}");
        let (east, west, north) = (
            set("east", 1) + ";" + &set("east", 2) + ";" + &set("east", 4),
            set("west", 1) + ";" + &set("west", 3) + ";" + &set("west", 4),
            set("north", 1) + ";" + &set("north", 2) + ";" + &set("north", 3),
        );
        let paid = "UPDATE orders SET state = 'paid' WHERE id = 5";
        cluster.without_seeing(&[
            (NORTH, &north),
            (WEST, &west),
            (EAST, &east),
            (WEST, paid),
            (NORTH, "UPDATE orders SET state = 'gone' WHERE id = 5"),
        ]);
        // 1: all three, so the first one; 2: east and north, the first one; 3 and 4: west
        let addresses = "SELECT string_agg(address, ' ' ORDER BY id) FROM orders WHERE id <= 4";
        cluster.assert_everywhere(addresses, "north north west west");
        cluster.assert_everywhere("SELECT state FROM orders WHERE id = 5", "paid");
        if round == 0 {
            cluster.kill_daemon();
            cluster.start_daemon();
        }
    }
    let by = |order: &str| decided(&cluster, order).into_iter().map(|(rule, _)| rule).collect::<BTreeSet<_>>();
    assert_eq!(by("2"), ["between east and north the first one counts".to_owned()].into());
    assert_eq!(by("3"), ["what the west writes counts".to_owned()].into());
}

#[test]
fn a_condition_that_can_not_hold_for_the_table_stops_the_start_with_what_to_do() {
    let schema = "CREATE TABLE orders (id bigint PRIMARY KEY, total numeric, state text);";
    let rule = |condition: &str| {
        format!("[[rule]]\nname = \"r\"\ntables = [\"public.orders\"]\n{condition}\nresolve = \"hold\"\n")
    };
    let mut cluster = Plan::two().schema(schema).rules(&rule("when = \"remote.totl > 1\"")).set_up();
    cluster.launch_daemon();
    let log = cluster.log_file();
    wait_for("the log says what is wrong", SOON, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        (text.contains("there is no column \"totl\"") && text.contains("did you mean `total`?")).then_some(())
    });
    drop(cluster.take_daemon());
    for (condition, says) in [
        ("when = \"remote.total > 'much'\"", "its `when` can't hold for its rows"),
        ("when = \"remote.total\"", "not to true or false"),
        ("when = \"old.total > 1\"", "`old` in `when` needs the whole old row of each change"),
        ("changed = [\"totl\"]", "did you mean `total`?"),
        ("changed = [\"total\"]", "REPLICA IDENTITY FULL"),
    ] {
        cluster.set_rules(&rule(condition));
        let checked = cluster.pgconcord(&["rules", "check", "--schedules", "1"]);
        assert!(checked.code == 1 && checked.stdout.contains(says), "{condition}: {checked}");
    }
    // what a person looks at needs no old rows: the last update stands whatever the condition says
    cluster.set_rules(&rule("when = \"remote.total > 1\""));
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "20"]);
    assert!(checked.code == 0, "{checked}");
}

/// Stops both links by a rule for some conflicts, and has them go on by another one for the condition `later`.
fn assert_it_stops_and_goes_on(others: &str, later: &str) {
    let rule = |condition: &str, resolve: &str| {
        let heading = "[[rule]]\nname = \"large\"\ntables = [\"public.orders\"]";
        format!("{heading}\nwhen = \"{condition}\"\nresolve = \"{resolve}\"\n{others}")
    };
    let condition = "remote.total > 100";
    let mut cluster = Plan::two().schema(ORDERS).rules(&rule(condition, "error")).run();
    cluster.without_seeing(&[
        (EAST, "UPDATE orders SET total = 99 WHERE id = 1"),
        (WEST, "UPDATE orders SET total = 98 WHERE id = 1"),
    ]);
    cluster.assert_everywhere("SELECT total FROM orders WHERE id = 1", "98");
    let held = [cluster.hold_link(WEST, EAST), cluster.hold_link(EAST, WEST)];
    cluster.rows(EAST, "UPDATE orders SET total = 101 WHERE id = 2");
    cluster.rows(WEST, "UPDATE orders SET total = 98 WHERE id = 2");
    drop(held);
    let log = cluster.log_file();
    wait_for("the link stops", SOON, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.contains("has no conflict of public.orders decided, and there is one").then_some(())
    });
    cluster.set_rules(&rule(later, "hold"));
    let reloaded = cluster.pgconcord(&["rules", "reload"]);
    assert_eq!(reloaded.code, 0, "{reloaded}");
    cluster.settle();
    cluster.assert_everywhere("SELECT total FROM orders WHERE id = 2", "98");
    cluster.wait_journal_settled();
    assert_eq!(decided(&cluster, "2"), [("large".into(), "hold".into())]);
}

/// What comes out is the same by another condition, so nothing has to be over first.
#[test]
fn only_the_conflicts_that_a_rule_is_for_stop_the_link_and_a_reload_takes_it_on() {
    assert_it_stops_and_goes_on("", "remote.total > 100.5");
}

#[test]
fn the_rule_that_stopped_a_link_may_hold_instead_whatever_the_others_say() {
    let others = "[[rule]]\nname = \"others\"\nresolve = \"last_update_wins\"\ntables = [\"public.orders\"]\ndeletes = \"delete_wins\"\n";
    assert_it_stops_and_goes_on(others, "remote.total > 100");
}
