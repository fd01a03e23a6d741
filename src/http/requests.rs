//! The bodies of scoring requests: one input, or a job.
//!
//! Owns only their outline. The job's own parser checks the values, so that HTTP and the queue accept and refuse the same.

use super::problem::Problem;
use crate::failure::{Code, Rejection};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One input to score.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoreRequest<'a> {
    /// A model's name, or `name@version`.
    #[serde(borrow)]
    #[schema(value_type = String, example = "sentiment")]
    model: Option<&'a RawValue>,
    /// Groups entries for TTLs and statistics; default: the model's name.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, example = "reviews")]
    namespace: Option<&'a RawValue>,
    /// Returned with the result.
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
    /// For models that take features instead of text.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<f32>>)]
    features: Option<&'a RawValue>,
    #[serde(borrow)]
    #[schema(value_type = Option<u64>, minimum = 1)]
    ttl_seconds: Option<&'a RawValue>,
    /// Return the probability of every label, not only of the best.
    #[serde(borrow)]
    #[schema(value_type = Option<bool>)]
    detail: Option<&'a RawValue>,
}

impl<'a> ScoreRequest<'a> {
    /// Reads a body.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        serde_json::from_slice(body).map_err(|error| {
            if error.is_data() {
                Problem::invalid("", error.to_string())
            } else {
                Rejection::new(Code::Malformed, "", error.to_string()).into()
            }
        })
    }
}

/// The job with a request's one input, as a producer would post it, with all values as they were sent.
pub(super) fn job_of(request: &ScoreRequest<'_>) -> Vec<u8> {
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
    // What was read as JSON can always be written as JSON.
    serde_json::to_vec(&job).unwrap_or_default()
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

/// Several inputs to score: a job. Its id is optional.
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
    /// Also write a named entry for every input that has a key.
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

/// A ranking to write.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what the job's own parser takes")]
pub struct RankRequest {
    key: String,
    #[schema(minimum = 1)]
    top: Option<usize>,
}
