//! The bodies of scoring requests: one input, or a job.
//!
//! Owns only their outline. The job's own parser checks the values, so that HTTP and the queue accept and refuse the same.

use super::problem::Problem;
use crate::redact::Redact;
use kiln_contract::failure::{Code, Rejection};
use kiln_contract::job::{InputField, JobField, JobWriter};
use serde::Deserialize;
use serde_json::value::RawValue;
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
    /// For models that take features instead of text: a list, or an object with the features' names.
    #[serde(borrow)]
    #[schema(value_type = Option<FeaturesRequest>)]
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
                Problem::invalid("", error.redacted())
            } else {
                Rejection::new(Code::Malformed, "", error.redacted()).into()
            }
        })
    }
}

/// The job with a request's one input, as a producer would post it, with all values as they were sent: the job's own parser checks them.
pub(super) fn job_of(request: &ScoreRequest<'_>) -> Vec<u8> {
    let mut job = JobWriter::new();
    let fields = [
        (JobField::Model, request.model),
        (JobField::Namespace, request.namespace),
    ];
    write_fields(&mut job, fields);
    job.inputs([request], |input, request| {
        let fields = [
            (InputField::Features, request.features),
            (InputField::Key, request.key),
            (InputField::Text, request.text),
            (InputField::TextPair, request.text_pair),
        ];
        for (field, value) in fields {
            if let Some(value) = value {
                input.json(field, value.get());
            }
        }
    });
    let fields = [
        (JobField::TtlSeconds, request.ttl_seconds),
        (JobField::Detail, request.detail),
    ];
    write_fields(&mut job, fields);
    job.finish()
}

fn write_fields(job: &mut JobWriter, fields: [(JobField, Option<&RawValue>); 2]) {
    for (field, value) in fields {
        if let Some(value) = value {
            job.json(field, value.get());
        }
    }
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
    /// How new the job's word on its keys is: by its acceptance, if absent.
    as_of: Option<AsOfRequest>,
    /// Where its end is posted to: a host that the settings list.
    #[schema(max_length = 2048)]
    callback_url: Option<String>,
}

/// RFC 3339, or a sequence number.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what the job's own parser takes")]
pub enum AsOfRequest {
    #[schema(format = DateTime)]
    Time(String),
    Sequence(u64),
}

/// Numbers in the model's order, or by their features' names; `null` is a missing one, for models that take such.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what the job's own parser takes")]
pub enum FeaturesRequest {
    Ordered(Vec<Option<f32>>),
    Named(std::collections::BTreeMap<String, Option<f32>>),
}

/// One input: a text, or features, or the removal of a key.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what the job's own parser takes")]
pub struct InputRequest {
    key: Option<String>,
    #[schema(example = "I love this!")]
    text: Option<String>,
    text_pair: Option<String>,
    features: Option<FeaturesRequest>,
    /// Removes what readers find under the key, which stands alone then.
    remove: Option<bool>,
}

/// A ranking to write.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what the job's own parser takes")]
pub struct RankRequest {
    key: String,
    #[schema(minimum = 1)]
    top: Option<usize>,
}

#[cfg(test)]
mod tests;
