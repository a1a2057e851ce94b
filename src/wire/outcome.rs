//! What a statement did: its command tag and the rows that it returned, in text format.

use std::borrow::Cow;
use std::str::FromStr;

use bytes::Bytes;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::DataRowBody;
use smallvec::SmallVec;

use super::error::WireError;

/// One statement's result.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was done, to how many rows.
    pub tag: CommandTag,
    /// What came back.
    pub rows: Vec<Row>,
}

impl Outcome {
    /// The only row; any other number is an error.
    pub fn one(&self) -> Result<&Row, WireError> {
        match self.rows.as_slice() {
            [row] => Ok(row),
            rows => Err(WireError::Protocol(format!("one row was expected and {} came", rows.len()))),
        }
    }
}

/// CommandComplete's text, taken apart: `INSERT 0 5`, `UPDATE 3`, `COMMIT`, `CREATE TABLE`.
///
/// A COMMIT of a failed transaction answers `ROLLBACK`: whoever commits must look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandTag {
    /// The command; empty for an empty query.
    pub name: Cow<'static, str>,
    /// Rows inserted, updated, deleted, selected, copied; 0 where the command counts none.
    pub rows: u64,
}

/// Names that come by the hundred thousand: no allocation for these.
const FREQUENT: [&str; 9] = ["INSERT", "UPDATE", "DELETE", "SELECT", "COPY", "BEGIN", "COMMIT", "ROLLBACK", "SET"];

impl CommandTag {
    /// Reads the server's text.
    pub fn parse(text: &str) -> CommandTag {
        let (name, rows) = match text.rsplit_once(' ') {
            Some((before, count)) if count.bytes().all(|byte| byte.is_ascii_digit()) => {
                (before, count.parse().unwrap_or(0))
            }
            _ => (text, 0),
        };
        // INSERT carries an object id before the count, always 0 since PostgreSQL 12.
        let name = name.strip_suffix(" 0").unwrap_or(name);
        let name = match FREQUENT.into_iter().find(|frequent| *frequent == name) {
            Some(frequent) => Cow::Borrowed(frequent),
            None => Cow::Owned(name.to_owned()),
        };
        CommandTag { name, rows }
    }
}

/// One row; cells in text format, sharing the buffer that was read from the network.
#[derive(Clone, Debug)]
pub struct Row {
    storage: Bytes,
    /// Start and length of each cell; `None` is NULL.
    cells: SmallVec<[Option<(u32, u32)>; 6]>,
}

impl Row {
    pub(super) fn read(body: &DataRowBody) -> std::io::Result<Row> {
        let mut cells = SmallVec::new();
        let mut ranges = body.ranges();
        // A message is shorter than 2^31 bytes, so the conversions below lose nothing.
        while let Some(range) = ranges.next()? {
            cells.push(range.map(|range| (range.start as u32, range.len() as u32)));
        }
        Ok(Row { storage: body.buffer_bytes().clone(), cells })
    }

    /// How many columns.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there is no column at all.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The bytes of column `i` from 0; `None` is NULL or no such column.
    pub fn cell(&self, i: usize) -> Option<&[u8]> {
        let (start, length) = (*self.cells.get(i)?)?;
        Some(&self.storage[start as usize..][..length as usize])
    }

    /// The same without copying, for keeping.
    pub fn bytes(&self, i: usize) -> Option<Bytes> {
        self.cell(i).map(|cell| self.storage.slice_ref(cell))
    }

    /// The text of column `i`; NULL is an error.
    pub fn text(&self, i: usize) -> Result<&str, WireError> {
        self.optional_text(i)?.ok_or_else(|| self.problem(i, "NULL where a value was expected"))
    }

    /// The text of column `i`; NULL is `None`.
    pub fn optional_text(&self, i: usize) -> Result<Option<&str>, WireError> {
        if i >= self.cells.len() {
            return Err(self.problem(i, "there is no such column"));
        }
        self.cell(i).map(|cell| std::str::from_utf8(cell).map_err(|_| self.problem(i, "not UTF-8"))).transpose()
    }

