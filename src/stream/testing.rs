//! Messages made by hand, for the tests of this stage.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes};

use crate::model::key::KeyHasher;
use crate::model::table::Catalog;
use crate::model::{Cell, KeyForm, Lsn, NodeId, RelationColumn, Table, Transaction, Tuple};
use crate::stream::assemble::{Assembler, SourceEvent};
use crate::stream::message::RelationShape;
use crate::stream::spill::Spill;

/// `items(id)`, `pairs(a, b numeric)` and `logs(id)`, all in public.
pub fn catalog() -> Arc<Catalog> {
    let mut pairs = Table { key: vec![0, 1], ..Table::of_texts("pairs", &["a", "b", "c"]) };
    pairs.columns[1].key_form = KeyForm::Numeric;
    let tables = vec![Table::of_texts("items", &["id", "v"]), pairs, Table::of_texts("logs", &["id", "v"])];
    Arc::new(Catalog::new(tables, KeyHasher::with_seed(1)))
}

/// What a Relation message of a table in public says.
pub fn shape(oid: u32, name: &str, columns: &[&str], identity: &[&str]) -> RelationShape {
    let column =
        |name: &&str| RelationColumn { name: (*name).to_owned(), type_oid: 25, in_identity: identity.contains(name) };
    RelationShape {
        oid,
        schema: "public".to_owned(),
        name: name.to_owned(),
        columns: columns.iter().map(column).collect(),
    }
}

/// Cells by words: `null`, `toast` for "unchanged", anything else is text.
pub fn tuple(cells: &str) -> Tuple {
    let cells: Vec<_> = cells
        .split_whitespace()
        .map(|word| match word {
            "null" => Cell::Null,
            "toast" => Cell::Unchanged,
            text => Cell::Text(text.as_bytes()),
        })
        .collect();
    Tuple::from_cells(cells.into_iter())
}

/// One message; its fields are appended in order.
pub struct Bytewise(Vec<u8>);

impl Bytewise {
    pub fn new(tag: u8) -> Bytewise {
        Bytewise(vec![tag])
    }
    pub fn u8(mut self, value: u8) -> Bytewise {
        self.0.put_u8(value);
        self
    }
    pub fn u16(mut self, value: u16) -> Bytewise {
        self.0.put_u16(value);
        self
    }
    pub fn u32(mut self, value: u32) -> Bytewise {
        self.0.put_u32(value);
        self
    }
    pub fn u64(mut self, value: u64) -> Bytewise {
        self.0.put_u64(value);
        self
    }
    pub fn text(mut self, value: &str) -> Bytewise {
        self.0.put_slice(value.as_bytes());
        self.0.put_u8(0);
        self
    }
    pub fn raw(mut self, value: &[u8]) -> Bytewise {
        self.0.put_slice(value);
        self
    }
    /// The xid that messages carry in stream blocks.
    pub fn xid(self, xid: Option<u32>) -> Bytewise {
        match xid {
            Some(xid) => self.u32(xid),
            None => self,
        }
    }
    pub fn done(self) -> Bytes {
        Bytes::from(self.0)
    }
}

pub fn begin(lsn: u64, xid: u32) -> Bytes {
    Bytewise::new(b'B').u64(lsn).u64(lsn * 10).u32(xid).done()
}

/// Ends 8 bytes further, ten times as many microseconds after the epoch.
pub fn commit(lsn: u64) -> Bytes {
    Bytewise::new(b'C').u8(0).u64(lsn).u64(lsn + 8).u64(lsn * 10).done()
}

pub fn origin(lsn: u64, name: &str) -> Bytes {
    Bytewise::new(b'O').u64(lsn).text(name).done()
}

pub fn relation(xid: Option<u32>, shape: &RelationShape) -> Bytes {
    let head = Bytewise::new(b'R').xid(xid).u32(shape.oid).text(&shape.schema).text(&shape.name).u8(b'd');
    let column = |out: Bytewise, column: &RelationColumn| {
        out.u8(u8::from(column.in_identity)).text(&column.name).u32(column.type_oid).u32(u32::MAX)
    };
    shape.columns.iter().fold(head.u16(shape.columns.len() as u16), column).done()
}

pub fn insert(xid: Option<u32>, oid: u32, new: &str) -> Bytes {
    Bytewise::new(b'I').xid(xid).u32(oid).u8(b'N').raw(tuple(new).as_bytes()).done()
}

pub fn update(xid: Option<u32>, oid: u32, old: Option<(u8, &str)>, new: &str) -> Bytes {
    let mut out = Bytewise::new(b'U').xid(xid).u32(oid);
    if let Some((kind, old)) = old {
        out = out.u8(kind).raw(tuple(old).as_bytes());
    }
    out.u8(b'N').raw(tuple(new).as_bytes()).done()
}

pub fn delete(xid: Option<u32>, oid: u32, old: &str) -> Bytes {
    Bytewise::new(b'D').xid(xid).u32(oid).u8(b'K').raw(tuple(old).as_bytes()).done()
}

