//! Owns which jobs are in hand here, by their ids.
//!
//! Promises a few bytes a job for as long as it is in hand, and nothing of it afterwards, however it ends. Refuses to know more of a job than whether
//! it is here, and whether a key posted it.

use ahash::RandomState;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Parts of the table, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// The ids of jobs in hand, by their hashes.
#[derive(Debug)]
pub(super) struct InHandIds {
    hasher: RandomState,
    /// How many jobs of an id are in hand: one that was delivered again may be there twice.
    shards: [Mutex<HashMap<u64, u32, RandomState>>; SHARDS],
}

impl Default for InHandIds {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

/// A job that is in hand for as long as this lives.
#[derive(Debug)]
pub(super) struct InHandId {
    /// Of its id, and of its id with the key that posted it.
    hashes: [Option<u64>; 2],
    ids: Arc<InHandIds>,
}

impl InHandIds {
    /// Notes a job, and the key that posted it.
    pub(super) fn note(self: &Arc<Self>, job_id: &str, posted_by: Option<&str>) -> InHandId {
        let own = posted_by.map(|_| self.hash(job_id, posted_by));
        let hashes = [Some(self.hash(job_id, None)), own];
        for hash in hashes.into_iter().flatten() {
            self.with_shard(hash, |shard| *shard.entry(hash).or_default() += 1);
        }
        InHandId {
            hashes,
            ids: self.clone(),
        }
    }

    fn hash(&self, job_id: &str, posted_by: Option<&str>) -> u64 {
        self.hasher.hash_one((job_id, posted_by))
    }

    /// Whether a job is in hand here; where a key is named, one that it posted.
    pub(super) fn has(&self, job_id: &str, posted_by: Option<&str>) -> bool {
        let hash = self.hash(job_id, posted_by);
        self.with_shard(hash, |shard| shard.contains_key(&hash))
            .unwrap_or_default()
    }

    fn with_shard<T>(
        &self,
        hash: u64,
        work: impl FnOnce(&mut HashMap<u64, u32, RandomState>) -> T,
    ) -> Option<T> {
        let shard = self.shards.get(hash as usize % SHARDS)?;
        // Sound after a panic elsewhere: every change to it is one call.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        Some(work(&mut shard))
    }
}

impl Drop for InHandId {
    fn drop(&mut self) {
        for hash in self.hashes.into_iter().flatten() {
            self.ids.with_shard(hash, |shard| {
                if let Some(many) = shard.get_mut(&hash) {
                    *many -= 1;
                    if *many == 0 {
                        shard.remove(&hash);
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_in_hand_until_its_last_copy_is_gone() {
        let ids = Arc::new(InHandIds::default());
        assert!(!ids.has("a", None));
        let (first, second) = (ids.note("a", None), ids.note("a", Some("shop")));
        let _other = ids.note("b", None);
        drop(first);
        assert!(ids.has("a", None) && ids.has("b", None));
        assert!(ids.has("a", Some("shop")) && !ids.has("a", Some("feed")));
        assert!(!ids.has("b", Some("shop")), "it came without a key");
        drop(second);
        assert!(!ids.has("a", None) && !ids.has("a", Some("shop")) && ids.has("b", None));
        let all = ids
            .shards
            .iter()
            .map(|shard| shard.lock().expect("sound").len());
        assert_eq!(all.sum::<usize>(), 1);
    }
}
