//! COPY FROM STDIN: rows in its text or binary format, in CopyData messages.
//! <https://www.postgresql.org/docs/current/sql-copy.html>, "Text Format" and "Binary Format"

use bytes::{BufMut, Bytes, BytesMut};

/// A message is sent when it has this many bytes.
const MESSAGE_BYTES: usize = 32 << 10;
/// Messages are kept in pieces of about this many bytes: a buffer of all would be copied while it grows, and the kernel clears the
/// pages of each large one.
const PIECE_BYTES: usize = 96 << 10;

/// The signature, no flags, no extension.
const BINARY_HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Stands where the number of a row's values would.
const BINARY_END: i16 = -1;

/// CopyData messages.
#[derive(Debug, Default)]
struct Messages {
    /// Those before `output`.
    pieces: Vec<Bytes>,
    output: BytesMut,
    /// Where the message under way begins.
    start: Option<usize>,
}

impl Messages {
    fn begin(&mut self) {
        if self.start.is_none() {
            self.start = Some(self.output.len());
            self.output.put_slice(b"d\0\0\0\0");
        }
    }

    /// A message may end anywhere in a row.
    fn end_if_large(&mut self) {
        if self.start.is_some_and(|start| self.output.len() - start >= MESSAGE_BYTES) {
            self.end();
            if self.output.len() >= PIECE_BYTES {
                self.pieces.push(self.output.split().freeze());
                self.output.reserve(PIECE_BYTES + MESSAGE_BYTES);
            }
        }
    }

    fn end(&mut self) {
        let Some(start) = self.start.take() else { return };
        let length = u32::try_from(self.output.len() - start - 1).expect("a message has far less than 4 GB");
        self.output[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    }

    fn finish(mut self) -> CopiedRows {
        self.end();
        self.pieces.push(self.output.freeze());
        CopiedRows(self.pieces)
    }
}

/// Rows of a COPY as CopyData messages, made before there is a window for them.
#[derive(Debug)]
pub struct CopiedRows(Vec<Bytes>);

impl CopiedRows {
    /// In text format: what `rows` writes.
    pub fn text(rows: impl FnOnce(&mut TextRows)) -> CopiedRows {
        let mut copy = TextRows { messages: Messages::default(), at_line_start: true };
        rows(&mut copy);
        copy.messages.finish()
    }

    /// In binary format: what `rows` writes, rows of `width` values each; `None` if it gives up.
    pub fn binary(width: i16, rows: impl FnOnce(&mut BinaryRows) -> Option<()>) -> Option<CopiedRows> {
        let mut messages = Messages::default();
        messages.begin();
        messages.output.put_slice(&BINARY_HEADER);
        let mut copy = BinaryRows { messages, width };
        rows(&mut copy)?;
        copy.messages.begin();
        copy.messages.output.put_i16(BINARY_END);
        Some(copy.messages.finish())
    }

    /// The messages, one after another; a piece has several and ends with one.
    pub(super) fn pieces(&self) -> &[Bytes] {
        &self.0
    }
}

/// Writes rows in text format.
#[derive(Debug)]
pub struct TextRows {
    messages: Messages,
    at_line_start: bool,
}

impl TextRows {
    /// The next value of the row under way; `None` is NULL.
    pub fn value(&mut self, text: Option<&[u8]>) {
        self.messages.begin();
        if !self.at_line_start {
            self.messages.output.put_u8(b'\t');
        }
        self.at_line_start = false;
        let Some(text) = text else { return self.messages.output.put_slice(b"\\N") };
        for part in text.chunks(MESSAGE_BYTES) {
            self.messages.begin();
            escape(part, &mut self.messages.output);
            self.messages.end_if_large();
        }
    }

    /// Ends the row.
    pub fn end_row(&mut self) {
        self.messages.begin();
        self.messages.output.put_u8(b'\n');
        self.at_line_start = true;
        self.messages.end_if_large();
    }
}

/// Writes rows in binary format.
#[derive(Debug)]
pub struct BinaryRows {
    messages: Messages,
    width: i16,
}

impl BinaryRows {
    /// Begins a row; all its values follow.
    pub fn row(&mut self) {
        self.messages.begin();
        self.messages.output.put_i16(self.width);
    }

