//! Every operation at one node against every other at another, either one later, arriving at a third node in either
//! order; and deletes that are old.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, Plan, SOON, wait_for};

const EAST: usize = 0;
const WEST: usize = 1;
const NORTH: usize = 2;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL);";
/// Rows 1 to this are there from the start.
const ROWS: u32 = 100;
/// How far away a changed key goes.
const AWAY: u32 = 1000;

/// What a node does to a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    /// A new row.
    Insert,
    /// A new row, changed in the same transaction.
    InsertUpdate,
    /// A new row, removed in the same transaction.
    InsertDelete,
    /// A changed row.
    Update,
    /// Another key for the row.
    Rekey,
    /// A removed row.
    Delete,
    /// A removed row, and another with its key in the same transaction.
    DeleteInsert,
}

/// What can be done where there is no row, and where there is one.
const ON_NOTHING: [Act; 3] = [Act::Insert, Act::InsertUpdate, Act::InsertDelete];
const ON_A_ROW: [Act; 4] = [Act::Update, Act::Rekey, Act::Delete, Act::DeleteInsert];

impl Act {
    fn sql(self, id: u32, by: &str) -> String {
        let insert = format!("INSERT INTO item VALUES ({id}, '{by}')");
        let update = format!("UPDATE item SET name = '{by}' WHERE id = {id}");
        let delete = format!("DELETE FROM item WHERE id = {id}");
        match self {
            Act::Insert => insert,
            Act::InsertUpdate => format!("BEGIN; INSERT INTO item VALUES ({id}, 'draft'); {update}; COMMIT"),
            Act::InsertDelete => format!("BEGIN; {insert}; {delete}; COMMIT"),
            Act::Update => update,
            Act::Rekey => format!("UPDATE item SET id = {}, name = '{by}' WHERE id = {id}", id + AWAY),
            Act::Delete => delete,
            Act::DeleteInsert => format!("BEGIN; {delete}; {insert}; COMMIT"),
        }
    }

    /// The rows that it leaves at the keys it touches: `None` is no row.
    fn leaves(self, id: u32, by: &str) -> Vec<(u32, Option<String>)> {
        match self {
            Act::InsertDelete | Act::Delete => vec![(id, None)],
            Act::Rekey => vec![(id, None), (id + AWAY, Some(by.to_owned()))],
            Act::Insert | Act::InsertUpdate | Act::Update | Act::DeleteInsert => vec![(id, Some(by.to_owned()))],
        }
    }
}

/// One row and what happens to it at two nodes.
#[derive(Debug)]
struct Duel {
    id: u32,
    /// Node and act, the earlier one first.
    acts: [(usize, Act); 2],
}

/// All pairs, with the earlier one at either node.
fn duels() -> Vec<Duel> {
    let mut duels = Vec::new();
    for (acts, first_id) in [(&ON_A_ROW[..], 1), (&ON_NOTHING[..], ROWS + 1)] {
        let pairs = acts.iter().flat_map(|a| acts.iter().map(move |b| (*a, *b)));
        let both = pairs.flat_map(|(a, b)| [[(EAST, a), (WEST, b)], [(WEST, a), (EAST, b)]]);
        duels.extend(both.zip(first_id..).map(|(acts, id)| Duel { id, acts }));
    }
    duels
}

/// Last update wins: the later act's value at every key that it touched, the earlier one's at the others.
fn outcome(duels: &[Duel], cluster: &Cluster) -> BTreeMap<u32, Option<String>> {
    let mut rows = BTreeMap::new();
    for duel in duels {
        for (node, act) in duel.acts {
            rows.extend(act.leaves(duel.id, cluster.name(node)));
        }
    }
    rows
}

