//! Scores one batch of a lane.
//!
//! Promises that a model that fails on one job's inputs costs only that job: the others are scored in calls of their own.

use super::{
    Lanes,
    flight::{InFlight, Surroundings},
    leases::{self, Means, Scorer},
    slot::{JobId, Taken},
    take::LaneBatch,
};
use crate::{
    clock,
    pipeline::owned::How,
    telemetry::metrics::{LeaseOutcome, Stage},
};
use kiln_model::{Model, ModelError, Rows};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Scores a batch, `rows` being its inputs.
pub(super) async fn run(mut flight: InFlight<Arc<Lanes>>, batch: LaneBatch, rows: Rows) {
    let begun = clock::instant();
    flight.begin();
    let LaneBatch { model, taken, .. } = batch;
    let lanes = flight.lanes.clone();
    let context = &*lanes.context;
    if leases::are_worth_it(context, &taken) {
        let means = Scorer::leased(context, &model);
        let beside = |elsewhere, waiting, rows| {
            let work = wait_beside(elsewhere, model.clone(), waiting, rows);
            context.tasks.spawn(work);
        };
        leased(&mut flight, &means, (taken, rows), beside).await;
    } else {
        score(&mut flight, &Scorer::alone(context, &model), taken, rows).await;
    }
    context.metrics.stage(Stage::Score, clock::since(begun));
}

/// Waits for what another worker scores.
async fn wait_beside(
    mut flight: InFlight<Arc<Lanes>>,
    model: Arc<Model>,
    waiting: Vec<Taken>,
    rows: Rows,
) {
    let lanes = flight.lanes.clone();
    let mut means = Scorer::leased(&lanes.context, &model);
    wait(&mut flight, &mut means, waiting, rows).await;
}

/// Scores what isn't being scored by another worker. What is, waits beside the lane.
async fn leased<S: Surroundings + Clone>(
    flight: &mut InFlight<S>,
    means: &impl Means,
    (taken, rows): (Vec<Taken>, Rows),
    beside: impl FnOnce(InFlight<S>, Vec<Taken>, Rows),
) {
    let all = taken.clone();
    // What isn't kept is neither looked for nor leased: nobody would find it.
    let (kept, mut own): (Vec<Taken>, Vec<Taken>) =
        taken.into_iter().partition(|one| one.keeps.entry);
    let round = leases::ask(means, true, kept).await;
    land_found(flight, means, &round.found);
    if !round.waiting.is_empty() {
        let rows = rows_of(&rows, &all, &round.waiting);
        let elsewhere = flight.set_aside(round.waiting.clone());
        beside(elsewhere, round.waiting, rows);
    }
    means.note(LeaseOutcome::Won, round.own.len());
    own.extend(round.own);
    if !own.is_empty() {
        let rows = rows_of(&rows, &all, &own);
        score(flight, means, own, rows).await;
    }
    means.give_back(&round.held).await;
}

/// Waits for entries that another worker writes, and scores for itself what no other worker does after all.
async fn wait<S: Surroundings>(
    flight: &mut InFlight<S>,
    means: &mut impl Means,
    waiting: Vec<Taken>,
    rows: Rows,
) {
    let all = waiting.clone();
    let mut open = waiting;
    while !open.is_empty() {
        let is_late = means.rest().await;
        let round = leases::ask(means, !is_late, open).await;
        land_found(flight, means, &round.found);
        if !round.own.is_empty() {
            let outcome = if is_late {
                LeaseOutcome::Late
            } else {
                LeaseOutcome::Won
            };
            means.note(outcome, round.own.len());
            let own = rows_of(&rows, &all, &round.own);
            score(flight, means, round.own, own).await;
        }
        means.give_back(&round.held).await;
        open = round.waiting;
    }
}

fn land_found<S: Surroundings>(
    flight: &mut InFlight<S>,
    means: &impl Means,
    found: &[(Taken, Vec<f32>)],
) {
    means.note(LeaseOutcome::Waited, found.len());
    let found = found.iter().map(|(taken, row)| (taken, row.as_slice()));
    flight.land(How::Shared, found);
}

/// Calls the model, and blames the job whose inputs it fails on.
async fn score<S: Surroundings>(
    flight: &mut InFlight<S>,
    means: &impl Means,
    taken: Vec<Taken>,
    rows: Rows,
) {
    let error = match scored(flight, means, &taken, rows.clone()).await {
        Ok(()) => return,
        Err(error) => error,
    };
    let mut by_job: BTreeMap<JobId, Vec<Taken>> = BTreeMap::new();
    for one in &taken {
        by_job.entry(one.job).or_default().push(one.clone());
    }
    if by_job.len() == 1 || error == ModelError::Stopped {
        return flight.fail(&taken, &error);
    }
    for of_job in by_job.into_values() {
        let own = rows_of(&rows, &taken, &of_job);
        if let Err(error) = scored(flight, means, &of_job, own).await {
            flight.fail(&of_job, &error);
        }
    }
}

/// Where others wait for the entries, these come first.
async fn scored<S: Surroundings>(
    flight: &mut InFlight<S>,
    means: &impl Means,
    taken: &[Taken],
    rows: Rows,
) -> Result<(), ModelError> {
    let called = means.call(&flight.lane, taken, rows).await?;
    let is_stored = means.put(taken, &called.outputs).await;
    let nanos = called.seconds * 1e9 / taken.len().max(1) as f64;
    let how = How::Scored {
        is_stored,
        nanos: nanos as u64,
    };
    let rows = called.outputs.chunks_exact(means.width().max(1));
    flight.land(how, taken.iter().zip(rows));
    Ok(())
}

/// The rows of some of the slots of a batch.
fn rows_of(rows: &Rows, all: &[Taken], some: &[Taken]) -> Rows {
    let numbers: HashMap<_, usize> = all.iter().map(|one| one.id).zip(0..).collect();
    let wanted = some.iter().filter_map(|one| numbers.get(&one.id).copied());
    match rows {
        Rows::Features { width, data } => {
            let mut own = Vec::with_capacity(width * some.len());
            for number in wanted {
                let row = data.get(number * width..(number + 1) * width);
                own.extend_from_slice(row.unwrap_or_default());
            }
            Rows::Features {
                width: *width,
                data: own,
            }
        }
        Rows::Texts(texts) => {
            let own = wanted.filter_map(|number| texts.get(number).cloned());
            Rows::Texts(own.collect())
        }
    }
}

#[cfg(test)]
mod orders;
