//! keep_local, apply_remote and skip: each node decides for itself, and the rule says that it may.

use crate::harness::{Cluster, Plan};

const EAST: usize = 0;
const WEST: usize = 1;
const NORTH: usize = 2;

const TABLES: &str = "
    CREATE TABLE kept (id int PRIMARY KEY, v text);
    CREATE TABLE taken (id int PRIMARY KEY, v text);
    CREATE TABLE skipped (id int PRIMARY KEY, v text);
    CREATE TABLE item (id int PRIMARY KEY, price text, stock int, place text);
    ALTER TABLE item REPLICA IDENTITY FULL;
    CREATE TABLE mixed (id int PRIMARY KEY, v text);
    ALTER TABLE kept REPLICA IDENTITY FULL;
    ALTER TABLE taken REPLICA IDENTITY FULL;
    ALTER TABLE skipped REPLICA IDENTITY FULL;
    ALTER TABLE mixed REPLICA IDENTITY FULL;
";
const RULES: &str = r#"
    [[rule]]
    name = "each its own"
    tables = ["public.kept"]
    resolve = "keep_local"
    diverges = "accepted"

    [[rule]]
    name = "each the other's"
    tables = ["public.taken"]
    resolve = "apply_remote"
    diverges = "accepted"

    [[rule]]
    name = "pass it over"
    tables = ["public.skipped"]
    resolve = "skip"
    diverges = "accepted"

    [[rule]]
    name = "each region has its price"
    tables = ["public.item"]
    resolve = "merge"
    columns = { price = "keep_local", stock = "delta", place = "apply_remote" }
    diverges = "accepted"

    [[rule]]
    name = "drafts stay where they are"
    tables = ["public.mixed"]
    when = "remote.v == 'draft' && local.v == 'draft of another'"
    resolve = "keep_local"
    diverges = "accepted"
"#;

/// The values of a row at each node; "-" where there is none.
fn values(cluster: &Cluster, table: &str, id: u32) -> String {
    let query = format!("SELECT coalesce((SELECT v FROM {table} WHERE id = {id}), '-')");
    (0..cluster.names().len()).map(|place| cluster.value(place, &query)).collect::<Vec<_>>().join(" ")
}

/// Lets all write without seeing each other; rows need not be equal afterwards.
fn apart(cluster: &mut Cluster, statements: &[(usize, &str)]) {
    cluster.stop_daemon();
    for (place, statement) in statements {
        cluster.rows(*place, statement);
    }
    cluster.start_daemon();
    cluster.wait_applied();
    cluster.wait_journal_settled();
}

#[test]
fn each_node_decides_for_itself_and_the_next_change_makes_rows_equal() {
    let mut cluster = Plan::two().schema(TABLES).rules(RULES).run();
    for table in ["kept", "taken", "skipped", "mixed"] {
        cluster.rows(EAST, &format!("INSERT INTO {table} VALUES (1, 'a'), (2, 'a'), (3, 'a')"));
    }
    cluster.settle();
    for table in ["kept", "taken", "skipped"] {
        let of = |sql: &str| sql.replace("TABLE", table);
        let [update, delete, insert] = [
            "UPDATE TABLE SET v = 'X' WHERE id = 1",
            "DELETE FROM TABLE WHERE id = 2",
            "INSERT INTO TABLE VALUES (4, 'X')",
        ];
        let of_west = |sql: &str| of(&sql.replace('X', "west"));
        let of_east = |sql: &str| of(&sql.replace('X', "east"));
        apart(
            &mut cluster,
            &[
                (EAST, &of_east(update)),
                (WEST, &of_west(update)),
                (EAST, &of(delete)),
                (WEST, &of("UPDATE TABLE SET v = 'west' WHERE id = 2")),
                (EAST, &of_east(insert)),
                (WEST, &of_west(insert)),
                (WEST, &of("UPDATE TABLE SET v = 'alone' WHERE id = 3")),
            ],
        );
        let expected = match table {
            "taken" => ["west east", "west -", "alone alone", "west east"],
            _ => ["east west", "- west", "alone alone", "east west"],
        };
        assert_eq!([1, 2, 3, 4].map(|id| values(&cluster, table, id)), expected, "{table}");
        let found = cluster.conflicts(&["--table", table]);
        let (resolver, resolution) = match table {
            "kept" => ("keep_local", "keep_local"),
            "taken" => ("apply_remote", "apply_remote"),
            _ => ("skip", "skip"),
        };
        let is_so = |one: &serde_json::Value| one["resolver"] == resolver && one["resolution"] == resolution;
        assert!(found.len() == 6 && found.iter().all(is_so), "{table}: {found:?}");
        // whoever has seen it writes for all
        cluster.rows(WEST, &of("UPDATE TABLE SET v = 'both' WHERE id IN (1, 4)"));
        cluster.rows(WEST, &of("INSERT INTO TABLE VALUES (2, 'both') ON CONFLICT (id) DO UPDATE SET v = 'both'"));
        cluster.settle();
        assert_eq!([1, 2, 4].map(|id| values(&cluster, table, id)), ["both both"; 3], "{table}");
    }
    apart(
        &mut cluster,
        &[
            (EAST, "UPDATE mixed SET v = 'draft' WHERE id = 1"),
            (WEST, "UPDATE mixed SET v = 'draft of another' WHERE id = 1"),
            (EAST, "UPDATE mixed SET v = 'east' WHERE id = 2"),
            (WEST, "UPDATE mixed SET v = 'west' WHERE id = 2"),
        ],
    );
    assert_eq!(values(&cluster, "mixed", 1), "draft draft of another");
    assert_eq!(values(&cluster, "mixed", 2), "west west", "decided alike");
}

