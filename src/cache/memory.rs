//! Owns the cache in the worker's own memory: bounded by bytes, used while Redis fails.

use kiln_contract::entry::Seal;
use kiln_contract::key::InputHash;
use quick_cache::{Weighter, sync::Cache};
use std::{mem::size_of, sync::Arc};

/// Bytes by which the number of rows is guessed. The cache is parted by it, so that a part has room for 32 rows of as many bytes.
const GUESSED_ROW: u64 = 2048;

/// A model version's prefix and an input.
type MemoryKey = (Arc<[u8]>, InputHash);

/// A row in memory.
#[derive(Debug, Clone)]
pub struct Remembered {
    pub row: Arc<[f32]>,
    pub seal: Seal,
}

/// Bytes that an entry takes beside its numbers: its slot, in a list that doubles when it is full, its share of the table, the row's
/// counters, and what an allocator rounds up.
const OVERHEAD: u64 = size_of::<(MemoryKey, Remembered)>() as u64 + 160;

/// Weighs an entry by its bytes.
#[derive(Debug, Clone, Copy)]
struct Bytes;

impl Weighter<MemoryKey, Remembered> for Bytes {
    fn weight(&self, _: &MemoryKey, one: &Remembered) -> u64 {
        OVERHEAD + 4 * one.row.len() as u64
    }
}

/// Rows by model version and input.
#[derive(Clone)]
pub struct MemoryCache {
    rows: Arc<Cache<MemoryKey, Remembered, Bytes, ahash::RandomState>>,
}

impl std::fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryCache({} entries)", self.rows.len())
    }
}

impl MemoryCache {
    /// A cache of at most `mib` MiB.
    pub fn new(mib: u64) -> Self {
        let bytes = mib << 20;
        let rows = usize::try_from(bytes / GUESSED_ROW).unwrap_or(usize::MAX);
        let hasher = ahash::RandomState::new();
        Self {
            rows: Arc::new(Cache::with(rows, bytes, Bytes, hasher, Default::default())),
        }
    }

    /// The row of an input, if it is there.
    pub fn get(&self, prefix: &Arc<[u8]>, input: &InputHash) -> Option<Remembered> {
        self.rows.get(&(prefix.clone(), *input))
    }

    /// Stores a row.
    pub fn put(&self, prefix: &Arc<[u8]>, input: &InputHash, row: &[f32], seal: Seal) {
        let row = row.into();
        let one = Remembered { row, seal };
        self.rows.insert((prefix.clone(), *input), one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_within_the_bytes_that_they_take_and_the_newest_are_there() {
        let bound = 1 << 20;
        for width in [1, 8, 384, 8192] {
            let cache = MemoryCache::new(1);
            let prefix: Arc<[u8]> = b"model".as_slice().into();
            let row = vec![0.5; width];
            let wanted = 3 * bound / (4 * width as u64);
            let input = |number: u64| {
                let mut input = [0; 32];
                input[..8].copy_from_slice(&number.to_le_bytes());
                input
            };
            for number in 0..wanted {
                cache.put(&prefix, &input(number), &row, Seal::default());
                assert!(cache.get(&prefix, &input(number)).is_some(), "{width}");
            }
            // A slot and a row with its two counters, in what an allocator gives in steps of 16 bytes.
            let slot = size_of::<(MemoryKey, Remembered)>() as u64;
            let taken = (slot + 16 + 4 * width as u64).next_multiple_of(16);
            let rows = cache.rows.len() as u64;
            assert!(rows * taken <= bound, "{rows} rows of {width}");
            assert!(rows >= bound / 2 / (taken + OVERHEAD), "{rows} of {width}");
        }
    }
}
