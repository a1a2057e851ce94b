//! Key cells → [`KeyId`]: each cell is brought to its type's canonical form, then hashed with its table.

use std::borrow::Cow;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::model::ids::{KeyId, TableId};
use crate::model::key_form::{KeyForm, canonical};
use crate::model::tuple::Cell;

/// The keyed hash over keys; one a process, so that ids are comparable within it and unpredictable outside.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher(SipHasher13);

impl KeyHasher {
    /// A hasher with a fixed key, for tests and simulations that must be repeatable.
    pub fn with_seed(seed: u64) -> KeyHasher {
        KeyHasher(SipHasher13::new_with_keys(seed, !seed))
    }

    /// A hasher with an unpredictable key.
    pub fn random() -> KeyHasher {
        use std::hash::{BuildHasher, RandomState};
        let draw = || RandomState::new().build_hasher().finish();
        KeyHasher(SipHasher13::new_with_keys(draw(), draw()))
    }

    /// The id of the row of `table` with these key cells, in the order of the table's key.
    ///
    /// NULL occurs in no primary key; where it comes all the same it is a value of its own.
    pub fn key<'a>(&self, table: TableId, cells: impl Iterator<Item = (Cell<'a>, &'a KeyForm)>) -> KeyId {
        let mut hasher = self.0;
        hasher.write_u32(table.0);
        for (cell, form) in cells {
            let (kind, bytes) = match cell {
                Cell::Null => (b'n', Cow::Borrowed(&b""[..])),
                Cell::Unchanged => (b'u', Cow::Borrowed(&b""[..])),
                Cell::Text(bytes) => (b't', canonical(bytes, form)),
                Cell::Binary(bytes) => (b'b', Cow::Borrowed(bytes)),
            };
            hasher.write_u8(kind);
            hasher.write_usize(bytes.len());
            hasher.write(&bytes);
        }
        let hash = hasher.finish128();
        KeyId([hash.h1, hash.h2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_id_and_others_their_own() {
        let id = |text: &str| {
            KeyHasher::with_seed(1).key(TableId(0), [(Cell::Text(text.as_bytes()), &KeyForm::Numeric)].into_iter())
        };
        assert_eq!(id("1.0"), id("1.00"));
        assert_ne!(id("1.0"), id("1.01"));
    }

    #[test]
    fn cells_do_not_run_into_each_other() {
        let two = |a: &'static str, b: &'static str| {
            let cells = [a, b].map(|text| (Cell::Text(text.as_bytes()), &KeyForm::Bytes));
            KeyHasher::with_seed(1).key(TableId(0), cells.into_iter())
        };
        assert_ne!(two("ab", "c"), two("a", "bc"));
    }
}
