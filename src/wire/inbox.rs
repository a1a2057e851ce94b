//! Bytes from the server into messages, in large pieces and without copying.
//!
//! `postgres_protocol` does not know CopyBothResponse, so the tag is looked at first. Reading is cancel-safe: what
//! has arrived stays in the buffer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::backend::{COPY_DATA_TAG, Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::WireError;

/// CopyBothResponse: PostgreSQL's documentation, "Message Formats".
const COPY_BOTH_TAG: u8 = b'W';

/// Tag and length.
const HEADER: usize = 5;

/// Longest message before the login: libpq has 30,000 bytes too. A stranger shall not make us reserve a gigabyte.
pub(super) const LONGEST_BEFORE_LOGIN: usize = 30_000;

/// Longest message afterwards: a value has at most 1 GB, and as `bytea` in text format twice that; lengths are
/// signed 32-bit numbers.
pub(super) const LONGEST: usize = i32::MAX as usize;

/// Room for one read of a session: many small answers at once.
pub(super) const SESSION_PIECE: usize = 64 * 1024;

/// A message, or the one that the library does not know.
pub(super) enum Incoming {
    Message(Message),
    CopyBoth,
}

/// The read side of a connection.
pub(super) struct Inbox<R> {
    reader: R,
    buffer: BytesMut,
    peer: Arc<str>,
    longest: usize,
    piece: usize,
}

impl<R: AsyncRead + Unpin> Inbox<R> {
    pub(super) fn new(reader: R, peer: Arc<str>) -> Inbox<R> {
        Inbox { reader, buffer: BytesMut::new(), peer, longest: LONGEST_BEFORE_LOGIN, piece: SESSION_PIECE }
    }

    /// From now on messages up to `longest` bytes, read in pieces of `piece` bytes.
    pub(super) fn allow(&mut self, longest: usize, piece: usize) {
        self.longest = longest;
        self.piece = piece;
    }

    /// The next message.
    pub(super) async fn next(&mut self) -> Result<Incoming, WireError> {
        while self.whole_message()?.is_none() {
            self.fill().await?;
        }
        if self.buffer[0] == COPY_BOTH_TAG {
            let length = self.whole_message()?.map_or(0, |(_, length)| length);
            let _ = self.buffer.split_to(length);
            return Ok(Incoming::CopyBoth);
        }
        match Message::parse(&mut self.buffer) {
            Ok(Some(message)) => Ok(Incoming::Message(message)),
            Ok(None) => Err(WireError::Protocol("a message ended before its length".to_owned())),
            Err(error) => Err(WireError::Protocol(error.to_string())),
        }
    }

    /// The payload of a CopyData message that is next and whole in the buffer already; anything else stays there.
    pub(super) fn copy_data(&mut self) -> Result<Option<Bytes>, WireError> {
        match self.whole_message()? {
            Some((COPY_DATA_TAG, length)) => {
                let mut message = self.buffer.split_to(length).freeze();
                Ok(Some(message.split_off(HEADER)))
            }
            _ => Ok(None),
        }
    }

    /// Whether the next message is whole in the buffer.
    pub(super) fn has_message(&self) -> Result<bool, WireError> {
        Ok(self.whole_message()?.is_some())
    }

    /// Tag and whole length of the next message, once all of it is there.
    fn whole_message(&self) -> Result<Option<(u8, usize)>, WireError> {
        match self.header()? {
            Some((tag, length)) if self.buffer.len() >= length => Ok(Some((tag, length))),
            _ => Ok(None),
        }
    }

    /// Tag and whole length of the next message, once its header is there.
    fn header(&self) -> Result<Option<(u8, usize)>, WireError> {
        let Some(header) = Header::parse(&self.buffer).map_err(|error| WireError::Protocol(error.to_string()))? else {
            return Ok(None);
        };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if length > self.longest {
            let tag = char::from(header.tag()).escape_default().to_string();
            return Err(WireError::Protocol(format!(
                "{} announces a message \"{tag}\" of {length} bytes; is it a PostgreSQL server?",
                self.peer
            )));
        }
        Ok(Some((header.tag(), length + 1)))
    }

    /// Waits for more bytes. Cancel-safe.
    pub(super) async fn fill(&mut self) -> Result<(), WireError> {
        let missing = self.header()?.map_or(0, |(_, length)| length.saturating_sub(self.buffer.len()));
        // A quarter of a piece of room left is worth a read; less would make the reads small.
        if self.buffer.capacity() - self.buffer.len() < missing.max(self.piece / 4) {
            self.buffer.reserve(missing.max(self.piece));
        }
        match self.reader.read_buf(&mut self.buffer).await {
            Ok(0) => Err(WireError::Closed { target: self.peer.to_string() }),
            Ok(_) => Ok(()),
            // A TLS peer that goes away without the closing alert, as PostgreSQL does when it is killed.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(WireError::Closed { target: self.peer.to_string() })
            }
            Err(error) => Err(super::tls::read_error(error, &self.peer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox(bytes: &[u8]) -> Inbox<&[u8]> {
        Inbox::new(bytes, Arc::from("test"))
    }

    #[tokio::test]
    async fn copy_both_is_known_here() {
        let mut inbox = inbox(b"W\0\0\0\x07\0\0\0d\0\0\0\x06hiZ\0\0\0\x05I");
        assert!(matches!(inbox.next().await.unwrap(), Incoming::CopyBoth));
        assert_eq!(inbox.copy_data().unwrap().unwrap(), "hi");
        assert_eq!(inbox.copy_data().unwrap(), None);
        assert!(matches!(inbox.next().await.unwrap(), Incoming::Message(Message::ReadyForQuery(_))));
        assert!(matches!(inbox.next().await, Err(WireError::Closed { .. })));
    }

    #[tokio::test]
    async fn a_web_server_is_no_postgresql_server() {
        let error = inbox(b"HTTP/1.1 400 Bad Request\r\n").next().await.err().unwrap().to_string();
        assert!(error.contains("is it a PostgreSQL server?"), "{error}");
    }

    #[tokio::test]
    async fn long_messages_wait_for_the_login() {
        let mut message = vec![b'd'];
        message.extend_from_slice(&100_004_u32.to_be_bytes());
        message.resize(100_005, b'x');
        assert!(inbox(&message).next().await.is_err());
        let mut inbox = inbox(&message);
        inbox.allow(LONGEST, SESSION_PIECE);
        let Incoming::Message(Message::CopyData(body)) = inbox.next().await.unwrap() else { panic!("no data") };
        assert_eq!(body.data().len(), 100_000);
    }

    #[tokio::test]
    async fn a_length_below_four_is_an_error() {
        assert!(matches!(inbox(b"Z\0\0\0\x03I").next().await, Err(WireError::Protocol(_))));
    }
}
