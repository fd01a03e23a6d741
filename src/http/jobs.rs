//! `/v1/jobs` and `/v1/cache/warm`: queue jobs, and look up results.
//!
//! Promises that a job which the worker would reject is refused here, and that an accepted one is in its queue: the broker has
//! confirmed it.

use super::{
    Shared,
    api_state::ApiState,
    auth::{Admin, Reader, Scorer},
    extract::{self, JobBody, Named},
    job_id,
    problem::{ErrorBody, Problem},
    requests::JobRequest,
    responses::{BadJob, BadRequest, Guarded, Unavailable},
    score::ScoreResponse,
};
use crate::{
    amqp::message,
    clock,
    store::JobEnd,
    telemetry::trace::{self, TRACEPARENT, TRACESTATE},
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use kiln_contract::job;
use kiln_contract::result;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// A queued job.
#[derive(Debug, Serialize, ToSchema)]
pub struct Queued {
    job_id: String,
    /// `queued`.
    status: &'static str,
}

/// Queues a job.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = JobRequest, security(("key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "becomes the job's id; a repeated job gets the same result")),
    responses((status = 202, body = Queued), Guarded, BadJob, Unavailable))]
pub(super) async fn enqueue(
    scorer: Scorer,
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: JobBody,
) -> Result<Response, Problem> {
    let state = shared.state()?;
    post(state, &state.topology.jobs, scorer.0, headers, body).await
}

/// Queues a job that scores its inputs and refreshes the TTL of their entries, at low priority.
#[utoipa::path(post, path = "/v1/cache/warm", tag = "warming", request_body = JobRequest, security(("key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "becomes the job's id")),
    responses((status = 202, body = Queued), Guarded, BadJob, Unavailable))]
pub(super) async fn warm(
    admin: Admin,
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: JobBody,
) -> Result<Response, Problem> {
    let state = shared.state()?;
    post(state, &state.topology.warm, admin.0, headers, body).await
}

/// Posts a checked job to a queue.
async fn post(
    state: &ApiState,
    queue: &str,
    key: Arc<str>,
    headers: HeaderMap,
    body: JobBody,
) -> Result<Response, Problem> {
    let (checker, queue) = (state.clone(), queue.to_owned());
    // Held until the broker has the message.
    let JobBody { bytes, held: _held } = body;
    let checked = extract::read(bytes, move |body| {
        let id = job_id::choose(&checker, &key, &headers, body)?;
        let message = message::job(&queue, &id, body.to_vec());
        // A worker has it from now on.
        let message = message::accepted(message, clock::moment(clock::received()));
        let given = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let context = trace::context(given(TRACEPARENT), given(TRACESTATE));
        Ok((id, message::traced(message, context)))
    });
    let (id, message) = checked.await?;
    let publisher = state.publisher.clone();
    state
        .run_on_worker(publisher.send(message))
        .await?
        .map_err(|error| Problem::too_large(error.to_string()))?;
    let queued = Queued {
        job_id: id,
        status: "queued",
    };
    Ok((StatusCode::ACCEPTED, axum::Json(queued)).into_response())
}

/// Shows a job's result: the reply that its producer got.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", security(("key" = [])), params(("id" = String, Path)),
    responses((status = 200, description = "the job's result, or its rejection", body = ScoreResponse), Guarded, BadRequest, Unavailable,
        (status = 404, description = "no result, or none yet", body = ErrorBody)))]
pub(super) async fn job(
    _reader: Reader,
    State(shared): State<Shared>,
    Named(id): Named,
) -> Result<Response, Problem> {
    if !job::is_job_id(&id) {
        return Err(Problem::invalid("id", job::EXPECTED_JOB_ID));
    }
    let asked = id.clone();
    let end = shared
        .state()?
        .ask(move |store| async move { store.job(&asked).await })
        .await?;
    let body = match end {
        Some(JobEnd::Done(done)) => result::ok_reply(&id, &done),
        Some(JobEnd::Rejected(error)) => result::stored_rejected_reply(&id, &error),
        None => {
            let message = "no result: the job is unknown or still queued";
            return Err(Problem::not_found("id", message));
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}
