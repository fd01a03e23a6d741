//! Owns writing every job's results out of the rows that were found for it.
//!
//! Promises that a job is finished only with a result for each of its inputs; a job with an input that couldn't be scored
//! gets its outcome instead.

use super::{
    context::Context,
    count::InputCounts,
    index::{GroupIndex, IndexVec, JobIndex, bug},
    outcome::{Outcome, Outcomes},
    plan::{Found, Plan, PlannedInput, PlannedJob},
    score::Failures,
    verdict,
};
use crate::clock;
use kiln_contract::failure::Rejection;
use kiln_contract::job;
use kiln_contract::result::{Finished, Reading, ResultsWriter};
use kiln_model::Task;

/// A job with its results, which have no row yet.
pub(super) struct FinishedJob<'p> {
    pub index: JobIndex,
    pub planned: &'p PlannedJob<'p>,
    pub result: Finished,
}

/// How often each label was the best, by model version.
type LabelCounts = IndexVec<GroupIndex, Vec<u64>>;

/// The results of one job.
struct Rendered {
    results: String,
    hits: u32,
    misses: u32,
    skipped: u64,
}

/// Writes every job's results, and counts how its inputs got their scores.
pub(super) fn jobs<'p>(
    context: &Context,
    plan: &'p Plan<'p>,
    failures: &Failures,
    outcomes: &mut Outcomes,
) -> (Vec<FinishedJob<'p>>, InputCounts) {
    let mut finished = Vec::with_capacity(plan.jobs.len());
    let finished_at = clock::now();
    let mut counts = InputCounts {
        coalesced: plan.coalesced,
        ..InputCounts::default()
    };
    let mut labels: LabelCounts = plan.groups.map(|_| Vec::new());
    for (index, planned) in plan.jobs.enumerate() {
        let admitted = planned.admitted;
        let failure = planned.slots().find_map(|slot| failures.get(&slot));
        if let Some(failure) = failure {
            let outcome = verdict::outcome(context, failure.clone().into(), admitted);
            outcomes.set(admitted.index, outcome);
            continue;
        }
        let Some(rendered) = render(plan, planned, &mut labels) else {
            outcomes.set(admitted.index, Outcome::Abandoned);
            continue;
        };
        counts.skipped += rendered.skipped;
        let info = admitted.model.info();
        let elapsed = admitted.source.received.elapsed();
        let result = Finished {
            model: info.name.clone(),
            version: info.version.clone(),
            namespace: admitted.job.namespace().to_owned(),
            results: rendered.results,
            hits: rendered.hits,
            misses: rendered.misses,
            elapsed_ms: (elapsed.as_secs_f64() * 1e5).round() / 1e2,
            finished_at,
        };
        finished.push(FinishedJob {
            index,
            planned,
            result,
        });
    }
    for slot in plan.slots.iter() {
        match slot.found {
            Found::Cached(_) => counts.hits += 1,
            Found::Scored(_) => counts.misses += 1,
            Found::Shared(_) => counts.coalesced += 1,
            Found::Not => {}
        }
    }
    count_labels(context, plan, labels);
    (finished, counts)
}

/// Writes the results of one job; nothing only where the pipeline has a bug, which is reported.
fn render(plan: &Plan<'_>, planned: &PlannedJob<'_>, labels: &mut LabelCounts) -> Option<Rendered> {
    let admitted = planned.admitted;
    let info = admitted.model.info();
    let labels = labels.get_mut(planned.group)?;
    let mut writer = ResultsWriter::new(planned.inputs.len());
    let (mut hits, mut misses, mut skipped) = (0u32, 0u32, 0u64);
    for (number, (input, became)) in planned.with_inputs().enumerate() {
        let key = input.key.as_deref();
        match became {
            PlannedInput::Slot(index) => {
                let Some((slot, row)) = plan.row(index) else {
                    bug("an input has neither a row nor a failure");
                    return None;
                };
                let cached = slot.is_cached();
                if cached {
                    hits += 1
                } else {
                    misses += 1
                }
                writer.scored(key, info, row, cached, admitted.job.detail);
                if let Reading::Label { index, .. } = Reading::of(info, row) {
                    labels.resize(labels.len().max(index + 1), 0);
                    labels.iter_mut().skip(index).take(1).for_each(|c| *c += 1);
                }
            }
            PlannedInput::Bad(bad) => {
                skipped += 1;
                let field = job::input_path(number, &bad.field);
                writer.skipped(key, &Rejection::invalid(field, bad.message.as_str()));
            }
        }
    }
    Some(Rendered {
        results: writer.finish(),
        hits,
        misses,
        skipped,
    })
}

fn count_labels(context: &Context, plan: &Plan<'_>, labels: LabelCounts) {
    for (group, counts) in plan.groups.iter().zip(labels.into_vec()) {
        let info = group.model.info();
        let Task::Classification { labels } = &info.task else {
            continue;
        };
        for (label, count) in labels.iter().zip(counts).filter(|(_, count)| *count > 0) {
            context.metrics.predictions(info, label, count);
        }
    }
}
