//! Which entries a filter finds, and by which index.

use super::*;
use crate::journal::keys::WAITING;

/// Ids 1 to 6, one a minute; see the arms for what each is.
async fn six() -> (tempfile::TempDir, PathBuf) {
    let (directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    let made = (1..=6).map(|n| match n {
        1 => NewEntry { table: "stock_log".into(), ..entry(n, 1) },
        2 => NewEntry { schema: "audit".into(), ..entry(n, 1) },
        3 => NewEntry { lane: lane("west", "east"), ..entry(n, 1) },
        4 => NewEntry { lane: lane("west", "north"), conflict_type: ConflictType::InsertExists, ..entry(n, 1) },
        5 => NewEntry { key: object(json!({ "id": "5", "region": "a=b", "void": null })), ..entry(n, 9) },
        _ => entry(n, 9),
    });
    journal.pending(made.collect()).await.unwrap();
    journal.settle(&lane("east", "west"), 1).await.unwrap();
    journal.close().await.unwrap();
    (directory, path)
}

fn tables(globs: &[&str]) -> Filter {
    Filter { tables: globs.iter().map(|glob| glob.parse().unwrap()).collect(), ..Filter::default() }
}

fn keys(keys: &[&str]) -> Filter {
    Filter { keys: keys.iter().map(|key| KeyFilter((*key).to_owned())).collect(), ..Filter::default() }
}

#[tokio::test]
async fn each_finds_its_own_newest_first() {
    let (_directory, path) = six().await;
    let find = |filter| ids(&path, &filter);
    assert_eq!(find(Filter::default()), [6, 5, 4, 3, 2, 1]);
    assert_eq!(find(Filter { limit: Some(2), ..Filter::default() }), [6, 5]);
    assert_eq!(find(tables(&["public.*"])), [6, 5, 4, 3, 1]);
    assert_eq!(find(tables(&["stock"])), [6, 5, 4, 3, 2]);
    assert_eq!(find(tables(&["audit.*", "*_log"])), [2, 1]);
    assert_eq!(find(tables(&["nosuch"])), [0; 0]);
    assert_eq!(find(Filter { types: vec![ConflictType::InsertExists], ..Filter::default() }), [4]);
    assert_eq!(find(Filter { nodes: vec!["north".into()], ..Filter::default() }), [4]);
    assert_eq!(find(Filter { nodes: vec!["east".into()], ..Filter::default() }), [6, 5, 3, 2, 1]);
    assert_eq!(find(Filter { since: Some(minute(5)), ..Filter::default() }), [6, 5]);
    assert_eq!(find(Filter { statuses: vec![Status::Resolved], ..Filter::default() }), [2, 1]);
    assert_eq!(find(Filter { limit: Some(1), statuses: vec![Status::Pending], ..tables(&["stock"]) }), [6]);
}

#[tokio::test]
async fn a_key_is_found_by_column_and_by_value() {
    let (_directory, path) = six().await;
    finds_by_key(&path);
}

/// Six entries are too few to be taken into the index as they come; [`six`] has closed the journal.
#[tokio::test]
async fn a_key_is_found_before_it_is_taken_in() {
    let (_directory, path) = six().await;
    Store::open(&path)
        .unwrap()
        .write(|transaction| transaction.execute_batch("UPDATE keyed SET up_to = 0; DELETE FROM key_cell"))
        .unwrap();
    finds_by_key(&path);
}

fn finds_by_key(path: &Path) {
    let find = |given: &[&str]| ids(path, &keys(given));
    assert_eq!(find(&["id=5"]), [5]);
    assert_eq!(find(&["5"]), [5]);
    assert_eq!(find(&["region=5"]), [0; 0]);
    assert_eq!(find(&["a=b"]), [5], "a value may hold the sign itself");
    assert_eq!(find(&["region=a=b"]), [5]);
    assert_eq!(find(&["id=5", "region=a=b"]), [5]);
    assert_eq!(find(&["id=6", "region=a=b"]), [0; 0]);
}

fn key_cells(path: &Path) -> i64 {
    let reader = Reader::open(path).unwrap();
    reader.connection.query_row("SELECT count(*) FROM key_cell", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn keys_are_taken_in_many_at_a_time_and_go_with_their_entries() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    let found = |n: i64| ids(&path, &keys(&[&format!("id={n}")]));
    journal.pending(vec![entry(1, 1)]).await.unwrap();
    assert_eq!((key_cells(&path), found(1)), (0, vec![1]), "one is too few");
    journal.pending((2..=WAITING + 1).map(|n| entry(n, 2)).collect()).await.unwrap();
    journal.settle(&lane("east", "west"), 0).await.unwrap(); // served after the keys, which nobody waits for
    assert_eq!((key_cells(&path), found(7)), (WAITING + 1, vec![7]));
    journal.discard_after(&lane("east", "west"), 1).await.unwrap();
    assert_eq!((key_cells(&path), found(7)), (1, vec![]));
    journal.pending(vec![entry(8, 2)]).await.unwrap();
    assert_eq!((key_cells(&path), found(8)), (1, vec![8]));
    journal.settle(&lane("east", "west"), 2).await.unwrap();
    journal.close().await.unwrap();
    assert_eq!((key_cells(&path), found(8)), (2, vec![8]), "there is time at the end");
    let later = minute(60 * 24 * 365);
    assert_eq!(prune(&path, later, older_than_an_hour()).unwrap(), 2);
    assert_eq!(key_cells(&path), 0);
}

fn plan(path: &Path, filter: &Filter) -> String {
    let reader = Reader::open(path).unwrap();
    let (sql, values) = reader.listing(filter).unwrap();
    let mut statement = reader.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let lines = statement.query_map(rusqlite::params_from_iter(values), |row| row.get::<_, String>(3)).unwrap();
    lines.collect::<Result<Vec<_>, _>>().unwrap().join("; ")
}

#[tokio::test]
async fn lists_read_one_index_in_order_and_never_sort() {
    let (_directory, path) = six().await;
    let all = Filter {
        types: vec![ConflictType::InsertExists],
        nodes: vec!["east".into()],
        statuses: vec![Status::Resolved, Status::Held],
        ..tables(&["public.*"])
    };
    let since = Filter { since: Some(minute(0)), ..all.clone() };
    for filter in [Filter::default(), all, since] {
        let plan = plan(&path, &filter);
        assert!(plan.contains("USING COVERING INDEX entry_listing"), "{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        assert!(!plan.contains("SEARCH entry USING INTEGER PRIMARY KEY"), "{plan}");
    }
}

/// What waits is little; it is looked up and sorted.
#[tokio::test]
async fn what_is_pending_or_held_is_looked_up() {
    let (_directory, path) = six().await;
    let plan = |statuses| plan(&path, &Filter { statuses, ..tables(&["public.*"]) });
    let held = plan(vec![Status::Held]);
    assert!(held.contains("USING INDEX entry_held_listing") && !held.contains("TEMP B-TREE"), "{held}");
    let pending = plan(vec![Status::Pending]);
    assert!(pending.contains("SEARCH entry USING INTEGER PRIMARY KEY"), "{pending}");
    assert!(pending.contains("INDEX entry_pending"), "{pending}");
    let both = plan(vec![Status::Pending, Status::Held]);
    assert!(both.contains("SEARCH entry USING INTEGER PRIMARY KEY"), "{both}");
    assert!(both.contains("INDEX entry_pending") && both.contains("INDEX entry_held"), "{both}");
}

#[tokio::test]
async fn each_set_of_states_finds_its_own() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    let held = NewEntry { resolution: Resolution::Hold, ..entry(2, 1) };
    journal.pending(vec![entry(1, 1), held, entry(3, 1), entry(4, 2)]).await.unwrap();
    journal.settle(&lane("east", "west"), 1).await.unwrap();
    let (pending, resolved, held) = (Status::Pending, Status::Resolved, Status::Held);
    for (statuses, found) in [
        (vec![pending], vec![4]),
        (vec![resolved], vec![3, 1]),
        (vec![held], vec![2]),
        (vec![pending, held], vec![4, 2]),
        (vec![pending, resolved], vec![4, 3, 1]),
        (vec![resolved, held], vec![3, 2, 1]),
        (vec![held, resolved, pending], vec![4, 3, 2, 1]),
    ] {
        assert_eq!(ids(&path, &Filter { statuses: statuses.clone(), ..Filter::default() }), found, "{statuses:?}");
    }
}

#[tokio::test]
async fn a_key_is_looked_up_and_not_searched_for() {
    let (_directory, path) = six().await;
    let plan = plan(&path, &keys(&["id=5"]));
    assert!(plan.contains("SEARCH entry USING INTEGER PRIMARY KEY"), "{plan}");
    assert!(plan.contains("SEARCH key_cell USING PRIMARY KEY (value=? AND name=?)"), "{plan}");
    assert!(plan.contains("SEARCH late USING INTEGER PRIMARY KEY (rowid>?)"), "{plan}");
    assert!(!plan.contains("SCAN entry") && !plan.contains("SCAN key_cell"), "{plan}");
}

#[tokio::test]
async fn settling_and_pruning_use_indexes() {
    let (_directory, path) = six().await;
    let reader = Reader::open(&path).unwrap();
    let plan = |sql: &str| {
        reader.connection.query_row(&format!("EXPLAIN QUERY PLAN {sql}"), [], |row| row.get::<_, String>(3)).unwrap()
    };
    let settle =
        plan("UPDATE entry SET status = 'x' WHERE source = 'a' AND target = 'b' AND batch <= 1 AND status = 'pending'");
    assert!(settle.contains("entry_pending (source=? AND target=? AND batch<?)"), "{settle}");
    let keys = plan(
        "DELETE FROM key_cell WHERE (value, name, entry) IN (SELECT cell.value, cell.key, 1 FROM json_each('{}') AS cell)",
    );
    assert!(keys.contains("PRIMARY KEY (value=? AND name=? AND entry=?)"), "{keys}");
}

#[tokio::test]
async fn an_unknown_number_is_no_entry() {
    let (_directory, path) = six().await;
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.get(99).unwrap(), None);
    assert_eq!(reader.get(1).unwrap().map(|entry| entry.table), Some("public.stock_log".to_owned()));
}
