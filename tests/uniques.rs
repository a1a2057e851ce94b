//! Unique indexes beyond plain columns, and exclusion constraints: the newer row stays, alike everywhere, on record.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;
use std::thread::{self, sleep};
use std::time::Duration;

use crate::harness::{Cluster, Plan, SOON, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;

/// The east's statements, then the west's, neither seeing the other's.
fn apart(cluster: &mut Cluster, east: &[&str], west: &[&str]) {
    cluster.stop_daemon();
    east.iter().for_each(|sql| drop(cluster.rows(EAST, sql)));
    sleep(Duration::from_millis(20));
    west.iter().for_each(|sql| drop(cluster.rows(WEST, sql)));
    cluster.start_daemon();
    cluster.settle();
}

fn ids(cluster: &Cluster, table: &str) -> String {
    cluster.value(EAST, &format!("SELECT string_agg(id::text, ' ' ORDER BY id) FROM {table}"))
}

/// The losing row is on record, by one link or by both.
fn assert_on_record(cluster: &Cluster, table: &str, loser: &str) {
    let found = cluster.conflicts(&["--table", table]);
    let has_loser = |one: &serde_json::Value| {
        [&one["local"]["row"], &one["remote"]["row"]].iter().any(|row| row.to_string().contains(loser))
    };
    assert!((1..=2).contains(&found.len()) && found.iter().all(has_loser), "{table}: {found:?}");
}

#[test]
fn partial_and_expression_indexes() {
    let schema = "
        CREATE TABLE person (id int PRIMARY KEY, email text, active bool, note json);
        CREATE UNIQUE INDEX person_email ON person (email) WHERE active AND email IS NOT NULL;
        CREATE TABLE account (id int PRIMARY KEY, \"Name\" text, t text);
        CREATE UNIQUE INDEX account_name ON account (lower(\"Name\"), (t || 'x'));
        CREATE TABLE doc (id int PRIMARY KEY, body jsonb);
        CREATE UNIQUE INDEX doc_slug ON doc ((body ->> 'slug'));";
    let mut cluster = Plan::two().schema(schema).run();
    apart(
        &mut cluster,
        &[
            "INSERT INTO person VALUES (1, 'a@x', true, '{\"from\": \"east\"}'), (3, 'b@x', false, NULL), (5, 'c@x', false, NULL)",
            "INSERT INTO account VALUES (1, 'Ann', 't'), (3, 'Bob', 't')",
            "INSERT INTO doc VALUES (1, '{\"slug\": \"first\", \"by\": \"east\"}'), (3, '{}')",
        ],
        &[
            "INSERT INTO person VALUES (2, 'a@x', true), (4, 'b@x', false), (6, 'c@x', true)",
            "INSERT INTO account VALUES (2, 'ANN', 't'), (4, 'bob', 'u')",
            "INSERT INTO doc VALUES (2, '{\"slug\": \"first\", \"by\": \"west\"}'), (4, '{}')",
        ],
    );
    assert_eq!(ids(&cluster, "person"), "2 3 4 5 6");
    assert_eq!(ids(&cluster, "account"), "2 3 4");
    assert_eq!(ids(&cluster, "doc"), "2 3 4");
    for (table, loser) in [("public.person", "a@x"), ("public.account", "Ann"), ("public.doc", "east")] {
        assert_on_record(&cluster, table, loser);
    }
    // a row that comes under the predicate by an update
    apart(
        &mut cluster,
        &["UPDATE person SET active = true WHERE id = 3"],
        &["UPDATE person SET active = true WHERE id = 4", "UPDATE account SET \"Name\" = 'eve' WHERE id = 3"],
    );
    assert_eq!(ids(&cluster, "person"), "2 4 5 6");
    // a value that goes from one row to another within a transaction is no conflict
    let before = cluster.conflicts(&[]).len();
    cluster.rows(
        EAST,
        "BEGIN; UPDATE person SET active = false WHERE id = 2; UPDATE person SET email = 'a@x' WHERE id = 4; COMMIT",
    );
    cluster.settle();
    assert_eq!(cluster.conflicts(&[]).len(), before);
}

#[test]
fn nulls_that_are_equal_and_collations_of_their_own() {
    let schema = "
        CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE one (id int PRIMARY KEY, a int, b int, UNIQUE NULLS NOT DISTINCT (a, b));
        CREATE TABLE name (id int PRIMARY KEY, v text COLLATE ci UNIQUE);";
    let mut cluster = Plan::two().schema(schema).run();
    apart(
        &mut cluster,
        &["INSERT INTO one VALUES (1, NULL, 7), (3, NULL, 8)", "INSERT INTO name VALUES (1, 'Zoë'), (3, NULL)"],
        &["INSERT INTO one VALUES (2, NULL, 7), (4, 8, NULL)", "INSERT INTO name VALUES (2, 'ZOË'), (4, NULL)"],
    );
    assert_eq!(ids(&cluster, "one"), "2 3 4");
    assert_eq!(ids(&cluster, "name"), "2 3 4");
    assert_on_record(&cluster, "public.one", "7");
    assert_on_record(&cluster, "public.name", "Zoë");
}

#[test]
fn rows_that_exclude_each_other() {
    let schema = "CREATE TABLE booking (id int PRIMARY KEY, during int4range, who text,
            EXCLUDE USING gist (during WITH &&) WHERE (who <> 'nobody'));";
    let mut cluster = Plan::two().schema(schema).run();
    apart(
        &mut cluster,
        &["INSERT INTO booking VALUES (1, '[1,5)', 'ann'), (3, '[5,9)', 'bob'), (5, '[20,30)', 'nobody')"],
        &["INSERT INTO booking VALUES (2, '[4,6)', 'eve'), (4, '[10,12)', 'joe'), (6, '[20,30)', 'nobody')"],
    );
    // eve's booking is the newer one, and takes the place of both
    assert_eq!(ids(&cluster, "booking"), "2 4 5 6");
    let found = cluster.conflicts(&["--table", "public.booking"]);
    assert!(!found.is_empty() && found.iter().all(|one| one["status"] == "resolved"), "{found:?}");
}

/// An operator under which a row does not stand against itself: the manual's zoo.
#[test]
fn an_exclusion_that_no_row_has_with_itself() {
    let schema = "CREATE EXTENSION btree_gist;
        CREATE TABLE zoo (id int PRIMARY KEY, cage int, animal text, EXCLUDE USING gist (cage WITH =, animal WITH <>));";
    let mut cluster = Plan::two().schema(schema).run();
    apart(
        &mut cluster,
        &["INSERT INTO zoo VALUES (1, 1, 'zebra'), (2, 2, 'lion')"],
        &["INSERT INTO zoo VALUES (3, 1, 'lion'), (4, 2, 'lion')", "UPDATE zoo SET animal = 'okapi' WHERE id = 3"],
    );
    assert_eq!(ids(&cluster, "zoo"), "2 3 4");
}

/// Keys whose cast to text is not how their type writes them.
#[test]
fn unique_values_of_rows_with_keys_of_bool_and_inet() {
    let schema = "CREATE TABLE host (ip inet, up bool, name text UNIQUE, PRIMARY KEY (ip, up));";
    let mut cluster = Plan::two().schema(schema).run();
    apart(
        &mut cluster,
        &["INSERT INTO host VALUES ('10.0.0.1', true, 'a'), ('10.0.0.2', false, 'b')"],
        &["INSERT INTO host VALUES ('10.0.0.3', true, 'a')", "INSERT INTO host VALUES ('10.0.0.4', false, 'c')"],
    );
    let left = "SELECT string_agg(host(ip), ' ' ORDER BY ip) FROM host";
    assert_eq!(cluster.value(EAST, left), "10.0.0.2 10.0.0.3 10.0.0.4", "the newer one of two stays");
    assert_on_record(&cluster, "public.host", "10.0.0.1");
}

/// Our sessions switch off the server's own recheck.
#[test]
fn deferrable_constraints() {
    let schema = "
        CREATE TABLE d (id int PRIMARY KEY, n int UNIQUE DEFERRABLE INITIALLY DEFERRED, m int UNIQUE);
        CREATE TABLE x (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&) DEFERRABLE);
        INSERT INTO d SELECT i, i, i FROM generate_series(1, 2000) i;";
    let mut cluster = Plan::two().schema(schema).run();
    // values that move along within a statement, and from row to row within a transaction
    cluster.rows(EAST, "UPDATE d SET n = n + 1");
    cluster.rows(WEST, "INSERT INTO x VALUES (1, '[1,5)'), (2, '[5,9)')");
    cluster.settle();
    cluster.rows(WEST, "BEGIN; UPDATE d SET n = 3 WHERE id = 1; UPDATE d SET n = 2 WHERE id = 2; COMMIT");
    cluster.rows(EAST, "UPDATE x SET during = CASE id WHEN 1 THEN int4range(5, 9) ELSE int4range(1, 5) END");
    cluster.settle();
    cluster.assert_no_conflicts();
    // the same value at both sides
    apart(
        &mut cluster,
        &[
            "INSERT INTO d VALUES (5001, 9000, 5001)",
            "UPDATE d SET n = 9001 WHERE id = 7",
            "INSERT INTO x VALUES (3, '[20,25)')",
        ],
        &[
            "INSERT INTO d VALUES (5002, 9000, 5002)",
            "BEGIN; UPDATE d SET n = 2502 - n WHERE id BETWEEN 1000 AND 1500; UPDATE d SET n = 9001 WHERE id = 8; COMMIT",
            "INSERT INTO x VALUES (4, '[24,30)')",
        ],
    );
    let sound = "SELECT count(*) || ' ' || count(DISTINCT n) FROM d";
    for place in [EAST, WEST] {
        assert_eq!(cluster.value(place, sound), "2000 2000", "2,000 and two, less two");
    }
    assert_eq!(
        cluster.value(EAST, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM d WHERE n IN (9000, 9001)"),
        "8 5002"
    );
    assert_eq!(ids(&cluster, "x"), "1 2 4");
    assert_on_record(&cluster, "public.x", "[20,25)");
}

/// The values that an index looks at may be ones that the change left out, for they are stored out of line.
#[test]
fn an_index_over_values_that_a_change_leaves_out() {
    let schema = "CREATE TABLE doc (id int PRIMARY KEY, slug text, body text);
        ALTER TABLE doc ALTER body SET STORAGE EXTERNAL;
        CREATE UNIQUE INDEX long_slug ON doc (slug) WHERE length(body) > 1000;
        CREATE UNIQUE INDEX slug_start ON doc (slug, left(body, 10));
        INSERT INTO doc SELECT i, 's' || i, repeat('b' || (i + 1) / 2, 5000) FROM generate_series(1, 6) i;";
    let mut cluster = Plan::two().schema(schema).run();
    cluster.without_seeing(&[
        (EAST, "UPDATE doc SET slug = 'one' WHERE id = 1"),
        (WEST, "UPDATE doc SET slug = 'one' WHERE id = 2"),
        (WEST, "UPDATE doc SET slug = 'two' WHERE id = 3"),
        (EAST, "UPDATE doc SET slug = 'two' WHERE id = 4"),
        // a key that moves: what is left out stands at the old one
        (EAST, "UPDATE doc SET slug = 'three', id = 50 WHERE id = 5"),
        (WEST, "UPDATE doc SET slug = 'three', id = 60 WHERE id = 6"),
    ]);
    assert_eq!(ids(&cluster, "doc"), "2 4 60");
    let found = cluster.conflicts(&["--table", "public.doc"]);
    let whole = |row: &serde_json::Value| row["body"].as_str().is_some_and(|body| body.len() == 10_000);
    assert!(!found.is_empty(), "no loser is on record");
    assert!(found.iter().all(|one| whole(&one["local"]["row"]) && whole(&one["remote"]["row"])), "a row is not whole");
}

/// A row that goes to another key and yields there has left its old key all the same.
#[test]
fn a_key_that_moves_to_a_value_that_is_taken() {
    let schema = "CREATE TABLE d (id int PRIMARY KEY, n text UNIQUE); INSERT INTO d VALUES (5, 'e'), (7, 'g');";
    let mut cluster = Plan::two().schema(schema).run();
    cluster.without_seeing(&[
        (EAST, "UPDATE d SET id = 50, n = 'z' WHERE id = 5"),
        (WEST, "INSERT INTO d VALUES (6, 'z')"),
    ]);
    assert_eq!(ids(&cluster, "d"), "6 7");
}

/// Both nodes take new rows with the same values at the same time, and go on changing them: each decides while the other's
/// removals arrive, and of every two rows one stays.
#[test]
fn one_row_of_each_value_stays_when_both_nodes_decide_at_once() {
    one_row_of_each_value_stays("");
}

#[test]
fn one_row_of_each_value_stays_when_both_nodes_decide_at_once_by_the_order_of_nodes() {
    one_row_of_each_value_stays(
        "[[rule]]\nname = \"west first\"\nunique = \"origin_priority\"\npriority = [\"west\", \"east\"]\n",
    );
}

fn one_row_of_each_value_stays(rules: &str) {
    const VALUES: usize = 40;
    // an index that is slow to look into, so that what is found may be gone when it is judged
    let schema = "CREATE FUNCTION slow(text) RETURNS text IMMUTABLE LANGUAGE plpgsql
            AS 'BEGIN PERFORM pg_sleep(0.002); RETURN $1; END';
        CREATE TABLE claim (id int PRIMARY KEY, name text, touched int NOT NULL DEFAULT 0);
        CREATE UNIQUE INDEX claim_name ON claim (slow(name));";
    let mut cluster = Plan::two().schema(schema).rules(rules).run();
    let together = Barrier::new(2);
    let write = |place: usize, cluster: &Cluster| {
        let sql = cluster.sql(place);
        for value in 0..VALUES {
            let id = 2 * value + place;
            together.wait();
            sql.rows(&format!("INSERT INTO claim VALUES ({id}, 'v{value}') ON CONFLICT DO NOTHING"));
            sql.rows(&format!("UPDATE claim SET touched = touched + 1 WHERE id = {id}"));
        }
    };
    thread::scope(|scope| {
        let (cluster, write) = (&cluster, &write);
        for place in [EAST, WEST] {
            scope.spawn(move || write(place, cluster));
        }
    });
    cluster.settle();
    let lost = format!(
        "SELECT coalesce(string_agg('v' || i, ' ' ORDER BY i), '') FROM generate_series(0, {VALUES} - 1) i
        WHERE NOT EXISTS (SELECT FROM claim WHERE name = 'v' || i)"
    );
    assert_eq!(cluster.value(EAST, &lost), "", "values of which every row was removed");
    assert!(!cluster.conflicts(&["--table", "public.claim"]).is_empty(), "no two rows met");
}

/// A trigger at the loser's home takes the DELETE back: the links say so and wait.
#[test]
fn a_trigger_that_keeps_the_loser_is_said() {
    let schema = "CREATE TABLE claim (id int PRIMARY KEY, name text UNIQUE);";
    let keep = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER keep BEFORE DELETE ON claim FOR EACH ROW EXECUTE FUNCTION keep();";
    let mut cluster = Plan::two().schema(schema).at(EAST, keep).run();
    cluster.stop_daemon();
    cluster.rows(EAST, "INSERT INTO claim VALUES (1, 'one')");
    cluster.rows(WEST, "INSERT INTO claim VALUES (2, 'one')");
    cluster.launch_daemon();
    let log = cluster.log_file();
    wait_for("the log says what to do", SOON, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.contains("east keeps a row of public.claim that lost its unique value to another; a BEFORE DELETE trigger")
            .then_some(())
    });
    assert_eq!(cluster.value(EAST, "SELECT string_agg(id::text, ' ') FROM claim"), "1");
    cluster.rows(EAST, "DROP TRIGGER keep ON claim");
    cluster.settle();
    assert_eq!(ids(&cluster, "claim"), "2");
}

/// The first of three nodes takes its own update of a row back, without having seen the third one's, and after its clock was
/// set back: the third one's counts again. At the second its value is another row's meanwhile.
fn comes_back(kind: &str, takes_back: &str) {
    const NORTH: usize = 2;
    let clock = tempfile::tempdir().expect("a directory");
    let file = clock.path().join("clock");
    fs::set_permissions(clock.path(), Permissions::from_mode(0o755)).expect("a directory that servers may read");
    fs::write(&file, "+0s").expect("the clock");
    let schema = format!("CREATE TABLE d (id int PRIMARY KEY, n int {kind}); INSERT INTO d VALUES (1, 1), (2, 2);");
    let mut cluster = Plan::three().schema(&schema).clock_file(EAST, &file).run();
    let held = [NORTH, WEST].map(|source| cluster.hold_link(source, EAST));
    cluster.rows(NORTH, "UPDATE d SET n = 9 WHERE id = 2");
    cluster.settle_applied_from(NORTH, WEST);
    cluster.rows(EAST, "UPDATE d SET n = 3 WHERE id = 2");
    cluster.settle_applied_from(EAST, WEST);
    cluster.rows(WEST, "UPDATE d SET n = 9 WHERE id = 1");
    let before = cluster.value(EAST, "SELECT now()");
    fs::write(&file, "-30s").expect("the clock");
    wait_for("the clock is set back", SOON, || {
        (cluster.value(EAST, &format!("SELECT now() < timestamptz '{before}' - interval '20 s'")) == "t").then_some(())
    });
    cluster.rows(EAST, takes_back);
    cluster.settle_applied_from(EAST, WEST);
    assert_eq!(cluster.value(WEST, "SELECT string_agg(id || ' ' || n, ', ' ORDER BY id) FROM d"), "1 9", "{kind}");
    drop(held);
    cluster.settle();
    cluster.wait_journal_settled();
    assert_eq!(ids(&cluster, "d"), "1", "{kind}");
    let loser = cluster.conflicts_of("public.d", "2");
    assert!(loser.iter().any(|entry| entry["type"] == "update_exists"), "{loser:?}");
}

#[test]
fn a_row_that_comes_back_through_a_truncation_and_wants_a_unique_value() {
    ["UNIQUE", "UNIQUE DEFERRABLE"].iter().for_each(|kind| comes_back(kind, "TRUNCATE d"));
}

#[test]
fn a_row_that_comes_back_over_a_delete_and_wants_a_unique_value() {
    ["UNIQUE", "UNIQUE DEFERRABLE"].iter().for_each(|kind| comes_back(kind, "DELETE FROM d WHERE id = 2"));
}

#[test]
fn a_deferrable_key_is_refused_with_the_statement() {
    let schema = "CREATE TABLE d (id int PRIMARY KEY DEFERRABLE);";
    let cluster = Plan::two().schema(schema).servers_only();
    let printed = cluster.pgconcord(&["doctor"]);
    assert!(printed.stdout.contains("PRIMARY KEY d_pkey is DEFERRABLE, so it can't tell which row"), "{printed}");
    let fix = r#"ALTER TABLE "public"."d" DROP CONSTRAINT "d_pkey", ADD CONSTRAINT "d_pkey" PRIMARY KEY ("id");"#;
    assert!(printed.stdout.contains(fix), "{printed}");
}
