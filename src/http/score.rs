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
    pipeline::{
        Ended, InputCounts, JobSource, Outcome, Urgency,
        budget::{Held, Reserved},
        outcome_of,
    },
    redact::Redact,
    telemetry::trace::{Kind, TRACEPARENT, Trace},
};
use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use kiln_contract::result::Finished;
use kiln_contract::split::Point;
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
    let form = |body: &[u8]| Ok((job_of(&ScoreRequest::parse(body)?).into(), ()));
    answer(
        shared.state()?,
        scorer.0,
        headers,
        body,
        form,
        as_it_is,
        shown,
    )
    .await
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
    let form = |body: &[u8]| Ok((body.to_vec().into(), ()));
    answer(
        shared.state()?,
        scorer.0,
        headers,
        body,
        form,
        as_it_is,
        shown,
    )
    .await
}

/// A job's problems are renamed as those of the request that it was made of.
fn as_it_is(problem: Problem, _: Option<&()>) -> Problem {
    problem
}

/// A job that a request is made into.
pub(super) struct Made {
    /// The same for the same request, whatever was chosen meanwhile: it is what a repeated request is known by.
    pub(super) body: Vec<u8>,
    /// Where all of its inputs stand among those that two versions share, whatever they say themselves.
    pub(super) stands_at: Option<Point>,
}

impl From<Vec<u8>> for Made {
    fn from(body: Vec<u8>) -> Self {
        Self {
            body,
            stands_at: None,
        }
    }
}

/// A job that a request was made into, done.
pub(super) struct Scored {
    pub(super) job_id: Arc<str>,
    pub(super) done: Arc<Finished>,
    /// Of the run, where it was this request's own.
    counts: Option<InputCounts>,
    /// The request's part of the bytes that may be in hand, until the answer is sent.
    held: Option<(Held, Option<Reserved>)>,
}

/// Answers a request: `form` makes its body a job and keeps what else the answer needs, `shown` makes the job's results the answer, and
/// `renamed` says of the request what is wrong with the job.
pub(super) async fn answer<T: Send + 'static>(
    state: &ApiState,
    caller: Arc<str>,
    headers: HeaderMap,
    body: JobBody,
    form: impl FnOnce(&[u8]) -> Result<(Made, T), Problem> + Send + 'static,
    renamed: impl Fn(Problem, Option<&T>) -> Problem + Copy + Send + 'static,
    shown: impl FnOnce(&Scored, T) -> Result<Vec<u8>, Problem> + Send + 'static,
) -> Result<Response, Problem> {
    let begun = Instant::now();
    let JobBody { bytes, held } = body;
    let (checker, asked, size) = (state.clone(), headers.clone(), bytes.len());
    let poster = state.poster(&caller);
    let read = extract::read(bytes, move |body| {
        let (job, kept) = form(body).map_err(|problem| renamed(problem, None))?;
        let chosen = job_id::choose(&checker, &caller, &asked, &job.body);
        let chosen = chosen.map_err(|problem| renamed(problem, Some(&kept)))?;
        Ok((job, chosen.id, kept))
    });
    let (job, id, kept) = read.await?;
    // What a request is made into may be larger than the request.
    let held = match job.body.len() > size {
        true => state.budget.take(job.body.len()),
        false => held,
    };
    let scored = run(state, &headers, (job, id, poster), held, begun).await;
    let scored = scored.map_err(|problem| renamed(problem, Some(&kept)))?;
    let bytes = scored.done.results.len();
    let write = move || Ok(response(shown(&scored, kept)?, scored));
    extract::apart(bytes, write).await
}

/// Runs a job, and waits for its end.
async fn run(
    state: &ApiState,
    headers: &HeaderMap,
    (job, id, poster): (Made, String, Option<Arc<str>>),
    held: Held,
    begun: Instant,
) -> Result<Scored, Problem> {
    let engine = state.engine.clone();
    let work = async move {
        let Made { body, stands_at } = job;
        let (source, ended) = JobSource::awaited(body, Some(id));
        let source = source.with_urgency(Urgency::First).postponable(true);
        let source = source.standing_at(stands_at);
        engine.submit([source.posted_by(poster).holding(held)]);
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
        } => Ok(Scored {
            job_id,
            done: result,
            counts: counts.filter(|_| !repeated),
            held,
        }),
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

/// The response with what is shown of a job.
fn response(body: Vec<u8>, scored: Scored) -> Response {
    let body = Bytes::from_owner(Answer {
        body,
        _held: scored.held,
    });
    let json = HeaderValue::from_static("application/json");
    let mut response = ([(header::CONTENT_TYPE, json)], body).into_response();
    if scored.counts.is_none() {
        let headers = response.headers_mut();
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// An answer's JSON.
pub(super) fn written(answer: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(answer).map_err(|error| {
        tracing::error!(error = error.redacted(), "an answer can't be written");
        Problem::unavailable("the answer can't be written")
    })
}

/// A job in Kiln's own form.
fn shown(scored: &Scored, (): ()) -> Result<Vec<u8>, Problem> {
    let Scored { done, counts, .. } = scored;
    let milliseconds = |time: Duration| {
        let ms = (time.as_secs_f64() * 1e5).round() / 100.0;
        serde_json::value::to_raw_value(&ms).ok()
    };
    let looked_up = counts.and_then(|c| milliseconds(c.stages.looked_up));
    let computed = counts.and_then(|c| milliseconds(c.stages.scored));
    // The results are what the engine wrote.
    let mut results: Vec<BTreeMap<&str, &RawValue>> =
        serde_json::from_str(&done.results).unwrap_or_default();
    for result in &mut results {
        let cached = result.get("cached").map(|value| value.get());
        let latency = match cached {
            Some("true") => looked_up.as_deref(),
            Some(_) => computed.as_deref(),
            None => None,
        };
        if let Some(latency) = latency {
            result.insert("latency_ms", latency);
        }
    }
    let is_omitted = done.results.is_empty();
    written(&ScoreResponse {
        job_id: &scored.job_id,
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_that_were_not_kept_are_omitted_and_not_called_none() {
        let answer = |results: &str| {
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
            let scored = Scored {
                job_id: "j".into(),
                done: Arc::new(done),
                counts: None,
                held: None,
            };
            let body = shown(&scored, ()).expect("a body");
            serde_json::from_slice::<serde_json::Value>(&body).expect("JSON")
        };
        let said = answer("");
        assert_eq!(said["results_omitted"], true);
        assert!(said.get("results").is_none(), "{said}");
        let said = answer("[]");
        assert_eq!(said["results"], serde_json::json!([]));
        assert!(said.get("results_omitted").is_none(), "{said}");
    }
}
