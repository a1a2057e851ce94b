//! COPY FROM STDIN: rows in its text format, in CopyData messages.
//! <https://www.postgresql.org/docs/current/sql-copy.html>, "Text Format"

use bytes::{BufMut, BytesMut};

/// A message is sent when it has this many bytes.
const MESSAGE_BYTES: usize = 64 << 10;

/// Writes CopyData messages behind what is already to be sent.
#[derive(Debug)]
pub struct CopyRows<'o> {
    output: &'o mut BytesMut,
    /// Where the message under way begins.
    start: Option<usize>,
    at_line_start: bool,
}

/// Rows of a COPY as CopyData messages, made before there is a window for them.
#[derive(Debug)]
pub struct CopiedRows(BytesMut);

impl CopiedRows {
    /// What `rows` writes.
    pub fn new(rows: impl FnOnce(&mut CopyRows<'_>)) -> CopiedRows {
        let mut output = BytesMut::new();
        let mut copy = CopyRows::new(&mut output);
        rows(&mut copy);
        copy.finish();
        CopiedRows(output)
    }
}

impl<'o> CopyRows<'o> {
    /// Adds whole rows.
    pub fn append(&mut self, rows: &CopiedRows) {
        self.end_message();
        self.output.put_slice(&rows.0);
    }

    pub(super) fn new(output: &'o mut BytesMut) -> CopyRows<'o> {
        CopyRows { output, start: None, at_line_start: true }
    }

    /// The next value of the row under way; `None` is NULL.
    pub fn value(&mut self, text: Option<&[u8]>) {
        self.begin();
        if !self.at_line_start {
            self.output.put_u8(b'\t');
        }
        self.at_line_start = false;
        let Some(text) = text else { return self.output.put_slice(b"\\N") };
        for part in text.chunks(MESSAGE_BYTES) {
            self.begin();
            escape(part, self.output);
            self.end_if_large();
        }
    }

    /// Ends the row.
    pub fn end_row(&mut self) {
        self.begin();
        self.output.put_u8(b'\n');
        self.at_line_start = true;
        self.end_if_large();
    }

    /// A message may end anywhere in a row.
    fn end_if_large(&mut self) {
        if self.start.is_some_and(|start| self.output.len() - start >= MESSAGE_BYTES) {
            self.end_message();
        }
    }

    /// Ends the last message.
    pub(super) fn finish(mut self) {
        self.end_message();
    }

    fn begin(&mut self) {
        if self.start.is_none() {
            self.start = Some(self.output.len());
            self.output.put_slice(b"d\0\0\0\0");
        }
    }

    fn end_message(&mut self) {
        let Some(start) = self.start.take() else { return };
        let length = u32::try_from(self.output.len() - start - 1).expect("a message has far less than 4 GB");
        self.output[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
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

    #[test]
    fn rows_are_lines_and_values_are_escaped() {
        let mut output = BytesMut::new();
        let mut rows = CopyRows::new(&mut output);
        for value in [Some(&b"a\tb\\N\r\n"[..]), None, Some(b""), Some(b"\\.")] {
            rows.value(value);
        }
        rows.end_row();
        rows.value(None);
        rows.end_row();
        rows.finish();
        assert_eq!(messages(&output), [b"a\\tb\\\\N\\r\\n\t\\N\t\t\\\\.\n\\N\n".to_vec()]);
    }

    #[test]
    fn many_rows_and_large_ones_go_in_several_messages() {
        let mut output = BytesMut::new();
        let mut rows = CopyRows::new(&mut output);
        for length in [40_000, 40_000, 300_000, 1] {
            rows.value(Some(&vec![b'\t'; length]));
            rows.end_row();
        }
        rows.finish();
        let messages = messages(&output);
        assert!(messages.len() > 5 && messages.iter().all(|message| message.len() < 3 * MESSAGE_BYTES));
        let lines: Vec<_> = messages.concat().split(|byte| *byte == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lines, [80_000, 80_000, 600_000, 2, 0]);
    }

    #[test]
    fn rows_that_were_made_before_go_between_others() {
        let row = |rows: &mut CopyRows<'_>, text: &[u8]| {
            rows.value(Some(text));
            rows.end_row();
        };
        let before = CopiedRows::new(|rows| row(rows, b"b"));
        let mut output = BytesMut::new();
        let mut rows = CopyRows::new(&mut output);
        row(&mut rows, b"a");
        rows.append(&before);
        rows.append(&CopiedRows::new(|_| {}));
        row(&mut rows, b"c");
        rows.finish();
        assert_eq!(messages(&output).concat(), b"a\nb\nc\n");
    }

    #[test]
    fn no_rows_are_no_message() {
        let mut output = BytesMut::new();
        CopyRows::new(&mut output).finish();
        assert!(output.is_empty());
    }
}
