//! Damaged and made-up bytes through the decoder, the assembler and the row codecs: an error, never a panic.
//!
//! Inputs are valid messages and records that were changed at random, so that most get far. A few thousand in the
//! suite; for longer, and to see an input again:
//!
//! ```text
//! PGCONCORD_FUZZ_SECONDS=600 cargo test --lib fuzz:: -- --nocapture
//! PGCONCORD_FUZZ_SEED=1637 cargo test --lib fuzz:: -- --nocapture
//! ```

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::apply::sql;
use crate::model::key_form::{CaseMap, KeyForm, canonical};
use crate::model::transaction::encode_record;
use crate::model::{BinaryType, Cell, Lsn, NodeId, Op, Payload, Stamp, Touches, Transaction, Tuple, Xid};
use crate::stream::decode::{self, Place};
use crate::stream::testing::*;

/// Inputs of each test in the suite.
const INPUTS: u64 = 3_000;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Tries one input after the other, each from its own seed, and tells the seed of one that panics.
fn fuzz(mut tries: impl FnMut(&mut Dice)) {
    let mut one = |seed: u64| {
        let caught = catch_unwind(AssertUnwindSafe(|| tries(&mut Dice::new(seed))));
        assert!(caught.is_ok(), "PGCONCORD_FUZZ_SEED={seed} shows it again");
    };
    if let Some(seed) = number("PGCONCORD_FUZZ_SEED") {
        return one(seed);
    }
    let limit = number("PGCONCORD_FUZZ_SECONDS").map(Duration::from_secs);
    let started = Instant::now();
    let goes_on = |seed: u64| limit.map_or(seed < INPUTS, |limit| started.elapsed() < limit);
    let tried = (0..).take_while(|seed| goes_on(*seed)).inspect(|seed| one(*seed)).count();
    println!("{tried} inputs");
}

/// Where every choice comes from.
struct Dice(TestRng);

