//! Owns what came of a job, wherever it was run. Pure.

use crate::pipeline::{InputCounts, Outcome};

/// What came of a job.
pub(super) struct Answer {
    pub outcome: Outcome,
    /// How its inputs got their scores, where it was run.
    pub counts: Option<InputCounts>,
}
