//! Scores one batch of a lane.
//!
//! Promises that a model that fails on one job's inputs costs only that job: the others are scored in calls of their own.

use super::{
    Lanes, flight,
    leases::{self, Patience},
    slot::{JobId, Taken},
    take::LaneBatch,
};
use crate::{
    cache::{Leases, Space},
    clock, config,
    pipeline::{model_call::call, owned::How},
    telemetry::metrics::{LeaseOutcome, Stage},
};
use kiln_model::{Model, ModelError, Rows};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// A batch's part of its lane.
pub(super) type InFlight = flight::InFlight<Arc<Lanes>>;

/// Scores a batch, `rows` being its inputs.
pub(super) async fn run(mut flight: InFlight, batch: LaneBatch, rows: Rows) {
    let begun = clock::instant();
    flight.begin();
    let LaneBatch { model, taken, .. } = batch;
    let lanes = flight.lanes.clone();
    let context = &*lanes.context;
    match leases::leases(context, &taken) {
        Some(leases) => {
            let space = Space::new(model.info());
            leased(&mut flight, &model, &space, &leases, (taken, rows)).await;
        }
        None => score(&mut flight, &model, taken, rows, None).await,
    }
    context.metrics.stage(Stage::Score, clock::since(begun));
}

/// Scores what isn't being scored by another worker. What is, waits beside the lane.
async fn leased(
    flight: &mut InFlight,
    model: &Arc<Model>,
    space: &Space,
    leases: &Leases<'_>,
    (taken, rows): (Vec<Taken>, Rows),
) {
    let lanes = flight.lanes.clone();
    let context = &*lanes.context;
    let width = model.info().output_width;
    let all = taken.clone();
    // What isn't kept is neither looked for nor leased: nobody would find it.
    let (kept, mut own): (Vec<Taken>, Vec<Taken>) =
        taken.into_iter().partition(|one| one.keeps.entry);
    let round = leases::ask(context, space, width, Some(leases), kept).await;
    let found = round.found.len();
    context.metrics.leases(LeaseOutcome::Waited, found);
    let found = round.found.iter();
    flight.land(
        How::Shared,
        found.map(|(taken, row)| (taken, row.as_slice())),
    );
    if !round.waiting.is_empty() {
        let rows = rows_of(&rows, &all, &round.waiting);
        let elsewhere = flight.set_aside(round.waiting.clone());
        let work = wait(elsewhere, model.clone(), round.waiting, rows);
        context.tasks.spawn(work);
    }
    context.metrics.leases(LeaseOutcome::Won, round.own.len());
    own.extend(round.own);
    if !own.is_empty() {
        let rows = rows_of(&rows, &all, &own);
        score(flight, model, own, rows, Some(space)).await;
    }
    if !round.held.is_empty() {
        leases.give_back(&round.held).await;
    }
}

/// Waits for entries that another worker writes, and scores for itself what no other worker does after all.
async fn wait(mut flight: InFlight, model: Arc<Model>, waiting: Vec<Taken>, rows: Rows) {
    let lanes = flight.lanes.clone();
    let context = &*lanes.context;
    let Some(redis) = context.cache.server() else {
        return;
    };
    let life = config::ms(context.settings.cache.lease_ms);
    let leases = Leases::new(redis, life);
    let (space, width) = (Space::new(model.info()), model.info().output_width);
    let mut patience = Patience::new(life);
    let all = waiting.clone();
    let mut open = waiting;
    while !open.is_empty() {
        patience.rest().await;
        let late = patience.is_over();
        let leases = (!late).then_some(&leases);
        let round = leases::ask(context, &space, width, leases, open).await;
        let found = round.found.len();
        context.metrics.leases(LeaseOutcome::Waited, found);
        let found = round.found.iter();
        flight.land(
            How::Shared,
            found.map(|(taken, row)| (taken, row.as_slice())),
        );
        if !round.own.is_empty() {
            let outcome = if late {
                LeaseOutcome::Late
            } else {
                LeaseOutcome::Won
            };
            context.metrics.leases(outcome, round.own.len());
            let own = rows_of(&rows, &all, &round.own);
            score(&mut flight, &model, round.own, own, Some(&space)).await;
        }
        if let Some(leases) = leases
            && !round.held.is_empty()
        {
            leases.give_back(&round.held).await;
        }
        open = round.waiting;
    }
}

/// Calls the model, and blames the job whose inputs it fails on. Where others wait for the entries, these come first: `space` says
/// where.
async fn score(
    flight: &mut InFlight,
    model: &Arc<Model>,
    taken: Vec<Taken>,
    rows: Rows,
    space: Option<&Space>,
) {
    let error = match scored(flight, model, &taken, rows.clone(), space).await {
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
        if let Err(error) = scored(flight, model, &of_job, own, space).await {
            flight.fail(&of_job, &error);
        }
    }
}

async fn scored(
    flight: &mut InFlight,
    model: &Arc<Model>,
    taken: &[Taken],
    rows: Rows,
    space: Option<&Space>,
) -> Result<(), ModelError> {
    let lanes = flight.lanes.clone();
    let context = &*lanes.context;
    let called = call(context, model, rows).await?;
    flight.lane.note_cost(taken.len(), called.seconds);
    if flight.lane.note_success() {
        context.health.lane_works(&flight.lane.name);
    }
    flight.lane.state().work.charge(taken, called.seconds);
    let width = model.info().output_width;
    if let Some(space) = space {
        leases::put_entries(context, space, width, taken, &called.outputs).await;
    }
    let nanos = called.seconds * 1e9 / taken.len().max(1) as f64;
    let how = How::Scored {
        is_stored: space.is_some(),
        nanos: nanos as u64,
    };
    let rows = called.outputs.chunks_exact(width.max(1));
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
