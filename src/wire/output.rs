//! What a session is to send.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Room for messages that is kept from one request to the next; what a large window needed beyond it is given back.
const KEPT: usize = 4 << 20;
/// Pieces of this size or more are not copied.
const LARGE: usize = 64 << 10;

/// Messages, some of which were made elsewhere and are sent from there.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// What goes before `open`.
    pieces: Vec<Bytes>,
    /// Where messages are added.
    pub open: BytesMut,
}

impl Output {
    /// Nothing is to be sent.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.open.clear();
        if self.open.capacity() > KEPT {
            self.open = BytesMut::new();
        }
    }

    /// Adds whole messages.
    pub fn append(&mut self, piece: &Bytes) {
        if piece.len() < LARGE {
            return self.open.extend_from_slice(piece);
        }
        if !self.open.is_empty() {
            self.pieces.push(std::mem::take(&mut self.open).freeze());
        }
        self.pieces.push(piece.clone());
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>() + self.open.len()
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn write_to(&self, writer: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        for piece in &self.pieces {
            writer.write_all(piece).await?;
        }
        writer.write_all(&self.open).await?;
        writer.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_is_sent_in_order() {
        let mut output = Output::default();
        let (small, large) = (Bytes::from_static(b"small"), Bytes::from(vec![b'l'; LARGE]));
        output.open.extend_from_slice(b"begin");
        for piece in [&small, &large, &large, &small] {
            output.append(piece);
        }
        output.open.extend_from_slice(b"end");
        let mut sent = Vec::new();
        output.write_to(&mut sent).await.unwrap();
        assert_eq!(sent, [&b"beginsmall"[..], &large, &large, b"smallend"].concat());
        assert_eq!((output.len(), output.pieces.len()), (sent.len(), 3));
        output.clear();
        assert_eq!(output.len(), 0);
    }
}
