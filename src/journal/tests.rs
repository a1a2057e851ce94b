//! The journal as its users see it: two processes, a crash between pending and settle, a full disk, filters.

use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::*;
use crate::model::{Class, Classify, ConflictType, Lsn, NodeId, Resolution, Stamp, Xid};

const FOREVER: Retention = Retention::FOREVER;

mod counts;
mod filters;
mod prune;

fn older_than_an_hour() -> Retention {
    Retention { age: Some(Duration::from_secs(3600)), size: None }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgconcord.db");
    (directory, path)
}

fn lane(source: &str, target: &str) -> Lane {
    Lane { source: source.into(), target: target.into() }
}

fn object(value: serde_json::Value) -> JsonRow {
    value.as_object().cloned().unwrap_or_default()
}

fn minute(minute: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 123_456_000).unwrap() + TimeDelta::minutes(minute)
}

fn stamp(micros: i64, node: u8) -> Stamp {
    Stamp { micros, node: NodeId(node) }
}

/// A conflict on public.stock at west, found in minute `n`; `n` is its row's id, too.
fn entry(n: i64, batch: u64) -> NewEntry {
    NewEntry {
        lane: lane("east", "west"),
        batch,
        detected_at: minute(n),
        conflict_type: ConflictType::UpdateOriginDiffers,
        schema: "public".into(),
        table: "stock".into(),
        key: object(json!({ "id": n.to_string() })),
        resolution: Resolution::ApplyRemote,
        resolver: "last_update_wins".into(),
        rule: "default".into(),
        remote: Side {
            stamp: stamp(1, 0),
            node: "east".into(),
            lsn: Lsn(0x16_B374_D848),
            xid: Xid(u32::MAX),
            operation: Operation::Update,
            row: Some(object(json!({ "id": n.to_string(), "qty": null, "doc": { "unchanged": true } }))),
            old: None,
        },
        local: Some(LocalSide {
            stamp: Some(stamp(0, 1)),
            node: Some("west".into()),
            operation: Operation::Delete,
            row: None,
        }),
        result: Some(object(json!({ "id": n.to_string(), "qty": "ä\n\"5\"" }))),
        note: None,
        offset: u64::try_from(n).unwrap(),
    }
}

fn list(path: &Path, filter: &Filter) -> Vec<Entry> {
    let mut found = Vec::new();
    Reader::open(path)
        .unwrap()
        .list(filter, |entry| {
            found.push(entry);
            true
        })
        .unwrap();
    found
}

fn states(path: &Path) -> Vec<(String, Status)> {
    let id = |entry: Entry| (entry.key["id"].as_str().unwrap().to_owned(), entry.status);
    list(path, &Filter::default()).into_iter().map(id).collect()
}

fn ids(path: &Path, filter: &Filter) -> Vec<i64> {
    list(path, filter).into_iter().map(|entry| entry.key["id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn an_entry_reads_back_with_exactly_the_documented_fields() {
    let (_directory, path) = place();
    Journal::open(&path, FOREVER).unwrap().pending(vec![entry(5, 1)]).await.unwrap();
    let line = serde_json::to_string(&list(&path, &Filter::default())[0]).unwrap();
    assert_eq!(
        line,
        concat!(
            r#"{"id":1,"detected_at":"2026-09-21T14:18:20.123456Z","type":"update_origin_differs","#,
            r#""table":"public.stock","key":{"id":"5"},"source":"east","target":"west","#,
            r#""resolution":"apply_remote","resolver":"last_update_wins","rule":"default","status":"pending","#,
            r#""remote":{"stamp":"2000-01-01T00:00:00.000001Z","lsn":"16/B374D848","xid":4294967295,"#,
            r#""row":{"id":"5","qty":null,"doc":{"unchanged":true}},"old":null},"#,
            r#""local":{"stamp":"2000-01-01T00:00:00.000000Z","node":"west","row":null},"#,
            r#""result":{"id":"5","qty":"ä\n\"5\""}}"#
        )
    );
}

#[tokio::test]
async fn what_the_target_committed_is_settled_and_the_rest_did_not_happen() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    let other = NewEntry { lane: lane("west", "east"), ..entry(9, 8) };
    journal.pending(vec![entry(1, 6), entry(2, 7), entry(3, 8), other]).await.unwrap();
    let lane = lane("east", "west");
    for (settled, discarded) in [(2, 1), (0, 0)] {
        assert_eq!(journal.settle(&lane, 7).await.unwrap(), settled, "twice does nothing more");
        assert_eq!(journal.discard_after(&lane, 7).await.unwrap(), discarded);
    }
    let mut states = states(&path);
    states.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("1", Status::Resolved), ("2", Status::Resolved), ("9", Status::Pending)];
    assert_eq!(states, expected.map(|(id, status)| (id.to_owned(), status)));
    let counters = journal.counters();
    assert_eq!((counters.entries, counters.pending, counters.error), (3, 1, None));
    assert!(counters.bytes >= 4096);
}

