//! The worker's state: `/health`, `/version`, `/v1/schedules`, `/v1/warm/runs`.

use super::{
    Shared,
    auth::{AllReader, Reader},
    extract::Params,
    problem::Problem,
    responses::{BadRequest, Guarded, Unavailable},
};
use crate::{
    clock::{self, rfc3339},
    health::{Part, PartReport, Readiness},
    store::{INTAKE, RunRow, SCHEDULE},
    telemetry::metrics::Server,
    warm::due,
};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kiln_contract::job::SCHEMA_VERSION;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::PoisonError};
use utoipa::{IntoParams, ToSchema};

/// The worker's health.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthShown {
    /// `ready`, `degraded`, `paused` or `not ready`.
    status: &'static str,
    /// What doesn't work so that jobs don't end, and why.
    missing: BTreeMap<&'static str, String>,
    /// What the worker goes on without, and why.
    degraded: BTreeMap<&'static str, String>,
    /// Every part, working or not.
    parts: Vec<PartShown>,
    /// Which address of a server the worker is connected to, where it may have several.
    addresses: BTreeMap<&'static str, String>,
    /// Active versions by model.
    models: BTreeMap<String, String>,
    /// Version of the formats of jobs, results and keys.
    schema_version: u32,
    version: &'static str,
}

/// One part of the worker.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartShown {
    /// As in `missing` and `degraded`.
    part: &'static str,
    /// `works`, `degraded`, `down` or `unknown`.
    state: &'static str,
    /// Empty if it works.
    reason: String,
    /// When it came into this state.
    since: String,
    /// Where the worker is connected to, where there may be several servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

/// Version of Kiln.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionShown {
    version: &'static str,
    schema_version: u32,
}

/// One schedule.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScheduleShown {
    name: String,
    enabled: bool,
    paused: bool,
    cron: String,
    time_zone: String,
    model: String,
    namespace: String,
    /// When it runs next; null while it is disabled or paused.
    next: Option<String>,
    last: Option<RunShown>,
}

/// Schedules, and what is wrong with rejected files.
#[derive(Debug, Serialize, ToSchema)]
pub struct SchedulesShown {
    schedules: Vec<ScheduleShown>,
    problems: Vec<String>,
}

/// One run of a schedule.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunShown {
    run: i64,
    schedule: String,
    /// `queued`, `planning`, `posting`, `waiting`, `done`, `failed` or `skipped`.
    state: &'static str,
    due_at: String,
    started_at: String,
    finished_at: Option<String>,
    planned: i64,
    skipped: i64,
    bad: i64,
    posted: i64,
    done: i64,
    failed: i64,
    /// Inputs whose known scores were renewed.
    hits: i64,
    /// Inputs that the model computed.
    misses: i64,
    /// Planned inputs that the model was to compute.
    computes: i64,
    /// Inputs that a budget or Redis's memory left no room for.
    left_over: i64,
    /// Model time that was expected, in seconds.
    model_seconds: f64,
    /// Model time that its jobs took, in seconds.
    spent_seconds: f64,
    saved_seconds: Option<f64>,
    /// About what its entries fill of Redis's memory, in bytes.
    kept_bytes: i64,
    message: Option<String>,
}

impl From<&RunRow> for RunShown {
    fn from(run: &RunRow) -> Self {
        Self {
            run: run.id,
            schedule: run.schedule.clone(),
            state: run.state.as_str(),
            due_at: rfc3339(run.due_at),
            started_at: rfc3339(run.started_at),
            finished_at: run.finished_at.map(rfc3339),
            planned: run.planned,
            skipped: run.skipped,
            bad: run.bad,
            posted: run.posted,
            done: run.done,
            failed: run.failed,
            hits: run.hits,
            misses: run.misses,
            computes: run.computes,
            left_over: run.left_over,
            model_seconds: run.model_seconds,
            spent_seconds: run.spent_seconds,
            saved_seconds: run.saved_seconds,
            kept_bytes: run.kept_bytes,
            message: run.message.clone(),
        }
    }
}

/// A job that was rejected.
#[derive(Debug, Serialize, ToSchema)]
pub struct RejectionShown {
    at: String,
    /// Empty if it had none.
    job_id: String,
    /// The queue that it came from: `jobs`, `warm` or `expired`.
    queue: &'static str,
    code: &'static str,
    field: String,
    message: String,
}

/// Lists the jobs that this worker rejected most recently, newest first. `kiln dead list` shows the dead-letter queue.
#[utoipa::path(get, path = "/v1/rejections", tag = "worker", security(("key" = [])),
    responses((status = 200, body = Vec<RejectionShown>), Guarded, Unavailable))]
pub(super) async fn rejections(
    _reader: AllReader,
    State(shared): State<Shared>,
) -> Result<Json<Vec<RejectionShown>>, Problem> {
    let rejected = shared.state()?.rejected.list();
    let shown = rejected.into_iter().map(|one| RejectionShown {
        at: rfc3339(one.at),
        job_id: one.job_id,
        queue: one.queue,
        code: one.rejection.code.as_str(),
        field: one.rejection.field,
        message: one.rejection.message,
    });
    Ok(Json(shown.collect()))
}

/// How many runs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RunsWanted {
    /// Latest runs per schedule, 1 to 100, default 10.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// Only those of this schedule.
    schedule: Option<String>,
}

