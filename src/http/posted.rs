//! Owns which jobs were posted to the queue through this port lately.
//!
//! Promises bounded memory: of more than [`MAX_POSTED`] jobs, the oldest are forgotten.

use ahash::RandomState;
use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

/// Jobs that are remembered.
const MAX_POSTED: usize = 16_384;

/// The jobs, by the hashes of their ids.
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
    /// Notes a job that the broker has.
    pub(super) fn note(&self, job_id: &str) {
        let hash = self.hasher.hash_one(job_id);
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if !jobs.known.insert(hash) {
            return;
        }
        jobs.in_order.push_back(hash);
        if jobs.in_order.len() > MAX_POSTED
            && let Some(oldest) = jobs.in_order.pop_front()
        {
            jobs.known.remove(&oldest);
        }
    }

    /// Whether a job was posted.
    pub(super) fn has(&self, job_id: &str) -> bool {
        let hash = self.hasher.hash_one(job_id);
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
            posted.note(&number.to_string());
            posted.note("1");
        }
        assert!(!posted.has("0") && posted.has("2"));
        assert!(posted.has(&MAX_POSTED.to_string()) && !posted.has("nobody"));
        let jobs = posted.jobs.lock().expect("not poisoned");
        assert_eq!(
            (jobs.known.len(), jobs.in_order.len()),
            (MAX_POSTED, MAX_POSTED)
        );
    }
}