#[tokio::test]
async fn a_conflict_decided_again_replaces_its_pending_entry_and_leaves_a_settled_one() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    let again = |batch, resolution| NewEntry { resolution, ..entry(1, batch) };
    journal.pending(vec![again(1, Resolution::ApplyRemote)]).await.unwrap();
    journal.pending(vec![again(2, Resolution::KeepLocal)]).await.unwrap();
    let found = list(&path, &Filter::default());
    assert_eq!((found.len(), found[0].id, found[0].batch, found[0].resolution), (1, 1, 2, Resolution::KeepLocal));
    journal.settle(&lane("east", "west"), 2).await.unwrap();
    journal.pending(vec![again(3, Resolution::Merge)]).await.unwrap();
    let found = list(&path, &Filter::default());
    assert_eq!((found.len(), found[0].resolution, found[0].status), (1, Resolution::KeepLocal, Status::Resolved));
    assert_eq!((journal.counters().entries, journal.counters().pending), (1, 0));
}

#[tokio::test]
async fn a_change_that_conflicts_with_several_keys_has_an_entry_each() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    journal.pending(vec![entry(1, 1), NewEntry { key: object(json!({ "id": "77" })), ..entry(1, 1) }]).await.unwrap();
    assert_eq!(journal.counters().entries, 2);
}

#[tokio::test]
async fn a_held_change_is_not_called_resolved() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    journal.pending(vec![NewEntry { resolution: Resolution::Hold, ..entry(1, 1) }]).await.unwrap();
    journal.settle(&lane("east", "west"), 1).await.unwrap();
    assert_eq!(states(&path), [("1".to_owned(), Status::Held)]);
}

#[tokio::test]
async fn a_decision_settles_what_is_held_about_its_row_and_nothing_else() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    let held = |n, lane, key: &str| NewEntry {
        resolution: Resolution::Hold,
        key: object(json!({ "id": key })),
        lane,
        ..entry(n, 1)
    };
    let (there, back) = (lane("east", "west"), lane("west", "east"));
    let entries = [held(1, there.clone(), "5"), held(2, back.clone(), "5"), held(3, there.clone(), "6"), entry(4, 2)];
    journal.pending(entries.to_vec()).await.unwrap();
    assert_eq!(decide(&path, 1, "pending").unwrap(), 0);
    journal.settle(&there, 1).await.unwrap();
    journal.settle(&back, 1).await.unwrap();
    assert_eq!(decide(&path, 1, "it stays").unwrap(), 2, "each link has an entry about one conflict");
    assert_eq!(decide(&path, 1, "or not").unwrap(), 1);
    assert_eq!((decide(&path, 4, "pending").unwrap(), decide(&path, 99, "unknown").unwrap()), (0, 0));
    let reader = Reader::open(&path).unwrap();
    let found = |id| reader.get(id).unwrap().map(|entry| (entry.status, entry.note)).unwrap();
    assert_eq!(found(1), (Status::Resolved, Some("it stays; or not".to_owned())));
    assert_eq!(found(2), (Status::Resolved, Some("it stays (conflict 1)".to_owned())));
    assert_eq!(found(3), (Status::Held, None));
}