/// The duels, with what `first` wrote arriving at the north before what `second` wrote.
fn third_node_sees(first: usize, second: usize) {
    let rows = format!("INSERT INTO item SELECT i, 'start' FROM generate_series(1, {ROWS}) i;");
    let mut cluster = Plan::three().schema(ITEM).schema(&rows).run();
    cluster.stop_daemon();
    let duels = duels();
    for turn in [0, 1] {
        for duel in &duels {
            let (node, act) = duel.acts[turn];
            cluster.rows(node, &act.sql(duel.id, cluster.name(node)));
        }
        sleep(Duration::from_millis(20));
    }
    // all nodes are up, for no decision is made before every stream has been read again
    let held = cluster.hold_link(second, NORTH);
    cluster.start_daemon();
    cluster.settle_applied_from(first, NORTH);
    drop(held);
    cluster.settle();
    cluster.wait_journal_settled();
    let expected = outcome(&duels, &cluster);
    let mut wrong = Vec::new();
    for (id, name) in &expected {
        let found = cluster.rows(NORTH, &format!("SELECT name FROM item WHERE id = {id}"));
        let found = found.into_iter().next().and_then(|mut row| row.remove(0));
        if found != *name {
            let duel = duels.iter().find(|duel| duel.id == id % AWAY);
            wrong.push(format!("{id}: {found:?} and not {name:?} after {duel:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    every_duel_is_on_record(&cluster, &duels);
}

/// Each node met the two changes of a row once: at most one entry a target, at least one at each writer.
fn every_duel_is_on_record(cluster: &Cluster, duels: &[Duel]) {
    let entries = cluster.conflicts(&["--table", "public.item"]);
    for duel in duels {
        let id = Value::String(duel.id.to_string());
        let about = entries.iter().filter(|entry| entry["key"]["id"] == id);
        let mut targets: Vec<&str> = about.map(|entry| entry["target"].as_str().expect("a target")).collect();
        targets.sort_unstable();
        let mut once = targets.clone();
        once.dedup();
        assert_eq!(targets, once, "{duel:?} is on record more than once at a node");
        let silent = duel.acts.iter().all(|(_, act)| *act == Act::InsertDelete);
        assert!(silent || targets.len() >= 2, "{duel:?} is on record at {targets:?} only");
    }
}

#[test]
fn every_operation_against_every_other_the_east_arrives_first() {
    third_node_sees(EAST, WEST);
}

#[test]
fn every_operation_against_every_other_the_west_arrives_first() {
    third_node_sees(WEST, EAST);
}

#[test]
fn a_delete_that_is_a_minute_old_still_counts_after_a_restart() {
    let mut cluster =
        Plan::two().schema(ITEM).schema("INSERT INTO item VALUES (1, 'start'), (2, 'start')").proxied().run();
    cluster.proxy(WEST).refuse();
    cluster.rows(EAST, "DELETE FROM item WHERE id = 1");
    cluster.rows(WEST, "UPDATE item SET name = 'older' WHERE id = 2");
    sleep(Duration::from_secs(20));
    cluster.stop_daemon();
    cluster.launch_daemon();
    sleep(Duration::from_secs(40));
    cluster.rows(WEST, "UPDATE item SET name = 'newer' WHERE id = 1");
    cluster.rows(EAST, "DELETE FROM item WHERE id = 2");
    cluster.proxy(WEST).accept();
    cluster.daemon().wait_ready();
    cluster.settle();
    cluster.wait_journal_settled();
    let left = cluster.rows(EAST, "SELECT id, name FROM item");
    assert_eq!(left, [[Some("1".to_owned()), Some("newer".to_owned())]], "the newer wins, whichever it is");
    for key in ["1", "2"] {
        let entries = cluster.conflicts_of("public.item", key);
        let mut types: Vec<_> = entries.iter().map(|entry| entry["type"].as_str().expect("a type")).collect();
        types.sort_unstable();
        assert_eq!(types, ["delete_origin_differs", "update_deleted"], "{entries:?}");
    }
}

#[test]
fn an_update_of_a_row_that_was_seen_to_go_is_no_conflict() {
    // deleted and inserted again in turn, each after seeing the other's: ordinary life, no matter how often
    let mut cluster = Plan::two().schema(ITEM).schema("INSERT INTO item VALUES (1, 'start')").run();
    for round in 0..20 {
        let (author, reader) = (round % 2, (round + 1) % 2);
        cluster.rows(author, "DELETE FROM item WHERE id = 1");
        wait_for("the delete arrives", SOON, || {
            (cluster.value(reader, "SELECT count(*) FROM item WHERE id = 1") == "0").then_some(())
        });
        cluster.rows(reader, &format!("INSERT INTO item VALUES (1, 'round {round}')"));
        wait_for("the insert arrives", SOON, || {
            (cluster.value(author, "SELECT count(*) FROM item WHERE id = 1") == "1").then_some(())
        });
    }
    cluster.settle();
    cluster.assert_no_conflicts();
}
