//! Counts what becomes of the inputs of models of which two versions share them, by version.
//!
//! Promises that nothing is counted of a job that names its version, nor of a model whose inputs all go to one.

use super::{
    index::SlotIndex,
    owned::{How, JobRows},
    render::InputRow,
};
use crate::telemetry::metrics::{Metrics, SplitOutcome};
use kiln_contract::job::Job;
use kiln_model::Model;
use std::sync::Arc;

/// Counts the inputs of a finished job.
pub(super) fn finished<'r>(
    metrics: &Metrics,
    job: &Job<'_>,
    rows: &impl Fn(usize) -> Option<InputRow<'r>>,
) {
    let mut counts: Vec<(&Arc<Model>, SplitOutcome, u64)> = Vec::new();
    for row in (0..job.inputs.len()).filter_map(rows) {
        let outcome = match row.how {
            How::Cached => SplitOutcome::Cached,
            How::Scored { .. } | How::Shared => SplitOutcome::Scored,
        };
        let same = |one: &&mut (&Arc<Model>, SplitOutcome, u64)| {
            Arc::ptr_eq(one.0, row.model) && one.1 == outcome
        };
        match counts.iter_mut().find(same) {
            Some((_, _, count)) => *count += 1,
            None => counts.push((row.model, outcome, 1)),
        }
    }
    for (model, outcome, count) in counts {
        metrics.split_inputs(model.info(), outcome, count);
    }
}

/// Counts an input that a job's try has failed on.
pub(super) fn failed(metrics: &Metrics, rows: &JobRows, slot: SlotIndex) {
    if rows.split.is_some()
        && let Some(slot) = rows.slots.get(slot)
    {
        metrics.split_inputs(rows.model_of(slot).info(), SplitOutcome::Failed, 1);
    }
}
