//! Owns scoring a batch's misses: one model call a model version, and the blame where a call fails.
//!
//! Promises that a model that fails on one job's inputs costs only that job: the others are scored in calls
//! of their own.

use super::{
    context::Context,
    flight::{Claims, Flight, Waiting},
    index::{GroupIndex, IndexVec, JobIndex, SlotIndex, bug},
    model_call::call,
    plan::{Found, Group, Miss, Plan},
    stampede::{self, Guarded},
};
use futures_util::future::join_all;
use kiln_model::ModelError;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Slots that couldn't be scored, with why.
pub(super) type Failures = HashMap<SlotIndex, ModelError>;

/// The scores of one model version.
struct GroupScores {
    group: GroupIndex,
    /// Slots with the rows that this batch had scored.
    own: Vec<(SlotIndex, Vec<f32>)>,
    /// The same in one piece, where one call scored them all.
    whole: Option<(Vec<SlotIndex>, Arc<Vec<f32>>)>,
    /// Slots with rows that another batch had scored.
    shared: Vec<(SlotIndex, Vec<f32>)>,
    failures: Vec<(SlotIndex, ModelError)>,
}

impl GroupScores {
    fn fail(&mut self, misses: &[Miss<'_>], error: &ModelError) {
        let failures = misses.iter().map(|miss| (miss.index, error.clone()));
        self.failures.extend(failures);
    }
}

/// Scores every slot that wasn't found, all model versions at once.
pub(super) async fn misses(context: &Context, plan: &mut Plan<'_>) -> Failures {
    let mut missing: IndexVec<GroupIndex, Vec<Miss<'_>>> = plan.groups.map(|_| Vec::new());
    for (index, slot) in plan.slots.enumerate() {
        if slot.found == Found::Not
            && let Some(list) = missing.get_mut(slot.group)
        {
            list.push(Miss { index, slot });
        }
    }
    let work = plan.groups.enumerate().zip(missing.into_vec());
    let work = work.filter(|(_, misses)| !misses.is_empty());
    let scores = work.map(|((index, group), misses)| score_group(context, index, group, misses));
    let scores = join_all(scores).await;
    let mut failures = Failures::new();
    for score in scores {
        apply(plan, score, &mut failures);
    }
    failures
}

/// Gives slots their rows.
fn apply(plan: &mut Plan<'_>, scores: GroupScores, failures: &mut Failures) {
    failures.extend(scores.failures);
    let Some(group) = plan.groups.get_mut(scores.group) else {
        return;
    };
    let mut give = |index: SlotIndex, found: Found| {
        if let Some(slot) = plan.slots.get_mut(index) {
            slot.found = found;
        }
    };
    if let Some((slots, rows)) = scores.whole {
        for (index, row) in slots.into_iter().zip(group.push_rows(&rows)) {
            give(index, Found::Scored(row));
        }
    }
    for (index, row) in scores.own {
        give(index, Found::Scored(group.push_row(&row)));
    }
    for (index, row) in scores.shared {
        give(index, Found::Shared(group.push_row(&row)));
    }
}

/// Scores the misses of one model version: those that no other batch is scoring, and then those on which another batch
/// failed.
async fn score_group(
    context: &Context,
    index: GroupIndex,
    group: &Group,
    misses: Vec<Miss<'_>>,
) -> GroupScores {
    let mut scores = GroupScores {
        group: index,
        own: Vec::new(),
        whole: None,
        shared: Vec::new(),
        failures: Vec::new(),
    };
    let inputs = misses.into_iter();
    let inputs = inputs.map(|miss| (miss, miss.slot.stamp, miss.slot.input));
    let Claims {
        own,
        others,
        flight,
    } = context.flights.claim(group.id(), inputs);
    if !own.is_empty() {
        score_own(context, group, own, flight, &mut scores).await;
    }
    let mut orphans = Vec::new();
    for (miss, waiting) in others {
        match Waiting::row(waiting, group.width()).await {
            Some(row) => scores.shared.push((miss.index, row)),
            None => orphans.push(miss),
        }
    }
    if !orphans.is_empty() {
        match call(context, &group.model, &orphans).await {
            Ok(outputs) => scores.own.extend(rows_of(group, &orphans, &outputs)),
            Err(error) => blame(context, group, orphans, error, &mut scores).await,
        }
    }
    scores
}

/// Scores what this batch has claimed, under leases where that is worth it.
async fn score_own(
    context: &Context,
    group: &Group,
    own: Vec<Miss<'_>>,
    flight: Flight,
    scores: &mut GroupScores,
) {
    let failed = match stampede::leases(context, group, &own) {
        Some(leases) => match stampede::rows(context, group, &leases, &own).await {
            Ok(guarded) => {
                if let Some(rows) = in_order(&own, &guarded) {
                    flight.land(rows);
                }
                scores.own.extend(guarded.scored);
                scores.shared.extend(guarded.found);
                return;
            }
            Err(error) => error,
        },
        None => match call(context, &group.model, &own).await {
            Ok(outputs) => {
                let slots = own.iter().map(|miss| miss.index).collect();
                scores.whole = Some((slots, flight.land(outputs)));
                return;
            }
            Err(error) => error,
        },
    };
    drop(flight);
    blame(context, group, own, failed, scores).await;
}

/// The rows of all claimed inputs, one after the other; nothing where one is missing, so that nobody takes
/// another input's.
fn in_order(own: &[Miss<'_>], guarded: &Guarded) -> Option<Vec<f32>> {
    let rows = guarded.scored.iter().chain(&guarded.found);
    let rows: HashMap<SlotIndex, &Vec<f32>> = rows.map(|(index, row)| (*index, row)).collect();
    let mut all = Vec::new();
    for miss in own {
        let Some(row) = rows.get(&miss.index) else {
            bug("an input has neither a row nor a failure after its lease");
            return None;
        };
        all.extend_from_slice(row);
    }
    Some(all)
}

/// Scores the slots of each job alone after a call over all of them failed.
async fn blame(
    context: &Context,
    group: &Group,
    failed: Vec<Miss<'_>>,
    error: ModelError,
    scores: &mut GroupScores,
) {
    let mut by_job: BTreeMap<JobIndex, Vec<Miss<'_>>> = BTreeMap::new();
    for miss in &failed {
        by_job.entry(miss.slot.asked_by.0).or_default().push(*miss);
    }
    if by_job.len() == 1 || error == ModelError::Stopped {
        scores.fail(&failed, &error);
        return;
    }
    for misses in by_job.into_values() {
        match call(context, &group.model, &misses).await {
            Ok(outputs) => scores.own.extend(rows_of(group, &misses, &outputs)),
            Err(error) => scores.fail(&misses, &error),
        }
    }
}

fn rows_of(
    group: &Group,
    misses: &[Miss<'_>],
    outputs: &[f32],
) -> impl Iterator<Item = (SlotIndex, Vec<f32>)> {
    misses
        .iter()
        .zip(group.rows(outputs))
        .map(|(miss, row)| (miss.index, row.to_vec()))
}
