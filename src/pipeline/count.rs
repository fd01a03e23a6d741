//! Owns what metrics and statistics count of jobs at their end: by their outcome, and their inputs by how they got their score.
//!
//! Refuses to count rows and calls: each stage counts its own.

use super::{
    context::Context,
    ending::{End, Ending},
    input_counts::InputCounts,
    outcome::Outcome,
};
use crate::clock;
use crate::telemetry::metrics::{InputResult, JobOutcome, Metrics};
use std::time::Instant;

/// Counts a job that another process ran.
pub(super) fn one(context: &Context, received: Instant, outcome: &Outcome, inputs: &InputCounts) {
    let metrics = &context.metrics;
    metrics.jobs(outcome.kind(), 1);
    if let Outcome::Rejected { rejection, .. } = outcome {
        metrics.rejection(rejection.code);
    }
    metrics.job(clock::since(received));
    count_inputs(metrics, inputs);
}

fn count_inputs(metrics: &Metrics, inputs: &InputCounts) {
    metrics.inputs(InputResult::Hit, inputs.hits);
    metrics.inputs(
        InputResult::Miss,
        inputs.misses.saturating_sub(inputs.uncached),
    );
    metrics.inputs(InputResult::Uncached, inputs.uncached);
    metrics.inputs(InputResult::Coalesced, inputs.coalesced);
    metrics.inputs(InputResult::Skipped, inputs.skipped);
}

/// Counts jobs that have ended.
pub(super) fn batch(context: &Context, ended: &[(Ending, Outcome)]) {
    let metrics = &context.metrics;
    let mut totals = [0u64; JobOutcome::ALL.len()];
    let mut count = |outcome: JobOutcome, jobs: u64| {
        if let Some(total) = totals.get_mut(outcome as usize) {
            *total += jobs;
        }
    };
    let mut inputs = InputCounts::default();
    for (ending, outcome) in ended {
        count(outcome.kind(), 1);
        if let Outcome::Rejected { rejection, .. } = outcome {
            metrics.rejection(rejection.code);
        }
        metrics.job(clock::since(ending.source.received));
        for repeat in &ending.repeats {
            count(outcome.repeated().kind(), 1);
            metrics.job(clock::since(repeat.received));
        }
        // One that is rejected in the end asked for nothing that anybody gets.
        if !matches!(outcome, Outcome::Rejected { .. }) {
            inputs.add(&ending.counts);
        }
    }
    for (outcome, total) in JobOutcome::ALL.iter().zip(totals) {
        metrics.jobs(*outcome, total);
    }
    count_inputs(metrics, &inputs);
    if let Some(insight) = &context.insight {
        // What warming asks for is left out: it says nothing about producers.
        let asked = ended
            .iter()
            .filter(|(ending, _)| !ending.source.refreshes_ttl());
        insight.note(asked.filter_map(|(ending, _)| match &ending.end {
            End::Finished(job) => {
                let latency = clock::since(ending.source.received);
                Some((job.result.namespace.as_str(), &job.note, latency))
            }
            End::Failed { .. } => None,
        }));
    }
}
