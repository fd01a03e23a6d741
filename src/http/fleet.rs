//! `/v1/fleet`: every worker of this database, as it says of itself.

use super::{
    Shared,
    auth::Reader,
    problem::Problem,
    responses::{Guarded, Unavailable},
};
use crate::{
    clock::rfc3339,
    store::{VersionPasses, WorkerRow},
};
use axum::{Json, extract::State};
use kiln_model::PASS_MINUTES;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// All workers.
#[derive(Debug, Serialize, ToSchema)]
pub struct FleetShown {
    /// Workers that are there.
    workers_up: usize,
    /// Of these, within the last five minutes: jobs, and the share of their inputs that were found.
    jobs: u64,
    hit_rate: Option<f64>,
    /// Those of the last hour: first those that are there, then those that are gone.
    workers: Vec<WorkerShown>,
    /// How long passes of model versions took on those that are there; of each worker, the 32 versions that scored the largest number of inputs.
    /// Null where the database doesn't tell.
    models: Option<Vec<FleetModelShown>>,
}

/// A model version over all workers that are there, as far as they scored with it within the last minutes.
#[derive(Debug, Serialize, ToSchema)]
pub struct FleetModelShown {
    name: String,
    version: String,
    /// Minutes that the figures cover at most.
    minutes: u64,
    /// Workers that scored with it.
    workers: usize,
    passes: u64,
    /// Inputs that the passes scored.
    inputs: u64,
    /// Percentiles of a pass's model time over all of these workers, in milliseconds, to a fifth.
    pass_p50_ms: f64,
    pass_p99_ms: f64,
}

impl FleetModelShown {
    fn new(reference: &str, all: &VersionPasses) -> Option<Self> {
        let (name, version) = reference.split_once('@')?;
        let (passes, [half, worst]) = all.counts.figures([0.5, 0.99]);
        let ms = |seconds: f64| (seconds * 1e6).round() / 1e3;
        Some(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            minutes: PASS_MINUTES,
            workers: all.workers,
            passes,
            inputs: all.counts.inputs,
            pass_p50_ms: ms(half),
            pass_p99_ms: ms(worst),
        })
    }
}

/// One worker.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerShown {
    /// Its host and process.
    name: String,
    /// `ready`, `degraded`, `paused` or `not ready`; `stopped` as it was asked to, or `lost` where it says nothing any more.
    state: String,
    /// What is in its way, or was when it was heard last.
    reason: String,
    version: String,
    started_at: String,
    seen_at: String,
    uptime_seconds: u64,
    lanes: Vec<String>,
    models: Vec<String>,
    /// Versions to which a share of their model's inputs goes beside the active one, such as `ranker@2 10 %`.
    splits: Vec<String>,
    waiting_jobs: u64,
    bytes_in_hand: u64,
    memory_bytes: u64,
    /// Jobs of the last five minutes, the share of their inputs that were found, and their 99th percentile in milliseconds.
    jobs: u64,
    hit_rate: Option<f64>,
    p99_ms: f64,
}

fn share(hits: u64, misses: u64) -> Option<f64> {
    let all = hits.saturating_add(misses);
    (all > 0).then(|| (hits as f64 / all as f64 * 1e4).round() / 1e4)
}

impl From<WorkerRow> for WorkerShown {
    fn from(row: WorkerRow) -> Self {
        Self {
            state: row.state().to_owned(),
            started_at: rfc3339(row.started_at),
            seen_at: rfc3339(row.seen_at),
            uptime_seconds: row.up.max(0.0) as u64,
            name: row.name,
            version: row.version,
            hit_rate: share(row.figures.hits, row.figures.misses),
            reason: row.figures.reason,
            lanes: row.figures.lanes,
            models: row.figures.models,
            splits: row.figures.splits,
            waiting_jobs: row.figures.waiting_jobs,
            bytes_in_hand: row.figures.bytes_in_hand,
            memory_bytes: row.figures.memory_bytes,
            jobs: row.figures.jobs,
            p99_ms: (row.figures.p99_ms * 100.0).round() / 100.0,
        }
    }
}

/// Lists every worker of this database that was there within the last hour.
#[utoipa::path(get, path = "/v1/fleet", tag = "worker", security(("key" = [])),
    responses((status = 200, body = FleetShown), Guarded, Unavailable))]
pub(super) async fn fleet(
    _reader: Reader,
    State(shared): State<Shared>,
) -> Result<Json<FleetShown>, Problem> {
    let rows = shared
        .state()?
        .ask(|store| async move { Ok((store.workers().await?, store.passes().await.ok())) });
    let (rows, passes): (Vec<WorkerRow>, _) = rows.await?;
    let shown = |all: BTreeMap<String, VersionPasses>| {
        let all = all.iter();
        all.filter_map(|(reference, one)| FleetModelShown::new(reference, one))
            .collect()
    };
    let there = || rows.iter().filter(|row| row.is_there());
    let sum = |of: fn(&WorkerRow) -> u64| there().map(of).fold(0, u64::saturating_add);
    Ok(Json(FleetShown {
        workers_up: there().count(),
        jobs: sum(|row| row.figures.jobs),
        hit_rate: share(sum(|row| row.figures.hits), sum(|row| row.figures.misses)),
        workers: rows.into_iter().map(WorkerShown::from).collect(),
        models: passes.map(shown),
    }))
}
