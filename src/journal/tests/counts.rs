//! Counts by table, type, rule and hour: the numbers that are kept, and the entries.

use super::*;

#[tokio::test]
async fn counts_follow_the_filter() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, FOREVER).unwrap();
    let other = NewEntry { table: "other".into(), ..entry(600, 1) };
    journal.pending(vec![entry(1, 1), entry(2, 1), other]).await.unwrap();
    let reader = Reader::open(&path).unwrap();
    let count = |filter| {
        let mut counts: Vec<(String, u64)> = reader
            .counts(&filter, &[By::Table])
            .unwrap()
            .into_iter()
            .map(|count| (count.values.join(" "), count.count))
            .collect();
        counts.sort();
        counts
    };
    assert_eq!(count(Filter::default()), [("public.other".to_owned(), 1), ("public.stock".to_owned(), 2)]);
    let stock = Filter { keys: vec![KeyFilter("id=2".into())], ..Filter::default() };
    assert_eq!(count(stock), [("public.stock".to_owned(), 1)]);
    let late = Filter { since: Some(minute(60)), ..Filter::default() };
    assert_eq!(count(late), [("public.other".to_owned(), 1)]);
}

/// The numbers that are kept, and the same counted entry by entry: any status is asked for, which they don't tell.
fn kept_and_counted(path: &Path, filter: &Filter) -> [Vec<String>; 2] {
    let reader = Reader::open(path).unwrap();
    let every_status = vec![Status::Pending, Status::Resolved, Status::Held];
    [filter.clone(), Filter { statuses: every_status, ..filter.clone() }].map(|filter| {
        let mut counts: Vec<String> =
            reader.counts(&filter, &By::ALL).unwrap().iter().map(|it| format!("{it:?}")).collect();
        counts.sort();
        counts
    })
}

#[tokio::test]
async fn kept_numbers_follow_entries_that_come_change_and_go() {
    let (_directory, path) = place();
    let journal = Journal::open(&path, older_than_an_hour()).unwrap();
    let link = lane("east", "west");
    let back = lane("west", "east");
    let filters = || {
        let since = [0, 1, 59, 60, 61, 130].map(|at| Filter { since: Some(minute(at)), ..Filter::default() });
        let others = [
            Filter::default(),
            Filter { tables: vec!["other".parse().unwrap()], since: Some(minute(30)), ..Filter::default() },
            Filter { types: vec![ConflictType::InsertExists], ..Filter::default() },
            Filter { nodes: vec!["north".into()], ..Filter::default() },
        ];
        since.into_iter().chain(others)
    };
    let agree = |when: &str| {
        for filter in filters() {
            let [kept, counted] = kept_and_counted(&path, &filter);
            assert_eq!(kept, counted, "{when}, {filter:?}");
        }
    };
    let many = (1..=150).map(|n| NewEntry {
        table: if n % 3 == 0 { "other" } else { "stock" }.into(),
        lane: if n % 2 == 0 { link.clone() } else { back.clone() },
        ..entry(n, u64::try_from(n).unwrap() / 50)
    });
    journal.pending(many.clone().collect()).await.unwrap();
    agree("after they came");
    let differently = |it: NewEntry| NewEntry {
        conflict_type: ConflictType::InsertExists,
        detected_at: it.detected_at + TimeDelta::hours(3),
        rule: "another".into(),
        ..it
    };
    journal.pending(many.clone().take(40).map(differently).collect()).await.unwrap();
    agree("after some were decided again");
    journal.pending(many.take(40).collect()).await.unwrap();
    agree("after that was taken back");
    let new = entry(700, 3);
    journal.pending(vec![new.clone(), differently(new.clone()), new]).await.unwrap();
    agree("after one came and was decided again at once");
    journal.settle(&link, 1).await.unwrap();
    agree("after some were settled");
    assert!(journal.discard_after(&back, 1).await.unwrap() > 10);
    agree("after some were discarded");
    assert!(journal.prune().await.unwrap() > 10);
    agree("after some were pruned");
    assert!(!kept_and_counted(&path, &Filter::default())[0].is_empty());
}
