//! COPY FROM STDIN: rows in its text or binary format, in CopyData messages.
//! <https://www.postgresql.org/docs/current/sql-copy.html>, "Text Format" and "Binary Format"

use bytes::{BufMut, BytesMut};

/// A message is sent when it has this many bytes.
const MESSAGE_BYTES: usize = 64 << 10;

/// The signature, no flags, no extension.
const BINARY_HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Stands where the number of a row's values would.
const BINARY_END: i16 = -1;

/// CopyData messages behind what is already to be sent.
#[derive(Debug)]
struct Messages<'o> {
    output: &'o mut BytesMut,
    /// Where the message under way begins.
    start: Option<usize>,
}

impl Messages<'_> {
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
        }
    }

    fn end(&mut self) {
        let Some(start) = self.start.take() else { return };
        let length = u32::try_from(self.output.len() - start - 1).expect("a message has far less than 4 GB");
        self.output[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    }
}

/// Rows of a COPY as CopyData messages, made before there is a window for them.
#[derive(Debug)]
pub struct CopiedRows(BytesMut);

impl CopiedRows {
    /// In text format: what `rows` writes.
    pub fn text(rows: impl FnOnce(&mut TextRows<'_>)) -> CopiedRows {
        let mut output = BytesMut::new();
        let mut copy = TextRows::new(&mut output);
        rows(&mut copy);
        copy.messages.end();
        CopiedRows(output)
    }

    /// In binary format: what `rows` writes, rows of `width` values each; `None` if it gives up.
    pub fn binary(width: i16, rows: impl FnOnce(&mut BinaryRows<'_>) -> Option<()>) -> Option<CopiedRows> {
        let mut output = BytesMut::new();
        let mut messages = Messages { output: &mut output, start: None };
        messages.begin();
        messages.output.put_slice(&BINARY_HEADER);
        let mut copy = BinaryRows { messages, width };
        rows(&mut copy)?;
        copy.messages.begin();
        copy.messages.output.put_i16(BINARY_END);
        copy.messages.end();
        Some(CopiedRows(output))
    }

    pub(super) fn messages(&self) -> &[u8] {
        &self.0
    }
}

/// Writes rows in text format.
#[derive(Debug)]
pub struct TextRows<'o> {
    messages: Messages<'o>,
    at_line_start: bool,
}

impl<'o> TextRows<'o> {
    fn new(output: &'o mut BytesMut) -> TextRows<'o> {
        TextRows { messages: Messages { output, start: None }, at_line_start: true }
    }

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
            escape(part, self.messages.output);
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
pub struct BinaryRows<'o> {
    messages: Messages<'o>,
    width: i16,
}

impl BinaryRows<'_> {
    /// Begins a row; all its values follow.
    pub fn row(&mut self) {
        self.messages.begin();
        self.messages.output.put_i16(self.width);
    }

    /// The next value of the row: its length in bytes (4 bytes) and itself, as `write` puts them behind what is there.
    pub fn value(&mut self, write: impl FnOnce(&mut BytesMut) -> Option<()>) -> Option<()> {
        self.messages.begin();
        write(self.messages.output)?;
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

    fn text(rows: impl FnOnce(&mut TextRows<'_>)) -> Vec<Vec<u8>> {
        messages(CopiedRows::text(rows).messages())
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
    fn no_rows_are_no_message() {
        assert!(text(|_| {}).is_empty());
    }

    #[test]
    fn binary_rows_stand_between_header_and_end() {
        let value = |rows: &mut BinaryRows<'_>, bytes: &[u8]| {
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
        let messages = messages(rows.unwrap().messages());
        assert_eq!(messages.len(), 2);
        let expected = [
            &b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0"[..],
            b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff",
            b"\0\x02\0\x01\0\0",
            &vec![b'x'; MESSAGE_BYTES],
            b"\0\0\0\0\xff\xff",
        ];
        assert_eq!(messages.concat(), expected.concat());
        assert!(CopiedRows::binary(1, |rows| rows.value(|_| None)).is_none());
    }
}