impl Dice {
    fn new(seed: u64) -> Dice {
        let mut bytes = [7; 16];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Dice(TestRng::from_seed(RngAlgorithm::XorShift, &bytes))
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn word(&mut self, from: &[&'static str]) -> &'static str {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.below(most + 1)];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Bits, extreme numbers, cuts, splices.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(7) {
                0 => bytes.truncate(at),
                1 => drop(bytes.splice(at..at, self.bytes(9))),
                2 => drop(bytes.drain(at..(at + self.below(9)).min(bytes.len()))),
                3 => {
                    let extreme = *self.pick(&[0, 1, 0x7f, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff_u32]);
                    bytes.truncate(bytes.len().max(4));
                    let at = at.min(bytes.len().saturating_sub(4));
                    bytes.iter_mut().skip(at).zip(extreme.to_be_bytes()).for_each(|(byte, new)| *byte = new);
                }
                4 if at < bytes.len() => bytes[at] = *self.pick(b"BCORYIUDTMSEcAbPKprNKOntub\0"),
                _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => {}
            }
        }
    }

    /// A row in words, as [`tuple`] reads them.
    fn row(&mut self, columns: usize) -> String {
        (0..columns)
            .map(|_| self.word(&["1", "2.50", "null", "toast", "-0", "ünïcödé", "NaN"]))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// A message that may stand anywhere, by the relations of [`shapes`]; sometimes with another number of columns.
    fn change(&mut self, xid: Option<u32>) -> Bytes {
        let (oid, columns) = *self.pick(&[(1, 2), (2, 3), (3, 2), (9, 1), (1, 3), (7, 1)]);
        let (old, new) = (self.row(columns), self.row(columns));
        match self.below(8) {
            0 | 1 => insert(xid, oid, &new),
            2 => update(xid, oid, None, &new),
            3 => update(xid, oid, Some((*self.pick(b"KO"), &old)), &new),
            4 => delete(xid, oid, &old),
            5 => truncate(xid, &[oid, 1], self.below(4) as u8),
            6 => logical(xid, self.below(2) as u8, self.word(&["pgconcord", "other"]), self.word(&["", "12", "x"])),
            _ => relation(xid, self.pick(&shapes())),
        }
    }

    /// A stream of whole and streamed transactions, in good order.
    fn stream(&mut self) -> Vec<Bytes> {
        let mut messages = Vec::new();
        let mut lsn = 100;
        for xid in 1..2 + self.below(5) as u32 {
            lsn += 100;
            if self.below(2) == 0 {
                messages.push(begin(lsn, xid));
                messages.extend((self.below(4) == 0).then(|| origin(lsn, self.word(&["pgconcord_shop_east", "x"]))));
                messages.extend((0..self.below(6)).map(|_| self.change(None)));
                messages.push(commit(lsn));
                continue;
            }
            for chunk in 0..1 + self.below(3) {
                messages.push(stream_start(xid, u8::from(chunk == 0)));
                messages.extend((0..self.below(5)).map(|_| {
                    let sub = xid + 100 * self.below(3) as u32;
                    self.change(Some(sub))
                }));
                messages.push(stream_stop());
            }
            messages.extend((self.below(3) == 0).then(|| stream_abort(xid, xid + 100)));
            messages.push(if self.below(5) == 0 { stream_abort(xid, xid) } else { stream_commit(xid, lsn) });
        }
        messages
    }
}

#[test]
fn damaged_messages_are_decoded_or_refused() {
    fuzz(|dice| {
        let xid = (dice.below(2) == 0).then_some(5);
        let mut bytes = dice.change(xid).to_vec();
        dice.damage(&mut bytes);
        let bytes = Bytes::from(bytes);
        let place = *dice.pick(&[Place::InStream, Place::Outside]);
        let _ = decode::message(bytes.clone(), place);
        let _ = decode::frame(bytes);
        let _ = decode::frame(Bytes::from(dice.bytes(64)));
    });
}

/// Messages that are damaged, lost, doubled or out of order; whatever comes out can be walked.
#[test]
fn a_damaged_stream_is_assembled_or_refused() {
    let spill = spill(2_000);
    fuzz(|dice| {
        let mut messages = dice.stream();
        for _ in 0..dice.below(4) {
            let at = dice.below(messages.len());
            match dice.below(4) {
                0 => drop(messages.remove(at)),
                1 => messages.insert(at, dice.pick(&messages.clone()).clone()),
                2 => messages.swap(at, 0),
                _ => {
                    let mut bytes = messages[at].to_vec();
                    dice.damage(&mut bytes);
                    messages[at] = Bytes::from(bytes);
                }
            }
            if messages.is_empty() {
                return;
            }
        }
        let mut assembler = assembler(spill.clone());
        let mut events = Vec::new();
        for message in messages {
            if assembler.feed(message, &mut events).is_err() {
                break;
            }
        }
        words(&events);
    });
}

/// What a spill file gives back after its disk has damaged it.
#[test]
fn damaged_records_are_read_or_refused() {
    let whole = assemble(&[begin(1, 1), insert(None, 1, "1 a"), commit(1)]);
    let [crate::stream::SourceEvent::Transaction(whole), ..] = whole.as_slice() else { panic!("{whole:?}") };
    let relations = whole.relations.clone();
    fuzz(|dice| {
        let mut payload = Vec::new();
        for _ in 0..dice.below(5) {
            let (old, new) = (tuple(&dice.row(2)), tuple(&dice.row(2)));
            let op = match dice.below(4) {
                0 => Op::Insert { new },
                1 => Op::Update { old: (dice.below(2) == 0).then_some(old), new },
                2 => Op::Delete { old },
                _ => Op::Truncate { group: Vec::new(), restart_identity: false },
            };
            encode_record(&mut payload, 0, Xid(1), &op);
        }
        dice.damage(&mut payload);
        let end = payload.len() as u64 + 8;
        let transaction = Transaction {
            source: NodeId(0),
            xid: Xid(1),
            commit_lsn: Lsn(1),
            end_lsn: Lsn(2),
            stamp: Stamp { micros: 0, node: NodeId(0) },
            changes: 1,
            relations: relations.clone(),
            touches: Touches::List(Vec::new()),
            truncates: Vec::new(),
            payload: Payload::Memory(Bytes::from(payload)),
            growth: None,
        };
        for change in transaction.changes().take_while(Result::is_ok).flatten() {
            let tuples = change.1.new_tuple().into_iter().chain(change.1.old_tuple());
            assert!(tuples.into_iter().all(|tuple| tuple.cells().count() == tuple.len()));
        }
        let _ = transaction.change_at(dice.below(end as usize + 1) as u64);
    });
}

/// Rows, and the arrays in which they go to the server.
#[test]
fn rows_and_arrays_come_back_as_they_went_in() {
    fuzz(|dice| {
        let texts: Vec<_> = (0..dice.below(20)).map(|_| (dice.below(4) > 0).then(|| dice.bytes(30))).collect();
        let cells = texts.iter().map(|text| text.as_ref().map_or(Cell::Null, |text| Cell::Text(text)));
        let row = Tuple::from_cells(cells.collect::<Vec<_>>().into_iter());
        let array = sql::text_array(row.cells().map(|cell| sql::text_of(Some(cell))).collect::<Vec<_>>().into_iter());
        assert_eq!(elements(&array), texts);
        let mut damaged = row.as_bytes().to_vec();
        dice.damage(&mut damaged);
        if let Ok(tuple) = Tuple::parse(&mut Bytes::from(damaged)) {
            assert_eq!(tuple.cells().count(), tuple.len());
        }
    });
}

/// A text that is nearly one of the type goes in binary with its length, or as text.
#[test]
fn a_text_has_a_binary_format_or_none() {
    const TYPES: [&str; 10] =
        ["int2", "float8", "numeric", "date", "time", "timestamp", "timestamptz", "uuid", "bytea", "bool"];
    const TEXTS: [&str; 7] =
        ["-32768", "1.5", "-123456.7800", "2026-02-29", "24:00:00.000001", "2026-11-28 14:20:11.5+00", "\\x00ff"];
    fuzz(|dice| {
        let mut text = TEXTS[dice.below(TEXTS.len())].as_bytes().to_vec();
        dice.damage(&mut text);
        for of in TYPES {
            let mut out = vec![1];
            if BinaryType::of(&format!("pg_catalog.{of}")).expect("a type").write(&text, &mut out).is_some() {
                let length = u32::from_be_bytes(out[1..5].try_into().expect("four bytes"));
                assert_eq!(length as usize, out.len() - 5);
            }
        }
    });
}

/// What `array_recv` makes of an array of text: src/backend/utils/adt/arrayfuncs.c.
fn elements(array: &[u8]) -> Vec<Option<Vec<u8>>> {
    let word = |at: usize| i32::from_be_bytes(array[at..at + 4].try_into().expect("four bytes"));
    if word(0) == 0 {
        assert_eq!(array.len(), 12);
        return Vec::new();
    }
    assert_eq!((word(0), word(8).unsigned_abs(), word(16)), (1, sql::TEXT, 1));
    let mut at = 20;
    let found = (0..word(12)).map(|_| {
        let len = word(at);
        at += 4;
        let bytes = usize::try_from(len).ok().map(|len| array[at..at + len].to_vec());
        at += bytes.as_ref().map_or(0, Vec::len);
        bytes
    });
    let found = found.collect();
    assert_eq!(at, array.len());
    found
}

/// Forms of nested types, up to a depth.
fn form(dice: &mut Dice, depth: usize) -> KeyForm {
    let plain = |dice: &mut Dice| match dice.below(7) {
        0 => KeyForm::Numeric,
        1 => KeyForm::Float,
        2 => KeyForm::Blank,
        3 => KeyForm::Interval,
        4 => KeyForm::Jsonb,
        5 => KeyForm::Folded(Arc::new(CaseMap::new([('A', "a".to_owned()), ('Ä', "ä".to_owned())]))),
        _ => KeyForm::Bytes,
    };
    if depth == 0 {
        return plain(dice);
    }
    match dice.below(5) {
        0 => KeyForm::Array(Arc::new(form(dice, depth - 1))),
        1 => KeyForm::Range(Arc::new(form(dice, depth - 1))),
        2 => KeyForm::Multirange(Arc::new(form(dice, depth - 1))),
        3 => KeyForm::Record((0..dice.below(4)).map(|_| form(dice, depth - 1)).collect()),
        _ => plain(dice),
    }
}

#[test]
fn a_key_of_any_type_has_a_form() {
    const WORDS: [&str; 24] = [
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ",",
        "\"",
        "\\",
        "=",
        ":",
        "-",
        "+",
        ".",
        "0",
        "10",
        "1.50",
        "NULL",
        "empty",
        "days",
        "mons",
        "04:05:06.7",
        "Ä",
        " ",
    ];
    fuzz(|dice| {
        let mut text: Vec<u8> = Vec::new();
        for _ in 0..dice.below(24) {
            match dice.below(12) {
                0 => text.extend(dice.bytes(4)),
                _ => text.extend_from_slice(WORDS[dice.below(WORDS.len())].as_bytes()),
            }
        }
        let form = form(dice, 3);
        assert_eq!(canonical(&text, &form), canonical(&text, &form));
    });
}
