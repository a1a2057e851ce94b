//! A row as `pgoutput` sends it (`TupleData`): cells pass through as bytes and are parsed by nobody on the way.
//!
//! <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>

use bytes::Bytes;

/// One column's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that the statement did not change and that the server did not send.
    Unchanged,
    /// The type's text output under the pinned session settings.
    Text(&'a [u8]),
    /// The type's binary output.
    Binary(&'a [u8]),
}

/// A whole row: `u16` number of columns, then per column a kind byte (`n`, `u`, `t`, `b`), for `t` and `b` an
/// `i32` length and the bytes. Checked once by [`Tuple::parse`]; afterwards cells are found without copying.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tuple(Bytes);

/// The bytes are no `TupleData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed tuple: {0}")]
pub struct BadTuple(pub &'static str);

impl Tuple {
    /// Takes one tuple from the front of `bytes`, which keeps what follows it.
    pub fn parse(bytes: &mut Bytes) -> Result<Tuple, BadTuple> {
        let count = usize::from(u16::from_be_bytes(
            bytes.get(..2).ok_or(BadTuple("no column count"))?.try_into().expect("two bytes"),
        ));
        let mut end = 2;
        for _ in 0..count {
            end += match bytes.get(end).ok_or(BadTuple("fewer columns than announced"))? {
                b'n' | b'u' => 1,
                b't' | b'b' => {
                    let length = bytes.get(end + 1..end + 5).ok_or(BadTuple("no cell length"))?;
                    let length = i32::from_be_bytes(length.try_into().expect("four bytes"));
                    5 + usize::try_from(length).map_err(|_| BadTuple("negative cell length"))?
                }
                _ => return Err(BadTuple("unknown cell kind")),
            };
        }
        if end > bytes.len() {
            return Err(BadTuple("a cell is cut short"));
        }
        Ok(Tuple(bytes.split_to(end)))
    }

    /// Builds a tuple from cells; the inverse of [`Tuple::cells`].
    pub fn from_cells<'a>(cells: impl ExactSizeIterator<Item = Cell<'a>>) -> Tuple {
        let mut out = Vec::with_capacity(2 + cells.len() * 12);
        out.extend_from_slice(&u16::try_from(cells.len()).expect("a table has at most 1,600 columns").to_be_bytes());
        for cell in cells {
            let (kind, bytes) = match cell {
                Cell::Null => (b'n', None),
                Cell::Unchanged => (b'u', None),
                Cell::Text(bytes) => (b't', Some(bytes)),
                Cell::Binary(bytes) => (b'b', Some(bytes)),
            };
            out.push(kind);
            if let Some(bytes) = bytes {
                let length = i32::try_from(bytes.len()).expect("a value is at most 1 GB");
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(bytes);
            }
        }
        Tuple(Bytes::from(out))
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.0[0], self.0[1]]))
    }

    /// Whether the row has no column at all, which SQL permits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The cells in column order.
    pub fn cells(&self) -> Cells<'_> {
        Cells { rest: &self.0[2..] }
    }

    /// The cell of column `index`; walks the row.
    pub fn cell(&self, index: usize) -> Option<Cell<'_>> {
        self.cells().nth(index)
    }

    /// The bytes as they came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Iterator over a row's cells.
#[derive(Clone)]
pub struct Cells<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        let (&kind, rest) = self.rest.split_first()?;
        if matches!(kind, b'n' | b'u') {
            self.rest = rest;
            return Some(if kind == b'n' { Cell::Null } else { Cell::Unchanged });
        }
        let (length, rest) = rest.split_first_chunk::<4>().expect("checked by parse");
        let (bytes, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        self.rest = rest;
        Some(if kind == b't' { Cell::Text(bytes) } else { Cell::Binary(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_come_back_as_they_went_in() {
        let cells = [Cell::Null, Cell::Text(b"abc"), Cell::Unchanged, Cell::Text(b""), Cell::Binary(&[0, 1])];
        let tuple = Tuple::from_cells(cells.into_iter());
        assert_eq!(tuple.len(), 5);
        assert_eq!(tuple.cells().collect::<Vec<_>>(), cells);
        let mut bytes = Bytes::from([tuple.as_bytes(), b"rest"].concat());
        assert_eq!(Tuple::parse(&mut bytes), Ok(tuple));
        assert_eq!(&bytes[..], b"rest");
    }

    #[test]
    fn a_tuple_that_is_cut_anywhere_is_refused() {
        let whole = Tuple::from_cells([Cell::Text(b"abc"), Cell::Null].into_iter());
        for end in 0..whole.as_bytes().len() {
            assert!(Tuple::parse(&mut Bytes::copy_from_slice(&whole.as_bytes()[..end])).is_err(), "{end}");
        }
    }
}
