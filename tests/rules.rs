//! Rules that choose another resolver than the last update: the outcome at every node, and what the log says of it.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Cluster, Plan, SOON, Sql, wait_for};

const TABLES: &str = "
    CREATE TABLE booking (seat int PRIMARY KEY, name text);
    CREATE TABLE price (item int PRIMARY KEY, cents int);
    CREATE TABLE note (id int PRIMARY KEY, v text);
    ALTER TABLE booking REPLICA IDENTITY FULL;
    ALTER TABLE price REPLICA IDENTITY FULL;
    INSERT INTO price SELECT i, 0 FROM generate_series(1, 3) i;
    INSERT INTO note VALUES (1, 'start');
";

const RULES: &str = r#"
[[rule]]
name = "who books first sits"
tables = ["public.booking"]
resolve = "first_update_wins"

[[rule]]
name = "the head office sets prices"
tables = ["public.price"]
resolve = "origin_priority"
priority = ["east", "west", "north"]
"#;

const EAST: usize = 0;
const WEST: usize = 1;
const NORTH: usize = 2;

#[test]
fn three_nodes_resolve_by_first_update_and_by_priority() {
    let mut cluster = Plan::three().schema(TABLES).rules(RULES).run();
    cluster.without_seeing(&[
        (NORTH, "INSERT INTO booking VALUES (7, 'north')"),
        (WEST, "INSERT INTO booking VALUES (7, 'west')"),
        (EAST, "INSERT INTO booking VALUES (7, 'east')"),
        (EAST, "UPDATE price SET cents = 100 WHERE item = 1"),
        (WEST, "UPDATE price SET cents = 200 WHERE item = 1; DELETE FROM price WHERE item = 2"),
        (NORTH, "UPDATE price SET cents = 300"),
        (WEST, "UPDATE note SET v = 'west'"),
        (EAST, "UPDATE note SET v = 'east'"),
    ]);
    for place in [EAST, WEST, NORTH] {
        assert_eq!(cluster.value(place, "SELECT name FROM booking"), "north");
        let prices = cluster.rows(place, "SELECT item, cents FROM price ORDER BY item");
        let prices: Vec<Vec<String>> = prices.into_iter().map(|row| row.into_iter().flatten().collect()).collect();
        assert_eq!(prices, [["1", "100"], ["3", "300"]], "the east's price, the west's delete, the north's price");
        assert_eq!(cluster.value(place, "SELECT v FROM note"), "east");
    }
    for (table, key, resolver, rule) in [
        ("public.booking", "7", "first_update_wins", "who books first sits"),
        ("public.price", "1", "origin_priority", "the head office sets prices"),
        ("public.note", "1", "last_update_wins", "default"),
    ] {
        let entries = cluster.conflicts_of(table, key);
        assert!(!entries.is_empty(), "no entry about {table}");
        for entry in entries {
            assert_eq!((entry["resolver"].as_str(), entry["rule"].as_str()), (Some(resolver), Some(rule)), "{entry}");
        }
    }
    // what is made in turn is no conflict, whoever comes first
    cluster.rows(NORTH, "UPDATE price SET cents = 1 WHERE item = 1");
    cluster.settle();
    assert_eq!(cluster.value(EAST, "SELECT cents FROM price WHERE item = 1"), "1");
}

#[test]
fn rules_are_checked_against_the_tables_and_explained() {
    let rules = RULES.replace("priority = [\"east\", \"west\", \"north\"]", "priority = [\"east\", \"west\"]");
    let cluster = Plan::two().schema(TABLES).rules(&rules).set_up();
    let output = cluster.pgconcord(&["rules", "check", "--schedules", "200"]);
    assert_eq!(output.code, 0, "{output}");
    for part in [
        "first_update_wins: public.booking",
        "origin_priority (east, west): public.price",
        "origin_priority comes out alike in 200 random schedules on 2 nodes",
    ] {
        assert!(output.stdout.contains(part), "{part}: {output}");
    }
    let output = cluster.pgconcord(&["rules", "explain", "price"]);
    assert!(output.code == 0 && output.stdout.contains("the rule \"the head office sets prices\""), "{output}");
    let merge = "[[rule]]\nname = \"prices\"\ntables = [\"public.price\"]\nresolve = \"merge\"\ncolumns = { cent = \"delta\" }\n";
    cluster.set_rules(merge);
    let output = cluster.pgconcord(&["rules", "check", "--schedules", "10"]);
    assert_eq!(output.code, 1, "{output}");
    assert!(
        output.stdout.contains("there is no column \"cent\"") && output.stdout.contains("did you mean `cents`?"),
        "{output}"
    );
    cluster.set_rules(&merge.replace("cent =", "item ="));
    let output = cluster.pgconcord(&["rules", "check", "--json"]);
    assert!(output.code == 1 && output.stdout.contains("is a key column"), "{output}");
    cluster.set_rules(&merge.replace("merge", "mreg"));
    let output = cluster.pgconcord(&["rules", "check", "--offline"]);
    assert!(output.code == 2 && output.stderr.contains("rules.toml:4:11"), "{output}");
}

