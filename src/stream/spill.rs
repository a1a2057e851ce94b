//! The memory budget of transactions in flight, and the files that take what does not fit.
//!
//! Files are unlinked as soon as they are made: whatever becomes of the process, nothing is left. A segment's
//! space is given back when the last payload in it is dropped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::model::payload::Spilled;
use crate::model::{Class, Classify};

/// A segment takes no more once it is this long: small enough that one old payload keeps little space.
const SEGMENT: u64 = 64 << 20;
/// The budget is taken in steps of this many bytes, so that not every row touches the shared counter.
const STEP: u64 = 4 << 10;

/// The overflow could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// No space.
    #[error(
        "the disk is full: {} has no room for transactions that exceed the memory budget ({source}). Free space \
         there or put it elsewhere; nothing is lost, pgconcord reads the transactions again from the slot", path.display()
    )]
    Full {
        /// Directory of the overflow.
        path: PathBuf,
        /// As the system put it.
        source: io::Error,
    },
    /// Anything else.
    #[error(
        "cannot use {} for transactions that exceed the memory budget: {source}. It must be a directory in which \
         pgconcord may create files", path.display()
    )]
    Unusable {
        /// Directory of the overflow.
        path: PathBuf,
        /// As the system put it.
        source: io::Error,
    },
}

impl Classify for SpillError {
    fn class(&self) -> Class {
        Class::Operator
    }
}

#[derive(Debug, Default)]
struct Counters {
    in_memory: AtomicU64,
    on_disk: AtomicU64,
}

/// Budget and overflow, shared by all sources.
#[derive(Debug)]
pub struct Spill {
    directory: PathBuf,
    limit: u64,
    counters: Arc<Counters>,
    /// The segment being filled, and how far; gone when nobody uses it any more.
    current: Mutex<(Weak<Segment>, u64)>,
}

impl Spill {
    /// Makes `directory` if it is not there; `limit` is in bytes, for all transactions in flight together.
    pub fn new(directory: &Path, limit: u64) -> Result<Arc<Spill>, SpillError> {
        let spill = Spill {
            directory: directory.to_owned(),
            limit,
            counters: Arc::default(),
            current: Mutex::new((Weak::new(), 0)),
        };
        std::fs::create_dir_all(directory).map_err(|error| spill.error(error))?;
        Ok(Arc::new(spill))
    }

    /// Bytes that transactions hold in memory now, those under way included.
    pub fn in_memory(&self) -> u64 {
        self.counters.in_memory.load(Ordering::Relaxed)
    }

    /// Bytes of the segments that are in use.
    pub fn on_disk(&self) -> u64 {
        self.counters.on_disk.load(Ordering::Relaxed)
    }

    /// A reservation of nothing yet.
    pub fn reservation(&self) -> Reservation {
        Reservation { counters: self.counters.clone(), limit: self.limit, held: 0 }
    }

    /// Writes `bytes` to the segment that is being filled.
    pub fn append(&self, bytes: &[u8]) -> Result<Extent, SpillError> {
        let len = bytes.len() as u64;
        let (segment, position) = self.allocate(len).map_err(|error| self.error(error))?;
        segment.file.write_all_at(bytes, position).map_err(|error| self.error(error))?;
        Ok(Extent { segment, position, len })
    }

    fn allocate(&self, len: u64) -> io::Result<(Arc<Segment>, u64)> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let segment = match current.0.upgrade() {
            Some(segment) if current.1 < SEGMENT => segment,
            _ => {
                let file = tempfile::tempfile_in(&self.directory)?;
                let segment = Arc::new(Segment { file, counters: self.counters.clone(), len: AtomicU64::new(0) });
                *current = (Arc::downgrade(&segment), 0);
                segment
            }
        };
        let position = current.1;
        current.1 += len;
        segment.len.store(current.1, Ordering::Relaxed);
        self.counters.on_disk.fetch_add(len, Ordering::Relaxed);
        Ok((segment, position))
    }

    fn error(&self, source: io::Error) -> SpillError {
        let path = self.directory.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SpillError::Full { path, source },
            _ => SpillError::Unusable { path, source },
        }
    }
}

/// One unlinked file.
#[derive(Debug)]
struct Segment {
    file: File,
    counters: Arc<Counters>,
    len: AtomicU64,
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.counters.on_disk.fetch_sub(self.len.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Bytes in one segment, which lives at least as long.
#[derive(Clone, Debug)]
pub struct Extent {
    segment: Arc<Segment>,
    position: u64,
    len: u64,
}

impl Extent {
    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes `next` in if it lies right behind; gives it back otherwise.
    pub fn join(&mut self, next: Extent) -> Option<Extent> {
        if Arc::ptr_eq(&self.segment, &next.segment) && self.position + self.len == next.position {
            self.len += next.len;
            return None;
        }
        Some(next)
    }
}

/// Extents read as one run of bytes.
#[derive(Debug)]
pub struct Extents {
    /// Each with the offset of its first byte, ascending.
    parts: Vec<(u64, Extent)>,
    /// What the payload's owner keeps in memory; given back with the payload.
    _reservation: Option<Reservation>,
}

impl Extents {
    /// The extents in order; `reservation` is dropped with them.
    pub fn new(extents: Vec<Extent>, reservation: Option<Reservation>) -> Extents {
        let mut offset = 0;
        let place = |extent: Extent| {
            let at = offset;
            offset += extent.len;
            (at, extent)
        };
        Extents { parts: extents.into_iter().map(place).collect(), _reservation: reservation }
    }
}

impl Spilled for Extents {
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let mut part = self.parts.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        while !buffer.is_empty() {
            let (start, extent) = self.parts.get(part).ok_or(io::ErrorKind::UnexpectedEof)?;
            let skip = offset - start;
            let rest = usize::try_from(extent.len.saturating_sub(skip)).unwrap_or(usize::MAX);
            let (now, later) = buffer.split_at_mut(rest.min(buffer.len()));
            extent.segment.file.read_exact_at(now, extent.position + skip)?;
            offset += now.len() as u64;
            buffer = later;
            part += 1;
        }
        Ok(())
    }
}

/// A share of the memory budget; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    counters: Arc<Counters>,
    limit: u64,
    held: u64,
}

