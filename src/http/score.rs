//! `/v1/score`, `/v1/score/batch` and `/v1/jobs`: scoring while the caller waits, and jobs for the queue.

use super::{
    Shared,
    auth::{Admin, Reader, Scorer},
    desk::Desk,
    extract::{Named, Payload},
    problem::{ErrorBody, Problem},
};
use crate::{
    amqp::message,
    failure::Rejection,
    job,
    pipeline::{InputCounts, JobSource, Outcome},
    result::{self, Finished},
    store::JobEnd,
    telemetry::trace::{Kind, Trace},
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc, time::Instant};
use utoipa::ToSchema;

/// Header under which a repeated request is known.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Says that an answer is that of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// One input to score.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoreRequest<'a> {
    /// A model's name, or `name@version`.
    #[serde(borrow)]
    #[schema(value_type = String, example = "sentiment")]
    model: Option<&'a RawValue>,
    /// Groups entries for life and statistics; the model's name where it isn't given.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, example = "reviews")]
    namespace: Option<&'a RawValue>,
    /// Echoed in the result.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, example = "review:42")]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    #[schema(value_type = Option<String>, example = "I love this!")]
    text: Option<&'a RawValue>,
    /// The second text of models that take two.
    #[serde(borrow)]
    #[schema(value_type = Option<String>)]
    text_pair: Option<&'a RawValue>,
    /// Numbers, for models that take features instead of text.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<f32>>)]
    features: Option<&'a RawValue>,
    #[serde(borrow)]
    #[schema(value_type = Option<u64>, minimum = 1)]
    ttl_seconds: Option<&'a RawValue>,
    /// Every label's probability, not only the best one's.
    #[serde(borrow)]
    #[schema(value_type = Option<bool>)]
    detail: Option<&'a RawValue>,
}

/// A job as a producer would post it.
#[derive(Debug, Serialize)]
struct JobBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a RawValue>,
    inputs: [BTreeMap<&'static str, &'a RawValue>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a RawValue>,
}

/// Several inputs to score: a job, whose id may be left out.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what the job's own parser takes")]
pub struct JobRequest {
    /// 1 to 128 printable ASCII characters.
    job_id: Option<String>,
    #[schema(example = "sentiment")]
    model: String,
    namespace: Option<String>,
    #[schema(min_items = 1, max_items = 4096)]
    inputs: Vec<InputRequest>,
    /// Also keep a named entry for every input that has a key.
    named: Option<bool>,
    rank: Option<RankRequest>,
    #[schema(minimum = 1)]
    ttl_seconds: Option<u64>,
    #[schema(pattern = "^(fail|skip)$")]
    on_error: Option<String>,
    detail: Option<bool>,
}

/// One input: a text, or features.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what the job's own parser takes")]
pub struct InputRequest {
    key: Option<String>,
    #[schema(example = "I love this!")]
    text: Option<String>,
    text_pair: Option<String>,
    features: Option<Vec<f32>>,
}

/// A ranking to keep.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what the job's own parser takes")]
pub struct RankRequest {
    key: String,
    #[schema(minimum = 1)]
    top: Option<usize>,
}

/// A job that was scored.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScoreResponse<'a> {
    job_id: &'a str,
    /// `ok`.
    status: &'static str,
    model: &'a str,
    version: &'a str,
    namespace: &'a str,
    /// One for each input, in order: `label` and `score`, or `embedding`; `cached`; and `latency_ms`, when it was known.
    #[schema(value_type = Vec<Object>)]
    results: Vec<BTreeMap<&'a str, &'a RawValue>>,
    hits: u32,
    misses: u32,
    elapsed_ms: f64,
    finished_at: String,
}

/// A job that waits in the queue.
#[derive(Debug, Serialize, ToSchema)]
pub struct Queued {
    job_id: String,
    /// `queued`.
    status: &'static str,
}

fn random_id() -> String {
    let bytes: [u8; 16] = rand::rng().random();
    format!("http-{}", hex::encode(bytes))
}

/// The id of a caller's idempotency key; another caller's same key is another job.
fn idempotent_id(caller: &str, headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    if value.is_empty() || value.len() > 255 {
        return Err(Problem::invalid(
            IDEMPOTENCY_KEY,
            "expected 1 to 255 characters",
        ));
    }
    let digest = Sha256::new()
        .chain_update(caller)
        .chain_update([0])
        .chain_update(value.as_bytes())
        .finalize();
    Ok(Some(format!("http-{}", hex::encode(digest))))
}

/// Scores one input while the caller waits.
#[utoipa::path(post, path = "/v1/score", tag = "scoring", request_body = ScoreRequest, security(("key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "the same key and body again: the first answer again")),
    responses((status = 200, body = ScoreResponse), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 422, description = "the idempotency key was used with another body", body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn score(
    scorer: Scorer,
    State(shared): State<Shared>,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    let desk = shared.desk()?;
    let request: ScoreRequest<'_> = serde_json::from_slice(&body).map_err(|error| {
        if error.is_data() {
            Problem::invalid("", error.to_string())
        } else {
            Rejection::new(crate::failure::Code::Malformed, "", error.to_string()).into()
        }
    })?;
    let input = [
        ("key", request.key),
        ("text", request.text),
        ("text_pair", request.text_pair),
        ("features", request.features),
    ];
    let job = JobBody {
        model: request.model,
        namespace: request.namespace,
        inputs: [input
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()],
        ttl_seconds: request.ttl_seconds,
        detail: request.detail,
    };
    let job = serde_json::to_vec(&job).map_err(|e| Problem::invalid("", e.to_string()))?;
    run(desk, &scorer.0, &headers, job).await
}

