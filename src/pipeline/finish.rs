//! Owns what is made of a job once each of its inputs has a row: its results, what readers find, and what is counted of it.
//!
//! Promises that a job is finished only with a row for each of its inputs; otherwise it is abandoned, and that is reported as a bug.

use super::{
    blocking::blocking,
    budget::BYTES_PER_OUTPUT,
    context::Context,
    ending::{End, Ending, FinishedJob},
    index::{Index, bug},
    input_counts::InputCounts,
    names,
    outcome::Outcome,
    owned::{How, JobRows, OwnedJob},
    plan::{Found, Plan, PlannedJob},
    publish,
    render::{InputRow, LabelCounts, Rendered, render},
    source::JobSource,
    split_metrics,
};
use crate::{
    clock,
    telemetry::{trace::Stages, window::Causes},
};
use kiln_contract::job::Job;
use kiln_contract::order::{Moment, Order};
use kiln_contract::result::Finished;
use kiln_model::Model;
use std::{sync::Arc, time::Duration};

/// What is known of a job beside its rows.
struct Head<'a> {
    job: &'a Job<'a>,
    source: &'a JobSource,
    /// The version that it names, or else the active one; and the one that a share of its inputs goes to.
    model: &'a Arc<Model>,
    split: Option<&'a Arc<Model>>,
    body_sha256: [u8; 32],
    ttl_seconds: u64,
    stamp: u64,
}

impl Head<'_> {
    /// The version that the job's result names: of several, the active one.
    fn version<'r>(&self, rows: &impl Fn(usize) -> Option<InputRow<'r>>) -> &Arc<Model> {
        let Some(split) = self.split else {
            return self.model;
        };
        let mut rows = (0..self.job.inputs.len()).filter_map(rows).peekable();
        let is_split = rows.peek().is_some() && rows.all(|row| Arc::ptr_eq(row.model, split));
        if is_split { split } else { self.model }
    }
}

fn finish<'r>(
    context: &Context,
    head: &Head<'_>,
    rows: impl Fn(usize) -> Option<InputRow<'r>>,
    counts: &mut InputCounts,
    labels: &mut LabelCounts,
) -> Option<FinishedJob> {
    let model = head.version(&rows);
    let outputs = head.job.inputs.len() * model.info().output_width;
    let bytes = outputs * BYTES_PER_OUTPUT;
    let Some(Rendered {
        results,
        hits,
        misses,
        skipped,
        note,
    }) = blocking(bytes, || render(head.job, model, &rows, labels))
    else {
        bug("an input has neither a row nor a failure");
        return None;
    };
    counts.skipped = skipped;
    if head.split.is_some() {
        split_metrics::finished(&context.metrics, head.job, &rows);
    }
    let info = model.info();
    let elapsed = elapsed(head);
    let result = Finished {
        model: info.name.clone(),
        version: info.version.clone(),
        namespace: head.job.namespace().to_owned(),
        results,
        hits,
        misses,
        elapsed_ms: (elapsed.as_secs_f64() * 1e5).round() / 1e2,
        finished_at: clock::now(),
    };
    let shown = publish::words(
        context,
        (head.job, head.source),
        model,
        head.ttl_seconds,
        result.finished_at,
        &rows,
    );
    let keeps_names = context.settings.store.served;
    Some(FinishedJob {
        names: if keeps_names {
            names::words(head.job, info, &rows)
        } else {
            Vec::new()
        },
        order: Order::new(head.job.as_of.as_ref(), head.source.accepted()),
        job_id: head.job.job_id.as_ref().into(),
        body_sha256: head.body_sha256,
        result: Arc::new(result),
        shown,
        stamp: head.stamp,
        note,
        rows: None,
        shadow: context.shadows.as_ref().and_then(|shadows| {
            let job = (head.job, head.source);
            shadows.take(job, head.model, &rows)
        }),
    })
}

/// How long a job has taken; where readers are shown something of it, since a worker first accepted it: a repeat of it is no newer than
/// that.
fn elapsed(head: &Head<'_>) -> Duration {
    let here = clock::since(head.source.received);
    if !head.job.is_for_readers() {
        return here;
    }
    let now = Moment::of(clock::now()).micros();
    here.max(Duration::from_micros(
        now.saturating_sub(head.source.accepted().micros()),
    ))
}

