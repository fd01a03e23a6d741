//! Owns scoring a batch's misses: one model call a model version, and the blame where a call fails.
//!
//! Promises that a model that fails on one job's inputs costs only that job: the others are scored in calls
//! of their own.

use super::{
    coalesce::{Found, Group, Plan, Slot, Source},
    flight::{Claims, Waiting},
    run::Engine,
    stampede,
};
use crate::model::{Model, ModelError, Rows, TextRow};
use futures_util::future::join_all;
use std::{collections::BTreeMap, collections::HashMap};

/// Slots that couldn't be scored, with why.
pub(super) type Failures = HashMap<usize, ModelError>;

/// What one model version said.
#[derive(Default)]
struct GroupScores {
    /// Slots with the rows that this batch had scored.
    own: Vec<(usize, Vec<f32>)>,
    /// The same in one piece, where one call scored them all.
    whole: Option<(Vec<usize>, std::sync::Arc<Vec<f32>>)>,
    /// Slots with rows that another batch had scored.
    shared: Vec<(usize, Vec<f32>)>,
    failures: Vec<(usize, ModelError)>,
}

/// Scores every slot that wasn't found, all model versions at once.
pub(super) async fn misses(engine: &Engine, plan: &mut Plan<'_>) -> Failures {
    let mut missing: Vec<Vec<usize>> = vec![Vec::new(); plan.groups.len()];
    for (index, slot) in plan.slots.iter().enumerate() {
        if let (Found::Not, Some(list)) = (slot.found, missing.get_mut(slot.group)) {
            list.push(index);
        }
    }
    let mut work = Vec::with_capacity(plan.groups.len());
    for (group, slots) in plan.groups.iter().zip(missing) {
        if !slots.is_empty() {
            work.push(score_group(engine, group, &plan.slots, slots));
        }
    }
    let scores = join_all(work).await;
    let mut failures = Failures::new();
    for score in scores {
        apply(plan, score, &mut failures);
    }
    failures
}

fn apply(plan: &mut Plan<'_>, score: GroupScores, failures: &mut Failures) {
    let Plan { groups, slots, .. } = plan;
    if let Some((indices, rows)) = score.whole {
        let first = indices
            .first()
            .and_then(|i| slots.get(*i))
            .and_then(|slot| groups.get_mut(slot.group));
        if let Some(start) = first.map(|group| group.push_rows(&rows)) {
            for (offset, index) in indices.into_iter().enumerate() {
                if let Some(slot) = slots.get_mut(index) {
                    slot.found = Found::Scored(start + offset);
                }
            }
        }
    }
    let mut put = |rows: Vec<(usize, Vec<f32>)>, found: fn(usize) -> Found| {
        for (index, row) in rows {
            let Some(slot) = slots.get_mut(index) else {
                continue;
            };
            if let Some(group) = groups.get_mut(slot.group) {
                slot.found = found(group.push_rows(&row));
            }
        }
    };
    put(score.own, Found::Scored);
    put(score.shared, Found::Shared);
    failures.extend(score.failures);
}

