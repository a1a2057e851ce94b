//! A set of keys that forgets none and now and then claims one too many (Bloom 1970): ten bits a key, four probes, all in one
//! cache line (Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007), 2% false positives.

use crate::model::ids::KeyId;

const BITS_PER_KEY: usize = 10;
const PROBES: u32 = 4;

/// As long as a cache line.
#[derive(Clone, Copy, Default, Debug)]
#[repr(align(64))]
struct Block([u64; 8]);

impl Block {
    const BITS: usize = 512;
}

/// The set.
#[derive(Clone, Debug)]
pub struct Bloom {
    blocks: Vec<Block>,
}

impl Bloom {
    /// An empty set with room for so many keys.
    pub fn for_keys(keys: usize) -> Bloom {
        Bloom { blocks: vec![Block::default(); (keys * BITS_PER_KEY).div_ceil(Block::BITS).max(1)] }
    }

    /// Puts a key in.
    pub fn insert(&mut self, key: KeyId) {
        let place = place(key, self.blocks.len());
        let block = &mut self.blocks[place];
        probes(key).for_each(|(word, bit)| block.0[word] |= bit);
    }

    /// Whether the key may be in; `false` is certain.
    pub fn may_contain(&self, key: KeyId) -> bool {
        let block = &self.blocks[place(key, self.blocks.len())];
        probes(key).all(|(word, bit)| block.0[word] & bit != 0)
    }

    /// Bytes in memory.
    pub fn memory(&self) -> usize {
        self.blocks.len() * size_of::<Block>()
    }
}

/// A set whose number of keys is not known before: filters of growing size, each begun when the one before is full (Almeida,
/// Baquero, Preguiça and Hutchison, "Scalable Bloom Filters", 2007).
#[derive(Clone, Debug, Default)]
pub struct ScalableBloom {
    filters: Vec<Bloom>,
    /// Keys that the last one has room for yet.
    room: usize,
}

impl ScalableBloom {
    const FIRST: usize = 16 << 10;

    /// Puts a key in.
    pub fn insert(&mut self, key: KeyId) {
        if self.room == 0 {
            self.room = Self::FIRST << (2 * self.filters.len()).min(20);
            self.filters.push(Bloom::for_keys(self.room));
        }
        self.room -= 1;
        if let Some(last) = self.filters.last_mut() {
            last.insert(key);
        }
    }

    /// Whether the key may be in; `false` is certain.
    pub fn may_contain(&self, key: KeyId) -> bool {
        self.filters.iter().any(|filter| filter.may_contain(key))
    }
}

/// The block of a key, which is a hash already.
fn place(key: KeyId, blocks: usize) -> usize {
    ((u128::from(key.0[0]) * blocks as u128) >> 64) as usize
}

/// The bits of a key within its block.
fn probes(key: KeyId) -> impl Iterator<Item = (usize, u64)> {
    (0..PROBES).map(move |i| {
        let bit = key.0[1] >> (i * 9) & 511;
        ((bit / 64) as usize, 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(k: u64) -> KeyId {
        KeyId([k.wrapping_mul(0x9E37_79B9_7F4A_7C15), k.wrapping_mul(0xD1B5_4A32_D192_ED03)])
    }

    #[test]
    fn a_set_that_grows_forgets_none_and_makes_few_up() {
        let mut bloom = ScalableBloom::default();
        (0..100_000).for_each(|k| bloom.insert(key(k)));
        assert!((0..100_000).all(|k| bloom.may_contain(key(k))));
        assert!((100_000..110_000).filter(|k| bloom.may_contain(key(*k))).count() < 600);
        assert_eq!(bloom.filters.len(), 3);
    }

    #[test]
    fn no_key_is_forgotten_and_few_are_made_up() {
        let mut bloom = Bloom::for_keys(10_000);
        (0..10_000).for_each(|k| bloom.insert(key(k)));
        assert!((0..10_000).all(|k| bloom.may_contain(key(k))));
        let made_up = (10_000..20_000).filter(|k| bloom.may_contain(key(*k))).count();
        assert!(made_up < 300, "{made_up}");
    }
}
