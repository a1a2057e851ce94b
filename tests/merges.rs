//! Rows that are made from several changes, column by column: each kind of column, deletes, counters under load and kills.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::harness::{Cluster, Pgbench, Plan};

const TABLES: &str = "
    CREATE TABLE item (id int PRIMARY KEY, name text, city text, qty int NOT NULL, price numeric NOT NULL,
        seen_at timestamptz, low int, tags text[], allowed int[], settings jsonb);
    ALTER TABLE item REPLICA IDENTITY FULL;
    INSERT INTO item SELECT i, 'name', 'city', 10, 1.5, '2026-01-01 00:00Z', 50, '{a,b}', '{1,2,3}',
        '{\"theme\": \"dark\", \"size\": 10}' FROM generate_series(1, 5) i;
";

const RULES: &str = r#"
[[rule]]
name = "items by column"
tables = ["public.item"]
resolve = "merge"
others = "last_update_wins"

[rule.columns]
qty = "delta"
price = "delta"
seen_at = "greatest"
low = "least"
tags = "union"
allowed = "intersection"
settings = "json_merge"
"#;

/// The query has this answer at every node.
#[test]
fn each_column_of_a_row_is_merged_by_its_rule() {
    let mut cluster = Plan::two().schema(TABLES).rules(RULES).run();
    cluster.without_seeing(&[
            (
                0,
                "UPDATE item SET name = 'east', qty = qty + 3, price = price + 0.25, seen_at = '2026-03-01 00:00Z', low = 40,
                    tags = tags || '{c}', allowed = '{2,3}', settings = settings || '{\"size\": 12}' WHERE id = 1",
            ),
            (
                1,
                "UPDATE item SET city = 'west', qty = qty - 1, price = price * 2, seen_at = '2026-02-01 00:00Z', low = 45,
                    tags = tags || '{d,c}', allowed = '{1,3}', settings = settings - 'theme' || '{\"lang\": \"de\"}' WHERE id = 1",
            ),
        ],
    );
    cluster.assert_everywhere("SELECT concat_ws(' ', name, city, qty, price, seen_at AT TIME ZONE 'UTC', low, tags, allowed, settings) FROM item WHERE id = 1",
        r#"east west 12 3.25 2026-03-01 00:00:00 40 {a,b,c,d} {3} {"lang": "de", "size": 12}"#,
    );
    let entries = cluster.conflicts_of("public.item", "1");
    assert_eq!(entries.len(), 2, "one at each node: {entries:?}");
    for entry in entries {
        assert_eq!(
            (entry["resolution"].as_str(), entry["resolver"].as_str()),
            (Some("merge"), Some("merge")),
            "{entry}"
        );
        assert_eq!(entry["rule"], "items by column");
        assert_eq!(
            (entry["result"]["qty"].as_str(), entry["result"]["name"].as_str()),
            (Some("12"), Some("east")),
            "{entry}"
        );
    }
    // what is made in turn is no conflict, also where a value goes back
    cluster.replicate(0, &["UPDATE item SET qty = 7, tags = '{a}', low = 60, settings = NULL WHERE id = 1"]);
    cluster.replicate(1, &["UPDATE item SET qty = qty + 1, settings = '{}' WHERE id = 1"]);
    cluster.assert_everywhere("SELECT concat_ws(' ', qty, tags, low, settings) FROM item WHERE id = 1", "8 {a} 60 {}");
    assert_eq!(cluster.conflicts_of("public.item", "1").len(), 2);
}

const NOTES: &str = "
    CREATE TABLE ticket (id int PRIMARY KEY, log text NOT NULL DEFAULT '', labels varchar);
    ALTER TABLE ticket REPLICA IDENTITY FULL;
    INSERT INTO ticket SELECT i, 'opened', 'new' FROM generate_series(1, 3) i;
";

const NOTES_RULE: &str = r#"
[[rule]]
name = "tickets"
tables = ["public.ticket"]
resolve = "merge"
columns = { log = "append", labels = { append = "; " } }
"#;