    /// The next value of the row: its length in bytes (4 bytes) and itself, as `write` puts them behind what is there.
    pub fn value(&mut self, write: impl FnOnce(&mut BytesMut) -> Option<()>) -> Option<()> {
        self.messages.begin();
        write(&mut self.messages.output)?;
        self.messages.end_if_large();
        Some(())
    }

    /// The next value of the row is NULL.
    pub fn null(&mut self) {
        self.messages.begin();
        self.messages.output.put_i32(-1);
    }
}

/// In every encoding that a server has, these bytes are no part of another character.
fn escape(text: &[u8], output: &mut BytesMut) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t')) {
        output.put_slice(&rest[..at]);
        let letter = match rest[at] {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            other => other,
        };
        output.put_slice(&[b'\\', letter]);
        rest = &rest[at + 1..];
    }
    output.put_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(mut output: &[u8]) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let [b'd', a, b, c, d, rest @ ..] = output {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize - 4;
            messages.push(rest[..length].to_vec());
            output = &rest[length..];
        }
        assert!(output.is_empty(), "more than CopyData messages");
        messages
    }

    fn text(rows: impl FnOnce(&mut TextRows)) -> Vec<Vec<u8>> {
        messages(&CopiedRows::text(rows).pieces().concat())
    }

    #[test]
    fn rows_are_lines_and_values_are_escaped() {
        let messages = text(|rows| {
            for value in [Some(&b"a\tb\\N\r\n"[..]), None, Some(b""), Some(b"\\.")] {
                rows.value(value);
            }
            rows.end_row();
            rows.value(None);
            rows.end_row();
        });
        assert_eq!(messages, [b"a\\tb\\\\N\\r\\n\t\\N\t\t\\\\.\n\\N\n".to_vec()]);
    }

    #[test]
    fn many_rows_and_large_ones_go_in_several_messages() {
        let messages = text(|rows| {
            for length in [40_000, 40_000, 300_000, 1] {
                rows.value(Some(&vec![b'\t'; length]));
                rows.end_row();
            }
        });
        assert!(messages.len() > 5 && messages.iter().all(|message| message.len() < 3 * MESSAGE_BYTES));
        let lines: Vec<_> = messages.concat().split(|byte| *byte == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lines, [80_000, 80_000, 600_000, 2, 0]);
    }

    #[test]
    fn much_comes_in_pieces_of_whole_messages() {
        let rows = CopiedRows::text(|rows| {
            for _ in 0..100 {
                rows.value(Some(&[b'x'; 10_000]));
                rows.end_row();
            }
        });
        assert!(rows.pieces().len() > 2);
        let whole: Vec<_> = rows.pieces().iter().flat_map(|piece| messages(piece)).collect();
        assert_eq!(whole.concat().len(), 100 * 10_001);
        assert!(rows.pieces().iter().all(|piece| piece.len() < PIECE_BYTES + 2 * MESSAGE_BYTES));
    }

    #[test]
    fn no_rows_are_no_message() {
        assert!(text(|_| {}).is_empty());
    }

    #[test]
    fn binary_rows_stand_between_header_and_end() {
        let value = |rows: &mut BinaryRows, bytes: &[u8]| {
            rows.value(|out| {
                out.put_u32(bytes.len().try_into().ok()?);
                out.put_slice(bytes);
                Some(())
            })
        };
        let rows = CopiedRows::binary(2, |rows| {
            rows.row();
            value(rows, b"ab")?;
            rows.null();
            rows.row();
            value(rows, &vec![b'x'; MESSAGE_BYTES])?;
            value(rows, b"")
        });
        let messages = messages(&rows.unwrap().pieces().concat());
        assert_eq!(messages.len(), 2);
        let expected = [
            &b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0"[..],
            b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff",
            b"\0\x02",
            &u32::try_from(MESSAGE_BYTES).unwrap().to_be_bytes(),
            &vec![b'x'; MESSAGE_BYTES],
            b"\0\0\0\0\xff\xff",
        ];
        assert_eq!(messages.concat(), expected.concat());
        assert!(CopiedRows::binary(1, |rows| rows.value(|_| None)).is_none());
    }
}