#[test]
fn columns_may_differ_while_others_come_out_alike() {
    let mut cluster = Plan::three().schema(TABLES).rules(RULES).run();
    cluster.rows(NORTH, "INSERT INTO item VALUES (1, 'p', 10, 'q'), (2, 'p', 10, 'q')");
    cluster.settle();
    apart(
        &mut cluster,
        &[
            (EAST, "UPDATE item SET price = 'east', stock = stock - 1, place = 'east' WHERE id = 1"),
            (WEST, "UPDATE item SET price = 'west', stock = stock - 2, place = 'west' WHERE id = 1"),
            (EAST, "UPDATE item SET price = 'alone' WHERE id = 2"),
            (WEST, "UPDATE item SET stock = 9 WHERE id = 2"),
        ],
    );
    let rows = |cluster: &Cluster, id: u32| {
        let query = format!("SELECT concat_ws(' ', price, stock, place) FROM item WHERE id = {id}");
        [EAST, WEST, NORTH].map(|place| cluster.value(place, &query))
    };
    assert_eq!(rows(&cluster, 1), ["east 7 west", "west 7 east", "west 7 west"]);
    assert_eq!(rows(&cluster, 2), ["alone 9 q"; 3], "nobody else had changed it");
    // a change of another column leaves what differs; one of that column does not
    cluster.rows(EAST, "UPDATE item SET stock = stock - 1 WHERE id = 1");
    cluster.wait_applied();
    assert_eq!(rows(&cluster, 1), ["east 6 west", "west 6 east", "west 6 west"]);
    cluster.rows(WEST, "UPDATE item SET price = 'all', place = 'all' WHERE id = 1");
    cluster.settle();
    assert_eq!(rows(&cluster, 1), ["all 6 all"; 3]);
}

#[test]
fn of_three_nodes_one_that_made_no_change_has_the_latest() {
    let mut cluster = Plan::three().schema(TABLES).rules(RULES).run();
    cluster.rows(NORTH, "INSERT INTO kept VALUES (1, 'a'); INSERT INTO taken VALUES (1, 'a')");
    cluster.settle();
    apart(
        &mut cluster,
        &[
            (EAST, "UPDATE kept SET v = 'east'; UPDATE taken SET v = 'east'"),
            (WEST, "UPDATE kept SET v = 'west'; UPDATE taken SET v = 'west'"),
        ],
    );
    assert_eq!(values(&cluster, "kept", 1), "east west west");
    assert_eq!(values(&cluster, "taken", 1), "west east west");
}

#[test]
fn a_rule_must_say_that_rows_may_differ_and_a_check_and_the_log_say_that_they_may() {
    let mut cluster = Plan::two().schema(TABLES).set_up();
    cluster.set_rules(&RULES.replace("diverges = \"accepted\"", ""));
    let output = cluster.pgconcord(&["rules", "check"]);
    assert!(output.code == 2 && output.stderr.contains("by keep_local the row differs afterwards"), "{output}");
    assert!(output.stderr.contains("diverges = \"accepted\""), "{output}");
    cluster.set_rules(RULES);
    let output = cluster.pgconcord(&["rules", "check", "--schedules", "50"]);
    let says = "keep_local leaves rows that differ, as the rule accepts";
    assert!(output.code == 0 && output.stdout.contains(says), "{output}");
    cluster.start_daemon();
    let log = cluster.daemon().log();
    assert!(log.contains("rows may come to differ between nodes"), "{log}");
}
