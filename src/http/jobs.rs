//! `/v1/jobs` and `/v1/cache/warm`: queue jobs.
//!
//! Promises that a job which the worker would reject is refused here, one whose id has ended with another body as well, and that an accepted one is in
//! its queue: the broker has confirmed it.

use super::{
    Shared, SharedState,
    api_state::ApiState,
    auth::{Admin, Scorer},
    extract::{self, JobBody},
    job_id::{self, Chosen},
    problem::{ErrorBody, Problem},
    requests::JobRequest,
    responses::{BadJob, Guarded, Unavailable},
};
use crate::{
    amqp::message,
    clock,
    telemetry::trace::{self, TRACEPARENT, TRACESTATE},
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use kiln_contract::key;
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use utoipa::ToSchema;

/// Longest wait for the database's word on whether an id is used: a job that could be queued isn't kept from it by a database that is away.
const LOOK_UP: Duration = Duration::from_millis(500);

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
    responses((status = 202, body = Queued), Guarded, BadJob, Unavailable,
        (status = 409, description = "a job with this id or idempotency key has ended, and had another body", body = ErrorBody)))]
pub(super) async fn enqueue(
    scorer: Scorer,
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: JobBody,
) -> Result<Response, Problem> {
    let queue = &shared.state()?.topology.jobs;
    post(&shared, queue, scorer.0, headers, body).await
}

/// Queues a job that scores its inputs and refreshes the TTL of their entries, at low priority.
#[utoipa::path(post, path = "/v1/cache/warm", tag = "warming", request_body = JobRequest, security(("key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "becomes the job's id")),
    responses((status = 202, body = Queued), Guarded, BadJob, Unavailable,
        (status = 409, description = "a job with this id or idempotency key has ended, and had another body", body = ErrorBody)))]
pub(super) async fn warm(
    admin: Admin,
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: JobBody,
) -> Result<Response, Problem> {
    let queue = &shared.state()?.topology.warm;
    post(&shared, queue, admin.0, headers, body).await
}

/// Posts a checked job to a queue.
async fn post(
    shared: &SharedState,
    queue: &str,
    key: Arc<str>,
    headers: HeaderMap,
    body: JobBody,
) -> Result<Response, Problem> {
    let state = shared.state()?;
    let (checker, queue) = (state.clone(), queue.to_owned());
    let poster = state.poster(&key);
    let posted_by = poster.clone();
    // Held until the broker has the message.
    let JobBody { bytes, held: _held } = body;
    let checked = extract::read(bytes, move |body| {
        let Chosen { id, is_new } = job_id::choose(&checker, &key, &headers, body)?;
        let message = message::job(&queue, &id, body.to_vec());
        // A worker has it from now on.
        let mut message = message::accepted(message, clock::moment(clock::received()));
        if let Some(key) = &posted_by {
            message = message::posted_by(message, key);
        }
        let given = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let context = trace::context(given(TRACEPARENT), given(TRACESTATE));
        let sha256 = (!is_new).then(|| key::hash_body(body));
        Ok((id, sha256, message::traced(message, context)))
    });
    let (id, sha256, message) = checked.await?;
    if let Some(sha256) = sha256
        && is_used(state, &id, sha256).await
    {
        return Err(Problem::conflict(&id));
    }
    let publisher = state.publisher.clone();
    state
        .run_on_worker(publisher.send(message))
        .await?
        .map_err(|error| Problem::too_large(error.to_string()))?;
    shared.posted.note(&id, poster.as_deref());
    let queued = Queued {
        job_id: id,
        status: "queued",
    };
    Ok((StatusCode::ACCEPTED, axum::Json(queued)).into_response())
}

/// Whether a job with this id has ended, and had another body. Where the database doesn't say so now, whoever takes the job hears of it.
async fn is_used(state: &ApiState, id: &str, sha256: [u8; 32]) -> bool {
    let (store, asked) = (state.store.with_limit(LOOK_UP), id.to_owned());
    let known = state.look(async move { store.body_of(&asked).await });
    matches!(known.await, Ok(Ok(Some(known))) if known != sha256)
}
