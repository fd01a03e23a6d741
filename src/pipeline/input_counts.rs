//! How the inputs of a job, or of several, got their scores, and when.

use crate::telemetry::trace::Stages;

/// How inputs got their scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InputCounts {
    pub hits: u64,
    pub misses: u64,
    /// Of the misses, those that weren't looked up: their model is faster than a look-up.
    pub uncached: u64,
    pub coalesced: u64,
    pub skipped: u64,
    /// Model time of the misses, in nanoseconds.
    pub model_nanos: u64,
    pub stages: Stages,
}

impl InputCounts {
    /// Adds the inputs of another job.
    pub fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.uncached += other.uncached;
        self.coalesced += other.coalesced;
        self.skipped += other.skipped;
        self.model_nanos += other.model_nanos;
    }
}