#[test]
fn what_two_nodes_append_to_a_text_is_kept_once_each() {
    let mut cluster = Plan::two().schema(NOTES).rules(NOTES_RULE).run();
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "50"]);
    assert!(checked.code == 0 && checked.stdout.contains("merging by append comes out alike"), "{checked}");
    let explained = cluster.pgconcord(&["rules", "explain", "public.ticket"]);
    assert!(explained.stdout.contains("labels by append (between two: \"; \")"), "{explained}");
    let recorded = cluster.value(0, "SELECT resolver FROM pgconcord.rules WHERE relation = 'public.ticket'");
    assert!(recorded.contains(r#""labels" = { append = "; " }"#), "{recorded}");
    cluster.without_seeing(&[
        (0, r"UPDATE ticket SET log = log || E'\neast: called', labels = labels || '; urgent' WHERE id IN (1, 2)"),
        (1, r"UPDATE ticket SET log = log || E'\nwest: mailed', labels = labels || '; billing' WHERE id = 1"),
        (1, r"UPDATE ticket SET log = log || E'\nwest: closed' WHERE id = 1"),
        (1, "UPDATE ticket SET log = 'moved', labels = NULL WHERE id = 2"),
        (0, "UPDATE ticket SET log = log || ' (east)' WHERE id = 3"),
        (1, "DELETE FROM ticket WHERE id = 3; INSERT INTO ticket VALUES (3, 'again')"),
    ]);
    let log = "SELECT log FROM ticket WHERE id = 1";
    cluster.assert_everywhere(log, "opened\neast: called\nwest: mailed\nwest: closed");
    cluster.assert_everywhere("SELECT labels FROM ticket WHERE id = 1", "new; urgent; billing");
    cluster.assert_everywhere(
        "SELECT log || ' ' || labels FROM ticket WHERE id = 2",
        "opened\neast: called\nmoved new; urgent",
    );
    cluster.assert_everywhere("SELECT log FROM ticket WHERE id = 3", "again");
    // what stands has entries of both: they are not there twice
    cluster.without_seeing(&[
        (1, r"UPDATE ticket SET log = log || E'\nwest: paid' WHERE id = 1"),
        (0, r"UPDATE ticket SET log = log || E'\neast: thanked' WHERE id = 1"),
    ]);
    let both = "opened\neast: called\nwest: mailed\nwest: closed\nwest: paid\neast: thanked";
    cluster.assert_everywhere(log, both);
    // in turn it stays what it is
    cluster.replicate(0, &["UPDATE ticket SET log = '' WHERE id = 1"]);
    cluster.assert_everywhere(log, "");
}

/// What conflict-rules/examples/ promises.
#[test]
fn the_examples_do_what_they_say() {
    let schema = "
        CREATE TABLE inventory (
            sku text PRIMARY KEY, qty integer NOT NULL, price numeric NOT NULL, updated_at timestamptz NOT NULL);
        CREATE TABLE cart (
            id int PRIMARY KEY, items text[] NOT NULL DEFAULT '{}', coupons text[] NOT NULL DEFAULT '{}', note text);
        CREATE TABLE profile (
            id bigint PRIMARY KEY, name text, email text, settings jsonb NOT NULL DEFAULT '{}', last_seen timestamptz);
        CREATE TABLE price (item int PRIMARY KEY, cents int);
        CREATE TABLE customer (id int PRIMARY KEY, name text);
        CREATE TABLE contract (id int PRIMARY KEY, price int);
        CREATE TABLE event (id int PRIMARY KEY, payload text);
        CREATE TABLE account (id int PRIMARY KEY, email text NOT NULL UNIQUE);
        CREATE TABLE member (id int PRIMARY KEY, name text NOT NULL UNIQUE);
        CREATE TABLE document (id bigint PRIMARY KEY, version integer NOT NULL, title text, body text);
        CREATE TABLE reading (sensor int PRIMARY KEY, measured_at timestamptz NOT NULL, value numeric);
        ALTER TABLE document REPLICA IDENTITY FULL; ALTER TABLE reading REPLICA IDENTITY FULL;
        INSERT INTO document VALUES (1, 9, 'a', ''), (2, 9, 'b', ''), (3, 9, 'c', '');
        INSERT INTO reading VALUES (1, '2026-01-01 00:00Z', 0), (2, '2026-01-01 00:00Z', 0);
        ALTER TABLE inventory REPLICA IDENTITY FULL; ALTER TABLE cart REPLICA IDENTITY FULL;
        ALTER TABLE profile REPLICA IDENTITY FULL; ALTER TABLE price REPLICA IDENTITY FULL;
        ALTER TABLE customer REPLICA IDENTITY FULL; ALTER TABLE event REPLICA IDENTITY FULL;
        INSERT INTO inventory VALUES ('bolt', 10, 1, '2026-01-01 00:00Z');
        INSERT INTO cart VALUES (1, '{tea}', '{ten,five}', NULL);
        INSERT INTO profile VALUES (1, 'Ann', 'ann@example.org', '{\"theme\": \"dark\"}', NULL);
        INSERT INTO price VALUES (1, 100); INSERT INTO customer VALUES (1, 'Bob'), (2, 'Cy');
        INSERT INTO contract VALUES (1, 1);";
    let rules = [
        include_str!("../conflict-rules/examples/append_only.toml"),
        include_str!("../conflict-rules/examples/carts.toml"),
        include_str!("../conflict-rules/examples/contracts.toml"),
        include_str!("../conflict-rules/examples/inventory.toml"),
        include_str!("../conflict-rules/examples/profiles.toml"),
        include_str!("../conflict-rules/examples/regional.toml"),
        include_str!("../conflict-rules/examples/unique_emails.toml"),
        include_str!("../conflict-rules/examples/user_names.toml"),
        include_str!("../conflict-rules/examples/versions.toml"),
    ];
    let mut cluster = Plan::two().schema(schema).rules(&rules.join("\n")).run();
    let checked = cluster.pgconcord(&["rules", "check", "--schedules", "50"]);
    assert!(checked.code == 0 && checked.stdout.contains("inventory"), "{checked}");
    cluster.without_seeing(&[
        (1, "INSERT INTO event VALUES (1, 'first'); UPDATE price SET cents = 90; DELETE FROM customer"),
        (0, "INSERT INTO event VALUES (1, 'second'); UPDATE price SET cents = 80; UPDATE customer SET name = 'Di' WHERE id = 1"),
        (1, "UPDATE price SET cents = 70; UPDATE inventory SET qty = qty - 4, price = 2, updated_at = '2026-02-01 00:00Z'"),
        (0, "UPDATE contract SET price = 2; INSERT INTO account VALUES (1, 'ann@example.org'); INSERT INTO member VALUES (1, 'ann')"),
        (1, "UPDATE contract SET price = 3; INSERT INTO account VALUES (2, 'ann@example.org'); INSERT INTO member VALUES (2, 'ann')"),
        (0, "UPDATE inventory SET qty = qty - 3, updated_at = '2026-01-15 00:00Z'"),
        (0, "UPDATE cart SET items = items || '{milk}', coupons = '{five}', note = 'ring twice'; UPDATE profile SET name = 'Anne'"),
        (0, "UPDATE document SET version = 11, title = 'east'; UPDATE reading SET measured_at = '2026-01-01 12:00:00.5Z', value = 1"),
        (1, "UPDATE document SET version = 10, title = 'west' WHERE id = 1; UPDATE document SET version = 11, title = 'west' WHERE id = 2"),
        (1, "DELETE FROM document WHERE id = 3; DELETE FROM reading WHERE sensor = 2"),
        (1, "UPDATE reading SET measured_at = '2026-01-01 13:00:00+01', value = 2"),
        (1, "UPDATE cart SET items = items || '{jam}', note = 'soon'; UPDATE profile SET email = 'a@example.org', settings = settings || '{\"lang\": \"en\"}'"),
    ]);
    cluster.assert_everywhere(
        "SELECT qty || ' ' || price || ' ' || (updated_at AT TIME ZONE 'UTC') FROM inventory",
        "3 2 2026-02-01 00:00:00",
    );
    cluster.assert_everywhere(
        "SELECT concat_ws(' ', items, coupons, note) FROM cart",
        "{tea,milk,jam} {five} ring twice\nsoon",
    );
    let profile = "SELECT concat_ws(' ', name, email, settings) FROM profile";
    cluster.assert_everywhere(profile, r#"Anne a@example.org {"lang": "en", "theme": "dark"}"#);
    cluster.assert_everywhere("SELECT cents FROM price", "80");
    cluster.assert_everywhere("SELECT string_agg(name, ' ') FROM customer", "Di");
    cluster.assert_everywhere("SELECT payload FROM event", "first");
    cluster.assert_everywhere("SELECT price FROM contract", "3");
    let documents = "SELECT string_agg(concat_ws(' ', id, version, title), ', ' ORDER BY id) FROM document";
    cluster.assert_everywhere(documents, "1 11 east, 2 11 west, 3 11 east");
    cluster.assert_everywhere("SELECT string_agg(sensor || ' ' || value, ', ') FROM reading", "1 1");
    let held = |cluster: &Cluster, table| cluster.conflicts(&["--status", "held", "--table", table]);
    assert_eq!(held(&cluster, "contract").len(), 2);
    cluster.assert_everywhere("SELECT id FROM account", "2");
    cluster.assert_everywhere("SELECT string_agg(id || ' ' || name, ', ' ORDER BY id) FROM member", "1 ann.1, 2 ann");
    let addresses = held(&cluster, "account");
    assert!(!addresses.is_empty(), "the row that is gone waits for somebody");
    let side = if addresses[0]["remote"]["row"]["id"] == "1" { "remote" } else { "local" };
    let id = addresses[0]["id"].to_string();
    let set = r#"{"email": "ann.two@example.org"}"#;
    let resolved = cluster.pgconcord(&["conflicts", "resolve", &id, "--keep", side, "--set", set]);
    assert_eq!(resolved.code, 0, "{resolved}");
    cluster.settle();
    let accounts = "SELECT string_agg(id || ' ' || email, ', ' ORDER BY id) FROM account";
    cluster.assert_everywhere(accounts, "1 ann.two@example.org, 2 ann@example.org");
    assert_eq!(held(&cluster, "account").len(), 0, "nothing is left to decide");
    let entries = cluster.conflicts_of("public.profile", "1");
    assert!(!entries.is_empty());
    for entry in entries {
        let text = entry.to_string();
        assert!(!text.contains("example.org") && !text.contains("Ann") && text.contains("***"), "{text}");
    }
}

#[test]
fn three_nodes_keep_what_each_changed() {
    let mut cluster = Plan::three().schema(TABLES).rules(RULES).run();
    cluster.without_seeing(&[
        (0, "UPDATE item SET name = 'east', qty = qty + 1, tags = tags || '{e}' WHERE id < 4"),
        (1, "UPDATE item SET city = 'west', qty = qty + 10, tags = tags || '{w}' WHERE id < 4"),
        (2, "UPDATE item SET low = 1, qty = qty + 100, tags = tags || '{n}' WHERE id < 4"),
        (2, "UPDATE item SET qty = qty + 1000 WHERE id = 1"),
        (1, "DELETE FROM item WHERE id = 2"),
        (0, "UPDATE item SET qty = 0 WHERE id = 2"),
        (1, "DELETE FROM item WHERE id = 3; INSERT INTO item VALUES (3, 'new', 'row', 5, 5)"),
    ]);
    cluster.assert_everywhere(
        "SELECT concat_ws(' ', name, city, low, qty, tags) FROM item WHERE id = 1",
        "east west 1 1121 {a,b,e,w,n}",
    );
    cluster.assert_everywhere("SELECT count(*) FROM item WHERE id = 2", "0");
    cluster.assert_everywhere("SELECT concat_ws(' ', name, city, qty, low) FROM item WHERE id = 3", "new row 5");
}

#[test]
fn rows_that_two_nodes_insert_are_one_and_their_counters_go_on() {
    let mut cluster = Plan::two().schema(TABLES).rules(RULES).run();
    cluster.without_seeing(&[
            (
                0,
                "INSERT INTO item (id, name, qty, price) VALUES (9, 'east', 5, 0); UPDATE item SET qty = qty + 1 WHERE id = 9",
            ),
            (
                1,
                "INSERT INTO item (id, name, qty, price) VALUES (9, 'west', 7, 0); UPDATE item SET qty = qty + 2 WHERE id = 9",
            ),
            (0, "TRUNCATE item; INSERT INTO item (id, name, qty, price) VALUES (1, 'after', 1, 1)"),
            (1, "UPDATE item SET qty = qty + 1 WHERE id IN (1, 2)"),
        ],
    );
    // the truncation takes away what it had not seen; what its own node had is gone, too
    cluster.assert_everywhere("SELECT string_agg(id || ' ' || qty, ', ' ORDER BY id) FROM item", "1 1");
    cluster.without_seeing(&[
        (0, "INSERT INTO item (id, name, qty, price) VALUES (9, 'east', 5, 0)"),
        (0, "UPDATE item SET qty = qty + 1 WHERE id = 9"),
        (1, "INSERT INTO item (id, name, qty, price) VALUES (9, 'west', 7, 0)"),
        (1, "UPDATE item SET qty = qty + 2 WHERE id = 9"),
    ]);
    cluster.assert_everywhere("SELECT name || ' ' || qty FROM item WHERE id = 9", "west 10");
}

#[test]
fn counters_are_exact_when_the_daemon_is_killed() {
    let schema =
        "CREATE TABLE stock (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, total numeric NOT NULL DEFAULT 0);
        ALTER TABLE stock REPLICA IDENTITY FULL;
        INSERT INTO stock SELECT generate_series(1, 100);
        CREATE TABLE booked (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), stock int, n int);";
    let rules = "[[rule]]\nname = \"stock\"\ntables = [\"public.stock\"]\nresolve = \"merge\"\n\
        columns = { n = \"delta\", total = \"delta\" }\n";
    let mut cluster = Plan::two().schema(schema).rules(rules).run();
    let script = cluster.directory().join("book.sql");
    let book = "\\set id random(1, 100)\n\\set n random(-5, 9)\nBEGIN;\n\
        UPDATE stock SET n = n + :n, total = total + :n * 0.01 WHERE id = :id;\n\
        INSERT INTO booked (stock, n) VALUES (:id, :n);\nEND;\n";
    fs::write(&script, book).expect("a script");
    let script = script.display().to_string();
    let arguments = ["-n", "-c", "8", "-T", "20", "-R", "400", "-f", &script];
    let load: Vec<Pgbench> =
        cluster.nodes.iter().map(|node| Pgbench::start(&node.server, "shop", &arguments)).collect();
    for _ in 0..5 {
        sleep(Duration::from_secs(3));
        cluster.kill_daemon();
        cluster.launch_daemon();
    }
    let done: Vec<u64> = load.into_iter().map(Pgbench::finish).collect();
    assert!(done.iter().all(|done| *done > 500), "hardly a load: {done:?}");
    cluster.daemon().wait_ready();
    cluster.settle();
    cluster.assert_everywhere("SELECT count(*) FROM booked", &done.iter().sum::<u64>().to_string());
    let wrong =
        "SELECT count(*) FROM stock JOIN (SELECT stock, sum(n) AS n FROM booked GROUP BY stock) AS b ON b.stock = id
        WHERE stock.n <> b.n OR total <> b.n * 0.01";
    cluster.assert_everywhere(wrong, "0");
    cluster.wait_journal_settled();
    let merged = |entry: &serde_json::Value| entry["resolution"] == "merge";
    let entries = cluster.conflicts(&["--table", "public.stock"]);
    assert!(entries.iter().filter(|entry| merged(entry)).count() > 100, "{} entries", entries.len());
    // nothing was added
    let alike = |entry: &serde_json::Value| entry["remote"]["row"]["n"] == entry["remote"]["old"]["n"];
    assert_eq!(entries.iter().find(|entry| !merged(entry) && !alike(entry)), None);
}

#[test]
fn columns_of_three_nodes_are_kept_through_restarts() {
    let schema = "CREATE TABLE card (id int PRIMARY KEY, east int, west int, north int, sum bigint NOT NULL DEFAULT 0);
        ALTER TABLE card REPLICA IDENTITY FULL;
        INSERT INTO card SELECT i, 0, 0, 0 FROM generate_series(1, 20) i;";
    let rules =
        "[[rule]]\nname = \"cards\"\ntables = [\"public.card\"]\nresolve = \"merge\"\ncolumns = { sum = \"delta\" }\n";
    let mut cluster = Plan::three().schema(schema).rules(rules).run();
    for round in 1..=12 {
        for place in 0..3 {
            let name = cluster.name(place);
            cluster.rows(place, &format!("UPDATE card SET {name} = {round}, sum = sum + 1 WHERE id % 3 <> {place}"));
            sleep(Duration::from_millis(if round % 2 == 0 { 0 } else { 30 }));
        }
        if round % 4 == 0 {
            cluster.kill_daemon();
            cluster.launch_daemon();
        }
    }
    cluster.daemon().wait_ready();
    cluster.settle();
    let expected = |id: i32, place: i32| if id % 3 == place { 0 } else { 12 };
    for id in [1, 2, 3, 20] {
        let values: Vec<String> = (0..3).map(|place| expected(id, place).to_string()).collect();
        let query = format!("SELECT concat_ws(' ', east, west, north, sum) FROM card WHERE id = {id}");
        cluster.assert_everywhere(&query, &format!("{} 24", values.join(" ")));
    }
}
