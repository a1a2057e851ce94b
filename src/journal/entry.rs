//! One conflict as it is written: who met whom, what each side was, what was done.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::model::{Cell, ConflictType, Lsn, Relation, Resolution, Stamp, Tuple, Xid};

/// A row or a key by column name, in the table's column order.
///
/// A value is its text as a string, NULL is `null`. Whatever is neither is an object, which no value can be
/// mistaken for: `{"unchanged": true}` for a TOASTed value that the source did not send, `{"bytes": "<hex>"}` for
/// one that is binary or no UTF-8.
pub type JsonRow = Map<String, Value>;

/// What stands in the journal for a value that rules keep out of it.
pub const MASK: &str = "***";

/// One direction of replication by the nodes' names, which outlive their places in the configuration.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Lane {
    /// Where the change was committed first.
    pub source: String,
    /// Where it met another.
    pub target: String,
}

/// What a side of a conflict had done to the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// It had made it.
    Insert,
    /// It had changed it.
    Update,
    /// It had removed it.
    Delete,
    /// It had emptied the table.
    Truncate,
}

impl Operation {
    /// As SQL calls it, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Truncate => "truncate",
        }
    }

    /// The inverse of [`Operation::name`].
    pub fn of(name: &str) -> Option<Operation> {
        [Operation::Insert, Operation::Update, Operation::Delete, Operation::Truncate]
            .into_iter()
            .find(|each| each.name() == name)
    }
}

/// How far an entry has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Decided; whether the target has committed it is not known yet.
    Pending,
    /// The target has it.
    Resolved,
    /// The target has it, and the change waits there for a person.
    Held,
}

impl Status {
    /// The name as users see it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Resolved => "resolved",
            Status::Held => "held",
        }
    }

    /// The inverse of [`Status::name`].
    pub fn of(name: &str) -> Option<Status> {
        [Status::Pending, Status::Resolved, Status::Held].into_iter().find(|each| each.name() == name)
    }
}

/// The change that arrived.
#[derive(Clone, PartialEq, Debug)]
pub struct Side {
    /// When its transaction committed, by its node's clock.
    pub stamp: Stamp,
    /// That node's name; not the link's source where the change came through another node.
    pub node: String,
    /// Where its transaction committed, in the source's log.
    pub lsn: Lsn,
    /// Its transaction.
    pub xid: Xid,
    /// What it did.
    pub operation: Operation,
    /// The row after it; `None` for a delete.
    pub row: Option<JsonRow>,
    /// What the source sent of the row before it.
    pub old: Option<JsonRow>,
}

/// What the arriving change met.
#[derive(Clone, PartialEq, Debug)]
pub struct LocalSide {
    /// When it was committed, if that is known.
    pub stamp: Option<Stamp>,
    /// Where it was committed first, if that is known.
    pub node: Option<String>,
    /// What had been done to the row.
    pub operation: Operation,
    /// The row; `None` where there was none.
    pub row: Option<JsonRow>,
}

/// A conflict to be recorded.
///
/// One conflict is (link, `remote.lsn`, `offset`, table, key): written again, it replaces its pending entry.
#[derive(Clone, PartialEq, Debug)]
pub struct NewEntry {
    /// The link.
    pub lane: Lane,
    /// The number that the link's progress row will have once the batch is committed.
    pub batch: u64,
    /// When it was found, by the daemon's clock.
    pub detected_at: DateTime<Utc>,
    /// What kind it is.
    pub conflict_type: ConflictType,
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// The row's key; empty for a TRUNCATE.
    pub key: JsonRow,
    /// What was done.
    pub resolution: Resolution,
    /// What decided, such as `last_update_wins`.
    pub resolver: String,
    /// The name of the rule that chose the resolver.
    pub rule: String,
    /// The change that arrived.
    pub remote: Side,
    /// What it met, if that is known.
    pub local: Option<LocalSide>,
    /// The row afterwards; `None`: there is none.
    pub result: Option<JsonRow>,
    /// One sentence for people where the fields don't tell all.
    pub note: Option<String>,
    /// Byte offset of the change in its transaction's payload.
    pub offset: u64,
}

/// `tuple` by the column names of `relation`.
pub fn json_row(relation: &Relation, tuple: &Tuple) -> JsonRow {
    relation.columns.iter().zip(tuple.cells()).map(|(column, cell)| (column.name.clone(), json_cell(cell))).collect()
}

/// The key of `tuple` by the column names of `relation`, in key order.
pub fn json_key(relation: &Relation, tuple: &Tuple) -> JsonRow {
    let name = |position: &usize| relation.columns.get(*position).map(|column| column.name.clone()).unwrap_or_default();
    relation.key_positions.iter().map(name).zip(relation.key_cells(tuple).map(json_cell)).collect()
}

/// One value; see [`JsonRow`].
pub fn json_cell(cell: Cell<'_>) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Unchanged => json!({ "unchanged": true }),
        Cell::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => json_bytes(bytes),
        },
        Cell::Binary(bytes) => json_bytes(bytes),
    }
}

fn json_bytes(bytes: &[u8]) -> Value {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "bytes": hex })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_told_from_null_from_unchanged_and_from_bytes() {
        let json = |cell| json_cell(cell).to_string();
        assert_eq!(json(Cell::Text(b"null")), r#""null""#);
        assert_eq!(json(Cell::Null), "null");
        assert_eq!(json(Cell::Unchanged), r#"{"unchanged":true}"#);
        assert_eq!(json(Cell::Text(&[0xff, 0x0a])), r#"{"bytes":"ff0a"}"#);
        assert_eq!(json(Cell::Binary(b"a")), r#"{"bytes":"61"}"#);
    }

    #[test]
    fn a_row_keeps_the_order_of_its_columns() {
        let column = |name: &str| crate::model::RelationColumn { name: name.into(), type_oid: 25, in_identity: true };
        let relation = Relation {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            columns: vec![column("z"), column("a"), column("m")],
            table: None,
            column_of: vec![Some(0), Some(1), Some(2)],
            key_positions: vec![2, 0],
        };
        let tuple = Tuple::from_cells([Cell::Text(b"1"), Cell::Null, Cell::Text(b"3")].into_iter());
        assert_eq!(Value::Object(json_row(&relation, &tuple)).to_string(), r#"{"z":"1","a":null,"m":"3"}"#);
        assert_eq!(Value::Object(json_key(&relation, &tuple)).to_string(), r#"{"m":"3","z":"1"}"#);
    }

    #[test]
    fn names_of_operations_and_states_read_back() {
        for name in ["insert", "update", "delete", "truncate"] {
            assert_eq!(Operation::of(name).map(Operation::name), Some(name));
        }
        for name in ["pending", "resolved", "held"] {
            assert_eq!(Status::of(name).map(Status::name), Some(name));
        }
        assert_eq!((Operation::of("merge"), Status::of("")), (None, None));
    }
}
