//! Owns how round trips to Redis went, for whoever judges whether it is of use.

use std::sync::{Mutex, PoisonError};

/// Round trips that jobs and readers made since the start.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub answered: u64,
    pub failed: u64,
    /// Why the latest one failed.
    pub reason: String,
}

/// Where they are counted.
#[derive(Debug, Default)]
pub(super) struct Tallied(Mutex<Tally>);

impl Tallied {
    /// Counts one; `failure` says why it failed.
    pub(super) fn add(&self, failure: Option<String>) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            None => tally.answered += 1,
            Some(reason) => {
                tally.failed += 1;
                tally.reason = reason;
            }
        }
    }

    pub(super) fn get(&self) -> Tally {
        let tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tally.clone()
    }
}
