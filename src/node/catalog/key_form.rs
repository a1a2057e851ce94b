//! Which types can identify rows, and how their texts are brought to one form.
//!
//! A row's identity is a hash over texts, so a type may be used only if it calls two values equal exactly when
//! their (canonical) texts are equal under the pinned session settings. Checked type by type against the
//! equality operators in `src/backend/utils/adt`:
//!
//! - integers, oid, bool, "char", uuid, name, text and varchar under a deterministic collation, bytea, pg_lsn,
//!   xid8, macaddr: fixed output, equality of the bytes.
//! - bit, varbit: `bit_cmp` compares bits, then length; the text shows both.
//! - date, time, timestamp: one output per value with DateStyle ISO; time's 24:00:00 is a value of its own.
//!   timestamptz: likewise under a pinned TimeZone.
//! - inet, cidr: family, length of the mask and address decide, and the text shows all three (`/32` and `/128`
//!   are left away always or, for cidr, never).
//! - enum: labels are unique within the type.
//! - numeric, floats and bpchar need [`KeyForm`]'s help.
//!
//! Not usable: interval ('1 day' = '24:00:00'), timetz is left out with it, jsonb (numbers in it compare as
//! numeric), citext, arrays, ranges and composite types (made of others), money (its text depends on
//! lc_monetary), text under a nondeterministic collation, and every type that is not known.

use crate::model::KeyForm;
use crate::node::catalog::shape::ColumnShape;

/// Types of `pg_catalog` whose equal values have equal texts.
const BYTES: &[&str] = &[
    "int2",
    "int4",
    "int8",
    "oid",
    "bool",
    "uuid",
    "text",
    "varchar",
    "char",
    "name",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "bytea",
    "bit",
    "varbit",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "pg_lsn",
    "xid8",
];

/// How the column's values compare as part of a key, or the reason why they can't be part of one.
pub fn key_form(column: &ColumnShape) -> Result<KeyForm, String> {
    let shown = &column.shown_type;
    if column.deterministic_collation == Determinism::Nondeterministic {
        return Err(format!("{shown} under a nondeterministic collation: values that differ can be equal"));
    }
    if column.base_kind == "e" {
        return Ok(KeyForm::Bytes);
    }
    match (column.base_schema.as_str(), column.base_name.as_str()) {
        ("pg_catalog", "numeric") => Ok(KeyForm::Numeric),
        ("pg_catalog", "float4" | "float8") => Ok(KeyForm::Float),
        ("pg_catalog", "bpchar") => Ok(KeyForm::Blank),
        ("pg_catalog", name) if BYTES.contains(&name) => Ok(KeyForm::Bytes),
        _ => Err(format!("values of {shown} can be equal and look different, so it can't identify rows")),
    }
}

/// Whether a collation calls only equal bytes equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Determinism {
    /// It does, or the type has no collation.
    Deterministic,
    /// It may call other texts equal, such as "a" and "A".
    Nondeterministic,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(base_schema: &str, base_name: &str, base_kind: &str, collation: Determinism) -> Result<KeyForm, String> {
        key_form(&ColumnShape {
            base_schema: base_schema.to_owned(),
            base_name: base_name.to_owned(),
            base_kind: base_kind.to_owned(),
            deterministic_collation: collation,
            ..ColumnShape::of("a", "integer", "pg_catalog.int4")
        })
    }

    #[test]
    fn types_whose_equality_shows_in_their_text_are_keys() {
        let plain = Determinism::Deterministic;
        assert_eq!(form("pg_catalog", "int8", "b", plain), Ok(KeyForm::Bytes));
        assert_eq!(form("pg_catalog", "numeric", "b", plain), Ok(KeyForm::Numeric));
        assert_eq!(form("pg_catalog", "float8", "b", plain), Ok(KeyForm::Float));
        assert_eq!(form("pg_catalog", "bpchar", "b", plain), Ok(KeyForm::Blank));
        assert_eq!(form("public", "mood", "e", plain), Ok(KeyForm::Bytes));
    }

    #[test]
    fn types_whose_equality_does_not_show_are_refused() {
        for name in ["interval", "timetz", "jsonb", "money", "_int4", "int4range", "record"] {
            assert!(form("pg_catalog", name, "b", Determinism::Deterministic).is_err(), "{name}");
        }
        assert!(form("public", "citext", "b", Determinism::Deterministic).is_err());
        assert!(form("public", "text", "b", Determinism::Deterministic).is_err(), "a type that is only called text");
        assert!(form("pg_catalog", "text", "b", Determinism::Nondeterministic).is_err());
    }
}
