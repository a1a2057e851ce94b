use bytes::Bytes;

use super::*;
use crate::model::payload::Spilled;
use crate::model::run::{Entry, Run, encode};
use crate::model::{Payload, Stamp, Touch, Touches, Xid};

const EAST: NodeId = NodeId(0);
const WEST: NodeId = NodeId(1);

/// A disk that has gone.
#[derive(Debug)]
struct Gone;

impl Spilled for Gone {
    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::Error::other("gone"))
    }
}

/// A transaction that puts one row, each node another one; its keys are in memory, or on a disk that has gone.
fn transaction(source: NodeId, commit: u64, readable: bool) -> Event {
    let touch = Touch { key: KeyId([7, source.0.into()]), offset: 0, kind: TouchKind::Put };
    let touches = if readable {
        Touches::List(vec![touch])
    } else {
        let mut entries = vec![Entry { key: touch.key, value: [0, touch.pack()] }];
        let len = encode(&mut entries).len() as u64;
        Touches::Runs(vec![Run::new(&entries, Payload::Spilled { file: Arc::new(Gone), start: 0, len })])
    };
    Event::Transaction(Arc::new(Transaction {
        source,
        xid: Xid(1),
        commit_lsn: Lsn(commit),
        end_lsn: Lsn(commit + 8),
        stamp: Stamp { micros: 1, node: source },
        changes: 1,
        relations: Vec::new(),
        touches,
        truncates: Vec::new(),
        payload: Payload::Memory(Bytes::new()),
        growth: None,
    }))
}

#[test]
fn what_could_not_be_taken_in_after_a_commit_is_there_once_it_is_read_again() {
    let start = Cut::at(vec![Lsn(1), Lsn(1)]);
    let mut coordinator = Coordinator::new(start, Resolvers::new(vec![TableRule::default()]));
    let there = Link { source: EAST, target: WEST };
    let back = Link { source: WEST, target: EAST };
    for (link, node) in [(there, EAST), (back, WEST)] {
        coordinator.set_progress(link, Lsn(1));
        coordinator.rebuilt(node).unwrap();
    }
    coordinator.deliver(EAST, transaction(EAST, 10, true)).unwrap();
    coordinator.plan(there, 1).expect("a batch");
    coordinator.commit_begins(there);
    coordinator.deliver(WEST, transaction(WEST, 30, false)).unwrap();
    assert!(coordinator.committed(there, Lsn(20)).is_err(), "what waited is looked at, and can't be read");
    // the apply session counts as lost then, so the node is connected again
    coordinator.disconnected(WEST);
    coordinator.set_progress(there, Lsn(18));
    coordinator.rebuilt(WEST).unwrap();
    coordinator.deliver(WEST, transaction(WEST, 30, true)).unwrap();
    assert_eq!((coordinator.queued(there), coordinator.queued(back)), (0, 1));
}

#[test]
fn what_is_foreseen_is_planned_next() {
    let start = Cut::at(vec![Lsn(1), Lsn(1)]);
    let mut coordinator = Coordinator::new(start, Resolvers::new(vec![TableRule::default()]));
    let there = Link { source: EAST, target: WEST };
    for (link, node) in [(there, EAST), (Link { source: WEST, target: EAST }, WEST)] {
        coordinator.set_progress(link, Lsn(1));
        coordinator.rebuilt(node).unwrap();
    }
    (1..=4).for_each(|i| coordinator.deliver(EAST, transaction(EAST, 10 * i, true)).unwrap());
    assert!(coordinator.foresee(there, 0, 9).is_none(), "nothing is in flight");
    coordinator.plan(there, 1).expect("a batch");
    assert!(coordinator.foresee(there, 4, 9).is_none(), "there are three");
    let foreseen = coordinator.foresee(there, 2, 2).expect("two of them");
    coordinator.commit_begins(there);
    coordinator.deliver(WEST, transaction(WEST, 30, true)).unwrap();
    coordinator.committed(there, Lsn(20)).unwrap();
    let planned = coordinator.plan(there, foreseen.changes()).expect("a batch");
    assert_eq!((planned.first, planned.start_lsn, planned.end_lsn), (foreseen.first, Lsn(18), Lsn(38)));
    assert_eq!((&planned.views, planned.end()), (&foreseen.views, foreseen.end()));
}
