use proptest::prelude::*;

use super::*;
use crate::stream::testing::*;

fn outside(bytes: Bytes) -> Message {
    message(bytes, Place::Outside).unwrap()
}

fn in_stream(bytes: Bytes) -> Message {
    message(bytes, Place::InStream).unwrap()
}

/// One of each kind, with the place where it may stand.
fn one_of_each() -> Vec<(Bytes, Place)> {
    let prepared = |tag| Bytewise::new(tag).u8(0).u64(1).u64(2).u64(3).u32(4).text("gid").done();
    let both = |make: &dyn Fn(Option<u32>) -> Bytes| [(make(None), Place::Outside), (make(Some(5)), Place::InStream)];
    let mut all = vec![
        begin(1, 2),
        commit(1),
        origin(1, "o"),
        stream_start(1, 1),
        stream_stop(),
        stream_commit(1, 2),
        stream_abort(1, 2),
        Bytewise::new(b'A').u32(1).u32(2).u64(3).u64(4).done(),
        Bytewise::new(b'b').u64(1).u64(2).u64(3).u32(4).text("gid").done(),
        prepared(b'P'),
        prepared(b'K'),
        prepared(b'p'),
        Bytewise::new(b'r').u8(0).u64(1).u64(2).u64(3).u64(4).u32(5).text("gid").done(),
    ]
    .into_iter()
    .map(|bytes| (bytes, Place::Outside))
    .collect::<Vec<_>>();
    all.extend(both(&|xid| relation(xid, &shapes()[1])));
    all.extend(both(&|xid| Bytewise::new(b'Y').xid(xid).u32(1).text("s").text("mood").done()));
    all.extend(both(&|xid| insert(xid, 1, "1 null toast abc")));
    all.extend(both(&|xid| update(xid, 1, None, "1 a")));
    all.extend(both(&|xid| update(xid, 1, Some((b'K', "1 null")), "2 a")));
    all.extend(both(&|xid| update(xid, 1, Some((b'O', "1 b")), "2 a")));
    all.extend(both(&|xid| delete(xid, 1, "1 null")));
    all.extend(both(&|xid| truncate(xid, &[1, 2], 3)));
    all.extend(both(&|xid| logical(xid, 1, "p", "content")));
    all
}

#[test]
fn fields_are_read_where_they_stand() {
    assert_eq!(outside(begin(7, 42)), Message::Begin { commit_lsn: Lsn(7), micros: 70, xid: Xid(42) });
    let point = CommitPoint { lsn: Lsn(7), end_lsn: Lsn(15), micros: 70 };
    assert_eq!(outside(commit(7)), Message::Commit(point));
    assert_eq!(outside(stream_commit(3, 7)), Message::StreamCommit { xid: Xid(3), point });
    assert_eq!(outside(origin(9, "x")), Message::Origin { lsn: Lsn(9), name: "x".to_owned() });
    assert_eq!(outside(relation(None, &shapes()[1])), Message::Relation { xid: None, shape: shapes()[1].clone() });
    let options = TruncateOptions { cascade: false, restart_identity: true };
    assert_eq!(
        in_stream(truncate(Some(3), &[4, 5], 2)),
        Message::Truncate { xid: Some(Xid(3)), oids: vec![4, 5], options }
    );
    let (old, new) = (Some(Old::Key(tuple("1 null"))), tuple("2 a"));
    let expected = Message::Update { xid: Some(Xid(8)), oid: 1, old, new };
    assert_eq!(in_stream(update(Some(8), 1, Some((b'K', "1 null")), "2 a")), expected);
    let content = Bytes::from_static(b"123");
    let expected =
        Message::Logical { xid: None, bond: Bond::Transactional, lsn: Lsn(77), prefix: "p".to_owned(), content };
    assert_eq!(outside(logical(None, 1, "p", "123")), expected);
}

