//! Owns which jobs were posted to the queue through this port lately.
//!
//! Promises bounded memory: of more than [`MAX_POSTED`] jobs, the oldest are forgotten.

use ahash::RandomState;
use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

/// Jobs that are remembered, each for its key and for whoever may see all.
const MAX_POSTED: usize = 16_384;

/// The jobs, by the hashes of their ids, and of these with their keys.
#[derive(Debug, Default)]
pub(super) struct Posted {
    hasher: RandomState,
    jobs: Mutex<Jobs>,
}

#[derive(Debug, Default)]
struct Jobs {
    known: HashSet<u64, RandomState>,
    in_order: VecDeque<u64>,
}

impl Posted {
    /// Notes a job that the broker has, and the key that posted it.
    pub(super) fn note(&self, job_id: &str, posted_by: Option<&str>) {
        self.add(self.hasher.hash_one((job_id, None::<&str>)));
        if posted_by.is_some() {
            self.add(self.hasher.hash_one((job_id, posted_by)));
        }
    }

    fn add(&self, hash: u64) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if !jobs.known.insert(hash) {
            return;
        }
        jobs.in_order.push_back(hash);
        if jobs.in_order.len() > 2 * MAX_POSTED
            && let Some(oldest) = jobs.in_order.pop_front()
        {
            jobs.known.remove(&oldest);
        }
    }

    /// Whether a job was posted; where a key is named, by that.
    pub(super) fn has(&self, job_id: &str, posted_by: Option<&str>) -> bool {
        let hash = self.hasher.hash_one((job_id, posted_by));
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.known.contains(&hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let posted = Posted::default();
        for number in 0..=MAX_POSTED {
            posted.note(&number.to_string(), Some("shop"));
            posted.note("1", Some("shop"));
        }
        assert!(!posted.has("0", None) && posted.has("2", None) && posted.has("2", Some("shop")));
        assert!(posted.has(&MAX_POSTED.to_string(), None) && !posted.has("nobody", None));
        assert!(!posted.has("2", Some("feed")), "another key's is unknown");
        posted.note("of nobody", None);
        assert!(posted.has("of nobody", None) && !posted.has("of nobody", Some("shop")));
        let jobs = posted.jobs.lock().expect("not poisoned");
        let max = 2 * MAX_POSTED;
        assert_eq!((jobs.known.len(), jobs.in_order.len()), (max, max));
    }
}
