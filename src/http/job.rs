//! `/v1/jobs/{id}` and `/v1/jobs/{id}/wait`: how one job ended, or where it is.
//!
//! Promises to call a job unknown where neither the database nor this worker knows it: it may be in a queue, or in another worker's hands; and one that
//! another key posted, to a key that may not look at all, in the same words and after the same wait.

use super::{
    Shared, SharedState,
    auth::Viewer,
    extract::{Named, Params},
    problem::{ErrorBody, Problem},
    responses::{BadRequest, Guarded, Unavailable},
    score::ScoreResponse,
};
use crate::explain;
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use kiln_contract::job;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// Longest wait for one request, in seconds, and the usual one.
pub(super) const MAX_WAIT_SECONDS: u64 = 30;
const WAIT_SECONDS: u64 = 10;

/// A job that has not ended, as far as is known.
#[derive(Debug, Serialize, ToSchema)]
pub struct Unended {
    job_id: String,
    /// `in_hand`: this worker has it. `queued`: it was posted through this worker, which doesn't have it: it waits in a queue, or another worker has it.
    status: &'static str,
}

/// What is wanted of a job.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DetailWanted {
    /// Whether its inputs are wanted: of those that it named keys of (`inputs`: `key`, `input_sha256`, and `text`, `text_pair`, `features` where inputs are
    /// stored), up to 100.
    inputs: Option<bool>,
}

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaitWanted {
    /// Longest time to wait, 0 to 30, default 10.
    #[param(minimum = 0, maximum = 30)]
    seconds: Option<u64>,
}

/// Shows how a job ended: the reply that its producer got. One that has not ended is 202 where this worker knows of it.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", security(("key" = [])), params(("id" = String, Path), DetailWanted),
    responses((status = 200, description = "the job's result, or its rejection", body = ScoreResponse), Guarded, BadRequest, Unavailable,
        (status = 202, description = "it has not ended", body = Unended),
        (status = 404, description = "unknown: it has no row, and this worker neither has it nor posted it; or another key posted it, and this one lacks the scope `read:all`", body = ErrorBody)))]
pub(super) async fn job(
    Viewer(whose): Viewer,
    State(shared): State<Shared>,
    Named(id): Named,
    Params(wanted): Params<DetailWanted>,
) -> Result<Response, Problem> {
    check(&id)?;
    let whose = whose.as_deref();
    let ended = ended(&shared, &id, whose, wanted.inputs == Some(true)).await?;
    ended.map_or_else(|| unended(&shared, id, whose), Ok)
}

/// Waits for a job to end, and answers as `GET /v1/jobs/{id}` does: with how it ended, or where it is once the time is over.
#[utoipa::path(get, path = "/v1/jobs/{id}/wait", tag = "jobs", security(("key" = [])), params(("id" = String, Path), WaitWanted),
    responses((status = 200, description = "the job's result, or its rejection", body = ScoreResponse), Guarded, BadRequest, Unavailable,
        (status = 202, description = "it has not ended yet: ask again", body = Unended),
        (status = 404, description = "unknown, and it has not ended meanwhile", body = ErrorBody)))]
pub(super) async fn wait(
    Viewer(whose): Viewer,
    State(shared): State<Shared>,
    Named(id): Named,
    Params(wanted): Params<WaitWanted>,
) -> Result<Response, Problem> {
    check(&id)?;
    let seconds = wanted.seconds.unwrap_or(WAIT_SECONDS);
    if seconds > MAX_WAIT_SECONDS {
        return Err(Problem::invalid("seconds", "expected 0 to 30"));
    }
    let whose = whose.as_deref();
    if let Some(ended) = ended(&shared, &id, whose, false).await? {
        return Ok(ended);
    }
    let (state, limit) = (shared.state()?, Duration::from_secs(seconds));
    let waited = shared.waits.ended(state, (&id, whose), limit);
    // A worker that stops is waited for by nobody.
    let stopping = shared.stopping.refusing.clone();
    let has_ended = match stopping.run_until_cancelled(waited).await {
        Some(has_ended) => has_ended?,
        None => false,
    };
    if has_ended && let Some(ended) = ended(&shared, &id, whose, false).await? {
        return Ok(ended);
    }
    unended(&shared, id, whose)
}

fn check(id: &str) -> Result<(), Problem> {
    match job::is_job_id(id) {
        true => Ok(()),
        false => Err(Problem::invalid("id", job::EXPECTED_JOB_ID)),
    }
}

async fn ended(
    shared: &SharedState,
    id: &str,
    whose: Option<&str>,
    with_inputs: bool,
) -> Result<Option<Response>, Problem> {
    let (asked, whose) = (id.to_owned(), whose.map(str::to_owned));
    let known = shared
        .state()?
        .ask(move |store| async move {
            explain::job(&store, &asked, whose.as_deref(), with_inputs).await
        })
        .await?;
    Ok(known.map(|known| {
        let json = [(header::CONTENT_TYPE, "application/json")];
        (json, known.to_json(id)).into_response()
    }))
}

fn unended(shared: &SharedState, id: String, whose: Option<&str>) -> Result<Response, Problem> {
    let status = if shared.state()?.engine.has_in_hand(&id, whose) {
        "in_hand"
    } else if shared.posted.has(&id, whose) {
        "queued"
    } else {
        return Err(Problem::not_found(
            "id",
            "unknown: it has no row, and this worker neither has it nor posted it; it may be in a queue, or another worker may have it, or another key posted it",
        ));
    };
    let unended = Unended { job_id: id, status };
    Ok((StatusCode::ACCEPTED, Json(unended)).into_response())
}