fn end_of(finished: Option<FinishedJob>) -> End {
    match finished {
        Some(finished) => End::Finished(Box::new(finished)),
        None => End::Failed {
            outcome: Outcome::Abandoned,
            model: None,
            namespace: None,
        },
    }
}

/// Finishes a job all of whose inputs were found when its batch was looked up.
pub(super) fn found(
    context: &Context,
    plan: &Plan<'_>,
    planned: &PlannedJob<'_>,
    labels: &mut LabelCounts,
) -> (End, InputCounts) {
    let admitted = planned.admitted;
    let head = Head {
        job: &admitted.job,
        source: admitted.source,
        model: &admitted.serving.model,
        split: admitted.serving.split.as_ref().map(|split| &split.model),
        body_sha256: admitted.body_sha256,
        ttl_seconds: admitted.ttl_seconds,
        stamp: plan.stamp,
    };
    let row = |number: usize| {
        let (slot, row) = plan.row((*planned.inputs.get(number)?)?)?;
        Some(InputRow {
            input: &slot.input,
            model: &plan.groups.get(slot.group)?.model,
            row,
            how: How::Cached,
            is_kept: true,
            causes: Causes::default(),
        })
    };
    let mut counts = InputCounts::default();
    let finished = finish(context, &head, row, &mut counts, labels);
    let scored = planned.slots().count() as u64;
    counts.hits = planned.asked_first;
    counts.coalesced = scored.saturating_sub(planned.asked_first);
    debug_assert!(planned.slots().all(|slot| {
        plan.slots
            .get(slot)
            .is_some_and(|slot| matches!(slot.found, Found::Cached(_)))
    }));
    (end_of(finished), counts)
}

/// Finishes a job whose inputs all have their rows.
pub(super) fn owned(context: &Context, owned: OwnedJob, labels: &mut LabelCounts) -> Ending {
    let OwnedJob {
        source,
        repeats,
        rows,
        begun,
        looked_up,
    } = owned;
    let mut counts = count(&rows);
    counts.stages = Stages {
        looked_up,
        scored: clock::since(begun),
        stored: clock::since(begun),
    };
    let causes = causes(context, &source, &rows);
    let head = Head {
        job: &rows.job,
        source: &source,
        model: &rows.model,
        split: rows.split.as_ref().map(|split| &split.model),
        body_sha256: rows.body_sha256,
        ttl_seconds: rows.ttl_seconds,
        stamp: rows.stamp,
    };
    let row = |number: usize| {
        let index = (*rows.inputs.get(number)?)?;
        let slot = rows.slots.get(index)?;
        Some(InputRow {
            input: &slot.input,
            model: rows.model_of(slot),
            row: rows.row(index)?,
            how: slot.found?,
            is_kept: slot.keeps.entry,
            causes: causes.get(index.number()).copied().unwrap_or_default(),
        })
    };
    let mut finished = finish(context, &head, row, &mut counts, labels);
    if let Some(finished) = &mut finished {
        finished.rows = Some(Box::new(rows));
    }
    Ending {
        source,
        repeats,
        end: end_of(finished),
        counts,
        begun,
    }
}

fn count(rows: &JobRows) -> InputCounts {
    let mut counts = InputCounts::default();
    for slot in rows.slots.iter() {
        match slot.found {
            Some(How::Cached) if slot.is_first => counts.hits += 1,
            Some(How::Scored { nanos, .. }) => {
                counts.misses += 1;
                counts.uncached += u64::from(!slot.keeps.entry);
                counts.model_nanos += nanos;
            }
            _ => {}
        }
    }
    let scored = rows.inputs.iter().flatten().count() as u64;
    counts.coalesced = scored.saturating_sub(counts.hits + counts.misses);
    counts
}

/// Why each slot missed, where it did and is watched. What warming asks for is left out: it says nothing about producers.
fn causes(context: &Context, source: &JobSource, rows: &JobRows) -> Vec<Causes> {
    let Some(insight) = &context.insight else {
        return Vec::new();
    };
    if source.refreshes_ttl() {
        return Vec::new();
    }
    insight.causes(rows.slots.iter().map(|slot| {
        let scored = matches!(slot.found, Some(How::Scored { .. }));
        (scored && slot.keeps.entry).then_some((&slot.input, slot.ttl_seconds))
    }))
}
