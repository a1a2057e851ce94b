//! Large transactions are told of while they come.

use super::*;
use crate::stream::testing::*;

/// Inserts of half a megabyte each.
fn rows(xid: Option<u32>, ids: std::ops::Range<u32>) -> Vec<Bytes> {
    let text = "x".repeat(500_000);
    ids.map(|id| insert(xid, 1, &format!("{id} {text}"))).collect()
}

/// Whether the transaction that was delivered begins with what was told of it before.
fn begins_as_told(events: &[SourceEvent]) -> bool {
    let told = events.iter().rev().find_map(|event| match event {
        SourceEvent::Growing(growing) => Some(growing),
        _ => None,
    });
    let delivered = events.iter().find_map(|event| match event {
        SourceEvent::Transaction(transaction) => Some(transaction),
        _ => None,
    });
    let (told, delivered) = (told.expect("told of"), delivered.expect("delivered"));
    let so_far = told.so_far.payload.len();
    delivered.growth.as_ref() == Some(&told.growth)
        && so_far > 1 << 20
        && told.so_far.payload.read(0, usize::MAX).unwrap()
            == delivered.payload.read(0, usize::try_from(so_far).unwrap()).unwrap()
}

#[test]
fn a_large_transaction_is_told_of_while_it_comes() {
    let whole = [vec![begin(100, 42)], rows(None, 0..8), vec![commit(100)]].concat();
    let events = assemble(&whole);
    assert!(words(&events)[0].starts_with("growing 42 Some(1000)"), "its commit is known");
    assert!(events.len() > 2 && begins_as_told(&events));
    let streamed = [
        vec![stream_start(42, 1)],
        rows(Some(42), 0..5),
        vec![stream_stop(), stream_start(43, 1)],
        rows(Some(43), 5..10),
        vec![stream_stop(), stream_commit(42, 100), stream_abort(43, 43)],
    ]
    .concat();
    let events = assemble(&streamed);
    assert!(begins_as_told(&events));
    let words = words(&events);
    assert!(words[0].starts_with("growing 42 None"), "whether it commits is not known");
    assert!(!words.iter().any(|word| word.starts_with("growing 43")), "one at a time");
    let again = [vec![stream_start(44, 1)], rows(Some(44), 0..5), vec![stream_stop(), stream_abort(44, 44)]].concat();
    let events = assemble(&[streamed, again].concat());
    let [.., last, gone] = events.as_slice() else { panic!("{events:?}") };
    assert!(matches!(last, SourceEvent::Growing(growing) if growing.so_far.xid == Xid(44)), "now it is its turn");
    assert!(matches!(gone, SourceEvent::Withdrawn(_)));
}

#[test]
fn what_may_be_rolled_back_by_itself_is_not_told_of() {
    let messages = |aborts: bool| {
        let mut messages = vec![stream_start(42, 1)];
        messages.extend(rows(Some(42), 0..5));
        messages.extend(rows(Some(50), 5..10)); // a subtransaction
        messages.push(stream_stop());
        messages.extend(aborts.then(|| stream_abort(42, 50)));
        messages.push(stream_commit(42, 100));
        messages
    };
    let events = assemble(&messages(false));
    assert!(begins_as_told(&events), "what came before the subtransaction counts");
    let told = |events: &[SourceEvent]| events.iter().filter(|e| matches!(e, SourceEvent::Growing(_))).count();
    assert_eq!(told(&events), told(&assemble(&[vec![stream_start(42, 1)], rows(Some(42), 0..5)].concat())));
    let events = assemble(&messages(true));
    let [.., SourceEvent::Transaction(transaction), SourceEvent::Withdrawn(_)] = events.as_slice() else {
        panic!("{:?}", words(&events[events.len() - 2..]))
    };
    assert_eq!((transaction.changes, transaction.growth.is_some()), (5, false), "it is written anew, so places differ");
}