#[test]
fn a_delete_wins_where_a_rule_says_so() {
    let rules = "[[rule]]\nname = \"gone is gone\"\ntables = [\"public.price\"]\ndeletes = \"delete_wins\"\n\
        [[rule]]\nname = \"in use\"\ntables = [\"public.booking\"]\nresolve = \"last_update_wins\"\ndeletes = \"update_wins\"\n";
    let mut cluster = Plan::two().schema(TABLES).rules(rules).run();
    cluster.replicate(EAST, &["INSERT INTO booking VALUES (1, 'start'), (2, 'start')"]);
    cluster.without_seeing(&[
        (EAST, "DELETE FROM price WHERE item = 1; UPDATE booking SET name = 'east' WHERE seat = 1"),
        (WEST, "UPDATE price SET cents = 5; DELETE FROM booking"),
        (EAST, "DELETE FROM price WHERE item = 3; UPDATE booking SET name = 'later' WHERE seat = 2"),
    ]);
    for place in [EAST, WEST] {
        assert_eq!(cluster.value(place, "SELECT string_agg(item || ' ' || cents, ', ') FROM price"), "2 5");
        let seats = "SELECT string_agg(seat || ' ' || name, ', ' ORDER BY seat) FROM booking";
        assert_eq!(cluster.value(place, seats), "1 east, 2 later");
    }
    let entries = cluster.conflicts_of("public.price", "1");
    assert!(entries.iter().all(|entry| entry["rule"] == "gone is gone"), "{entries:?}");
}

#[test]
fn a_table_that_a_resolver_does_not_suit_stops_the_start_with_what_to_do() {
    let tables = "CREATE TABLE booking (seat int PRIMARY KEY, name text);";
    let rules = RULES.replace("priority = [\"east\", \"west\", \"north\"]", "priority = [\"east\", \"west\"]");
    let mut cluster = Plan::two().schema(tables).rules(&rules).set_up();
    cluster.launch_daemon();
    let log = cluster.log_file();
    let statement = r#"ALTER TABLE "public"."booking" REPLICA IDENTITY FULL;"#;
    wait_for("the log says what to run", SOON, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        (text.contains("first_update_wins") && text.contains(statement)).then_some(())
    });
    let daemon = cluster.take_daemon();
    drop(daemon);
    (0..2).for_each(|place| drop(cluster.rows(place, statement)));
    cluster.start_daemon();
    cluster.without_seeing(&[
        (WEST, "INSERT INTO booking VALUES (1, 'west')"),
        (EAST, "INSERT INTO booking VALUES (1, 'east')"),
    ]);
    assert_eq!(cluster.value(EAST, "SELECT name FROM booking"), "west");
}

/// Both nodes write the row unseen; the west decides at once, the east only when the session that is returned is dropped.
fn half_decided(cluster: &Cluster) -> Sql {
    let held = cluster.hold_link(WEST, EAST);
    cluster.rows(WEST, "INSERT INTO booking VALUES (1, 'west')");
    sleep(Duration::from_millis(20));
    cluster.rows(EAST, "INSERT INTO booking VALUES (1, 'east')");
    wait_for("the east's booking is applied", SOON, || {
        (cluster.value(WEST, "SELECT name FROM booking") == "east").then_some(())
    });
    held
}

/// Bookings are decided by another resolver, so say the nodes and the status.
fn wait_for_resolver(cluster: &Cluster, resolver: &str) {
    let keeps = "SELECT resolver FROM pgconcord.rules WHERE relation = 'public.booking'";
    let kept = || [EAST, WEST].iter().all(|place| cluster.value(*place, keeps).contains(resolver));
    wait_for("no table waits for its new rule", SOON, || {
        (kept() && cluster.status()["rules_pending"].as_array().is_some_and(Vec::is_empty)).then_some(())
    });
}