pub fn truncate(xid: Option<u32>, oids: &[u32], options: u8) -> Bytes {
    let head = Bytewise::new(b'T').xid(xid).u32(oids.len() as u32).u8(options);
    oids.iter().fold(head, |out, oid| out.u32(*oid)).done()
}

pub fn logical(xid: Option<u32>, flags: u8, prefix: &str, content: &str) -> Bytes {
    let head = Bytewise::new(b'M').xid(xid).u8(flags).u64(77).text(prefix);
    head.u32(content.len() as u32).raw(content.as_bytes()).done()
}

pub fn stream_start(xid: u32, first: u8) -> Bytes {
    Bytewise::new(b'S').u32(xid).u8(first).done()
}

pub fn stream_stop() -> Bytes {
    Bytewise::new(b'E').done()
}

pub fn stream_commit(xid: u32, lsn: u64) -> Bytes {
    Bytewise::new(b'c').u32(xid).u8(0).u64(lsn).u64(lsn + 8).u64(lsn * 10).done()
}

pub fn stream_abort(xid: u32, subxid: u32) -> Bytes {
    Bytewise::new(b'A').u32(xid).u32(subxid).done()
}

/// The relations of [`catalog`] as OIDs 1, 2 and 3, and one that does not replicate as 9.
pub fn shapes() -> [RelationShape; 4] {
    [
        shape(1, "items", &["id", "v"], &["id"]),
        shape(2, "pairs", &["a", "b", "c"], &["a", "b"]),
        shape(3, "logs", &["id", "v"], &["id", "v"]),
        shape(9, "stranger", &["x"], &["x"]),
    ]
}

/// A budget of `limit` bytes that overflows to the system's temporary directory.
pub fn spill(limit: u64) -> Arc<Spill> {
    Spill::new(&std::env::temp_dir(), limit).unwrap()
}

/// An assembler at node 0 that knows [`shapes`] and one origin of ours, `pgconcord_shop_east` of node 1.
pub fn assembler(spill: Arc<Spill>) -> Assembler {
    let own = HashMap::from([("pgconcord_shop_east".to_owned(), NodeId(1))]);
    let mut assembler = Assembler::new(NodeId(0), catalog(), own, spill);
    let mut events = Vec::new();
    for shape in shapes() {
        assembler.feed(relation(None, &shape), &mut events).unwrap();
    }
    assembler
}

/// What comes of the messages.
pub fn assemble(messages: &[Bytes]) -> Vec<SourceEvent> {
    let mut assembler = assembler(spill(64 << 20));
    let mut events = Vec::new();
    for message in messages {
        assembler.feed(message.clone(), &mut events).unwrap();
    }
    events
}

/// The changes as words: `42 I items: 1 a`.
pub fn changes(transaction: &Transaction) -> Vec<String> {
    use crate::model::Op;
    let words = |tuple: &Tuple| {
        let word = |cell: Cell<'_>| match cell {
            Cell::Null => "null".to_owned(),
            Cell::Unchanged => "toast".to_owned(),
            Cell::Text(text) | Cell::Binary(text) => String::from_utf8_lossy(text).into_owned(),
        };
        tuple.cells().map(word).collect::<Vec<_>>().join(" ")
    };
    let line = |change: crate::model::Change| {
        let (xid, name) = (change.xid, &change.relation.name);
        match &change.op {
            Op::Insert { new } => format!("{xid} I {name}: {}", words(new)),
            Op::Update { old: None, new } => format!("{xid} U {name}: {}", words(new)),
            Op::Update { old: Some(old), new } => format!("{xid} U {name}: {} -> {}", words(old), words(new)),
            Op::Delete { old } => format!("{xid} D {name}: {}", words(old)),
            Op::Truncate { group, restart_identity } => format!("{xid} T {name}: {group:?} {restart_identity}"),
        }
    };
    transaction.changes().map(|change| line(change.unwrap().1)).collect()
}

/// The events as words.
pub fn words(events: &[SourceEvent]) -> Vec<String> {
    let word = |event: &SourceEvent| match event {
        SourceEvent::Transaction(transaction) => {
            let (xid, from, to) = (transaction.xid, transaction.commit_lsn, transaction.end_lsn);
            format!("txn {xid} {}..{}: {}", from.0, to.0, changes(transaction).join(", "))
        }
        SourceEvent::OwnCommit { origin, origin_lsn, commit_lsn, end_lsn } => {
            format!("own {} {} {}..{}", origin.0, origin_lsn.0, commit_lsn.0, end_lsn.0)
        }
        SourceEvent::Barrier { nonce, lsn } => format!("barrier {nonce} {}", lsn.0),
        SourceEvent::Position(Lsn(lsn)) => format!("position {lsn}"),
        SourceEvent::Growing(growing) => {
            let committed = growing.committed.map(|stamp| stamp.micros);
            format!("growing {} {committed:?}", growing.so_far.xid)
        }
        SourceEvent::Withdrawn(_) => "withdrawn".to_owned(),
    };
    events.iter().map(word).collect()
}
