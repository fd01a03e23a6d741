//! Owns what metrics count of a batch at its end: its jobs by their outcome, and its inputs by how they got their score.
//!
//! Refuses to count rows and calls: each stage counts its own.

use super::{context::Context, outcome::Outcome, source::JobSource};
use crate::telemetry::{
    metrics::{InputResult, JobOutcome},
    trace::Stages,
};

/// How a batch's inputs got their scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InputCounts {
    pub hits: u64,
    pub misses: u64,
    pub coalesced: u64,
    pub skipped: u64,
    pub stages: Stages,
}

/// Counts a batch.
pub(super) fn batch<'o>(
    context: &Context,
    sources: &[JobSource<'_>],
    outcomes: impl Iterator<Item = &'o Outcome>,
    inputs: InputCounts,
) {
    let metrics = &context.metrics;
    let mut totals = [0u64; JobOutcome::ALL.len()];
    for (source, outcome) in sources.iter().zip(outcomes) {
        let outcome = match outcome {
            Outcome::Done {
                repeated: false, ..
            } => JobOutcome::Ok,
            Outcome::Done { repeated: true, .. } => JobOutcome::Repeated,
            Outcome::Rejected { rejection, .. } => {
                metrics.rejection(rejection.code);
                JobOutcome::Rejected
            }
            Outcome::Retry { .. } => JobOutcome::Retried,
            Outcome::Abandoned => JobOutcome::Abandoned,
        };
        if let Some(total) = totals.get_mut(outcome as usize) {
            *total += 1;
        }
        metrics.job(source.received.elapsed());
    }
    for (outcome, total) in JobOutcome::ALL.iter().zip(totals) {
        metrics.jobs(*outcome, total);
    }
    metrics.inputs(InputResult::Hit, inputs.hits);
    metrics.inputs(InputResult::Miss, inputs.misses);
    metrics.inputs(InputResult::Coalesced, inputs.coalesced);
    metrics.inputs(InputResult::Skipped, inputs.skipped);
}