/// Scores the inputs of a job while the caller waits.
#[utoipa::path(post, path = "/v1/score/batch", tag = "scoring", request_body = JobRequest, security(("key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "the same key and body again: the first answer again")),
    responses((status = 200, body = ScoreResponse), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 422, description = "the id or idempotency key was used with another body", body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn batch(
    scorer: Scorer,
    State(shared): State<Shared>,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    run(shared.desk()?, &scorer.0, &headers, body.to_vec()).await
}

/// The id by which a body's job will be known: its own, the idempotency key's, or a new one.
fn name(
    desk: &Desk,
    caller: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<String>, Problem> {
    let id = match idempotent_id(caller, headers)? {
        Some(id) => Some(id),
        None => {
            let own = match job::Job::parse(body, None) {
                Ok(_) => true,
                Err(bad) => bad.job_id.is_some(),
            };
            (!own).then(random_id)
        }
    };
    desk.engine.examine(body, id.as_deref())?;
    Ok(id)
}

async fn run(
    desk: &Desk,
    caller: &str,
    headers: &HeaderMap,
    body: Vec<u8>,
) -> Result<Response, Problem> {
    let id = name(desk, caller, headers, &body)?;
    let engine = desk.engine.clone();
    let work = async move {
        let source = JobSource::new(&body).with_message_id(id.as_deref());
        engine.run(&[source]).await
    };
    let begun = Instant::now();
    let header = headers.get("traceparent").and_then(|v| v.to_str().ok());
    let mut trace = desk.tracer.begin("score", Kind::Server, begun, header);
    let (outcomes, counts) = desk.errand(work).await?;
    if let Some(trace) = &mut trace {
        told(trace, begun, outcomes.first(), &counts);
    }
    trace.into_iter().for_each(|trace| desk.tracer.end(trace));
    match outcomes.into_iter().next() {
        Some(Outcome::Done {
            job_id,
            result,
            repeated,
        }) => Ok(scored(&job_id, &result, (!repeated).then_some(counts))),
        Some(Outcome::Rejected { rejection, .. }) => Err(rejection.into()),
        Some(Outcome::Retry { reason, .. }) => Err(Problem::unavailable(reason)),
        Some(Outcome::Abandoned) | None => Err(Problem::unavailable("the worker is stopping")),
    }
}

/// Tells a trace what became of its request.
fn told(trace: &mut Trace, begun: Instant, outcome: Option<&Outcome>, counts: &InputCounts) {
    let (hits, misses) = match outcome {
        Some(Outcome::Done { result, .. }) => (result.hits, result.misses),
        _ => (0, 0),
    };
    trace.stages(begun, &counts.stages, hits, misses);
    if let Some(outcome) = outcome {
        outcome.record(trace);
    }
}

/// The answer; `counts` of the run, where it was this request's own.
fn scored(job_id: &str, done: &Arc<Finished>, counts: Option<InputCounts>) -> Response {
    let milliseconds = |time: std::time::Duration| {
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

/// Posts a job to the queue.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = JobRequest, security(("key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "becomes the job's id: the same job again has the same result")),
    responses((status = 202, body = Queued), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody), (status = 413, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn enqueue(
    scorer: Scorer,
    State(shared): State<Shared>,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    let desk = shared.desk()?;
    post(desk, &desk.topology.jobs, &scorer.0, &headers, &body).await
}

/// Posts a job whose entries are to live anew, to be run when there is time.
#[utoipa::path(post, path = "/v1/cache/warm", tag = "warming", request_body = JobRequest, security(("key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "becomes the job's id")),
    responses((status = 202, body = Queued), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody), (status = 413, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn warm(
    admin: Admin,
    State(shared): State<Shared>,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Result<Response, Problem> {
    let desk = shared.desk()?;
    post(desk, &desk.topology.warm, &admin.0, &headers, &body).await
}

/// Posts a checked job to a queue.
async fn post(
    desk: &Desk,
    queue: &str,
    key: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, Problem> {
    let id = name(desk, key, headers, body)?;
    let id = match id {
        Some(id) => id,
        None => job::Job::parse(body, None)
            .map_err(|bad| bad.rejection)?
            .job_id
            .into_owned(),
    };
    let message = message::job(queue, &id, body.to_vec());
    let trace = headers.get("traceparent").and_then(|v| v.to_str().ok());
    let message = match trace {
        Some(trace) => message::traced(message, trace),
        None => message,
    };
    let publisher = desk.publisher.clone();
    desk.errand(async move { publisher.publish(&[message]).await })
        .await?;
    let queued = Queued {
        job_id: id,
        status: "queued",
    };
    Ok((StatusCode::ACCEPTED, axum::Json(queued)).into_response())
}

/// How a job ended: the reply that its producer got.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", security(("key" = [])), params(("id" = String, Path)),
    responses((status = 200, description = "the job's result, or its rejection", body = ScoreResponse), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, description = "no result (yet)", body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn job(
    _reader: Reader,
    State(shared): State<Shared>,
    Named(id): Named,
) -> Result<Response, Problem> {
    if !job::is_job_id(&id) {
        let message = "expected 1 to 128 printable ASCII characters";
        return Err(Problem::invalid("id", message));
    }
    let asked = id.clone();
    let end = shared
        .desk()?
        .ask(move |store| async move { store.job(&asked).await })
        .await?;
    let body = match end {
        Some(JobEnd::Done(done)) => result::ok_reply(&id, &done),
        Some(JobEnd::Rejected(error)) => {
            let id = serde_json::Value::from(id);
            format!("{{\"job_id\":{id},\"status\":\"rejected\",\"error\":{error}}}").into_bytes()
        }
        None => {
            let message = "no result: the job isn't known, or it is still in its queue";
            return Err(Problem::not_found("id", message));
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}
