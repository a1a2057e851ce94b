use bytes::Bytes;

use super::*;
use crate::model::payload::Spilled;
use crate::model::run::{Entry, Run, encode};
use crate::model::transaction::encode_record;
use crate::model::{Cell, Op, Payload, Relation, Stamp, Table, Touch, Touches, Tuple, Xid};

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

/// A transaction that puts one row.
fn put(key: KeyId, source: NodeId, commit: u64) -> Event {
    that_touches(Touches::List(vec![Touch { key, offset: 0, kind: TouchKind::Put }]), source, commit)
}

/// The same, each node another row; its keys are in memory, or on a disk that has gone.
fn transaction(source: NodeId, commit: u64, readable: bool) -> Event {
    let key = KeyId([7, source.0.into()]);
    if readable {
        return put(key, source, commit);
    }
    let touch = Touch { key, offset: 0, kind: TouchKind::Put };
    let mut entries = vec![Entry { key: touch.key, value: [0, touch.pack()] }];
    let len = encode(&mut entries).len() as u64;
    let runs = vec![Run::new(&entries, Payload::Spilled { file: Arc::new(Gone), start: 0, len })];
    that_touches(Touches::Runs(runs), source, commit)
}

fn that_touches(touches: Touches, source: NodeId, commit: u64) -> Event {
    let mut payload = Vec::new();
    let new = Tuple::from_cells([Cell::Text(b"1")].into_iter());
    encode_record(&mut payload, 0, Xid(1), &Op::Insert { new });
    Event::Transaction(Arc::new(Transaction {
        source,
        xid: Xid(1),
        commit_lsn: Lsn(commit),
        end_lsn: Lsn(commit + 8),
        stamp: Stamp { micros: 1, node: source },
        changes: 1,
        relations: vec![Relation::sample(Table::of_texts("t", &["k"]), &["k"])],
        touches,
        truncates: Vec::new(),
        payload: Payload::Memory(Bytes::from(payload)),
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

/// Two nodes of which the progress is known; nothing of east's stream has been read, all of west's.
fn beginning(start: Cut, back: u64) -> Coordinator {
    let mut coordinator = Coordinator::new(start, Resolvers::new(vec![TableRule::default()]));
    coordinator.set_progress(Link { source: EAST, target: WEST }, Lsn(1));
    coordinator.set_progress(Link { source: WEST, target: EAST }, Lsn(back));
    coordinator.rebuilt(WEST).unwrap();
    coordinator
}

/// Applies east's next transaction at west, by a commit that ends at `at` and is durable.
fn apply(coordinator: &mut Coordinator, at: u64) {
    let there = Link { source: EAST, target: WEST };
    coordinator.plan(there, 1).expect("a batch");
    coordinator.commit_begins(there);
    coordinator.committed(there, Lsn(at)).unwrap();
    coordinator.deliver(WEST, Event::Position(Lsn(at + 1))).unwrap();
}

/// Up to where east's log may be forgotten.
fn stable(coordinator: &mut Coordinator) -> Lsn {
    coordinator.frontier().unwrap().confirmed[EAST.index()]
}

#[test]
fn what_is_applied_everywhere_is_forgotten_while_more_is_read() {
    let mut coordinator = beginning(Cut::at(vec![Lsn(1), Lsn(1)]), 1);
    (1..=2).for_each(|i| coordinator.deliver(EAST, transaction(EAST, 10 * i, true)).unwrap());
    apply(&mut coordinator, 20);
    assert_eq!(stable(&mut coordinator), Lsn(18));
    coordinator.disconnected(EAST);
    assert_eq!(stable(&mut coordinator), Lsn(1), "what is applied at east is not known");
    coordinator.set_progress(Link { source: WEST, target: EAST }, Lsn(1));
    coordinator.deliver(EAST, Event::Position(Lsn(12))).unwrap();
    assert_eq!(stable(&mut coordinator), Lsn(1), "it has to be read up to where it was");
    coordinator.deliver(EAST, Event::Position(Lsn(30))).unwrap();
    assert_eq!(stable(&mut coordinator), Lsn(18));
}

#[test]
fn no_log_is_forgotten_beyond_what_has_been_read_again() {
    let mut coordinator = beginning(Cut::at(vec![Lsn(1), Lsn(1)]), 1);
    coordinator.deliver(EAST, transaction(EAST, 10, true)).unwrap();
    apply(&mut coordinator, 20);
    assert_eq!(stable(&mut coordinator), Lsn(18), "so far it is settled");
    coordinator.deliver(EAST, transaction(EAST, 45, true)).unwrap();
    apply(&mut coordinator, 30);
    coordinator.disconnected(EAST);
    coordinator.set_progress(Link { source: WEST, target: EAST }, Lsn(1));
    coordinator.deliver(EAST, Event::Position(Lsn(20))).unwrap();
    assert_eq!(stable(&mut coordinator), Lsn(20), "our commits behind that are not known");
    coordinator.deliver(EAST, Event::Position(Lsn(60))).unwrap();
    assert_eq!(stable(&mut coordinator), Lsn(53));
}

#[test]
fn a_decision_of_an_earlier_run_is_looked_at_as_soon_as_the_local_change_is_read() {
    let both = |source, commit| put(KeyId([7, 7]), source, commit);
    let start = || Cut::at(vec![Lsn(1), Lsn(1)]);
    let mut coordinator = beginning(start(), 38); // east has applied west's change
    coordinator.deliver(WEST, both(WEST, 30)).unwrap();
    coordinator.deliver(EAST, both(EAST, 10)).unwrap();
    assert!(coordinator.next_reopened(EAST).is_some(), "east has not been read through");
    assert!(coordinator.plan_reopen(Link { source: WEST, target: EAST }).is_none());
    assert_eq!(coordinator.frontier().unwrap().settled[0], Lsn(10), "held by the key");

    let mut coordinator = beginning(start(), 38);
    coordinator.deliver(WEST, both(WEST, 30)).unwrap();
    coordinator.deliver(EAST, Event::OwnCommit { source: WEST, applied: Lsn(38), at: Lsn(5) }).unwrap();
    coordinator.deliver(EAST, both(EAST, 10)).unwrap();
    assert!(coordinator.next_reopened(EAST).is_none(), "its author had seen west's");
}
