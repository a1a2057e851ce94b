//! Every type as a column, as an array and as a key: equal at the other end bit for bit, whatever the versions.

use crate::harness::{Plan, Sql, Version, servers};
use crate::types::values::{Draw, Type, USER_TYPES};

pub mod values;

const EAST: usize = 0;
const WEST: usize = 1;

/// Random values of each type.
const RANDOM: usize = 8;

/// The types of a run, each with its values.
struct Torture {
    types: Vec<(Type, Vec<String>)>,
}

impl Torture {
    fn of(types: Vec<Type>) -> Torture {
        let mut draw = Draw::new(7);
        let with_values = |of: Type| {
            let values = draw.values(&of, RANDOM);
            (of, values)
        };
        Torture { types: types.into_iter().map(with_values).collect() }
    }

    fn schema(&self) -> String {
        let columns: Vec<String> = self
            .types
            .iter()
            .enumerate()
            .map(|(i, (of, _))| format!("v{i} {0}, a{i} {1}", of.name, array_of(of.name)))
            .collect();
        let mut text = format!("CREATE TABLE plain (k int PRIMARY KEY, {});", columns.join(", "));
        for (i, (of, _)) in self.types.iter().enumerate().filter(|(_, (of, _))| of.is_key) {
            text.push_str(&format!("CREATE TABLE key{i} (v {0} PRIMARY KEY, n int);", of.name));
            text.push_str(&format!("CREATE TABLE akey{i} (v {} PRIMARY KEY, n int);", array_of(of.name)));
        }
        text
    }

    fn rows(&self) -> usize {
        self.types.iter().map(|(_, values)| values.len()).max().unwrap_or(0)
    }

    /// Row `k` of `plain`: a value and an array of each type.
    fn insert(&self, k: usize) -> String {
        let value = |(of, values): &(Type, Vec<String>)| {
            let value = format!("({})::{}", values[k % values.len()], of.name);
            format!("{value}, {}", array(of.name, &value, k))
        };
        format!("INSERT INTO plain VALUES ({k}, {})", self.types.iter().map(value).collect::<Vec<_>>().join(", "))
    }

    /// Each column by itself, in another row each.
    fn updates(&self, from: usize) -> Vec<String> {
        let update = |(i, (of, values)): (usize, &(Type, Vec<String>))| {
            let k = (from + i) % self.rows();
            let value = format!("({})::{}", values[(k + 1) % values.len()], of.name);
            let array = array(of.name, &value, k + 1);
            format!("UPDATE plain SET v{i} = {value} WHERE k = {k}; UPDATE plain SET a{i} = {array} WHERE k = {k}")
        };
        self.types.iter().enumerate().map(update).collect()
    }

    /// Rows whose keys are values; equal ones once.
    fn key_inserts(&self) -> Vec<String> {
        let mut statements = Vec::new();
        for (i, (of, values)) in self.types.iter().enumerate().filter(|(_, (of, _))| of.is_key) {
            for (n, value) in values.iter().enumerate() {
                let value = format!("({value})::{}", of.name);
                statements.push(format!("INSERT INTO key{i} VALUES ({value}, {n}) ON CONFLICT DO NOTHING"));
                if !value.contains("repeat") {
                    let array = array(of.name, &value, n);
                    statements.push(format!("INSERT INTO akey{i} VALUES ({array}, {n}) ON CONFLICT DO NOTHING"));
                }
            }
        }
        statements
    }

    /// Rows that take the keys of those that have gone.
    fn key_changes(&self, is_gone: impl Fn(usize) -> bool, number_of: impl Fn(usize) -> usize) -> Vec<String> {
        let mut statements = Vec::new();
        for (i, (of, values)) in self.types.iter().enumerate().filter(|(_, (of, _))| of.is_key) {
            for (n, value) in values.iter().enumerate().skip(1).filter(|(n, _)| is_gone(*n)) {
                let value = format!("({value})::{}", of.name);
                let other = number_of(n - 1);
                statements.push(format!(
                    "UPDATE key{i} SET v = {value} WHERE n = {other} AND NOT EXISTS (SELECT FROM key{i} WHERE v = {value})"
                ));
            }
        }
        statements
    }

    /// The rows of each key table, by what they were numbered.
    fn on_keys(&self, statement: impl Fn(&str) -> String) -> Vec<String> {
        let keys = self.types.iter().enumerate().filter(|(_, (of, _))| of.is_key);
        keys.flat_map(|(i, _)| [statement(&format!("key{i}")), statement(&format!("akey{i}"))]).collect()
    }

    /// `plain` in binary: what has one binary form at every node.
    fn binary(&self, sql: &Sql) -> Vec<u8> {
        let columns = self.types.iter().enumerate().filter(|(_, (of, _))| of.is_binary);
        let columns: Vec<String> = columns.map(|(i, _)| format!("v{i}, a{i}")).collect();
        sql.copy_out(&format!(
            "COPY (SELECT k, {} FROM plain ORDER BY k) TO STDOUT (FORMAT binary)",
            columns.join(", ")
        ))
    }
}

/// The array type; of domains too, which have one from 11 on.
fn array_of(name: &str) -> String {
    format!("{name}[]")
}

/// An array with `value`, of a shape by `n`.
fn array(of: &str, value: &str, n: usize) -> String {
    match n % 4 {
        0 => format!("ARRAY[{value}, NULL, {value}]::{of}[]"),
        1 => format!("array_fill({value}, ARRAY[2, 1], ARRAY[0, -3])"),
        2 => format!("'{{}}'::{of}[]"),
        _ => format!("ARRAY[ARRAY[{value}], ARRAY[{value}]]::{of}[]"),
    }
}

