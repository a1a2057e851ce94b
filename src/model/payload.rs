//! A transaction's changes as one run of bytes, in memory or in a spill file, read by position.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

/// Bytes that were written to disk. Reading blocks for the time of a `pread` on a file just written.
pub trait Spilled: Send + Sync + std::fmt::Debug {
    /// Fills `buffer` from byte `offset`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Where the bytes are.
#[derive(Clone, Debug)]
pub enum Payload {
    /// In memory.
    Memory(Bytes),
    /// On disk: `len` bytes from `start`.
    Spilled {
        /// The file, shared with other payloads.
        file: Arc<dyn Spilled>,
        /// First byte.
        start: u64,
        /// Number of bytes.
        len: u64,
    },
}

impl Payload {
    /// Number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Payload::Memory(bytes) => bytes.len() as u64,
            Payload::Spilled { len, .. } => *len,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `len` bytes from `offset`, fewer at the end. Memory is shared, not copied.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let len = usize::try_from(self.len().saturating_sub(offset)).map_or(len, |rest| rest.min(len));
        match self {
            Payload::Memory(bytes) => {
                let from = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
                Ok(bytes.slice(from..from + len))
            }
            Payload::Spilled { file, start, .. } => {
                let mut buffer = vec![0; len];
                file.read_exact_at(&mut buffer, start + offset)?;
                Ok(Bytes::from(buffer))
            }
        }
    }
}
