//! Owns the cache in the worker's own memory: bounded by bytes, used while Redis fails.

use kiln_contract::entry::Seal;
use kiln_contract::key::InputHash;
use std::sync::Arc;

/// Bytes that an entry takes beside its values: key, map and bookkeeping.
const OVERHEAD: u32 = 160;

/// A model version's prefix and an input.
type MemoryKey = (Arc<[u8]>, InputHash);

/// A row in memory.
#[derive(Debug, Clone)]
pub struct Remembered {
    pub row: Arc<[f32]>,
    pub seal: Seal,
}

/// Rows by model version and input.
#[derive(Clone)]
pub struct MemoryCache {
    rows: moka::sync::Cache<MemoryKey, Remembered, ahash::RandomState>,
}

impl std::fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryCache({} entries)", self.rows.entry_count())
    }
}

impl MemoryCache {
    /// A cache of at most `mib` MiB.
    pub fn new(mib: u64) -> Self {
        let rows = moka::sync::Cache::builder()
            .max_capacity(mib << 20)
            .weigher(|_, one: &Remembered| OVERHEAD.saturating_add(one.row.len() as u32 * 4))
            .build_with_hasher(ahash::RandomState::new());
        Self { rows }
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
