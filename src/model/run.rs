//! A sorted run: the keys of a large transaction, or the overflow of the window's index, searchable on disk.
//!
//! Entries of 32 bytes (key, transaction, touch) sorted by key; in memory stay one key in [`FENCE`] and a Bloom
//! filter, so that a look-up of a key that is
//! not there reads nothing and any other reads one block.

use std::io;

use crate::model::bloom::Bloom;
use crate::model::ids::KeyId;
use crate::model::payload::Payload;

/// Bytes of one entry.
const ENTRY: usize = 32;
/// Entries in one block; the first key of each block stays in memory.
const FENCE: usize = 128;

/// One entry: a key, and two words that its user gives meaning to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// The key.
    pub key: KeyId,
    /// What the entry says of it.
    pub value: [u64; 2],
}

/// A sorted run.
#[derive(Debug)]
pub struct Run {
    payload: Payload,
    fences: Vec<KeyId>,
    bloom: Bloom,
    len: usize,
}

/// Sorts the entries and writes them in the form that [`Run::new`] takes.
pub fn encode(entries: &mut [Entry]) -> Vec<u8> {
    entries.sort_unstable();
    let mut out = Vec::with_capacity(entries.len() * ENTRY);
    for entry in entries {
        for word in entry.key.0.iter().chain(&entry.value) {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    out
}

impl Run {
    /// Builds the fences and the filter for `entries`, which [`encode`] sorted and whose bytes are `payload`.
    pub fn new(entries: &[Entry], payload: Payload) -> Run {
        debug_assert!(entries.is_sorted());
        debug_assert_eq!(payload.len(), (entries.len() * ENTRY) as u64);
        let mut bloom = Bloom::for_keys(entries.len());
        entries.iter().for_each(|entry| bloom.insert(entry.key));
        let fences = entries.iter().step_by(FENCE).map(|entry| entry.key).collect();
        Run { payload, fences, bloom, len: entries.len() }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that stay in memory, beside the payload if that is in memory.
    pub fn memory(&self) -> usize {
        self.fences.len() * size_of::<KeyId>() + self.bloom.memory()
    }

    /// Calls `found` with each value of `key`, in order of the values.
    pub fn find(&self, key: KeyId, mut found: impl FnMut([u64; 2])) -> io::Result<()> {
        if !self.bloom.may_contain(key) {
            return Ok(());
        }
        let mut block = self.fences.partition_point(|fence| *fence < key).saturating_sub(1);
        while block * FENCE < self.len {
            for entry in self.block(block)? {
                if entry.key > key {
                    return Ok(());
                }
                if entry.key == key {
                    found(entry.value);
                }
            }
            block += 1;
        }
        Ok(())
    }

    /// All entries, in order of the keys.
    pub fn entries(&self) -> impl Iterator<Item = io::Result<Entry>> + '_ {
        (0..self.len.div_ceil(FENCE)).flat_map(|block| match self.block(block) {
            Ok(entries) => entries.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    fn block(&self, block: usize) -> io::Result<Vec<Entry>> {
        let bytes = self.payload.read((block * FENCE * ENTRY) as u64, FENCE * ENTRY)?;
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        Ok(bytes
            .chunks_exact(ENTRY)
            .map(|entry| Entry {
                key: KeyId([word(&entry[..8]), word(&entry[8..16])]),
                value: [word(&entry[16..24]), word(&entry[24..])],
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn run(keys: impl Iterator<Item = u64>) -> Run {
        let mix = |k: u64| KeyId([k.wrapping_mul(0x9E37_79B9_7F4A_7C15), k]);
        let mut entries: Vec<_> = keys.enumerate().map(|(i, k)| Entry { key: mix(k), value: [0, i as u64] }).collect();
        let bytes = encode(&mut entries);
        Run::new(&entries, Payload::Memory(Bytes::from(bytes)))
    }

    fn find(run: &Run, k: u64) -> Vec<u64> {
        let mut found = Vec::new();
        run.find(KeyId([k.wrapping_mul(0x9E37_79B9_7F4A_7C15), k]), |value| found.push(value[1])).expect("in memory");
        found
    }

    #[test]
    fn every_entry_is_found_and_nothing_else() {
        let run = run((0..10_000).map(|i| i / 2 * 2));
        for k in 0..10_000 {
            assert_eq!(find(&run, k), if k % 2 == 0 { vec![k, k + 1] } else { vec![] }, "{k}");
        }
    }

    #[test]
    fn a_key_that_fills_several_blocks_is_found_whole() {
        let run = run((0..1_000).map(|i| u64::from(i >= 200) + u64::from(i >= 800)));
        assert_eq!(find(&run, 1), (200..800).collect::<Vec<_>>());
        assert_eq!(run.entries().count(), 1_000);
    }
}