#[test]
fn a_prepared_transaction_is_decoded_in_each_of_its_messages() {
    let prepared =
        Prepared { point: CommitPoint { lsn: Lsn(1), end_lsn: Lsn(2), micros: 3 }, xid: Xid(4), gid: "gid".to_owned() };
    let with_flags = |tag| outside(Bytewise::new(tag).u8(0).u64(1).u64(2).u64(3).u32(4).text("gid").done());
    let begin = outside(Bytewise::new(b'b').u64(1).u64(2).u64(3).u32(4).text("gid").done());
    assert_eq!(begin, Message::BeginPrepare(prepared.clone()));
    assert_eq!(with_flags(b'P'), Message::Prepare(prepared.clone()));
    assert_eq!(with_flags(b'K'), Message::CommitPrepared(prepared.clone()));
    assert_eq!(with_flags(b'p'), Message::StreamPrepare(prepared.clone()));
    let back = outside(Bytewise::new(b'r').u8(0).u64(1).u64(2).u64(9).u64(3).u32(4).text("gid").done());
    assert_eq!(back, Message::RollbackPrepared(prepared));
}

#[test]
fn an_abort_tells_its_position_under_parallel_streaming_only() {
    let abort = |at| Message::StreamAbort { xid: Xid(1), subxid: Xid(2), at };
    assert_eq!(outside(stream_abort(1, 2)), abort(None));
    assert_eq!(outside(Bytewise::new(b'A').u32(1).u32(2).u64(3).u64(4).done()), abort(Some((Lsn(3), 4))));
}

#[test]
fn the_empty_schema_is_pg_catalog() {
    let message = outside(Bytewise::new(b'R').u32(1).text("").text("t").u8(b'd').u16(0).done());
    assert!(matches!(message, Message::Relation { shape, .. } if shape.schema == "pg_catalog"));
}

#[test]
fn frames_carry_messages_and_keepalives() {
    let data = Bytewise::new(b'w').u64(1).u64(2).u64(3).raw(b"body").done();
    let body = Bytes::from_static(b"body");
    let expected = Frame::XLogData { wal_start: Lsn(1), wal_end: Lsn(2), micros: 3, body };
    assert_eq!(frame(data), Ok(expected));
    let alive = Bytewise::new(b'k').u64(1).u64(3).u8(1).done();
    assert_eq!(frame(alive), Ok(Frame::Keepalive { wal_end: Lsn(1), micros: 3, reply: Reply::AtOnce }));
}

#[test]
fn row_data_is_shared_not_copied() {
    let bytes = insert(None, 1, "1 abc");
    let range = bytes.as_ptr_range();
    let Message::Insert { new, .. } = outside(bytes) else { panic!("an insert") };
    assert!(range.contains(&new.as_bytes().as_ptr()));
}

#[test]
fn a_message_that_is_cut_anywhere_or_has_more_is_refused_by_its_kind() {
    for (whole, place) in one_of_each() {
        message(whole.clone(), place).unwrap();
        for end in 1..whole.len() {
            // an abort that is cut after its xids is one without position
            if let Ok(cut) = message(whole.slice(..end), place) {
                assert!(matches!(cut, Message::StreamAbort { at: None, .. }), "{whole:?} {end}");
            }
        }
        let more = Bytes::from([&whole[..], b"!"].concat());
        let error = message(more, place).unwrap_err();
        assert_eq!(Some(error.kind), kind(whole[0]), "{error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for place in [Place::Outside, Place::InStream] {
            let _ = message(Bytes::from(bytes.clone()), place);
        }
        let _ = frame(Bytes::from(bytes));
    }

    #[test]
    fn damaged_messages_are_messages_or_errors(
        which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let all = one_of_each();
        let (bytes, place) = &all[which.index(all.len())];
        let mut bytes = bytes.to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let tag = bytes[0];
        if let Err(error) = message(Bytes::from(bytes), *place) {
            prop_assert!(kind(tag).is_none() || kind(tag) == Some(error.kind));
        }
    }
}
