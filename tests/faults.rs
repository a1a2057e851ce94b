//! What people get wrong, and what breaks: each time a clear message, and nothing lost once it is put right.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use pgconcord::throwaway::{Stop, free_port};

use crate::harness::{Cluster, Daemon, LATER, Plan, SOON, Version, ordinary_role, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, qty int);
    INSERT INTO item SELECT i, 'start', 0 FROM generate_series(1, 20) i;";

/// Waits until the daemon has said all of this in one line of its log, whether it still runs or not.
fn wait_for_message(cluster: &Cluster, parts: &[&str]) {
    let log = cluster.log_file();
    let said = |line: &str| parts.iter().all(|part| line.contains(part));
    let mut text = String::new();
    for _ in 0..SOON.as_millis() / 100 {
        text = fs::read_to_string(&log).unwrap_or_default();
        if text.lines().any(said) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("no line of the log says {parts:?}:\n{text}");
}

/// Changes at both sides while something is wrong.
fn write_at_both(cluster: &Cluster, tag: &str) {
    for place in [EAST, WEST] {
        let name = cluster.name(place);
        let (one, two) = (place + 1, place + 3);
        cluster.rows(place, &format!("UPDATE item SET name = '{tag} {name}' WHERE id IN ({one}, {two})"));
    }
}

/// All is put right: the daemon is started anew if it had ended, and the sides become equal.
fn recovers(cluster: &mut Cluster) {
    let mut daemon = cluster.take_daemon();
    match daemon.exited() {
        Some(_) => cluster.start_daemon(),
        None => {
            daemon.wait_ready();
            cluster.adopt_daemon(daemon);
        }
    }
    cluster.settle();
    cluster.wait_journal_settled();
}

#[test]
fn a_wrong_password() {
    let mut cluster = Plan::two().schema(ITEM).run();
    cluster.stop_daemon();
    let password = crate::harness::servers().password();
    let west = cluster.sql(WEST);
    west.rows("ALTER ROLE postgres PASSWORD 'another'");
    cluster.launch_daemon();
    wait_for_message(&cluster, &["west", "password authentication failed"]);
    west.rows("UPDATE item SET name = 'west' WHERE id = 2");
    cluster.rows(EAST, "UPDATE item SET name = 'east' WHERE id = 1");
    west.rows(&format!("ALTER ROLE postgres PASSWORD '{password}'"));
    recovers(&mut cluster);
}

#[test]
fn a_missing_slot_is_not_made_good_in_silence() {
    let mut cluster = Plan::two().schema(ITEM).run();
    cluster.stop_daemon();
    cluster.rows(EAST, "UPDATE item SET name = 'would be lost' WHERE id = 1");
    cluster.rows(EAST, "SELECT pg_drop_replication_slot('pgconcord_shop')");
    cluster.rows(WEST, "UPDATE item SET name = 'west' WHERE id = 2");
    cluster.launch_daemon();
    wait_for_message(&cluster, &["east", "pgconcord_shop", "slot"]);
    // what cannot be had must not be passed over: neither a new slot nor a restart makes it look healthy
    let daemon = cluster.take_daemon();
    drop(daemon);
    cluster.pgconcord(&["setup"]);
    cluster.launch_daemon();
    std::thread::sleep(std::time::Duration::from_secs(5));
    let healthy = cluster.daemon().exited().is_none() && cluster.daemon().is_ready();
    assert!(!healthy, "a change was lost, and the daemon says it is ready");
}

#[test]
fn a_slot_in_use_is_taken_over_once_it_is_free() {
    let mut cluster = Plan::two().schema(ITEM).run();
    let first = cluster.take_daemon();
    first.signal(Signal::SIGSTOP); // alive, and holding both slots
    write_at_both(&cluster, "meanwhile");
    let config = cluster.directory().join("second.toml");
    let text = fs::read_to_string(cluster.config()).expect("the configuration");
    let http = free_port().expect("a free port");
    let text = text.replace(&format!("127.0.0.1:{}", cluster.http()), &format!("127.0.0.1:{http}"));
    fs::write(&config, text).expect("a second configuration");
    let second = Daemon::start(&config, &cluster.log_file(), http);
    wait_for_message(&cluster, &["pgconcord_shop", "in use"]);
    first.kill();
    cluster.adopt_daemon(second);
    cluster.daemon().wait_ready();
    cluster.settle();
    cluster.stop_daemon();
}

#[test]
fn a_dropped_publication() {
    let mut cluster = Plan::two().schema(ITEM).run();
    cluster.stop_daemon();
    write_at_both(&cluster, "before");
    cluster.rows(EAST, "DROP PUBLICATION pgconcord_shop");
    cluster.launch_daemon();
    wait_for_message(&cluster, &["east", "publication", "pgconcord setup"]);
    drop(cluster.take_daemon());
    let output = cluster.pgconcord(&["setup"]);
    assert_eq!(output.code, 0, "{output}");
    write_at_both(&cluster, "after");
    cluster.start_daemon();
    cluster.settle();
}

#[test]
fn wal_level_replica() {
    let cluster = Plan::two().schema(ITEM).setting(EAST, "wal_level", "replica").servers_only();
    for command in ["doctor", "setup", "run"] {
        let output = cluster.pgconcord(&[command]);
        assert_ne!(output.code, 0, "{command}: {output}");
        let text = output.text();
        assert!(text.contains("east") && text.contains("wal_level"), "{command}: {text}");
        assert!(text.contains("logical"), "{command} does not say what to set: {text}");
    }
}

#[test]
fn a_renamed_column() {
    let mut cluster = Plan::two().schema(ITEM).run();
    cluster.rows(WEST, "ALTER TABLE item RENAME COLUMN qty TO quantity");
    cluster.rows(EAST, "UPDATE item SET qty = 5 WHERE id = 1");
    wait_for_message(&cluster, &["item", "qty"]);
    cluster.rows(EAST, "INSERT INTO item VALUES (100, 'while it is wrong', 1)");
    cluster.rows(WEST, "ALTER TABLE item RENAME COLUMN quantity TO qty");
    recovers(&mut cluster);
    assert_eq!(cluster.value(WEST, "SELECT qty FROM item WHERE id = 1"), "5");
}

#[test]
fn a_column_that_only_the_source_has() {
    let mut cluster = Plan::two().schema(ITEM).run();
    let held = cluster.hold_link(EAST, WEST);
    cluster.rows(EAST, "UPDATE item SET name = 'before' WHERE id = 1");
    cluster.rows(EAST, "ALTER TABLE item ADD size int");
    cluster.rows(EAST, "UPDATE item SET name = 'after', size = 7 WHERE id = 2");
    cluster.rows(EAST, "INSERT INTO item VALUES (100, 'new', 1, 8)");
    drop(held);
    wait_for_message(&cluster, &["east", "size", "public.item", "west", "restart pgconcord"]);
    assert_eq!(cluster.value(WEST, "SELECT name FROM item WHERE id = 1"), "before", "what came before is applied");
    assert_eq!(cluster.value(WEST, "SELECT name FROM item WHERE id = 2"), "start", "nothing is dropped in silence");
    cluster.rows(WEST, "UPDATE item SET name = 'west' WHERE id = 3");
    cluster.settle_applied_from(WEST, EAST);
    cluster.rows(WEST, "ALTER TABLE item ADD size int");
    cluster.stop_daemon();
    cluster.start_daemon();
    cluster.settle();
    assert_eq!(cluster.value(WEST, "SELECT sum(size) FROM item"), "15");
}

#[test]
fn a_server_that_lacks_a_table() {
    let mut cluster = Plan::two().schema(ITEM).run();
    cluster.rows(WEST, "ALTER TABLE item RENAME TO thing");
    cluster.rows(EAST, "UPDATE item SET qty = 5 WHERE id = 1");
    wait_for_message(&cluster, &["item", "west"]);
    cluster.rows(WEST, "ALTER TABLE thing RENAME TO item");
    recovers(&mut cluster);
    assert_eq!(cluster.value(WEST, "SELECT qty FROM item WHERE id = 1"), "5");
}

/// A file system of 8 MB: mounted by root, by anyone else in a namespace of the daemon's own.
struct SmallDisk {
    place: PathBuf,
    mounted: bool,
}

impl SmallDisk {
    fn new(place: PathBuf) -> SmallDisk {
        fs::create_dir(&place).expect("a mount point");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(&place).status();
        let mounted = mount.is_ok_and(|status| status.success());
        SmallDisk { place, mounted }
    }

    /// The daemon, which sees the small disk.
    fn run(&self, cluster: &Cluster) -> Daemon {
        if self.mounted {
            return Daemon::start(&cluster.config(), &cluster.log_file(), cluster.http());
        }
        let mut command = Command::new("unshare");
        let script = format!("mount -t tmpfs -o size=8m none '{}' && exec \"$0\" run", self.place.display());
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_pgconcord")]);
        command.env("PGCONCORD_CONFIG", cluster.config()).current_dir(cluster.directory());
        Daemon::spawn(command, &cluster.log_file(), cluster.http())
    }

    /// The disk as seen from outside the daemon's namespace.
    fn path(&self, daemon: &Daemon) -> PathBuf {
        if self.mounted {
            return self.place.clone();
        }
        let root = PathBuf::from(format!("/proc/{}/root", daemon.pid()));
        root.join(self.place.strip_prefix("/").expect("an absolute path"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg(&self.place).status();
        }
    }
}

/// Writes zeros until the disk is full.
fn fill(place: &Path) -> PathBuf {
    let file = place.join("filler");
    for block in ["64k", "4k", "512"] {
        let append = ["if=/dev/zero".to_owned(), format!("of={}", file.display()), format!("bs={block}")];
        let _ = Command::new("dd").args(append).args(["oflag=append", "conv=notrunc"]).output();
    }
    file
}

#[test]
fn a_full_disk_under_the_journal_stops_deciding_and_loses_nothing() {
    let parent = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::new(parent.path().join("small"));
    let mut cluster = Plan::two().schema(ITEM).journal(disk.place.join("pgconcord.db")).set_up();
    let daemon = disk.run(&cluster);
    cluster.adopt_daemon(daemon);
    cluster.daemon().wait_ready();
    cluster.settle();
    let place = disk.path(cluster.daemon());
    let filler = fill(&place);
    // conflicts, with rows that don't fit in the pages that the journal has; an entry holds about three copies of one
    let wide = "repeat(md5(random()::text), 500)";
    cluster.daemon().signal(Signal::SIGSTOP); // or a quick daemon leaves nothing that one side had not seen
    for place in [EAST, WEST] {
        cluster.rows(place, &format!("UPDATE item SET name = {wide} WHERE id <= 20"));
    }
    cluster.daemon().signal(Signal::SIGCONT);
    wait_for_message(&cluster, &["journal", "full"]);
    fs::remove_file(filler).expect("room again");
    let mut daemon = cluster.take_daemon();
    if daemon.exited().is_some() {
        daemon = disk.run(&cluster);
    }
    cluster.adopt_daemon(daemon);
    cluster.daemon().wait_ready();
    cluster.settle();
    let journal = place.join("pgconcord.db");
    assert!(journal.exists(), "{}", journal.display());
    drop(cluster);
}

/// A configuration with one mistake, made of [`WHOLE`] by replacing one piece, and what the message must name.
const MISTAKES: [(&str, &str, &str, &[&str]); 14] = [
    ("not TOML", "[cluster]", "[cluster", &["[cluster"]),
    ("no cluster", "[cluster]\nname = \"c\"", "", &["[cluster]", "missing"]),
    ("one node", "[[node]]\nname = \"b\"\ndsn = \"host=y\"", "", &["at least two"]),
    ("two nodes of one name", "name = \"b\"", "name = \"a\"", &["two nodes", "\"a\""]),
    ("a bad node name", "name = \"b\"", "name = \"B b\"", &["B b"]),
    ("a bad connection string", "host=y", "hots=y", &["hots"]),
    ("an unknown section", "[limits]", "[limit]", &["limit"]),
    ("an unknown key", "memory", "memroy", &["memroy"]),
    ("a bad size", "1GB", "much", &["much"]),
    ("a bad duration", "1s", "1 fortnight", &["fortnight"]),
    ("a bad address", "127.0.0.1:7432", "everywhere", &["everywhere"]),
    ("a bad pattern", "public.*", "public.[", &["public.["]),
    ("a value of the wrong type", "path = \"p.db\"", "path = 7", &["path"]),
    ("rules that are not there", "path = \"rules\"", "path = \"nowhere\"", &["nowhere"]),
];

const WHOLE: &str = r#"
[cluster]
name = "c"
[[node]]
name = "a"
dsn = "host=x"
[[node]]
name = "b"
dsn = "host=y"
[tables]
include = ["public.*"]
[rules]
path = "rules"
[journal]
path = "p.db"
[limits]
memory = "1GB"
max_clock_skew = "1s"
[http]
listen = "127.0.0.1:7432"
"#;

/// Exit code and messages of a command with that configuration.
fn configured(text: &str) -> (i32, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("pgconcord.toml");
    fs::create_dir(directory.path().join("rules")).expect("a directory for the rules");
    fs::write(&config, text).expect("a configuration");
    let output = crate::harness::pgconcord(&config, &["run"]);
    (output.code, output.text())
}

#[test]
fn every_mistake_in_the_configuration_is_named() {
    for (what, right, wrong, parts) in MISTAKES {
        assert!(WHOLE.contains(right), "{what}: {right:?} is not in the whole configuration");
        let (code, said) = configured(&WHOLE.replace(right, wrong));
        assert_eq!(code, 2, "{what}: {said}");
        for part in parts {
            assert!(said.contains(part), "{what}: {part:?} is not in {said}");
        }
        assert!(said.contains("pgconcord.toml"), "{what}: the file is not named in {said}");
    }
}

#[test]
fn all_mistakes_are_shown_at_once() {
    let wrong = WHOLE.replace("1GB", "much").replace("1s", "never").replace("127.0.0.1:7432", "everywhere");
    let (code, said) = configured(&wrong);
    assert_eq!(code, 2);
    for part in ["much", "never", "everywhere"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

#[test]
fn a_missing_configuration_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = crate::harness::pgconcord(&directory.path().join("no-such.toml"), &["run"]);
    assert_eq!(output.code, 2, "{output}");
    assert!(output.text().contains("no-such.toml"), "{output}");
}

#[test]
fn nothing_is_left_of_the_overflow_after_a_kill() {
    let mut cluster = Plan::two().schema(ITEM).set_up();
    let overflow = cluster.directory().join("overflow");
    fs::create_dir(&overflow).expect("a directory");
    let text = fs::read_to_string(cluster.config()).expect("the configuration");
    let limits = format!("\n[limits]\nmemory = \"16MB\"\nspill = \"{}\"\n", overflow.display());
    fs::write(cluster.config(), text + &limits).expect("a configuration with little memory");
    cluster.start_daemon();
    let held = cluster.hold_link(EAST, WEST);
    cluster.rows(EAST, "INSERT INTO item SELECT i, repeat('x', 200), 0 FROM generate_series(100, 100000) i");
    let spilled = |cluster: &Cluster| cluster.status()["window"]["bytes_on_disk"].as_u64();
    wait_for("the transaction lies on disk", LATER, || spilled(&cluster).filter(|bytes| *bytes > 1 << 20).map(drop));
    cluster.kill_daemon();
    let left: Vec<_> = fs::read_dir(&overflow).expect("the directory").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    drop(held);
    cluster.start_daemon();
    cluster.settle();
}

#[test]
fn a_server_that_is_away_for_a_while() {
    let mut cluster = Plan::two().schema(ITEM).run();
    cluster.server(WEST).stop(Stop::Fast).expect("it stops");
    wait_for_message(&cluster, &["west"]);
    cluster.rows(EAST, "UPDATE item SET name = 'east' WHERE id = 1");
    cluster.server(WEST).start().expect("it comes back");
    wait_for("the daemon is ready again", LATER, || cluster.daemon().is_ready().then_some(()));
    cluster.settle();
}

#[test]
fn an_administrators_limits_on_time_do_not_end_our_sessions() {
    let cluster = Plan::of(&[Version::V18; 2]).schema(ITEM).servers_only();
    for place in [EAST, WEST] {
        cluster.rows(place, &ordinary_role());
        for limit in ["idle_session", "idle_in_transaction_session", "transaction", "statement", "lock"] {
            cluster.rows(place, &format!("ALTER ROLE pgconcord SET {limit}_timeout = '400ms'"));
        }
    }
    let mut cluster = cluster.into_role("pgconcord");
    assert_eq!(cluster.pgconcord(&["setup"]).code, 0);
    cluster.start_daemon();
    sleep(Duration::from_secs(2)); // nothing is to be done
    cluster.rows(EAST, "INSERT INTO item SELECT i, repeat('x', 100), 0 FROM generate_series(100, 400000) i");
    cluster.settle();
    let log = cluster.daemon().log();
    assert!(!log.contains("connection lost") && !log.contains("timeout"), "{log}");
}
