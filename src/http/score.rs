//! `/v1/score` and `/v1/score/batch`: scoring while the caller waits.
//!
//! Promises the same results, stored in the same way, as for a job from the queue.

use super::{
    Shared,
    api_state::ApiState,
    auth::Scorer,
    extract::{self, JobBody},
    job_id,
    problem::{ErrorBody, Problem},
    requests::{JobRequest, ScoreRequest, job_of},
    responses::{BadJob, Guarded, Unavailable},
};
use crate::{
    pipeline::{Ended, InputCounts, JobSource, Outcome, Urgency, outcome_of},
    telemetry::trace::{Kind, TRACEPARENT, Trace},
};
use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
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
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    results: Option<Vec<BTreeMap<&'a str, &'a RawValue>>>,
    /// `true` in place of results that weren't stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    results_omitted: Option<bool>,
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
    body: JobBody,
) -> Result<Response, Problem> {
    let form = |body: &[u8]| Ok(job_of(&ScoreRequest::parse(body)?));
    run(shared.state()?, scorer.0, headers, body, form).await
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
    body: JobBody,
) -> Result<Response, Problem> {
    let form = |body: &[u8]| Ok(body.to_vec());
    run(shared.state()?, scorer.0, headers, body, form).await
}

/// Runs the job that `form` makes of a body.
async fn run(
    state: &ApiState,
    caller: Arc<str>,
    headers: HeaderMap,
    body: JobBody,
    form: impl FnOnce(&[u8]) -> Result<Vec<u8>, Problem> + Send + 'static,
) -> Result<Response, Problem> {
    let begun = Instant::now();
    let JobBody { bytes, held } = body;
    let (checker, asked) = (state.clone(), headers.clone());
    let read = extract::read(bytes, move |body| {
        let job = form(body)?;
        let chosen = job_id::choose(&checker, &caller, &asked, &job)?;
        Ok((job, chosen.id))
    });
    let (job, id) = read.await?;
    let engine = state.engine.clone();
    let work = async move {
        let (source, ended) = JobSource::awaited(job, Some(id));
        let source = source.with_urgency(Urgency::First).postponable(true);
        engine.submit([source.holding(held)]);
        ended.await.ok()
    };
    let header = headers.get(TRACEPARENT).and_then(|v| v.to_str().ok());
    let mut trace = state.tracer.begin("score", Kind::Server, begun, header);
    let mut ended = state.run_on_worker(work).await?;
    if let (Some(trace), Some(ended)) = (&mut trace, &ended) {
        record(trace, ended);
    }
    trace.into_iter().for_each(|trace| state.tracer.end(trace));
    let counts = ended.as_ref().map(|ended| ended.counts);
    let held = ended.as_mut().and_then(|ended| ended.held.take());
    match outcome_of(ended) {
        Outcome::Done {
            job_id,
            result,
            repeated,
        } => {
            let counts = counts.filter(|_| !repeated);
            let bytes = result.results.len();
            extract::apart(bytes, move || Ok(scored(&job_id, &result, counts, held))).await
        }
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

/// An answer on its way, with what it holds of the bytes that may be in hand.
struct Answer<H> {
    body: Vec<u8>,
    _held: H,
}

impl<H> AsRef<[u8]> for Answer<H> {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// The answer; `counts` of the run, where it was this request's own.
fn scored(
    job_id: &str,
    done: &Finished,
    counts: Option<InputCounts>,
    held: impl Send + 'static,
) -> Response {
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
    let is_omitted = done.results.is_empty();
    let response = ScoreResponse {
        job_id,
        status: "ok",
        model: &done.model,
        version: &done.version,
        namespace: &done.namespace,
        results_omitted: is_omitted.then_some(true),
        results: (!is_omitted).then_some(results),
        hits: done.hits,
        misses: done.misses,
        elapsed_ms: done.elapsed_ms,
        finished_at: crate::clock::rfc3339(done.finished_at),
    };
    // What is written is what was read: it can't fail.
    let body = serde_json::to_vec(&response).unwrap_or_default();
    let body = Bytes::from_owner(Answer { body, _held: held });
    let json = HeaderValue::from_static("application/json");
    let mut response = ([(header::CONTENT_TYPE, json)], body).into_response();
    if counts.is_none() {
        let headers = response.headers_mut();
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_that_were_not_kept_are_omitted_and_not_called_none() {
        let answer = async |results: &str| {
            let done = Finished {
                model: "m".to_owned(),
                version: "1".to_owned(),
                namespace: "n".to_owned(),
                results: results.to_owned(),
                hits: 1,
                misses: 0,
                elapsed_ms: 1.0,
                finished_at: crate::clock::now(),
            };
            let body = scored("j", &done, None, ()).into_body();
            let body = axum::body::to_bytes(body, 10_000).await.expect("a body");
            serde_json::from_slice::<serde_json::Value>(&body).expect("JSON")
        };
        let said = answer("").await;
        assert_eq!(said["results_omitted"], true);
        assert!(said.get("results").is_none(), "{said}");
        let said = answer("[]").await;
        assert_eq!(said["results"], serde_json::json!([]));
        assert!(said.get("results_omitted").is_none(), "{said}");
    }
}