/// The rows of `plain` several times in one transaction, so that they are copied.
const MANY: &str = "CREATE TEMP TABLE more AS SELECT p.* FROM plain AS p, generate_series(1, 8) WHERE p.k < 1000;
    UPDATE more SET k = FIRST + n FROM (SELECT ctid AS at, row_number() OVER () AS n FROM more) AS s WHERE more.ctid = s.at;
    INSERT INTO plain SELECT * FROM more; DROP TABLE more";

/// Inserts, updates of each column, key changes and deletes, in both directions.
fn torture(plan: Plan, types: Vec<Type>, settings: &[(usize, &str)]) {
    let torture = Torture::of(types);
    let mut cluster = plan.schema(&torture.schema()).servers_only().into_role("odd");
    for place in [EAST, WEST] {
        cluster.rows(
            place,
            &format!("CREATE ROLE odd SUPERUSER LOGIN PASSWORD {}", values::literal(servers().password())),
        );
    }
    for (place, setting) in settings {
        cluster.rows(*place, &format!("ALTER ROLE odd SET {setting}"));
    }
    let output = cluster.pgconcord(&["setup"]);
    assert_eq!(output.code, 0, "setup: {output}");
    cluster.start_daemon();
    let rows = torture.rows();
    cluster.replicate(EAST, &(0..rows).map(|k| torture.insert(k)).collect::<Vec<_>>());
    cluster.replicate(WEST, &(rows..rows + 4).map(|k| torture.insert(k)).collect::<Vec<_>>());
    cluster.replicate(WEST, &torture.updates(0));
    cluster.replicate(EAST, &torture.updates(3));
    cluster.replicate(EAST, &torture.key_inserts());
    cluster.replicate(WEST, &torture.on_keys(|table| format!("UPDATE {table} SET n = n + 100")));
    cluster.replicate(EAST, &torture.on_keys(|table| format!("DELETE FROM {table} WHERE n % 3 = 0")));
    cluster.replicate(EAST, &torture.key_changes(|n| (n + 100).is_multiple_of(3), |n| n + 100));
    cluster.replicate(WEST, &torture.on_keys(|table| format!("UPDATE {table} SET v = v, n = NULL WHERE n % 3 = 1")));
    for place in [EAST, WEST] {
        cluster.replicate(place, &[MANY.replace("FIRST", &format!("{}000", place + 1))]);
    }
    assert!(cluster.sql(WEST).number("SELECT count(*) FROM plain WHERE k >= 1000") >= 100, "few rows at once");
    cluster.replicate(WEST, &["DELETE FROM plain WHERE k % 5 = 0".to_owned()]);
    assert_eq!(torture.binary(&cluster.sql(EAST)), torture.binary(&cluster.sql(WEST)), "in binary");
    cluster.assert_no_conflicts();
    assert!(torture.binary(&cluster.sql(EAST)).len() > 10_000, "there is something to compare");
}

fn between(east: Version, west: Version) {
    let types = || values::built_in().into_iter().chain(values::users()).collect();
    torture(Plan::of(&[east, west]).schema(USER_TYPES), types(), &[]);
}

#[test]
fn every_type_on_15() {
    let mut types = values::built_in();
    types.extend(values::users());
    types.extend(values::extensions());
    let extensions = "CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree;";
    // what a role may have set otherwise, and what changes how values are written
    let settings = [
        (EAST, "DateStyle = 'German, DMY'"),
        (WEST, "DateStyle = 'SQL, MDY'"),
        (EAST, "IntervalStyle = 'iso_8601'"),
        (WEST, "IntervalStyle = 'sql_standard'"),
        (EAST, "TimeZone = 'Asia/Kolkata'"),
        (WEST, "TimeZone = 'America/St_Johns'"),
        (EAST, "bytea_output = 'escape'"),
        (EAST, "extra_float_digits = -15"),
        (WEST, "extra_float_digits = 0"),
        (EAST, "search_path = 'public'"),
        (WEST, "xmloption = 'document'"),
        (EAST, "client_encoding = 'LATIN1'"),
        (EAST, "backslash_quote = 'on'"),
        (WEST, "array_nulls = off"),
        (EAST, "quote_all_identifiers = on"),
        (WEST, "standard_conforming_strings = off"),
        (WEST, "default_transaction_read_only = on"),
        (EAST, "default_transaction_isolation = 'serializable'"),
    ];
    torture(Plan::two().schema(USER_TYPES).schema(extensions), types, &settings);
}

#[test]
fn every_type_from_14_to_18() {
    between(Version::V14, Version::V18);
}

#[test]
fn every_type_from_18_to_14() {
    between(Version::V18, Version::V14);
}

/// From 16 on `"char"` writes a byte above 127 in a way that servers before don't read; of many rows at once, too.
#[test]
fn bytes_of_char_from_18_to_14() {
    let schema = r#"CREATE TABLE byte (n int PRIMARY KEY, of "char");"#;
    let mut cluster = Plan::of(&[Version::V18, Version::V14]).schema(schema).run();
    cluster.rows(EAST, r#"INSERT INTO byte SELECT n, n::"char" FROM generate_series(-128, 127) AS n"#);
    cluster.wait_applied(); // a row as text is no UTF-8 before 16, so nothing compares them
    let wrong = "SELECT count(*) FILTER (WHERE of::int <> n) || ' of ' || count(*) FROM byte";
    assert_eq!(cluster.value(WEST, wrong), "0 of 256");
    cluster.assert_no_conflicts();
}

#[test]
fn every_type_between_16_and_17() {
    between(Version::V16, Version::V17);
}