#[tokio::test]
async fn a_decision_about_a_unique_value_settles_what_the_other_node_has_of_it() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    let row = |id: &str, mail: &str| Some(object(json!({ "id": id, "mail": mail })));
    let (there, back) = (lane("east", "west"), lane("west", "east"));
    let met = |lane: &Lane, n: u8, remote: Option<JsonRow>, local: Option<JsonRow>| NewEntry {
        resolution: Resolution::Hold,
        lane: lane.clone(),
        key: object(json!({ "id": remote.as_ref().and_then(|row| row.get("id")) })),
        remote: Side { stamp: stamp(i64::from(n), n), node: lane.source.clone(), row: remote, ..entry(1, 1).remote },
        local: Some(LocalSide {
            stamp: Some(stamp(i64::from(1 - n), 1 - n)),
            node: Some(lane.target.clone()),
            operation: Operation::Insert,
            row: local,
        }),
        ..entry(1, 1)
    };
    // one transaction at each node made two rows, which met two of the other's
    let entries = [
        met(&there, 0, row("1", "a"), row("2", "a")),
        met(&back, 1, row("2", "a"), row("1", "a")),
        met(&there, 0, row("3", "b"), row("4", "b")),
    ];
    journal.pending(entries.to_vec()).await.unwrap();
    journal.settle(&there, 1).await.unwrap();
    journal.settle(&back, 1).await.unwrap();
    assert_eq!(decide(&path, 2, "another address").unwrap(), 2);
    let reader = Reader::open(&path).unwrap();
    let found = |id| reader.get(id).unwrap().map(|entry| (entry.status, entry.note)).unwrap();
    assert_eq!(found(1), (Status::Resolved, Some("another address (conflict 2)".to_owned())));
    assert_eq!(found(3).0, Status::Held);
}

#[tokio::test]
async fn what_was_refused_is_held_while_its_row_is() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    let there = lane("east", "west");
    let refused = |n, key: &str| NewEntry {
        conflict_type: ConflictType::ApplyError,
        resolution: Resolution::Hold,
        key: object(json!({ "id": key })),
        ..entry(n, 1)
    };
    let for_a_person = NewEntry { resolution: Resolution::Hold, ..entry(3, 1) };
    journal.pending(vec![refused(1, "5"), refused(2, "6"), for_a_person]).await.unwrap();
    journal.settle(&there, 1).await.unwrap();
    let row = |key: &str| ("public".to_owned(), refused(1, key).table, object(json!({ "id": key })));
    let (elsewhere, all) = (journal.still_held("east", vec![]), journal.still_held("west", vec![row("5"), row("6")]));
    assert_eq!((elsewhere.await.unwrap(), all.await.unwrap()), (0, 0));
    assert_eq!(journal.still_held("west", vec![row("6")]).await.unwrap(), 1);
    let states: Vec<Status> = states(&path).into_iter().map(|(_, status)| status).collect();
    assert_eq!(states.iter().filter(|status| **status == Status::Held).count(), 2, "one row, and one conflict");
}

#[tokio::test]
async fn rows_that_wait_are_counted_whoever_decides() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    let held = NewEntry { resolution: Resolution::Hold, ..entry(1, 1) };
    journal.pending(vec![held.clone(), NewEntry { lane: lane("west", "east"), ..held }]).await.unwrap();
    journal.settle(&lane("east", "west"), 1).await.unwrap();
    journal.settle(&lane("west", "east"), 1).await.unwrap();
    let until = async |held| {
        while journal.counters().held != held {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, until(1)).await.expect("one row, though each link has an entry about it");
    decide(&path, 1, "done").unwrap();
    tokio::time::timeout(limit, until(0)).await.expect("what another process did is seen");
}