/// The same conflict, by the new rules: the first booking stays.
fn assert_the_first_booking_stays(cluster: &mut Cluster) {
    let held = [cluster.hold_link(WEST, EAST), cluster.hold_link(EAST, WEST)];
    cluster.rows(WEST, "INSERT INTO booking VALUES (2, 'west')");
    sleep(Duration::from_millis(20));
    cluster.rows(EAST, "INSERT INTO booking VALUES (2, 'east')");
    drop(held);
    cluster.settle();
    cluster.wait_journal_settled();
    assert_eq!(cluster.value(EAST, "SELECT name FROM booking WHERE seat = 2"), "west");
    let entries = cluster.conflicts_of("public.booking", "2");
    assert!(!entries.is_empty() && entries.iter().all(|entry| entry["resolver"] == "first_update_wins"), "{entries:?}");
}

/// What was decided by the old rules at one node is decided by them at the other.
#[test]
fn rules_that_were_changed_between_two_runs_wait_for_what_is_under_way() {
    let mut cluster = Plan::two().schema(TABLES).run();
    let held = half_decided(&cluster);
    cluster.kill_daemon();
    cluster.set_rules(&RULES.replace(", \"north\"]", "]"));
    cluster.start_daemon();
    let waiting = cluster.status()["rules_pending"].to_string();
    assert!(waiting.contains("public.booking"), "{waiting}");
    assert!(cluster.pgconcord(&["status"]).stdout.contains("public.booking"));
    cluster.kill_daemon();
    cluster.start_daemon();
    drop(held);
    cluster.settle();
    assert_eq!(cluster.value(EAST, "SELECT name FROM booking"), "east");
    wait_for_resolver(&cluster, "first_update_wins");
    assert_the_first_booking_stays(&mut cluster);
}

#[test]
fn rules_are_taken_over_while_the_daemon_runs() {
    let mut cluster = Plan::two().schema(TABLES).run();
    let held = half_decided(&cluster);
    let new = RULES.replace(", \"north\"]", "]");
    cluster.set_rules(&new);
    let output = cluster.pgconcord(&["rules", "reload"]);
    assert_eq!(output.code, 0, "{output}");
    let waits = "decided as before until nothing of that is under way: public.booking";
    assert!(output.stdout.contains(waits), "{output}");
    assert!(output.stdout.contains("other conflicts than before come out of"), "{output}");
    drop(held);
    cluster.settle();
    assert_eq!(cluster.value(EAST, "SELECT name FROM booking"), "east");
    wait_for_resolver(&cluster, "first_update_wins");
    assert_the_first_booking_stays(&mut cluster);

    // rules that are wrong change nothing, be it in themselves or for the tables
    cluster.set_rules("[[rule]]\nname = 'typo'\nresolve = 'lost_update_wins'\n");
    let output = cluster.pgconcord(&["rules", "reload"]);
    assert!(output.code == 2 && output.stderr.contains("rules.toml:3:11"), "{output}");
    cluster.daemon().signal(Signal::SIGHUP);
    let log = cluster.log_file();
    wait_for("the log says what is wrong", SOON, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        (text.contains("the rules stay as they are") && text.contains("rules.toml:3:11")).then_some(())
    });
    let unfit =
        "[[rule]]\nname = 'adds up'\ntables = ['public.booking']\nresolve = 'merge'\ncolumns = { seats = 'delta' }\n";
    cluster.set_rules(unfit);
    let output = cluster.pgconcord(&["rules", "reload"]);
    assert!(output.code == 1 && output.stderr.contains("did you mean `seat`?"), "{output}");
    assert!(output.stderr.contains("the daemon keeps the rules that it has"), "{output}");

    // SIGHUP does what the command does, and what a node keeps is what decides after kill -9
    cluster.set_rules("[[rule]]\nname = 'newest'\nresolve = 'last_update_wins'\n");
    cluster.daemon().signal(Signal::SIGHUP);
    wait_for_resolver(&cluster, "last_update_wins");
    cluster.set_rules(&new);
    assert_eq!(cluster.pgconcord(&["rules", "reload"]).code, 0);
    wait_for_resolver(&cluster, "first_update_wins");
    cluster.kill_daemon();
    cluster.start_daemon();
    assert_eq!(cluster.status()["rules_pending"].as_array().map(Vec::len), Some(0));
    cluster.stop_daemon();
    let output = cluster.pgconcord(&["rules", "reload"]);
    assert!(output.code == 1 && output.text().contains("no daemon answers"), "{output}");
}

