use super::*;
use crate::model::{Class, Classify, Stamp, Touch, TouchKind, Touches};
use crate::stream::testing::*;

/// The last event is a refusal whose text has these words.
fn refused(messages: &[Bytes]) -> String {
    let mut assembler = assembler(spill(1 << 20));
    let (last, before) = messages.split_last().unwrap();
    before.iter().for_each(|message| assembler.feed(message.clone(), &mut Vec::new()).unwrap());
    let error = assembler.feed(last.clone(), &mut Vec::new()).unwrap_err();
    assert_eq!(error.class(), Class::Operator);
    error.to_string()
}

fn only_transaction(events: &[SourceEvent]) -> &Transaction {
    match events {
        [SourceEvent::Transaction(transaction)] => transaction,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_transaction_is_delivered_at_its_commit() {
    let events = assemble(&[
        begin(100, 42),
        insert(None, 1, "1 a"),
        update(None, 1, None, "1 b"),
        delete(None, 2, "1 2 null"),
        commit(100),
    ]);
    assert_eq!(words(&events), ["txn 42 100..108: 42 I items: 1 a, 42 U items: 1 b, 42 D pairs: 1 2 null"]);
    let transaction = only_transaction(&events);
    assert_eq!(transaction.stamp, Stamp { micros: 1000, node: NodeId(0) });
    assert_eq!(transaction.changes, 3);
}

#[test]
fn each_touch_leads_to_its_change() {
    let events = assemble(&[
        begin(100, 42),
        insert(None, 1, "1 a"),
        update(None, 1, Some((b'K', "1 null")), "2 a"),
        delete(None, 1, "2 null"),
        commit(100),
    ]);
    let transaction = only_transaction(&events);
    let Touches::List(list) = &transaction.touches else { panic!("three changes are a list") };
    let [one, gone, two, last] = list.as_slice() else { panic!("{list:?}") };
    let kinds = [TouchKind::Put, TouchKind::Delete, TouchKind::Put, TouchKind::Delete];
    assert_eq!(list.iter().map(|touch| touch.kind).collect::<Vec<_>>(), kinds);
    assert_eq!((one.key, two.key, gone.offset), (gone.key, last.key, two.offset));
    assert_ne!(one.key, two.key);
    assert!(matches!(transaction.change_at(one.offset).unwrap().op, Op::Insert { .. }));
    assert!(matches!(transaction.change_at(two.offset).unwrap().op, Op::Update { .. }));
    assert!(matches!(transaction.change_at(last.offset).unwrap().op, Op::Delete { .. }));
}

#[test]
fn changes_of_relations_that_do_not_replicate_are_dropped() {
    let events = assemble(&[begin(100, 42), insert(None, 9, "1"), insert(None, 1, "1 a"), commit(100)]);
    assert_eq!(words(&events), ["txn 42 100..108: 42 I items: 1 a"]);
    let none = assemble(&[begin(100, 42), insert(None, 9, "1"), commit(100)]);
    assert_eq!(words(&none), ["position 108"]);
}

#[test]
fn our_own_commits_leave_only_their_mark() {
    let own = [begin(100, 42), origin(55, "pgconcord_shop_east"), insert(None, 1, "1 a"), commit(100)];
    assert_eq!(words(&assemble(&own)), ["own 1 55 100..108"]);
    let foreign = [begin(100, 42), origin(55, "pg_16384"), insert(None, 1, "1 a"), commit(100)];
    assert_eq!(words(&assemble(&foreign)), ["txn 42 100..108: 42 I items: 1 a"]);
}

#[test]
fn the_origin_of_a_streamed_transaction_holds_for_its_later_chunks() {
    let events = assemble(&[
        stream_start(42, 1),
        origin(0, "pgconcord_shop_east"),
        insert(Some(42), 1, "1 a"),
        stream_stop(),
        stream_start(50, 1),
        insert(Some(50), 1, "2 b"),
        stream_stop(),
        stream_start(42, 0),
        insert(Some(43), 1, "3 c"),
        stream_stop(),
        stream_commit(42, 100),
        stream_commit(50, 200),
    ]);
    assert_eq!(words(&events), ["own 1 0 100..108", "txn 50 200..208: 50 I items: 2 b"]);
}

#[test]
fn an_aborted_subtransaction_takes_only_its_own_changes() {
    let events = assemble(&[
        stream_start(42, 1),
        insert(Some(42), 1, "1 a"),
        insert(Some(43), 1, "2 b"),
        truncate(Some(43), &[3], 0),
        stream_stop(),
        stream_start(42, 0),
        insert(Some(44), 1, "3 c"),
        insert(Some(43), 1, "4 d"),
        stream_stop(),
        stream_abort(42, 43),
        stream_start(42, 0),
        insert(Some(42), 1, "5 e"),
        stream_stop(),
        stream_commit(42, 100),
    ]);
    assert_eq!(words(&events), ["txn 42 100..108: 42 I items: 1 a, 44 I items: 3 c, 42 I items: 5 e"]);
    let transaction = only_transaction(&events);
    let Touches::List(list) = &transaction.touches else { panic!("three changes are a list") };
    let at = |touch: &Touch| transaction.change_at(touch.offset).unwrap().xid.0;
    assert_eq!(list.iter().map(at).collect::<Vec<_>>(), [42, 44, 42]);
    assert!(transaction.truncates.is_empty());
}

#[test]
fn an_aborted_transaction_leaves_nothing() {
    let budget = spill(1 << 20);
    let mut assembler = assembler(budget.clone());
    let mut events = Vec::new();
    let messages = [stream_start(42, 1), insert(Some(42), 1, "1 a"), stream_stop(), stream_abort(42, 42)];
    messages.into_iter().for_each(|message| assembler.feed(message, &mut events).unwrap());
    assert!(events.is_empty());
    assert_eq!(budget.in_memory(), 0);
    // one of which nothing was sent
    assembler.feed(stream_abort(60, 61), &mut events).unwrap();
    assert!(events.is_empty());
}

#[test]
fn a_barrier_comes_with_its_commit() {
    let events = assemble(&[
        begin(100, 42),
        logical(None, 1, "pgconcord", "18446744073709551615"),
        commit(100),
        begin(200, 43),
        insert(None, 1, "1 a"),
        logical(None, 1, "pgconcord", "7"),
        logical(None, 1, "somebody", "8"),
        logical(None, 1, "pgconcord", "no number"),
        commit(200),
        logical(None, 0, "pgconcord", "9"),
    ]);
    let max = format!("barrier {} 108", u64::MAX);
    assert_eq!(words(&events), [&max, "txn 43 200..208: 43 I items: 1 a", "barrier 7 208"]);
}

#[test]
fn a_streamed_barrier_waits_for_the_commit_and_dies_with_its_subtransaction() {
    let events = assemble(&[
        stream_start(42, 1),
        logical(Some(42), 1, "pgconcord", "1"),
        logical(Some(43), 1, "pgconcord", "2"),
        stream_stop(),
        stream_abort(42, 43),
        stream_commit(42, 100),
    ]);
    assert_eq!(words(&events), ["barrier 1 108"]);
}

#[test]
fn truncate_is_one_record_a_replicated_table() {
    let events = assemble(&[begin(100, 42), truncate(None, &[1, 9, 3], 2), commit(100)]);
    let group = "[TableId(0), TableId(2)] true";
    assert_eq!(words(&events), [format!("txn 42 100..108: 42 T items: {group}, 42 T logs: {group}")]);
    let transaction = only_transaction(&events);
    assert_eq!(transaction.truncates.iter().map(|(table, _)| table.0).collect::<Vec<_>>(), [0, 2]);
    for (table, offset) in &transaction.truncates {
        assert_eq!(transaction.change_at(*offset).unwrap().relation.table_id(), *table);
    }
}

#[test]
fn a_table_that_changes_its_shape_within_a_transaction_has_two_relations_in_it() {
    let wider = shape(1, "items", &["v", "id", "more"], &["id"]);
    let events = assemble(&[
        begin(100, 42),
        insert(None, 1, "1 a"),
        relation(None, &wider),
        insert(None, 1, "b 2 x"),
        update(None, 1, None, "c 1 y"),
        commit(100),
    ]);
    let transaction = only_transaction(&events);
    assert_eq!(changes(transaction), ["42 I items: 1 a", "42 I items: b 2 x", "42 U items: c 1 y"]);
    assert_eq!(transaction.relations.len(), 2);
    let Touches::List(list) = &transaction.touches else { panic!("three changes are a list") };
    assert_eq!(list[0].key, list[2].key);
}

#[test]
fn a_prepared_transaction_is_refused_with_what_to_do() {
    let prepared = Bytewise::new(b'b').u64(1).u64(2).u64(3).u32(4).text("gid").done();
    assert!(refused(&[prepared]).contains("two_phase"));
}

#[test]
fn messages_out_of_order_are_refused() {
    for messages in [
        vec![insert(None, 1, "1 a")],
        vec![begin(1, 1), begin(2, 2)],
        vec![begin(1, 1), commit(2)],
        vec![commit(1)],
        vec![stream_stop()],
        vec![stream_start(1, 0)],
        vec![stream_start(1, 1), stream_start(2, 1)],
        vec![stream_start(1, 1), stream_commit(1, 9)],
        vec![stream_commit(1, 9)],
        vec![begin(1, 1), stream_abort(1, 1)],
        vec![begin(1, 1), insert(None, 77, "1 a")],
        vec![begin(1, 1), truncate(None, &[1, 77], 0)],
        vec![begin(1, 1), insert(None, 1, "1 a b")],
        vec![logical(None, 1, "pgconcord", "1")],
    ] {
        assert!(refused(&messages).contains("out of order"), "{messages:?}");
    }
}

/// Feeds one transaction of `rows` inserts, streamed or whole; returns it and the most memory that it took.
fn large(rows: u32, streamed: bool, budget: &Arc<Spill>) -> (Arc<Transaction>, u64) {
    let mut assembler = assembler(budget.clone());
    let (mut events, mut most) = (Vec::new(), 0);
    let mut feed = |message| {
        assembler.feed(message, &mut events).unwrap();
        most = most.max(budget.in_memory());
    };
    feed(if streamed { stream_start(42, 1) } else { begin(100, 42) });
    for row in 0..rows {
        feed(insert(streamed.then_some(42 + row / 1000 % 2), 1, &format!("{row} some-text-that-makes-it-wider")));
        if streamed && row % 5000 == 4999 {
            feed(stream_stop());
            feed(stream_start(42, 0));
        }
    }
    if streamed {
        feed(stream_stop());
        feed(stream_abort(42, 43));
        feed(stream_commit(42, 100));
    } else {
        feed(commit(100));
    }
    match events.pop() {
        Some(SourceEvent::Transaction(transaction)) => (transaction, most),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_large_transaction_goes_to_disk_and_its_keys_to_runs() {
    for streamed in [false, true] {
        let budget = spill(256 << 20);
        let (transaction, most) = large(300_000, streamed, &budget);
        assert!(most < 20 << 20, "{most}");
        let expected = if streamed { 150_000 } else { 300_000 };
        assert_eq!(transaction.changes, expected);
        let Touches::Runs(runs) = &transaction.touches else { panic!("more than a list takes") };
        assert_eq!(runs.iter().map(|run| run.len() as u64).sum::<u64>(), expected);
        for (i, (offset, change)) in transaction.changes().map(Result::unwrap).enumerate().step_by(7_919) {
            let Op::Insert { new } = &change.op else { panic!("only inserts") };
            let key = change.relation.table().key.clone();
            let cells = key.iter().map(|_| (new.cell(0).unwrap(), &crate::model::KeyForm::Bytes));
            let key = catalog().hasher.key(change.relation.table_id(), cells);
            let mut found = Vec::new();
            runs.iter().for_each(|run| run.find(key, |value| found.push(Touch::unpack(key, value[1]))).unwrap());
            assert_eq!(found, [Touch { key, offset, kind: TouchKind::Put }], "{i}");
        }
        assert!(budget.on_disk() > 0);
        drop(transaction);
        assert_eq!((budget.in_memory(), budget.on_disk()), (0, 0));
    }
}

#[test]
fn when_the_budget_is_used_up_transactions_go_to_disk_unless_they_are_tiny_and_stay_whole() {
    let budget = spill(16 << 10);
    let mut assembler = assembler(budget.clone());
    let mut events = Vec::new();
    let text = |i: u32| if i.is_multiple_of(2) { "text".repeat(80) } else { "text".to_owned() };
    for i in 0..200_u32 {
        let lsn = u64::from(i + 1) * 100;
        for message in [begin(lsn, i), insert(None, 1, &format!("{i} {}", text(i))), commit(lsn)] {
            assembler.feed(message, &mut events).unwrap();
        }
    }
    let transactions = events.iter().filter_map(|event| match event {
        SourceEvent::Transaction(transaction) => Some(transaction),
        _ => None,
    });
    let spilled: Vec<_> = transactions
        .filter(|transaction| matches!(transaction.payload, crate::model::Payload::Spilled { .. }))
        .map(|transaction| transaction.xid.0)
        .collect();
    assert!(spilled.len() > 50 && spilled.iter().all(|xid| xid.is_multiple_of(2)), "{spilled:?}");
    for (i, word) in (0..).zip(&words(&events)) {
        let lsn = (i + 1) * 100;
        assert_eq!(*word, format!("txn {i} {lsn}..{}: {i} I items: {i} {}", lsn + 8, text(i)));
    }
    drop(events);
    assert_eq!((budget.in_memory(), budget.on_disk()), (0, 0));
}
