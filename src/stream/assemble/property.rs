//! A transaction is the same whether it came whole or streamed, however it was cut, and whatever came between.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::model::{Touch, Touches};
use crate::stream::testing::*;

/// One step of a user's transaction.
#[derive(Clone, Debug)]
enum Step {
    Insert(u8),
    Update(u8),
    Rekey(u8, u8),
    Delete(u8),
    Truncate,
    Barrier(u8),
    Savepoint,
    Release,
    RollBack,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u8>().prop_map(Step::Insert),
        3 => any::<u8>().prop_map(Step::Update),
        2 => any::<(u8, u8)>().prop_map(|(from, to)| Step::Rekey(from, to)),
        2 => any::<u8>().prop_map(Step::Delete),
        1 => Just(Step::Truncate),
        1 => any::<u8>().prop_map(Step::Barrier),
        3 => Just(Step::Savepoint),
        2 => Just(Step::Release),
        2 => Just(Step::RollBack),
    ]
}

/// What the server's log holds of a transaction.
#[derive(Clone, Debug)]
enum Record {
    Change(u32, Step),
    /// These subtransactions were rolled back, innermost first as the server tells them.
    Abort(Vec<u32>),
}

/// Runs the steps with savepoints as a session would; subtransactions are numbered from `top` + 1.
fn run(top: u32, steps: &[Step]) -> Vec<Record> {
    let (mut records, mut next) = (Vec::new(), top);
    // each open level with the xids that it holds: its own and those released into it
    let mut levels = vec![vec![top]];
    for step in steps {
        match step {
            Step::Savepoint => {
                next += 1;
                levels.push(vec![next]);
            }
            Step::Release if levels.len() > 1 => {
                let released = levels.pop().unwrap();
                levels.last_mut().unwrap().extend(released);
            }
            Step::RollBack if levels.len() > 1 => {
                let mut gone = levels.pop().unwrap();
                gone.reverse();
                records.push(Record::Abort(gone));
            }
            Step::Release | Step::RollBack => {}
            change => records.push(Record::Change(levels.last().unwrap()[0], change.clone())),
        }
    }
    records
}

fn message(xid: Option<u32>, step: &Step) -> Bytes {
    match step {
        Step::Insert(key) => insert(xid, 1, &format!("{key} new")),
        Step::Update(key) => update(xid, 1, None, &format!("{key} other")),
        Step::Rekey(from, to) => update(xid, 1, Some((b'K', &format!("{from} null"))), &format!("{to} moved")),
        Step::Delete(key) => delete(xid, 2, &format!("{key} 1 null")),
        Step::Truncate => truncate(xid, &[1, 2], 0),
        Step::Barrier(nonce) => logical(xid, 1, BARRIER_PREFIX, &nonce.to_string()),
        Step::Savepoint | Step::Release | Step::RollBack => unreachable!("not a change"),
    }
}

/// As the server sends it when it fits its memory: what was rolled back is left out.
fn whole(top: u32, lsn: u64, records: &[Record]) -> Vec<Bytes> {
    let aborts = records.iter().flat_map(|record| match record {
        Record::Abort(xids) => xids.clone(),
        Record::Change(..) => Vec::new(),
    });
    let aborted: HashSet<u32> = aborts.collect();
    let kept = records.iter().filter_map(|record| match record {
        Record::Change(xid, step) if !aborted.contains(xid) => Some(message(None, step)),
        _ => None,
    });
    [begin(lsn, top)].into_iter().chain(kept).chain([commit(lsn)]).collect()
}

/// As pieces that other transactions may come between: chunks cut after each change where `cuts` says so, aborts.
fn streamed(top: u32, lsn: u64, records: &[Record], cuts: &[bool]) -> Vec<Vec<Bytes>> {
    let (mut pieces, mut open) = (vec![], vec![stream_start(top, 1)]);
    let close = |open: &mut Vec<Bytes>, pieces: &mut Vec<Vec<Bytes>>| {
        if !open.is_empty() {
            open.push(stream_stop());
            pieces.push(std::mem::take(open));
        }
    };
    for (i, record) in records.iter().enumerate() {
        match record {
            Record::Change(xid, step) => {
                if open.is_empty() {
                    open.push(stream_start(top, 0));
                }
                open.push(message(Some(*xid), step));
                if cuts[i % cuts.len()] {
                    close(&mut open, &mut pieces);
                }
            }
            Record::Abort(xids) => {
                close(&mut open, &mut pieces);
                pieces.push(xids.iter().map(|xid| stream_abort(top, *xid)).collect());
            }
        }
    }
    close(&mut open, &mut pieces);
    pieces.push(vec![stream_commit(top, lsn)]);
    pieces
}

/// Merges by turns, as `picks` says.
fn interleave(mut a: Vec<Vec<Bytes>>, mut b: Vec<Vec<Bytes>>, picks: &[bool]) -> Vec<Bytes> {
    a.reverse();
    b.reverse();
    let mut picks = picks.iter().cycle();
    let mut all = Vec::new();
    while !a.is_empty() || !b.is_empty() {
        let take_a = b.is_empty() || (!a.is_empty() && *picks.next().unwrap());
        all.extend(if take_a { a.pop() } else { b.pop() }.unwrap());
    }
    all
}

/// All that matters of the events of the transaction `top`, the xids of its records aside: they are told only when
/// it is streamed.
fn contents(events: &[SourceEvent], lsn: u64) -> Vec<String> {
    let mut all = Vec::new();
    for event in events {
        match event {
            SourceEvent::Transaction(transaction) if transaction.commit_lsn == Lsn(lsn) => {
                let Touches::List(list) = &transaction.touches else { panic!("a short transaction") };
                let touch = |touch: &Touch| format!("{:?} {} {:?}", touch.key, touch.offset, touch.kind);
                let change = |line: String| line.split_once(' ').unwrap().1.to_owned();
                all.push(format!("{:?} {:?}", transaction.stamp, transaction.truncates));
                all.extend(list.iter().map(touch));
                all.extend(changes(transaction).into_iter().map(change));
                assert_eq!(transaction.changes as usize, changes(transaction).len());
            }
            SourceEvent::Barrier { lsn: at, .. } | SourceEvent::Position(at) if *at == Lsn(lsn + 8) => {
                all.extend(words(std::slice::from_ref(event)));
            }
            _ => {}
        }
    }
    all
}

proptest! {
    #[test]
    fn streamed_or_whole_a_transaction_is_the_same(
        first in proptest::collection::vec(step(), 0..40),
        second in proptest::collection::vec(step(), 0..40),
        cuts in proptest::collection::vec(any::<bool>(), 1..20),
        picks in proptest::collection::vec(any::<bool>(), 1..20),
    ) {
        let (a, b) = (run(1000, &first), run(2000, &second));
        let apart = assemble(&[whole(1000, 100, &a), whole(2000, 200, &b)].concat());
        let picks = [&picks[..], &[true]].concat();
        let mixed = assemble(&interleave(streamed(1000, 100, &a, &cuts), streamed(2000, 200, &b, &cuts), &picks));
        prop_assert_eq!(contents(&apart, 100), contents(&mixed, 100));
        prop_assert_eq!(contents(&apart, 200), contents(&mixed, 200));
        // one streamed while the other comes whole
        let between = vec![whole(2000, 200, &b)];
        let mixed = assemble(&interleave(streamed(1000, 100, &a, &cuts), between, &picks));
        prop_assert_eq!(contents(&apart, 100), contents(&mixed, 100));
        prop_assert_eq!(contents(&apart, 200), contents(&mixed, 200));
    }
}