async fn score_group(
    engine: &Engine,
    group: &Group,
    slots: &[Slot<'_>],
    missing: Vec<usize>,
) -> GroupScores {
    let hashes = missing
        .iter()
        .filter_map(|i| slots.get(*i))
        .map(|slot| (slot.stamp, slot.input));
    let Claims {
        own,
        others,
        flight,
    } = engine.flights.claim(group.id(), hashes);
    let own: Vec<usize> = own
        .iter()
        .filter_map(|place| missing.get(*place))
        .copied()
        .collect();
    let mut scores = GroupScores::default();
    if !own.is_empty() && stampede::is_worth_it(engine, group, slots, &own) {
        match stampede::rows(engine, group, slots, &own).await {
            Ok(guarded) => {
                let all: HashMap<usize, &Vec<f32>> = guarded
                    .scored
                    .iter()
                    .chain(&guarded.found)
                    .map(|(index, row)| (*index, row))
                    .collect();
                let in_order = own.iter().filter_map(|index| all.get(index));
                flight.land(in_order.flat_map(|row| row.iter().copied()).collect());
                scores.own.extend(guarded.scored);
                scores.shared.extend(guarded.found);
            }
            Err(error) => {
                drop(flight);
                blame(engine, group, slots, own, error, &mut scores).await;
            }
        }
    } else if !own.is_empty() {
        match call(engine, &group.model, slots, &own).await {
            Ok(outputs) => scores.whole = Some((own, flight.land(outputs))),
            Err(error) => {
                drop(flight);
                blame(engine, group, slots, own, error, &mut scores).await;
            }
        }
    }
    let mut orphans = Vec::new();
    for (place, waiting) in others {
        let Some(index) = missing.get(place).copied() else {
            continue;
        };
        match Waiting::row(waiting, group.width()).await {
            Some(row) => scores.shared.push((index, row)),
            None => orphans.push(index),
        }
    }
    if !orphans.is_empty() {
        match call(engine, &group.model, slots, &orphans).await {
            Ok(outputs) => scores
                .own
                .extend(rows_of(&orphans, &outputs, group.width())),
            Err(error) => blame(engine, group, slots, orphans, error, &mut scores).await,
        }
    }
    scores
}

/// Scores the slots of each job alone after a call over all of them failed.
async fn blame(
    engine: &Engine,
    group: &Group,
    slots: &[Slot<'_>],
    failed: Vec<usize>,
    error: ModelError,
    scores: &mut GroupScores,
) {
    let mut by_job: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for index in failed {
        if let Some(slot) = slots.get(index) {
            by_job.entry(slot.asked_by.0).or_default().push(index);
        }
    }
    if by_job.len() == 1 || error == ModelError::Stopped {
        let all = by_job.into_values().flatten();
        scores
            .failures
            .extend(all.map(|index| (index, error.clone())));
        return;
    }
    for indices in by_job.into_values() {
        match call(engine, &group.model, slots, &indices).await {
            Ok(outputs) => scores
                .own
                .extend(rows_of(&indices, &outputs, group.width())),
            Err(error) => scores
                .failures
                .extend(indices.into_iter().map(|index| (index, error.clone()))),
        }
    }
}

fn rows_of(indices: &[usize], outputs: &[f32], width: usize) -> Vec<(usize, Vec<f32>)> {
    indices
        .iter()
        .copied()
        .zip(outputs.chunks(width.max(1)).map(<[f32]>::to_vec))
        .collect()
}

/// One model call; its outputs are as many rows as `indices`.
pub(super) async fn call(
    engine: &Engine,
    model: &Model,
    slots: &[Slot<'_>],
    indices: &[usize],
) -> Result<Vec<f32>, ModelError> {
    let info = model.info();
    let sources = indices
        .iter()
        .filter_map(|i| slots.get(*i))
        .map(|slot| &slot.source);
    let mut rows = Rows::Texts(Vec::new());
    for source in sources {
        match (source, &mut rows) {
            (Source::Features(values), Rows::Features { data, .. }) => {
                data.extend_from_slice(values)
            }
            (Source::Features(values), _) => {
                let mut data = Vec::with_capacity(values.len() * indices.len());
                data.extend_from_slice(values);
                rows = Rows::Features {
                    width: values.len(),
                    data,
                };
            }
            (Source::Text { text, pair }, Rows::Texts(texts)) => texts.push(TextRow {
                text: text.clone().into_owned(),
                text_pair: pair.as_ref().map(|p| p.clone().into_owned()),
            }),
            (Source::Text { .. }, Rows::Features { .. }) => {}
        }
    }
    let result = model.score(rows).await;
    match &result {
        Ok(scored) => {
            for call in &scored.calls {
                engine
                    .parts
                    .metrics
                    .model_call(info, call.rows, call.tokens, call.seconds);
            }
            engine.parts.metrics.truncated_texts(info, scored.truncated);
        }
        Err(error) => {
            engine.parts.metrics.model_failure(info);
            tracing::warn!(model = info.name, version = info.version, %error, rows = indices.len(), "a model call failed");
        }
    }
    let outputs = result?.outputs;
    if outputs.len() == indices.len() * info.output_width {
        Ok(outputs)
    } else {
        Err(ModelError::Unfit {
            message: format!("{} values for {} rows", outputs.len(), indices.len()),
        })
    }
}