    /// Column `i` by its type's own reading; NULL is an error.
    pub fn parse<T: FromStr>(&self, i: usize) -> Result<T, WireError> {
        let text = self.text(i)?;
        text.parse().map_err(|_| self.problem(i, &format!("{text:?} is no {}", std::any::type_name::<T>())))
    }

    /// Column `i` by its type's own reading; NULL is `None`.
    pub fn optional<T: FromStr>(&self, i: usize) -> Result<Option<T>, WireError> {
        match self.optional_text(i)? {
            Some(_) => self.parse(i).map(Some),
            None => Ok(None),
        }
    }

    /// A boolean column, `t` or `f`; NULL is an error.
    pub fn flag(&self, i: usize) -> Result<bool, WireError> {
        match self.text(i)? {
            "t" => Ok(true),
            "f" => Ok(false),
            other => Err(self.problem(i, &format!("{other:?} is no boolean"))),
        }
    }

    fn problem(&self, column: usize, problem: &str) -> WireError {
        WireError::Value { column, problem: problem.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};
    use postgres_protocol::message::backend::Message;

    #[test]
    fn command_tags_are_name_and_rows() {
        for (text, name, rows) in [
            ("INSERT 0 5", "INSERT", 5),
            ("UPDATE 3", "UPDATE", 3),
            ("DELETE 0", "DELETE", 0),
            ("SELECT 12", "SELECT", 12),
            ("MERGE 7", "MERGE", 7),
            ("COPY 1000000", "COPY", 1_000_000),
            ("COMMIT", "COMMIT", 0),
            ("ROLLBACK", "ROLLBACK", 0),
            ("CREATE TABLE", "CREATE TABLE", 0),
            ("PREPARE TRANSACTION", "PREPARE TRANSACTION", 0),
            ("", "", 0),
        ] {
            assert_eq!(CommandTag::parse(text), CommandTag { name: name.into(), rows }, "{text}");
        }
    }

    fn row(cells: &[Option<&str>]) -> Row {
        let mut body = BytesMut::new();
        body.put_u16(u16::try_from(cells.len()).unwrap());
        for cell in cells {
            body.put_i32(cell.map_or(-1, |text| i32::try_from(text.len()).unwrap()));
            body.put_slice(cell.unwrap_or_default().as_bytes());
        }
        let mut message = BytesMut::new();
        message.put_u8(b'D');
        message.put_u32(u32::try_from(body.len() + 4).unwrap());
        message.put_slice(&body);
        let Some(Message::DataRow(body)) = Message::parse(&mut message).unwrap() else { panic!("no row") };
        Row::read(&body).unwrap()
    }

    #[test]
    fn cells_are_read_by_what_they_should_be() {
        let row = row(&[Some("42"), None, Some(""), Some("t"), Some("x")]);
        assert_eq!(row.len(), 5);
        assert_eq!(
            (row.cell(0), row.cell(1), row.cell(2), row.cell(9)),
            (Some(&b"42"[..]), None, Some(&b""[..]), None)
        );
        assert_eq!(row.bytes(0).unwrap(), "42");
        assert_eq!(row.parse::<u32>(0).unwrap(), 42);
        assert_eq!(row.optional::<u32>(1).unwrap(), None);
        assert!(row.flag(3).unwrap());
        assert_eq!(row.text(2).unwrap(), "");
    }

    #[test]
    fn a_cell_that_is_something_else_is_an_error_with_its_place() {
        let row = row(&[Some("x"), None]);
        assert_eq!(row.parse::<u32>(0).unwrap_err().to_string(), "column 0 of the result: \"x\" is no u32");
        assert!(row.text(1).unwrap_err().to_string().contains("NULL"));
        assert!(row.optional_text(2).unwrap_err().to_string().contains("no such column"));
        assert!(row.flag(0).is_err());
    }
}
