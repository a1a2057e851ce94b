//! A transaction's records while it is assembled: in memory while it is small and the budget lasts, else on disk.

use std::sync::Arc;

use bytes::Bytes;

use crate::model::Payload;
use crate::stream::spill::{Extent, Extents, Reservation, Spill, SpillError};

/// Once a transaction goes to disk it is written in pieces of this many bytes.
const WRITE: usize = 256 << 10;
/// First allocation: most transactions are a few rows.
const FIRST: usize = 512;
/// Fewer bytes stay in memory, budget or not: what says where they are on disk would take about as many, and each a write and a
/// read.
const WORTH_A_WRITE: usize = 256;

/// Appended bytes; see [`Log::finish`].
#[derive(Debug)]
pub struct Log {
    spill: Arc<Spill>,
    buffer: Vec<u8>,
    written: u64,
    extents: Vec<Extent>,
    home: Home,
}

/// Where the bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// The buffer takes everything.
    Memory,
    /// The buffer takes only what is not worth a write yet.
    Disk,
}

impl Log {
    /// An empty one, in memory.
    pub fn new(spill: Arc<Spill>) -> Log {
        Log { spill, buffer: Vec::new(), written: 0, extents: Vec::new(), home: Home::Memory }
    }

    /// Number of bytes appended: where the next record begins.
    pub fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Bytes of them that are in memory.
    pub fn buffered(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// What is on disk already, up to the end of a record.
    pub fn written(&self) -> Payload {
        let file = Arc::new(Extents::new(self.extents.clone(), None));
        Payload::Spilled { file, start: 0, len: self.written }
    }

    /// How many bytes that is.
    pub fn written_len(&self) -> u64 {
        self.written
    }

    /// Where the bytes go now.
    pub fn home(&self) -> Home {
        self.home
    }

    /// From now on bytes go to disk; those of a small transaction when it is finished.
    pub fn leave_memory(&mut self) -> Result<(), SpillError> {
        self.home = Home::Disk;
        if self.buffer.len() >= WRITE { self.write_out() } else { Ok(()) }
    }

    /// Appends what `write` adds.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), SpillError> {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(FIRST);
        }
        write(&mut self.buffer);
        match self.home {
            Home::Disk if self.buffer.len() >= WRITE => self.write_out(),
            _ => Ok(()),
        }
    }

    fn write_out(&mut self) -> Result<(), SpillError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let extent = self.spill.append(&self.buffer)?;
        self.written += extent.len();
        let apart = match self.extents.last_mut() {
            Some(last) => last.join(extent),
            None => Some(extent),
        };
        self.extents.extend(apart);
        self.buffer.clear();
        self.buffer.shrink_to(2 * WRITE); // one wide row must not hold its size to the end
        Ok(())
    }

    /// The bytes as a payload. `reservation` lives as long as that: it has to say what the transaction holds in memory
    /// beside the payload, and is raised here by the payload's own bytes if those stay in memory.
    pub fn finish(mut self, beside: u64, mut reservation: Reservation) -> Result<Payload, SpillError> {
        if self.written > 0 || self.home == Home::Disk && self.buffer.len() >= WORTH_A_WRITE {
            self.write_out()?;
            reservation.set(beside);
            let (start, len) = (0, self.written);
            return Ok(Payload::Spilled { file: Arc::new(Extents::new(self.extents, Some(reservation))), start, len });
        }
        reservation.set(beside + self.buffered());
        let bytes = self.buffer.into_boxed_slice();
        Ok(Payload::Memory(Bytes::from_owner(Held { bytes, _reservation: reservation })))
    }
}

/// Bytes and the budget that they take.
struct Held {
    bytes: Box<[u8]>,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
