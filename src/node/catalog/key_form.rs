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
//!   timestamptz: likewise under a pinned TimeZone. timetz: `timetz_cmp_internal` calls only the same time in the
//!   same zone equal.
//! - inet, cidr: family, length of the mask and address decide, and the text shows all three (`/32` and `/128`
//!   are left away always or, for cidr, never).
//! - money: one output per value under a pinned lc_monetary.
//! - enum: labels are unique within the type. ltree, hstore (contrib): bytes, and one text each.
//! - numeric, floats, bpchar, interval, jsonb, citext, arrays, ranges and composite types need [`KeyForm`]'s help.
//!
//! Not usable: text under a nondeterministic collation, citext where lower() looks at a character's neighbours
//! (ICU), and every type that is not known.

use std::sync::Arc;

use crate::model::KeyForm;
use crate::node::catalog::shape::ColumnShape;
use crate::node::catalog::types::{Determinism, Folding, TypeKind, TypeShape};

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
    "timetz",
    "timestamp",
    "timestamptz",
    "bytea",
    "bit",
    "varbit",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "money",
    "pg_lsn",
    "xid8",
];

/// How the column's values compare as part of a key, or the reason why they can't be part of one.
pub fn key_form(column: &ColumnShape) -> Result<KeyForm, String> {
    form(&column.base, column.collation, column.folding.as_ref()).map_err(|reason| match reason {
        Reason::Collation => {
            format!("{} under a nondeterministic collation: values that differ can be equal", column.shown_type)
        }
        Reason::Folding(why) => {
            format!(
                "citext compares in lower case, and {why}, whose lower case depends on the neighbours of a character"
            )
        }
        Reason::Unknown(name) => {
            format!("values of {name} can be equal and look different for all that is known, so it can't identify rows")
        }
    })
}

enum Reason {
    Collation,
    Folding(String),
    Unknown(String),
}

fn form(shape: &TypeShape, collation: Determinism, folding: Option<&Folding>) -> Result<KeyForm, Reason> {
    let part = |part: &TypeShape, collation| form(part, collation, folding).map(Arc::new);
    let collates = |shape: &TypeShape| matches!(shape.name.as_str(), "text" | "varchar" | "bpchar" | "name" | "citext");
    if collation == Determinism::Nondeterministic && shape.any(&collates) {
        return Err(Reason::Collation);
    }
    match &shape.kind {
        TypeKind::Enum(_) => Ok(KeyForm::Bytes),
        TypeKind::Array(element) => part(element, collation).map(KeyForm::Array),
        TypeKind::Range(bound, collation) => part(bound, *collation).map(KeyForm::Range),
        TypeKind::Multirange(range) => match form(range, collation, folding)? {
            KeyForm::Range(bound) => Ok(KeyForm::Multirange(bound)),
            _ => Err(Reason::Unknown(shape.sql_name.clone())),
        },
        TypeKind::Composite(attributes) => {
            let each = attributes.iter().map(|attribute| form(&attribute.shape, attribute.collation, folding));
            Ok(KeyForm::Record(each.collect::<Result<Vec<_>, _>>()?.into()))
        }
        TypeKind::Base if shape.is_of("citext", "citext") => match folding {
            Some(Folding::ByCharacter(map)) => Ok(KeyForm::Folded(map.clone())),
            Some(Folding::InContext(why)) => Err(Reason::Folding(why.clone())),
            None => Err(Reason::Unknown(shape.sql_name.clone())),
        },
        TypeKind::Base if shape.is_of("ltree", "ltree") || shape.is_of("hstore", "hstore") => Ok(KeyForm::Bytes),
        TypeKind::Base => match (shape.schema.as_str(), shape.name.as_str()) {
            ("pg_catalog", "numeric") => Ok(KeyForm::Numeric),
            ("pg_catalog", "float4" | "float8") => Ok(KeyForm::Float),
            ("pg_catalog", "bpchar") => Ok(KeyForm::Blank),
            ("pg_catalog", "interval") => Ok(KeyForm::Interval),
            ("pg_catalog", "jsonb") => Ok(KeyForm::Jsonb),
            ("pg_catalog", name) if BYTES.contains(&name) => Ok(KeyForm::Bytes),
            _ => Err(Reason::Unknown(shape.sql_name.clone())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CaseMap;
    use crate::node::catalog::types::Attribute;

    fn of(base: TypeShape, collation: Determinism) -> Result<KeyForm, String> {
        key_form(&ColumnShape { base, collation, ..ColumnShape::of("a", "integer", "pg_catalog.int4") })
    }

    fn plain(base: TypeShape) -> Result<KeyForm, String> {
        of(base, Determinism::Deterministic)
    }

    fn base(name: &str) -> TypeShape {
        TypeShape::base("pg_catalog", name)
    }

    #[test]
    fn types_whose_equality_shows_in_their_text_are_keys() {
        let numeric = || Arc::new(base("numeric"));
        assert_eq!(plain(base("int8")), Ok(KeyForm::Bytes));
        assert_eq!(plain(base("numeric")), Ok(KeyForm::Numeric));
        assert_eq!(plain(base("float8")), Ok(KeyForm::Float));
        assert_eq!(plain(base("bpchar")), Ok(KeyForm::Blank));
        let kind = |kind| TypeShape { kind, ..TypeShape::base("public", "mine") };
        assert_eq!(plain(kind(TypeKind::Enum(vec![]))), Ok(KeyForm::Bytes));
        assert_eq!(plain(kind(TypeKind::Array(numeric()))), Ok(KeyForm::Array(KeyForm::Numeric.into())));
        let range = kind(TypeKind::Range(numeric(), Determinism::Deterministic));
        assert_eq!(plain(range.clone()), Ok(KeyForm::Range(KeyForm::Numeric.into())));
        let multirange = kind(TypeKind::Multirange(range.into()));
        assert_eq!(plain(multirange), Ok(KeyForm::Multirange(KeyForm::Numeric.into())));
        let attribute = Attribute { name: "x".to_owned(), shape: numeric(), collation: Determinism::Deterministic };
        assert_eq!(plain(kind(TypeKind::Composite(vec![attribute]))), Ok(KeyForm::Record([KeyForm::Numeric].into())));
    }

    #[test]
    fn citext_is_a_key_where_its_lower_case_is_known() {
        let citext = TypeShape { extension: Some("citext".to_owned()), ..TypeShape::base("public", "citext") };
        let with = |folding| {
            key_form(&ColumnShape {
                base: citext.clone(),
                folding: Some(folding),
                ..ColumnShape::of("a", "citext", "public.citext")
            })
        };
        let map = Arc::new(CaseMap::default());
        assert_eq!(with(Folding::ByCharacter(map.clone())), Ok(KeyForm::Folded(map)));
        assert!(with(Folding::InContext("the locale is ICU's".to_owned())).unwrap_err().contains("ICU"));
    }

    #[test]
    fn types_whose_equality_does_not_show_are_refused() {
        for name in ["tsvector", "record", "point"] {
            assert!(plain(base(name)).is_err(), "{name}");
        }
        assert!(plain(TypeShape::base("public", "citext")).is_err(), "a type that is only called citext");
        assert!(plain(TypeShape::base("public", "text")).is_err(), "a type that is only called text");
        assert!(of(base("text"), Determinism::Nondeterministic).is_err());
        let array = TypeShape { kind: TypeKind::Array(base("text").into()), ..base("_text") };
        assert!(of(array, Determinism::Nondeterministic).is_err());
    }
}