/// The budget has no room for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BudgetUsedUp;

impl Reservation {
    /// Grows to at least `bytes` if the budget allows.
    pub fn cover(&mut self, bytes: u64) -> Result<(), BudgetUsedUp> {
        if bytes <= self.held {
            return Ok(());
        }
        let wanted = bytes.next_multiple_of(STEP) - self.held;
        let before = self.counters.in_memory.fetch_add(wanted, Ordering::Relaxed);
        if before + wanted > self.limit {
            self.counters.in_memory.fetch_sub(wanted, Ordering::Relaxed);
            return Err(BudgetUsedUp);
        }
        self.held += wanted;
        Ok(())
    }

    /// Sets it to `bytes`, budget or not: for what is in memory and cannot be elsewhere.
    pub fn set(&mut self, bytes: u64) {
        if bytes > self.held {
            self.counters.in_memory.fetch_add(bytes - self.held, Ordering::Relaxed);
        } else {
            self.counters.in_memory.fetch_sub(self.held - bytes, Ordering::Relaxed);
        }
        self.held = bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spill(directory: &Path, limit: u64) -> Arc<Spill> {
        Spill::new(directory, limit).unwrap()
    }

    fn read(extents: &Extents, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; len];
        extents.read_exact_at(&mut buffer, offset).map(|()| buffer)
    }

    #[test]
    fn extents_with_others_between_them_read_as_one() {
        let directory = tempfile::tempdir().unwrap();
        let spill = spill(directory.path(), 0);
        let mut mine = Vec::new();
        for piece in [&b"abc"[..], b"defgh", b"i"] {
            mine.push(spill.append(piece).unwrap());
            drop(spill.append(b"somebody else's").unwrap());
        }
        let extents = Extents::new(mine, None);
        for from in 0..9 {
            for to in from..=9 {
                let expected = &b"abcdefghi"[from..to];
                assert_eq!(read(&extents, from as u64, to - from).unwrap(), expected);
            }
        }
        assert_eq!(read(&extents, 5, 5).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn extents_side_by_side_become_one() {
        let directory = tempfile::tempdir().unwrap();
        let spill = spill(directory.path(), 0);
        let mut first = spill.append(b"abc").unwrap();
        assert!(first.join(spill.append(b"def").unwrap()).is_none());
        let between = spill.append(b"-").unwrap();
        assert!(first.join(spill.append(b"ghi").unwrap()).is_some());
        assert_eq!((first.len(), between.len()), (6, 1));
    }

    #[test]
    fn a_segment_goes_with_its_last_extent_and_leaves_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let spill = spill(directory.path(), 0);
        let piece = vec![7; 40 << 20];
        let first = spill.append(&piece).unwrap();
        let second = spill.append(&piece).unwrap(); // fills the segment past its length
        let third = spill.append(b"next segment").unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(spill.on_disk(), (80 << 20) + 12);
        drop(first);
        assert_eq!(spill.on_disk(), (80 << 20) + 12);
        drop(second);
        assert_eq!(spill.on_disk(), 12);
        drop(third);
        assert_eq!(spill.on_disk(), 0);
        drop(spill.append(b"again").unwrap());
    }

    #[test]
    fn the_budget_is_shared_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let spill = spill(directory.path(), 10_000);
        let (mut a, mut b) = (spill.reservation(), spill.reservation());
        assert_eq!(a.cover(5_000), Ok(()));
        assert_eq!(b.cover(5_000), Err(BudgetUsedUp));
        b.set(5_000); // cannot be elsewhere
        assert_eq!(spill.in_memory(), 8_192 + 5_000);
        a.set(100);
        assert_eq!(spill.in_memory(), 5_100);
        drop((a, b));
        assert_eq!(spill.in_memory(), 0);
    }

    #[test]
    fn a_full_disk_says_where_and_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let error = spill(directory.path(), 0).error(io::ErrorKind::StorageFull.into());
        let text = error.to_string();
        assert!(text.contains(&directory.path().display().to_string()) && text.contains("Free space"), "{text}");
    }

    #[test]
    fn a_directory_that_cannot_be_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Spill::new(file.path(), 0).unwrap_err();
        assert!(error.to_string().contains(&file.path().display().to_string()));
    }
}