/// Shows this worker's health: 200 if it is ready, degraded or paused, 503 if something doesn't work that jobs need.
#[utoipa::path(get, path = "/health", tag = "worker", responses((status = 200, body = HealthShown), (status = 503, body = HealthShown)))]
pub(super) async fn health(State(shared): State<Shared>) -> Response {
    let report = shared.health.report();
    let state = shared.state().ok();
    let paused = state.is_some_and(|state| state.paused.borrow().iter().any(|p| p.name == INTAKE));
    let models = state.map(|state| state.engine.registry().list());
    let active = models.unwrap_or_default().into_iter().filter(|m| m.active);
    let leaving = report.missing().any(|part| part.part == Part::Worker);
    let readiness = report.readiness();
    let (status, code) = match readiness {
        _ if paused && !leaving => ("paused", StatusCode::OK),
        Readiness::NotReady => (readiness.as_str(), StatusCode::SERVICE_UNAVAILABLE),
        Readiness::Ready | Readiness::Degraded => (readiness.as_str(), StatusCode::OK),
    };
    let reason = |part: &PartReport| (part.part.as_str(), part.reason.clone());
    let redis = state.and_then(|state| state.engine.cache().server()?.connected_to());
    let parts = report.parts.iter().map(|part| PartShown {
        part: part.part.as_str(),
        state: part.state.as_str(),
        reason: part.reason.clone(),
        since: rfc3339(part.since),
        address: redis.clone().filter(|_| part.part == Part::Redis),
    });
    let database = state.and_then(|state| state.store.address());
    let broker = state.and_then(|state| state.publisher.connected_to());
    let addresses = [(Server::Postgres, database), (Server::Broker, broker)].into_iter();
    let addresses = addresses.map(|(server, address)| (server.as_str(), address));
    let addresses = addresses.filter_map(|(server, address)| Some((server, address?)));
    let shown = HealthShown {
        status,
        missing: report.missing().map(reason).collect(),
        degraded: report.degraded().map(reason).collect(),
        parts: parts.collect(),
        addresses: addresses.collect(),
        models: active.map(|m| (m.info.name, m.info.version)).collect(),
        schema_version: SCHEMA_VERSION,
        version: env!("CARGO_PKG_VERSION"),
    };
    (code, Json(shown)).into_response()
}

/// Shows the version of Kiln.
#[utoipa::path(get, path = "/version", tag = "worker", responses((status = 200, body = VersionShown)))]
pub(super) async fn version() -> Json<VersionShown> {
    Json(VersionShown {
        version: env!("CARGO_PKG_VERSION"),
        schema_version: SCHEMA_VERSION,
    })
}

/// Lists the schedules in this worker's folder, with their next and last runs.
#[utoipa::path(get, path = "/v1/schedules", tag = "warming", security(("key" = [])),
    responses((status = 200, body = SchedulesShown), Guarded, Unavailable))]
pub(super) async fn schedules(
    _reader: Reader,
    State(shared): State<Shared>,
) -> Result<Json<SchedulesShown>, Problem> {
    let state = shared.state()?;
    let runs = state
        .ask(|store| async move { store.latest_runs(1, None).await })
        .await?;
    let (schedules, problems) = {
        let folder = state.folder.lock().unwrap_or_else(PoisonError::into_inner);
        let problems = folder.problems().iter().map(ToString::to_string).collect();
        (folder.schedules(), problems)
    };
    let paused = state.paused.borrow().clone();
    let now = clock::now();
    let shown = schedules.iter().map(|schedule| {
        let held = |p: &crate::store::Paused| {
            p.name.strip_prefix(SCHEDULE) == Some(schedule.name.as_str())
        };
        let paused = paused.iter().any(held);
        ScheduleShown {
            name: schedule.name.clone(),
            enabled: schedule.enabled,
            paused,
            cron: schedule.cron.as_str().to_owned(),
            time_zone: schedule.zone.name().to_owned(),
            model: schedule.model.clone(),
            namespace: schedule.namespace().to_owned(),
            next: due::next(schedule, now)
                .filter(|_| schedule.enabled && !paused)
                .map(rfc3339),
            last: runs
                .iter()
                .find(|run| run.schedule == schedule.name)
                .map(RunShown::from),
        }
    });
    Ok(Json(SchedulesShown {
        schedules: shown.collect(),
        problems,
    }))
}

/// Lists the latest runs of every schedule, or of one.
#[utoipa::path(get, path = "/v1/warm/runs", tag = "warming", security(("key" = [])), params(RunsWanted),
    responses((status = 200, body = Vec<RunShown>), Guarded, BadRequest, Unavailable))]
pub(super) async fn runs(
    _reader: Reader,
    State(shared): State<Shared>,
    Params(wanted): Params<RunsWanted>,
) -> Result<Json<Vec<RunShown>>, Problem> {
    let limit = wanted.limit.unwrap_or(10);
    if !(1..=100).contains(&limit) {
        return Err(Problem::invalid("limit", "expected 1 to 100"));
    }
    let schedule = wanted.schedule;
    if schedule.as_ref().is_some_and(|name| name.contains('\0')) {
        return Err(Problem::invalid("schedule", "expected a schedule's name"));
    }
    let runs = shared
        .state()?
        .ask(move |store| async move { store.latest_runs(limit, schedule.as_deref()).await })
        .await?;
    Ok(Json(runs.iter().map(RunShown::from).collect()))
}
