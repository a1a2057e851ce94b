//! The commands themselves: init, doctor, setup, status, teardown.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::sync::mpsc;

use crate::harness::{Plan, SOON, wait_for};

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, name text);";

/// Everything of ours at a node, one object a line.
const OURS: &str = "
    SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'pgconcord'
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots
    UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin ORDER BY 1";

fn ours(cluster: &crate::harness::Cluster, place: usize) -> Vec<String> {
    cluster.rows(place, OURS).into_iter().map(|mut row| row.remove(0).expect("a name")).collect()
}

#[test]
fn setup_twice_is_setup_once_and_teardown_removes_exactly_that() {
    let cluster = Plan::two().schema(ITEM).servers_only();
    cluster.rows(
        0,
        "CREATE PUBLICATION theirs; SELECT pg_create_physical_replication_slot('theirs');
        SELECT pg_replication_origin_create('theirs')",
    );
    assert_eq!(cluster.pgconcord(&["setup"]).code, 0);
    let once = [ours(&cluster, 0), ours(&cluster, 1)];
    assert!(once[0].contains(&"slot pgconcord_shop".to_owned()), "{once:?}");
    assert!(once[0].contains(&"publication pgconcord_shop".to_owned()), "{once:?}");
    assert!(once[0].contains(&"origin pgconcord_shop_west".to_owned()), "{once:?}");
    assert_eq!(cluster.pgconcord(&["setup"]).code, 0);
    assert_eq!([ours(&cluster, 0), ours(&cluster, 1)], once);
    cluster.rows(1, "DROP TABLE pgconcord.held"); // as an earlier version leaves it
    let output = cluster.pgconcord(&["setup"]);
    assert!(output.code == 0 && output.stdout.contains("west: schema pgconcord completed"), "{output}");
    assert_eq!(cluster.value(1, "SELECT count(*) FROM pgconcord.held"), "0");
    let output = cluster.pgconcord(&["teardown"]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(ours(&cluster, 0), ["origin theirs", "publication theirs", "slot theirs"]);
    assert!(ours(&cluster, 1).is_empty(), "{:?}", ours(&cluster, 1));
}

#[test]
fn doctor_finds_nothing_wrong_where_nothing_is() {
    let cluster = Plan::two().schema(ITEM).run();
    let output = cluster.pgconcord(&["doctor"]);
    assert_eq!(output.code, 0, "{output}");
}

#[test]
fn doctor_says_what_to_change() {
    let wrong = "
        CREATE TABLE nokey (v text);
        CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE);
        CREATE TABLE counted (id serial PRIMARY KEY);
        CREATE TABLE triggered (id int PRIMARY KEY);
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER always BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION f();
        ALTER TABLE triggered ENABLE ALWAYS TRIGGER always;";
    let cluster = Plan::two()
        .schema(ITEM)
        .schema(wrong)
        .at(1, "ALTER TABLE item ADD extra int")
        .setting(1, "track_commit_timestamp", "off")
        .servers_only();
    let output = cluster.pgconcord(&["doctor"]);
    assert_eq!(output.code, 1, "{output}");
    let text = output.text();
    for part in ["track_commit_timestamp", "nokey", "deferred", "counted", "always", "extra"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(text.contains("ALTER SYSTEM SET track_commit_timestamp"), "no statement that does it: {text}");
}

#[test]
fn doctor_lists_each_missing_privilege_with_its_grant() {
    let cluster = Plan::two().schema(ITEM).schema("ALTER TABLE item ENABLE ROW LEVEL SECURITY;").servers_only();
    let password = crate::harness::servers().password();
    for place in [0, 1] {
        cluster.rows(place, &format!("CREATE ROLE pgconcord LOGIN PASSWORD '{password}'"));
    }
    let cluster = cluster.into_role("pgconcord");
    let output = cluster.pgconcord(&["doctor"]);
    assert_eq!(output.code, 1, "{output}");
    for part in [
        "ALTER ROLE \"pgconcord\" REPLICATION",
        "GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text)",
        "GRANT SELECT ON pg_catalog.pg_replication_origin_status",
        "GRANT CREATE ON DATABASE \"shop\"",
        "TRUNCATE ON \"public\".\"item\"",
        "BYPASSRLS",
    ] {
        assert!(output.text().contains(part), "{part:?} is not in {output}");
    }
}

#[test]
fn status_and_http_tell_the_same() {
    let mut cluster = Plan::two().schema(ITEM).run();
    cluster.rows(0, "INSERT INTO item VALUES (1, 'one')");
    cluster.settle();
    let served = cluster.daemon().get("/status").expect("an answer");
    assert_eq!(served.0, 200);
    let served: serde_json::Value = serde_json::from_str(&served.1).expect("JSON");
    let printed = cluster.status();
    let names = |value: &serde_json::Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&served), names(&printed));
    let (code, metrics) = cluster.daemon().get("/metrics").expect("an answer");
    assert_eq!(code, 200);
    assert!(metrics.lines().any(|line| line.starts_with("pgconcord_")), "{metrics}");
    assert!(metrics.trim_end().ends_with("# EOF"), "not OpenMetrics: {metrics}");
    assert_eq!(cluster.daemon().get("/healthz").map(|(code, _)| code), Some(200));
    let output = cluster.pgconcord(&["status"]);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.contains("east") && output.stdout.contains("west"), "{output}");
    cluster.stop_daemon();
    let output = cluster.pgconcord(&["status"]);
    assert_eq!(output.code, 1, "no daemon");
    for part in ["daemon not running", "CONFIRMED", "RETAINED", "east", "west"] {
        assert!(output.stdout.contains(part), "{part:?} is not in {output}");
    }
    let servers = cluster.status();
    assert_eq!(servers["daemon"], "not_running");
    for (place, source) in [(0, "west"), (1, "east")] {
        let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'pgconcord_shop'";
        assert_eq!(servers["nodes"][place]["confirmed_lsn"], cluster.value(place, slot));
        assert_eq!(servers["nodes"][place]["applied"][0]["source"], source);
    }
}

