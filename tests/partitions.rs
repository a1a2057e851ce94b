//! Partitioned tables, which replicate under their root, and tables that inherit.

use std::thread::sleep;
use std::time::Duration;

use crate::harness::{Cluster, Plan, Version};

const EAST: usize = 0;
const WEST: usize = 1;

const ROOT: &str = "CREATE TABLE sale (id int, region text, amount int, note text, PRIMARY KEY (id, region))
    PARTITION BY LIST (region);";
/// Two leaves and a default.
const FEW: &str = "
    CREATE TABLE sale_north PARTITION OF sale FOR VALUES IN ('north');
    CREATE TABLE sale_south PARTITION OF sale FOR VALUES IN ('south');
    CREATE TABLE sale_other PARTITION OF sale DEFAULT;";
/// The same rows have other places: one leaf is partitioned itself, columns stand in another order, a schema of its own.
const MANY: &str = "
    CREATE SCHEMA parts;
    CREATE TABLE parts.cold (note text, amount int, region text NOT NULL, gone int, id int NOT NULL);
    ALTER TABLE parts.cold DROP COLUMN gone;
    ALTER TABLE sale ATTACH PARTITION parts.cold FOR VALUES IN ('north', 'west');
    CREATE TABLE sale_south PARTITION OF sale FOR VALUES IN ('south') PARTITION BY HASH (id);
    CREATE TABLE sale_south_0 PARTITION OF sale_south FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE sale_south_1 PARTITION OF sale_south FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE sale_east PARTITION OF sale FOR VALUES IN ('east');";

fn rows(cluster: &Cluster, place: usize) -> String {
    cluster
        .value(place, "SELECT string_agg(format('%s %s %s', id, region, amount), ', ' ORDER BY id, region) FROM sale")
}

/// Inserts, updates, moves between partitions, conflicts and TRUNCATE between nodes whose partitions differ.
fn partitioned(east: Version, west: Version) {
    let mut cluster = Plan::of(&[east, west]).schema(ROOT).at(EAST, FEW).at(WEST, MANY).run();
    cluster.replicate(EAST,
        &[
            "INSERT INTO sale SELECT i, (ARRAY['north', 'south', 'east', 'west'])[i % 4 + 1], i FROM generate_series(1, 40) i",
            "UPDATE sale SET amount = amount * 10 WHERE id <= 8",
            "DELETE FROM sale WHERE id > 8",
        ],
    );
    cluster.replicate(WEST,
        &[
            "UPDATE sale SET region = 'south' WHERE id IN (1, 2, 3)",
            "BEGIN; UPDATE sale SET region = 'east' WHERE id = 1; UPDATE sale SET region = 'north', amount = 5 WHERE id = 1; COMMIT",
            "UPDATE sale SET id = 100 WHERE id = 4",
        ],
    );
    assert_eq!(
        rows(&cluster, EAST),
        "1 north 5, 2 south 20, 3 south 30, 5 south 50, 6 east 60, 7 west 70, 8 north 80, 100 north 40"
    );
    cluster.assert_no_conflicts();

    // the same row, by its two owners
    cluster.stop_daemon();
    cluster.rows(EAST, "UPDATE sale SET amount = 1 WHERE id = 5; UPDATE sale SET region = 'north' WHERE id = 6");
    sleep(Duration::from_millis(20));
    cluster.rows(WEST, "UPDATE sale SET amount = 2 WHERE id = 5; DELETE FROM sale WHERE id = 6");
    cluster.start_daemon();
    cluster.settle();
    assert_eq!(cluster.value(EAST, "SELECT amount FROM sale WHERE id = 5"), "2");
    assert!(!cluster.conflicts(&["--table", "public.sale"]).is_empty(), "two updates of one row");

    // a partition that comes while the daemon runs
    cluster.replicate(
        EAST,
        &[
            "CREATE TABLE sale_sea PARTITION OF sale FOR VALUES IN ('sea')",
            "INSERT INTO sale VALUES (200, 'west', 1, repeat('x', 5000))",
        ],
    );
    cluster.rows(WEST, "CREATE TABLE parts.sea PARTITION OF sale FOR VALUES IN ('sea')");
    cluster.replicate(EAST, &["INSERT INTO sale VALUES (201, 'sea', 1)", "UPDATE sale SET amount = 7 WHERE id = 200"]);
    assert_eq!(cluster.value(WEST, "SELECT count(*) FROM parts.sea"), "1");
    cluster.replicate(WEST, &["TRUNCATE sale", "INSERT INTO sale VALUES (1, 'south', 1)"]);
    assert_eq!(rows(&cluster, EAST), "1 south 1");
}

#[test]
fn partitions_may_differ_between_the_nodes() {
    partitioned(Version::Installed, Version::Installed);
}

#[test]
fn partitions_between_the_oldest_and_the_newest() {
    partitioned(Version::V14, Version::V18);
}