fn assert_both_links_stop(cluster: &Cluster) {
    for link in 0..2 {
        let stopped = wait_for("the link to stop", SOON, || {
            let error = cluster.status()["links"][link]["error"].as_str().map(str::to_owned);
            error.filter(|error| error.contains("update_origin_differs"))
        });
        assert!(stopped.contains(r#"the rule "books""#) && stopped.contains(r#"{"id":"1"}"#), "{stopped}");
        assert!(stopped.contains("pgconcord rules reload"), "{stopped}");
    }
}

/// Whoever wants no conflict of a table decided is told of the first one, and nothing of it is lost.
#[test]
fn a_conflict_that_is_not_to_be_decided_stops_the_link_until_the_rule_is_another_one() {
    let schema =
        "CREATE TABLE ledger (id int PRIMARY KEY, sum int, by text UNIQUE); INSERT INTO ledger VALUES (1, 0, 'a');
        CREATE TABLE other (id int PRIMARY KEY);";
    let rule =
        |resolve: &str| format!("[[rule]]\nname = \"books\"\ntables = [\"public.ledger\"]\nresolve = \"{resolve}\"\n");
    let mut cluster = Plan::two().schema(schema).rules(&rule("error")).run();
    let output = cluster.pgconcord(&["rules", "explain", "public.ledger"]);
    assert!(output.stdout.contains("public.ledger: error\n") && output.stdout.contains("the link stops"), "{output}");
    cluster.replicate(EAST, &["UPDATE ledger SET sum = 1"]);
    cluster.replicate(WEST, &["UPDATE ledger SET sum = 2"]);
    let held = [cluster.hold_link(WEST, EAST), cluster.hold_link(EAST, WEST)];
    cluster.rows(EAST, "UPDATE ledger SET sum = 3");
    cluster.rows(WEST, "UPDATE ledger SET sum = 4; INSERT INTO other VALUES (1)");
    drop(held);
    assert_both_links_stop(&cluster);
    let sums = |cluster: &Cluster| [EAST, WEST].map(|place| cluster.value(place, "SELECT sum FROM ledger"));
    assert_eq!(sums(&cluster), ["3", "4"], "nothing is decided");
    assert!(cluster.conflicts(&[]).is_empty(), "nothing is on record");
    cluster.kill_daemon();
    cluster.launch_daemon();
    assert_both_links_stop(&cluster);
    assert_eq!(sums(&cluster), ["3", "4"]);
    cluster.set_rules(&rule("hold"));
    let output = cluster.pgconcord(&["rules", "reload"]);
    assert_eq!(output.code, 0, "{output}");
    cluster.settle();
    assert_eq!(sums(&cluster), ["4", "4"]);
    assert_eq!(cluster.value(EAST, "SELECT count(*) FROM other"), "1");
    cluster.wait_journal_settled();
    assert!(!cluster.conflicts(&["--table", "ledger", "--status", "held"]).is_empty(), "a person decides later");
}

const ITEMS: &str = "
    CREATE TABLE item (id int PRIMARY KEY, qty int NOT NULL, name text, seen timestamptz, doc jsonb);
    ALTER TABLE item REPLICA IDENTITY FULL;
    INSERT INTO item SELECT i, 10, 'start', '2026-01-01', '{\"a\": 1, \"b\": 1}'
    FROM generate_series(0, 80) i WHERE i % 10 <> 5;
";

/// The same conflicts for the rows from `first` on.
fn conflicts_from(first: usize) -> Vec<(usize, String)> {
    let row = |n: usize| first + n;
    vec![
        (
            EAST,
            format!(
                "UPDATE item SET qty = qty - 3, seen = '2026-03-01', doc = doc || '{{\"a\": 2}}' WHERE id = {}",
                row(1)
            ),
        ),
        (
            WEST,
            format!(
                "UPDATE item SET qty = qty - 5, seen = '2026-02-01', doc = doc || '{{\"b\": 3}}' WHERE id = {}",
                row(1)
            ),
        ),
        (WEST, format!("UPDATE item SET name = 'west' WHERE id = {}", row(2))),
        (EAST, format!("UPDATE item SET qty = 0 WHERE id = {}", row(2))),
        (EAST, format!("DELETE FROM item WHERE id = {}", row(3))),
        (WEST, format!("UPDATE item SET qty = 7 WHERE id = {}", row(3))),
        (WEST, format!("UPDATE item SET qty = 7 WHERE id = {}", row(4))),
        (EAST, format!("DELETE FROM item WHERE id = {}", row(4))),
        (EAST, format!("INSERT INTO item VALUES ({}, 1, 'east', '2026-04-01', '{{\"a\": 5}}')", row(5))),
        (WEST, format!("INSERT INTO item VALUES ({}, 2, 'west', '2026-05-01', '{{\"b\": 5}}')", row(5))),
    ]
}

/// The row without its key, as JSON; `null` if there is none.
fn without_key(row: &Value) -> Value {
    let mut row = row.clone();
    if let Some(row) = row.as_object_mut() {
        row.remove("id");
        for document in row.iter_mut().filter(|(name, _)| *name == "doc").map(|(_, value)| value) {
            *document = serde_json::from_str(document.as_str().expect("a document")).expect("JSON");
        }
    }
    row
}

#[test]
fn a_replay_tells_what_other_rules_then_do() {
    let mut cluster = Plan::two().schema(ITEMS).rules("").run();
    let run = |cluster: &mut Cluster, first| {
        let statements = conflicts_from(first);
        let statements: Vec<_> = statements.iter().map(|(place, sql)| (*place, sql.as_str())).collect();
        cluster.without_seeing(&statements);
    };
    run(&mut cluster, 0);
    let head = "[[rule]]\nname = \"other\"\ntables = [\"public.item\"]\n";
    let merge = "resolve = \"merge\"\ncolumns = { qty = \"delta\", seen = \"greatest\", doc = \"json_merge\" }";
    let others = [
        "resolve = \"first_update_wins\"",
        "resolve = \"origin_priority\"\npriority = [\"west\", \"east\"]",
        "resolve = \"last_update_wins\"\ndeletes = \"update_wins\"",
        "resolve = \"first_update_wins\"\ndeletes = \"delete_wins\"",
        "resolve = \"last_update_wins\"\nby = \"qty\"\ndeletes = \"delete_wins\"",
        "resolve = \"first_update_wins\"\nby = \"seen\"\ndeletes = \"update_wins\"",
        merge,
    ];
    let file = cluster.directory().join("other.toml");
    let file = file.to_str().expect("a path");
    for (round, rules) in others.into_iter().enumerate() {
        let rules = format!("{head}{rules}\n");
        fs::write(file, &rules).expect("the other rules");
        let output = cluster.pgconcord(&["rules", "replay", "--rules", file, "--table", "item", "--json"]);
        assert_eq!(output.code, 0, "{output}");
        cluster.set_rules(&rules);
        // What the last stop could not confirm any more would be decided as before.
        cluster.stop_daemon();
        cluster.start_daemon();
        wait_for("the other rules hold", SOON, || {
            cluster.status()["rules_pending"].as_array().is_some_and(Vec::is_empty).then_some(())
        });
        let first = 10 * (round + 1);
        run(&mut cluster, first);
        let replayed: Vec<Value> =
            output.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let replayed = replayed.iter().filter(|line| {
            line["key"]["id"].as_str().and_then(|id| id.parse::<usize>().ok()).is_some_and(|id| id < 10)
        });
        let mut verdicts = Vec::new();
        for line in replayed {
            let told = match line["verdict"].as_str() {
                Some("alike") => &line["was"]["result"],
                Some("otherwise") => &line["would_be"]["result"],
                _ => panic!("it can't be told: {line}"),
            };
            let id = first + line["key"]["id"].as_str().expect("a key").parse::<usize>().expect("a number");
            let text = "json_build_object('qty', qty::text, 'name', name, 'seen', seen::text, 'doc', doc)";
            let row = cluster.rows(EAST, &format!("SET timezone = 'UTC'; SELECT {text} FROM item WHERE id = {id}"));
            let row = row
                .first()
                .and_then(|row| row[0].as_deref())
                .map_or(Value::Null, |row| serde_json::from_str(row).expect("JSON"));
            assert_eq!(without_key(told), row, "{rules}{line}");
            verdicts.push(line["verdict"].clone());
        }
        assert!(verdicts.len() >= 10 && verdicts.iter().any(|it| it == "otherwise"), "{rules}{verdicts:?}");
    }
    // by the rules under which the last ones were decided they come out as they did
    let output = cluster.pgconcord(&["rules", "replay", "--key", "71", "--key", "id=71"]);
    assert!(output.code == 0 && output.stdout.contains(" 0 otherwise, 0 can't be told"), "{output}");
    let output = cluster.pgconcord(&["rules", "replay"]);
    assert!(output.code == 0 && output.stdout.contains("qty 2, not 5"), "{output}");
    let output = cluster.pgconcord(&["rules", "replay", "--rules", "nowhere"]);
    assert!(output.code == 2 && output.stderr.contains("nowhere"), "{output}");
    fs::write(file, format!("{head}resolve = \"newest\"\n")).expect("the other rules");
    let output = cluster.pgconcord(&["rules", "replay", "--rules", file]);
    assert!(output.code == 2 && output.stderr.contains("other.toml:4:11"), "{output}");
}
