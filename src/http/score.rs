//! `/v1/score` and `/v1/score/batch`: scoring while the caller waits.
//!
//! Promises the same results, stored in the same way, as for a job from the queue.

use super::{
    Shared,
    api_state::ApiState,
    auth::Scorer,
    extract::Payload,
    job_id,
    problem::{ErrorBody, Problem},
    requests::{JobRequest, ScoreRequest, job_of},
    responses::{BadJob, Guarded, Unavailable},
};
use crate::{
    pipeline::{Ended, InputCounts, JobSource, Outcome, Urgency, outcome_of},
    telemetry::trace::{Kind, Trace},
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use kiln_contract::result::Finished;
use serde::Serialize;
use serde_json::value::RawValue;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use utoipa::ToSchema;

/// Marks a response as that of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A scored job.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScoreResponse<'a> {
    job_id: &'a str,
    /// `ok`.
    status: &'static str,
    model: &'a str,
    version: &'a str,
    namespace: &'a str,
    /// One per input, in order: `label` and `score`, or `embedding`; `cached`; and `latency_ms` if known.
    #[schema(value_type = Vec<Object>)]
    results: Vec<BTreeMap<&'a str, &'a RawValue>>,
    hits: u32,
    misses: u32,
    elapsed_ms: f64,
    finished_at: String,
}

/// Scores one input and returns the result.
#[utoipa::path(post, path = "/v1/score", tag = "scoring", request_body = ScoreRequest, security(("key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeated request with the same key and body gets the first response")),
    responses((status = 200, body = ScoreResponse), Guarded, BadJob, Unavailable,
        (status = 422, description = "the idempotency key was used with another body", body = ErrorBody)))]
pub(super) async fn score(
    scorer: Scorer,
    State(shared): State<Shared>,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    let state = shared.state()?;
    let job = job_of(&ScoreRequest::parse(&body)?);
    run(state, &scorer.0, &headers, job).await
}

/// Scores the inputs of a job and returns the results.
#[utoipa::path(post, path = "/v1/score/batch", tag = "scoring", request_body = JobRequest, security(("key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeated request with the same key and body gets the first response")),
    responses((status = 200, body = ScoreResponse), Guarded, BadJob, Unavailable,
        (status = 422, description = "the id or idempotency key was used with another body", body = ErrorBody)))]
pub(super) async fn batch(
    scorer: Scorer,
    State(shared): State<Shared>,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    run(shared.state()?, &scorer.0, &headers, body.to_vec()).await
}

async fn run(
    state: &ApiState,
    caller: &str,
    headers: &HeaderMap,
    body: Vec<u8>,
) -> Result<Response, Problem> {
    let begun = Instant::now();
    let id = job_id::choose(state, caller, headers, &body)?;
    let engine = state.engine.clone();
    let work = async move {
        let first = |source: JobSource| source.with_urgency(Urgency::First);
        engine.run(body, id, first).await
    };
    let header = headers.get("traceparent").and_then(|v| v.to_str().ok());
    let mut trace = state.tracer.begin("score", Kind::Server, begun, header);
    let ended = state.run_on_worker(work).await?;
    if let (Some(trace), Some(ended)) = (&mut trace, &ended) {
        record(trace, ended);
    }
    trace.into_iter().for_each(|trace| state.tracer.end(trace));
    let counts = ended.as_ref().map(|ended| ended.counts);
    match outcome_of(ended) {
        Outcome::Done {
            job_id,
            result,
            repeated,
        } => Ok(scored(&job_id, &result, counts.filter(|_| !repeated))),
        Outcome::Rejected { rejection, .. } => Err(rejection.into()),
        Outcome::Retry { reason, .. } | Outcome::Postponed { reason } => {
            Err(Problem::unavailable(reason))
        }
        Outcome::Moved(queue) => {
            let reason = format!("lane `{}` isn't served by this worker", queue.lane);
            Err(Problem::unavailable(reason))
        }
        Outcome::Abandoned => Err(Problem::unavailable("the worker is stopping")),
    }
}

/// Records in a trace what became of its request.
fn record(trace: &mut Trace, ended: &Ended) {
    let (hits, misses) = match &ended.outcome {
        Outcome::Done { result, .. } => (result.hits, result.misses),
        _ => (0, 0),
    };
    trace.stages(ended.begun, &ended.counts.stages, hits, misses);
    ended.outcome.record(trace);
}

/// The answer; `counts` of the run, where it was this request's own.
fn scored(job_id: &str, done: &Arc<Finished>, counts: Option<InputCounts>) -> Response {
    let milliseconds = |time: Duration| {
        let ms = (time.as_secs_f64() * 1e5).round() / 100.0;
        serde_json::value::to_raw_value(&ms).ok()
    };
    let looked_up = counts.and_then(|c| milliseconds(c.stages.looked_up));
    let scored = counts.and_then(|c| milliseconds(c.stages.scored));
    // The results are what the engine wrote.
    let mut results: Vec<BTreeMap<&str, &RawValue>> =
        serde_json::from_str(&done.results).unwrap_or_default();
    for result in &mut results {
        let cached = result.get("cached").map(|value| value.get());
        let latency = match cached {
            Some("true") => looked_up.as_deref(),
            Some(_) => scored.as_deref(),
            None => None,
        };
        if let Some(latency) = latency {
            result.insert("latency_ms", latency);
        }
    }
    let response = ScoreResponse {
        job_id,
        status: "ok",
        model: &done.model,
        version: &done.version,
        namespace: &done.namespace,
        results,
        hits: done.hits,
        misses: done.misses,
        elapsed_ms: done.elapsed_ms,
        finished_at: crate::clock::rfc3339(done.finished_at),
    };
    let mut response = axum::Json(response).into_response();
    if counts.is_none() {
        let headers = response.headers_mut();
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