#[test]
fn a_partitioned_table_and_an_ordinary_one_of_that_name_are_equal() {
    let plain = "CREATE TABLE sale (id int, region text, amount int, note text, PRIMARY KEY (id, region));";
    let mut cluster = Plan::two().at(EAST, ROOT).at(EAST, FEW).at(WEST, plain).run();
    cluster.replicate(EAST, &["INSERT INTO sale VALUES (1, 'north', 1), (2, 'south', 2), (3, 'x', 3)"]);
    cluster.replicate(WEST, &["UPDATE sale SET region = 'north' WHERE id = 2", "DELETE FROM sale WHERE id = 3"]);
    assert_eq!(rows(&cluster, EAST), "1 north 1, 2 north 2");
    cluster.replicate(WEST, &["TRUNCATE sale"]);
    assert_eq!(cluster.value(EAST, "SELECT count(*) FROM sale"), "0");
}

/// A partitioned table that is left out leaves its partitions, each a table of its own: then a single one can be
/// truncated, and what replicates can be chosen partition by partition.
#[test]
fn leaf_by_leaf_if_the_root_is_left_out() {
    let mut cluster = Plan::two().schema(ROOT).schema(FEW).exclude("public.sale").exclude("public.sale_other").run();
    cluster.replicate(EAST, &["INSERT INTO sale VALUES (1, 'north', 1), (2, 'south', 2), (3, 'north', 3)"]);
    cluster
        .replicate(WEST, &["UPDATE sale SET region = 'south' WHERE id = 1", "UPDATE sale SET amount = 4 WHERE id = 2"]);
    assert_eq!(rows(&cluster, EAST), "1 south 1, 2 south 4, 3 north 3");
    cluster.replicate(WEST, &["TRUNCATE sale_south"]);
    assert_eq!(rows(&cluster, EAST), "3 north 3");
    cluster.rows(EAST, "INSERT INTO sale VALUES (4, 'other', 4)");
    cluster.wait_applied();
    assert_eq!(cluster.value(WEST, "SELECT count(*) FROM sale_other"), "0", "left out");
}

#[test]
fn what_keeps_a_partitioned_table_out_is_said_with_the_statement() {
    let foreign = "CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
        CREATE TABLE mixed (id int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE mixed_1 PARTITION OF mixed FOR VALUES FROM (0) TO (10);
        CREATE TABLE full_leaf (id int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE full_leaf_1 PARTITION OF full_leaf FOR VALUES FROM (0) TO (10);
        ALTER TABLE full_leaf_1 REPLICA IDENTITY FULL;";
    // a unique index forbids foreign partitions, so the key goes before one comes
    let foreign = format!(
        "{foreign} ALTER TABLE mixed DROP CONSTRAINT mixed_pkey;
        CREATE FOREIGN TABLE mixed_2 PARTITION OF mixed FOR VALUES FROM (10) TO (20) SERVER far;"
    );
    let cluster = Plan::two().schema(ROOT).schema(FEW).schema(&foreign).servers_only();
    let printed = cluster.pgconcord(&["doctor"]);
    assert_eq!(printed.code, 1, "{printed}");
    for part in [
        "the partition public.mixed_2 is a foreign table",
        "the partition public.full_leaf_1 has another REPLICA IDENTITY than its root",
        "ALTER TABLE public.full_leaf_1 REPLICA IDENTITY DEFAULT;",
    ] {
        assert!(printed.stdout.contains(part), "{part}\n{printed}");
    }
    assert!(!printed.stdout.contains("sale_north"), "a partition is no table of its own: {printed}");
    assert!(
        printed.stdout.contains("a TRUNCATE, DETACH or DROP of a single partition does not replicate"),
        "{printed}"
    );
}

/// Parents and children are tables of their own: a statement for one leaves the rows of the others alone.
#[test]
fn tables_that_inherit_are_tables_of_their_own() {
    let schema = "
        CREATE TABLE city (id int PRIMARY KEY, name text);
        CREATE TABLE capital (country text, PRIMARY KEY (id)) INHERITS (city);
        INSERT INTO city VALUES (1, 'Porto'), (2, 'Graz');
        INSERT INTO capital VALUES (1, 'Lisbon', 'PT'), (3, 'Vienna', 'AT');";
    let mut cluster = Plan::two().schema(schema).run();
    cluster.replicate(
        EAST,
        &[
            "UPDATE ONLY city SET name = 'Braga' WHERE id = 1",
            "DELETE FROM ONLY city WHERE id = 2",
            "UPDATE city SET name = upper(name) WHERE id = 3",
            "INSERT INTO capital VALUES (4, 'Rome', 'IT')",
        ],
    );
    assert_eq!(cluster.value(WEST, "SELECT name FROM capital WHERE id = 1"), "Lisbon");
    let all = "SELECT string_agg(format('%s %s', id, name), ', ' ORDER BY id, name) FROM city";
    assert_eq!(cluster.value(WEST, all), "1 Braga, 1 Lisbon, 3 VIENNA, 4 Rome");
    cluster.replicate(WEST, &["TRUNCATE ONLY city"]);
    assert_eq!(cluster.value(EAST, all), "1 Lisbon, 3 VIENNA, 4 Rome");
    cluster.replicate(WEST, &["INSERT INTO city VALUES (9, 'Faro')", "TRUNCATE city"]);
    assert_eq!(cluster.value(EAST, "SELECT count(*) FROM city"), "0");
}
