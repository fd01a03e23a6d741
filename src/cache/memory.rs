//! Owns the cache in the worker's own memory: bounded by bytes, used while Redis fails.

use kiln_contract::entry::Seal;
use kiln_contract::key::InputHash;
use quick_cache::{OptionsBuilder, Weighter, sync::Cache};
use std::{mem::size_of, sync::Arc};

/// Parts with a lock each. A row wider than a part isn't kept: one of the smallest cache has 128 KiB, one of the usual cache 8 MiB.
const SHARDS: usize = 8;
/// Bytes of a narrow row, by which it is guessed how many there will be. Half as many are known for a while after they were let go, so that one
/// that comes again stays; were it fewer, a set of rows that comes in turns would never be there.
const NARROW_ROW: u64 = OVERHEAD + 16;

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
    /// A cache of at most `mib` MiB of rows. The slots of narrow ones stay where wide ones follow them.
    pub fn new(mib: u64) -> Self {
        let bytes = mib << 20;
        let rows = usize::try_from(bytes / NARROW_ROW).unwrap_or(usize::MAX);
        let mut options = OptionsBuilder::new();
        options.shards(SHARDS);
        options
            .estimated_items_capacity(rows)
            .weight_capacity(bytes);
        // Refused only where one of both is missing.
        let Ok(options) = options.build() else {
            unreachable!("both were set")
        };
        let hasher = ahash::RandomState::new();
        let rows = Cache::with_options(options, Bytes, hasher, Default::default());
        Self {
            rows: Arc::new(rows),
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

    #[test]
    fn rows_that_come_in_turns_stay_once_they_have_come_again() {
        let cache = MemoryCache::new(1);
        let prefix: Arc<[u8]> = b"model".as_slice().into();
        let put = |number: u64| {
            let mut input = [0; 32];
            input[..8].copy_from_slice(&number.to_le_bytes());
            let is_there = cache.get(&prefix, &input).is_some();
            if !is_there {
                cache.put(&prefix, &input, &[0.5], Seal::default());
            }
            is_there
        };
        let all = (1 << 20) / NARROW_ROW;
        for number in 0..2 * all {
            put(number);
        }
        let others = 10 * all..10 * all + all / 5;
        let mut hits = 0;
        for _ in 0..4 {
            hits = others.clone().filter(|number| put(*number)).count();
        }
        assert_eq!(hits, others.count());
    }
}