#[test]
fn conflicts_are_followed_and_exported() {
    let mut cluster = Plan::two().schema(ITEM).run();
    cluster.without_seeing(&[
        (0, "INSERT INTO item VALUES (1, 'a, \"east\"')"),
        (1, "INSERT INTO item VALUES (1, 'west')"),
    ]);
    let mut tail = crate::harness::command(&cluster.config());
    let mut tail = tail.args(["conflicts", "tail", "--json"]).stdout(Stdio::piped()).spawn().expect("pgconcord runs");
    let output = tail.stdout.take().expect("a pipe");
    let (lines, followed) = mpsc::channel();
    // the pipe is closed when the third line has come
    std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).take(3).for_each(|line| drop(lines.send(line)));
    });
    let next = || -> String { followed.recv_timeout(SOON).expect("a line") };
    let told: Vec<serde_json::Value> =
        [next(), next()].iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(told.iter().all(|entry| entry["key"]["id"] == "1"), "{told:?}");
    cluster.without_seeing(&[(0, "UPDATE item SET name = 'x'"), (1, "UPDATE item SET name = 'y'")]);
    assert!(next().contains("update_origin_differs"));
    wait_for("tail ends once nobody reads", SOON, || tail.try_wait().expect("a child").filter(|code| code.success()));

    let all = cluster.conflicts(&[]);
    let lines = cluster.pgconcord(&["conflicts", "export", "--format", "jsonl"]);
    assert_eq!(lines.json_lines(), all);
    let file = cluster.directory().join("conflicts.csv");
    fs::write(&file, "an older export").expect("a file");
    let path = file.display().to_string();
    let output = cluster.pgconcord(&["conflicts", "export", "--format", "csv", "--output", &path]);
    assert_eq!(output.code, 0, "{output}");
    let text = fs::read_to_string(&file).expect("the export");
    assert_eq!(text.split("\r\n").filter(|line| !line.is_empty()).count(), 1 + all.len(), "{text}");
    assert!(text.starts_with("id,detected_at,type,table,key,"), "{text}");
    assert!(text.contains(r#"""name"":""a, \""east\"""""#), "{text}");
    let nowhere = cluster.pgconcord(&["conflicts", "export", "--format", "csv", "--output", "/nonexistent/x.csv"]);
    assert!(nowhere.code == 1 && nowhere.stderr.contains("no file was written"), "{nowhere}");
}

#[test]
fn what_init_writes_works() {
    let cluster = Plan::two().schema(ITEM).servers_only();
    let directory = cluster.directory().join("new");
    fs::create_dir(&directory).expect("a directory");
    let config = directory.join("pgconcord.toml");
    let output = crate::harness::pgconcord(&config, &["init", &cluster.dsn(0), &cluster.dsn(1)]);
    assert_eq!(output.code, 0, "{output}");
    let written = fs::read_to_string(&config).expect("a configuration");
    assert!(written.lines().filter(|line| line.trim_start().starts_with('#')).count() > 5, "no comments: {written}");
    assert!(directory.join("conflict-rules").is_dir());
    let again = crate::harness::pgconcord(&config, &["init", &cluster.dsn(0), &cluster.dsn(1)]);
    assert_ne!(again.code, 0, "it wrote over a configuration");
    let setup = crate::harness::pgconcord(&config, &["setup"]);
    assert_eq!(setup.code, 0, "{setup}\n{written}");
}

#[test]
fn a_second_daemon_on_the_same_address_is_told_so() {
    let mut cluster = Plan::two().schema(ITEM).run();
    let second = cluster.pgconcord(&["run"]);
    assert_ne!(second.code, 0, "{second}");
    assert!(second.text().contains(&cluster.http().to_string()), "{second}");
    assert!(cluster.daemon().is_ready(), "the first goes on");
}

#[test]
fn an_ordinary_role_is_enough() {
    let cluster = Plan::two().schema(ITEM).servers_only();
    for place in [0, 1] {
        cluster.rows(place, &crate::harness::ordinary_role());
    }
    let mut cluster = cluster.into_role("pgconcord");
    let doctor = cluster.pgconcord(&["doctor"]);
    let setup = cluster.pgconcord(&["setup"]);
    assert_eq!(setup.code, 0, "{setup}{doctor}");
    cluster.start_daemon();
    cluster.rows(0, "INSERT INTO item VALUES (1, 'one')");
    cluster.rows(1, "INSERT INTO item VALUES (2, 'two')");
    cluster.settle();
    assert_eq!(cluster.value(0, "SELECT count(*) FROM item"), "2");
    let owner = cluster.value(1, "SELECT rolsuper FROM pg_roles WHERE rolname = 'pgconcord'");
    assert_eq!(owner, "f");
    cluster.stop_daemon();
}

#[test]
fn the_journal_is_for_its_owner_only() {
    let mut cluster = Plan::two().schema(ITEM).run();
    cluster.rows(0, "INSERT INTO item VALUES (1, 'one')");
    cluster.settle();
    let journal = cluster.directory().join("pgconcord.db");
    wait_for("the journal is there", SOON, || journal.exists().then_some(()));
    let mode = fs::metadata(&journal).expect("the journal").mode() & 0o777;
    assert_eq!(mode & 0o007, 0, "rows of users are in it, and its mode is {mode:o}");
}
