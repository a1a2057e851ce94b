//! Key cells → [`KeyId`]: each cell is brought to its type's canonical form, then hashed with its table.

use std::borrow::Cow;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::model::ids::{KeyId, TableId};
use crate::model::table::KeyForm;
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
    pub fn key<'a>(&self, table: TableId, cells: impl Iterator<Item = (Cell<'a>, KeyForm)>) -> KeyId {
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

/// The one text that stands for all texts that the column's type calls equal.
pub fn canonical(text: &[u8], form: KeyForm) -> Cow<'_, [u8]> {
    match form {
        KeyForm::Bytes => Cow::Borrowed(text),
        KeyForm::Blank => Cow::Borrowed(text.trim_ascii_end_of(b' ')),
        KeyForm::Float if text == b"-0" => Cow::Borrowed(b"0"),
        KeyForm::Float => Cow::Borrowed(text),
        KeyForm::Numeric if text.contains(&b'.') => {
            let trimmed = text.trim_ascii_end_of(b'0');
            Cow::Borrowed(trimmed.strip_suffix(b".").unwrap_or(trimmed))
        }
        KeyForm::Numeric => Cow::Borrowed(text),
    }
}

trait TrimEnd {
    fn trim_ascii_end_of(&self, byte: u8) -> &[u8];
}

impl TrimEnd for [u8] {
    fn trim_ascii_end_of(&self, byte: u8) -> &[u8] {
        let end = self.iter().rposition(|b| *b != byte).map_or(0, |last| last + 1);
        &self[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(form: KeyForm, text: &str) -> KeyId {
        KeyHasher::with_seed(1).key(TableId(0), [(Cell::Text(text.as_bytes()), form)].into_iter())
    }

    #[test]
    fn values_that_their_type_calls_equal_have_one_id() {
        for (form, a, b) in [
            (KeyForm::Numeric, "1.0", "1.00"),
            (KeyForm::Numeric, "1", "1.0"),
            (KeyForm::Numeric, "0.0", "0"),
            (KeyForm::Numeric, "-10.50", "-10.5"),
            (KeyForm::Float, "-0", "0"),
            (KeyForm::Blank, "ab  ", "ab"),
        ] {
            assert_eq!(id(form, a), id(form, b), "{a} {b}");
        }
    }

    #[test]
    fn values_that_differ_have_different_ids() {
        for (form, a, b) in [
            (KeyForm::Numeric, "100", "1"),
            (KeyForm::Numeric, "NaN", "Infinity"),
            (KeyForm::Bytes, "ab ", "ab"),
            (KeyForm::Blank, " ab", "ab"),
        ] {
            assert_ne!(id(form, a), id(form, b), "{a} {b}");
        }
    }

    #[test]
    fn cells_do_not_run_into_each_other() {
        let two = |a: &'static str, b: &'static str| {
            let cells = [a, b].map(|text| (Cell::Text(text.as_bytes()), KeyForm::Bytes));
            KeyHasher::with_seed(1).key(TableId(0), cells.into_iter())
        };
        assert_ne!(two("ab", "c"), two("a", "bc"));
    }
}
