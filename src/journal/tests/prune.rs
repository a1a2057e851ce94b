//! What goes by age and by size, by the writer and by hand.

use super::*;

#[tokio::test]
async fn old_resolved_entries_are_pruned() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, older_than_an_hour()).unwrap();
    let days = |n: i64, days| NewEntry { detected_at: Utc::now() - TimeDelta::days(days), ..entry(n, 1) };
    let old = (1..=1200).map(|n| days(n, 2));
    journal.pending(old.chain([days(2000, 0)]).collect()).await.unwrap();
    journal.settle(&lane("east", "west"), 1).await.unwrap();
    journal.pending(vec![NewEntry { batch: 2, ..days(3000, 2) }]).await.unwrap();
    assert_eq!(journal.prune().await.unwrap(), 1200, "more than one portion");
    let free = Store::open(&path).unwrap().connection().query_row("PRAGMA freelist_count", [], |row| row.get(0));
    assert_eq!(free, Ok(0), "free pages go back to the file system");
    assert_eq!(ids(&path, &Filter::default()), [2000, 3000], "young and pending ones stay");
    assert_eq!((journal.counters().entries, journal.counters().pending), (2, 1));
}

#[tokio::test]
async fn a_manual_prune_takes_what_is_old_and_resolved() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    journal.pending(vec![entry(1, 1), entry(2, 2)]).await.unwrap();
    journal.settle(&lane("east", "west"), 1).await.unwrap();
    let (now, retention) = (minute(120), older_than_an_hour());
    let prunable = || Reader::open(&path).unwrap().prunable(now, retention).unwrap();
    assert_eq!(prunable(), Prunable { old: 1, for_room: 0 });
    assert_eq!(prune(&path, now, retention).unwrap(), 1);
    assert_eq!(prunable(), Prunable { old: 0, for_room: 0 });
    assert_eq!(Reader::open(&path).unwrap().pending().unwrap(), [2], "what is pending stays");
}

/// Some 10 kB.
fn wide(n: i64, batch: u64) -> NewEntry {
    NewEntry { note: Some("x".repeat(10_000)), ..entry(n, batch) }
}

#[tokio::test]
async fn a_journal_that_is_too_large_loses_its_oldest_and_stays_below_its_size() {
    let (_directory, path) = place();
    let size = 4 << 20;
    let journal = Journal::open(&path, Retention { age: None, size: Some(size) }).unwrap();
    let link = lane("east", "west");
    journal.pending(vec![wide(0, 1_000_000)]).await.unwrap();
    for batch in 1..=40 {
        let first = i64::try_from(batch).unwrap() * 100;
        journal.pending((first..first + 100).map(|n| wide(n, batch)).collect()).await.unwrap();
        journal.settle(&link, batch).await.unwrap();
    }
    assert_eq!(journal.prune().await.unwrap(), 0, "what was too much went with the writes");
    let left = ids(&path, &Filter::default());
    let (oldest, newest) = left.split_last().unwrap();
    assert_eq!(*oldest, 0, "it is pending and stays");
    assert!((200..340).contains(&newest.len()), "12 kB each, up to 4 MB: {}", newest.len());
    let expected: Vec<i64> = (0..4100).rev().take(newest.len()).collect();
    assert_eq!(newest, expected, "the newest stay, and none between them went");
    assert_eq!(journal.counters().entries, left.len() as u64);
    journal.close().await.unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() <= size + (2 << 20), "what one write adds, and no more");
}

#[tokio::test]
async fn a_journal_that_is_too_large_keeps_what_is_pending() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, Retention { age: None, size: Some(1 << 20) }).unwrap();
    journal.pending((1..=200).map(|n| wide(n, 1)).collect()).await.unwrap();
    assert_eq!(journal.prune().await.unwrap(), 0);
    assert_eq!(journal.counters().entries, 200);
    journal.settle(&lane("east", "west"), 1).await.unwrap();
    journal.prune().await.unwrap();
    assert!((50..150).contains(&journal.counters().entries), "once they are resolved they may go");
}

#[tokio::test]
async fn a_manual_prune_by_size_says_before_what_it_does() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    journal.pending((1..=400).map(|n| wide(n, 1)).collect()).await.unwrap();
    journal.settle(&lane("east", "west"), 1).await.unwrap();
    let retention = Retention { age: None, size: Some(2 << 20) };
    let prunable = || Reader::open(&path).unwrap().prunable(minute(0), retention).unwrap();
    let expected = prunable().for_room;
    let removed = prune(&path, minute(0), retention).unwrap();
    assert!(removed.abs_diff(expected) <= 60, "{expected} were expected to go, {removed} went");
    assert_eq!(prunable(), Prunable { old: 0, for_room: 0 });
    journal.close().await.unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() <= 2 << 20, "free pages go back to the file system");
    assert_eq!(ids(&path, &Filter::default()).last(), Some(&(i64::try_from(removed).unwrap() + 1)), "the oldest went");
}