#[tokio::test]
async fn links_that_write_at_once_all_get_their_answer() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    let writers = (0..100).map(|n| {
        let journal = journal.clone();
        tokio::spawn(async move {
            journal.pending(vec![entry(n, 1)]).await.unwrap();
            assert_eq!(ids(&journal.path, &Filter { keys: vec![KeyFilter(n.to_string())], ..Filter::default() }), [n]);
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(journal.counters().entries, 100);
}

#[tokio::test]
async fn after_close_one_file_is_left_and_requests_are_refused() {
    let (directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    journal.pending(vec![entry(1, 1)]).await.unwrap();
    let other = journal.clone();
    journal.close().await.unwrap();
    assert!(matches!(other.pending(vec![entry(2, 1)]).await, Err(JournalError::Closed(_))));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(ids(&path, &Filter::default()), [1]);
}

#[tokio::test]
async fn a_full_disk_refuses_the_entry_and_goes_on_when_there_is_space_again() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    journal.pending(vec![entry(1, 1)]).await.unwrap();
    journal.ask(Command::Pragma("PRAGMA max_page_count = 1")).await.unwrap();
    let wide = NewEntry { note: Some("x".repeat(100_000)), ..entry(2, 1) };
    let error = journal.pending(vec![wide.clone()]).await.unwrap_err();
    assert!(matches!(error, JournalError::Full(_)), "{error}");
    assert_eq!(error.class(), Class::Operator);
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(journal.counters().error.unwrap().contains("free space"));
    assert_eq!(ids(&path, &Filter::default()), [1], "nothing of the refused entry is there");
    journal.ask(Command::Pragma("PRAGMA max_page_count = 1000000")).await.unwrap();
    journal.pending(vec![wide]).await.unwrap();
    assert_eq!((ids(&path, &Filter::default()), journal.counters().error), (vec![2, 1], None));
}

#[tokio::test]
async fn one_refused_request_does_not_fail_those_beside_it() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    journal.ask(Command::Pragma("PRAGMA max_page_count = 40")).await.unwrap();
    let wide = NewEntry { note: Some("x".repeat(1_000_000)), ..entry(2, 1) };
    let (first, refused, last) = tokio::join!(
        journal.pending(vec![entry(1, 1)]),
        journal.pending(vec![wide]),
        journal.pending(vec![entry(3, 1)])
    );
    assert!(first.is_ok() && matches!(refused, Err(JournalError::Full(_))) && last.is_ok());
    assert_eq!(ids(&path, &Filter::default()), [3, 1]);
}

#[tokio::test]
async fn a_journal_that_was_moved_away_is_begun_anew() {
    let (directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    journal.pending(vec![entry(1, 1)]).await.unwrap();
    let moved = directory.path().join("old.db");
    std::fs::rename(&path, &moved).unwrap();
    journal.pending(vec![entry(2, 1)]).await.unwrap();
    assert_eq!((ids(&path, &Filter::default()), ids(&moved, &Filter::default())), (vec![2], vec![1]));
    assert_eq!(journal.counters().entries, 1);
}

/// Set for [`second_process`].
const CHILD: &str = "PGCONCORD_TEST_JOURNAL";

fn spawn_second_process(path: &Path, task: &str) -> Process {
    let mut process = Process::new(std::env::current_exe().unwrap());
    process.args(["--exact", "journal::tests::second_process", "--ignored"]);
    process.env(CHILD, path).env("PGCONCORD_TEST_TASK", task).stdout(Stdio::null()).stderr(Stdio::null());
    process
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn second_process() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    match std::env::var("PGCONCORD_TEST_TASK").unwrap().as_str() {
        "crash" => runtime.block_on(async {
            let journal = Journal::open(&path, FOREVER).unwrap();
            journal.pending(vec![entry(1, 7), entry(2, 8)]).await.unwrap();
            std::process::abort();
        }),
        start => runtime.block_on(async {
            let journal = Journal::open(&path, FOREVER).unwrap();
            for n in 0..50 {
                journal.pending(vec![entry(start.parse::<i64>().unwrap() + n, 1)]).await.unwrap();
            }
        }),
    }
}

#[tokio::test]
async fn what_was_pending_when_the_daemon_was_killed_is_there_and_is_settled_later() {
    let (_directory, path) = place();
    assert!(!spawn_second_process(&path, "crash").status().unwrap().success());
    assert_eq!(states(&path), [("2".to_owned(), Status::Pending), ("1".to_owned(), Status::Pending)]);
    let journal = Journal::open(&path, FOREVER).unwrap();
    assert_eq!(journal.counters().pending, 2);
    journal.settle(&lane("east", "west"), 7).await.unwrap();
    journal.discard_after(&lane("east", "west"), 7).await.unwrap();
    assert_eq!(states(&path), [("1".to_owned(), Status::Resolved)]);
}

#[test]
fn two_processes_that_open_and_write_one_journal_lose_nothing() {
    let (_directory, path) = place();
    let children: Vec<_> =
        ["100", "200"].map(|start| spawn_second_process(&path, start).spawn().unwrap()).into_iter().collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(ids(&path, &Filter::default()).len(), 100);
}
