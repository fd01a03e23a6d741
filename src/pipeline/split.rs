//! Owns what follows from a batch's look-up: jobs that are complete are finished, the others leave the batch to wait for scores.
//!
//! Promises that what it gives borrows nothing from the batch, a part for each admitted job.

use super::{
    context::Context,
    ending::End,
    finish,
    index::{IndexVec, SlotIndex, SourceIndex},
    input_counts::InputCounts,
    outcome::Outcome,
    owned::{How, JobSlot, Version},
    plan::{Found, Plan, PlannedJob},
    render::LabelCounts,
    source::AdmittedJob,
};
use crate::cache::Space;
use ahash::RandomState;
use kiln_model::Model;
use std::{collections::HashMap, sync::Arc};

/// What an admitted job goes on as.
pub(super) enum Next {
    Complete(End, InputCounts),
    /// It waits for scores, or its entries, or its inputs' rows, are to be written again.
    Open(OpenJob),
}

/// What a job takes along of its batch.
pub(super) struct OpenJob {
    pub space: Arc<Space>,
    /// The version that a share of its inputs goes to, if there is one.
    pub split: Option<Version>,
    pub inputs: Vec<Option<SlotIndex>>,
    pub slots: IndexVec<SlotIndex, JobSlot>,
    pub rows: Vec<f32>,
    pub stamp: u64,
}

/// What each job of the plan goes on as, in order.
pub(super) fn jobs(
    context: &Context,
    plan: &Plan<'_>,
    labels: &mut LabelCounts,
) -> Vec<(SourceIndex, Next)> {
    let next = |planned: &PlannedJob<'_>| {
        let admitted: &AdmittedJob<'_> = planned.admitted;
        let is_complete = planned.slots().all(|index| {
            let slot = plan.slots.get(index);
            slot.is_some_and(|slot| {
                let lacks_row = slot.seal.is_pending && slot.keeps.row;
                slot.found != Found::Not && !lacks_row
            })
        });
        let next = if is_complete && !admitted.source.refreshes_ttl() {
            let (end, counts) = finish::found(context, plan, planned, labels);
            Next::Complete(end, counts)
        } else {
            open(plan, planned).unwrap_or_else(abandoned)
        };
        (admitted.index, next)
    };
    plan.jobs.iter().map(next).collect()
}

/// A job that the pipeline has lost parts of, which is reported where that was noticed: it goes back to its owner.
fn abandoned() -> Next {
    let end = End::Failed {
        outcome: Outcome::Abandoned,
        model: None,
        namespace: None,
    };
    Next::Complete(end, InputCounts::default())
}

/// Cuts a job out of its batch.
fn open(plan: &Plan<'_>, planned: &PlannedJob<'_>) -> Option<Next> {
    let serving = &planned.admitted.serving;
    let space = |model: &Arc<Model>| {
        let known = plan
            .groups
            .iter()
            .find(|one| Arc::ptr_eq(&one.model, model));
        known.map_or_else(
            || Arc::new(Space::new(model.info())),
            |one| one.space.clone(),
        )
    };
    let job = plan.jobs.position(|one| std::ptr::eq(one, planned))?;
    let width = serving.model.info().output_width;
    let mut own: HashMap<SlotIndex, SlotIndex, RandomState> = HashMap::default();
    let mut slots: IndexVec<SlotIndex, JobSlot> = IndexVec::default();
    let mut rows = Vec::with_capacity(width * planned.asked_first as usize);
    let mut inputs = Vec::with_capacity(planned.inputs.len());
    for (number, input) in planned.inputs.iter().enumerate() {
        let Some(index) = input else {
            inputs.push(None);
            continue;
        };
        if let Some(known) = own.get(index) {
            inputs.push(Some(*known));
            continue;
        }
        let slot = plan.slots.get(*index)?;
        match plan.row_of(slot) {
            Some((_, row)) => rows.extend_from_slice(row),
            None => rows.resize((slots.len() + 1) * width, 0.0),
        }
        let group = plan.groups.get(slot.group)?;
        let mine = slots.push(JobSlot {
            input: slot.input,
            number,
            is_split: !Arc::ptr_eq(&group.model, &serving.model),
            is_first: slot.asked_by == job,
            found: (slot.found != Found::Not).then_some(How::Cached),
            keeps: slot.keeps,
            ttl_seconds: planned.admitted.ttl_seconds,
            min_stamp: slot.min_stamp,
            seal: slot.seal,
        });
        own.insert(*index, mine);
        inputs.push(Some(mine));
    }
    Some(Next::Open(OpenJob {
        space: space(&serving.model),
        split: serving.split.as_ref().map(|split| Version {
            model: split.model.clone(),
            space: space(&split.model),
        }),
        inputs,
        slots,
        rows,
        stamp: plan.stamp,
    }))
}
