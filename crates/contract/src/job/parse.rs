//! Owns reading a job's JSON: a quick pass for plain bodies (`plain`), a general borrowing one for good bodies (`pass`, with the single
//! values in `values`), a slower one that explains bad ones (`explain`), and the checks that need more than one field, here.

mod blame;
mod digits;
mod explain;
mod input;
mod pass;
mod plain;
mod text_of;
mod values;

pub(super) use explain::find_own_id;

use super::{EXPECTED_JOB_ID, Input, Job, MAX_INPUTS, OnError, Rank, Unparsable, is_job_id};
use crate::{failure::Rejection, order::AsOf};
use std::borrow::Cow;

/// See [`Job::parse`].
pub(super) fn job<'a>(body: &'a [u8], message_id: Option<&str>) -> Result<Job<'a>, Unparsable> {
    job_or_named(body, message_id, None)
}

/// See [`Job::parse_or_name`].
pub(super) fn job_or_named<'a>(
    body: &'a [u8],
    message_id: Option<&str>,
    or_id: Option<&str>,
) -> Result<Job<'a>, Unparsable> {
    let quick = plain::job(body).map_or_else(|| serde_json::from_slice::<RawJob<'a>>(body), Ok);
    let parsed = match quick {
        Ok(job) => job,
        Err(_) => explain::explain(body).map_err(|rejection| Unparsable {
            job_id: explain::find_id(body, message_id),
            rejection,
        })?,
    };
    finish(parsed, message_id, or_id).map_err(|(rejection, id)| {
        let id = id
            .or_else(|| message_id.map(str::to_owned))
            .filter(|id| is_job_id(id));
        Unparsable {
            job_id: id,
            rejection,
        }
    })
}

/// A job before the checks that need more than one field.
#[derive(Debug, Default, PartialEq)]
struct RawJob<'a> {
    job_id: Option<Cow<'a, str>>,
    model: Option<Cow<'a, str>>,
    namespace: Option<Cow<'a, str>>,
    inputs: Option<Inputs<'a>>,
    named: bool,
    rank: Option<Rank<'a>>,
    ttl_seconds: Option<u64>,
    on_error: OnError,
    detail: bool,
    as_of: Option<AsOf<'a>>,
    callback_url: Option<Cow<'a, str>>,
}

/// The inputs, and the features of all of them one after the other.
#[derive(Debug, PartialEq)]
struct Inputs<'a> {
    list: Vec<Input<'a>>,
    features: Vec<f32>,
}

/// The job, or its rejection with the id that the body gives.
fn finish<'a>(
    raw: RawJob<'a>,
    message_id: Option<&str>,
    or_id: Option<&str>,
) -> Result<Job<'a>, (Rejection, Option<String>)> {
    let own_id = raw.job_id.as_deref().map(str::to_owned);
    let reject =
        |field: &str, message: String| (Rejection::invalid(field, message), own_id.clone());
    let job_id = match (raw.job_id, message_id.or(or_id)) {
        (Some(id), Some(named)) if message_id.is_some() && id != named => {
            return Err(reject(
                "job_id",
                "differs from the message's message_id; give one, or the same in both".into(),
            ));
        }
        (Some(id), _) => id,
        (None, Some(named)) => Cow::Owned(named.to_owned()),
        (None, None) => {
            return Err(reject(
                "job_id",
                "missing: expected in the body or as the message's message_id".into(),
            ));
        }
    };
    if !is_job_id(&job_id) {
        return Err(reject("job_id", EXPECTED_JOB_ID.into()));
    }
    let Some(model) = raw.model else {
        return Err(reject(
            "model",
            "missing: expected a model's name, or name@version".into(),
        ));
    };
    let Some(inputs) = raw.inputs else {
        return Err(reject(
            "inputs",
            format!("missing: expected 1 to {MAX_INPUTS} inputs"),
        ));
    };
    Ok(Job {
        job_id,
        model,
        namespace: raw.namespace,
        inputs: inputs.list,
        features: inputs.features,
        named: raw.named,
        rank: raw.rank,
        ttl_seconds: raw.ttl_seconds,
        on_error: raw.on_error,
        detail: raw.detail,
        as_of: raw.as_of,
        callback_url: raw.callback_url,
    })
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
