//! Owns what is said about a body that the fast pass refused.
//!
//! Promises a rejection that names the field at fault or, where only single inputs are bad and the job says `skip`, a job that
//! carries their errors.

use super::{RawJob, blame::blame, pass::JobSeed};
use crate::{
    failure::{Code, Rejection},
    job::{OnError, is_job_id},
    redact,
};
use serde::de::DeserializeSeed;
use serde_json::{Value, error::Category};
use std::borrow::Cow;

/// Reads a body that the fast pass refused.
pub(super) fn explain(body: &[u8]) -> Result<RawJob<'_>, Rejection> {
    if let Err(error) = std::str::from_utf8(body) {
        let message = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
        return Err(Rejection::new(Code::Malformed, "", message));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let error = match serde_path_to_error::deserialize::<_, RawJob<'_>>(&mut reader) {
        Err(error) => error,
        Ok(_) => {
            let message = match reader.end() {
                Err(error) => {
                    let reason = redact::json(&error);
                    format!("expected one JSON object and nothing after it: {reason}")
                }
                Ok(()) => "the body could not be read".to_owned(),
            };
            return Err(Rejection::new(Code::Malformed, "", message));
        }
    };
    let field = redact::path(error.path());
    let inner = error.into_inner();
    if inner.classify() != Category::Data {
        return Err(not_json(field, &inner));
    }
    if field.starts_with("inputs[") {
        match skip_bad_inputs(body) {
            Ok(job) if job.on_error == OnError::Skip => return Ok(job),
            // What is wrong beside the inputs is to blame: the inputs would be skipped.
            Err(rejection) if says_skip(body) => return Err(rejection),
            Ok(_) | Err(_) => {}
        }
    }
    Err(invalid(field, &inner))
}

fn invalid(field: String, error: &serde_json::Error) -> Rejection {
    Rejection::invalid(blame(field, error), redact::data(error))
}

/// The rejection of what the JSON reader itself refuses.
fn not_json(field: String, error: &serde_json::Error) -> Rejection {
    // A number beyond any float is well-formed JSON that no field can hold. The reader tells it apart by its message only.
    if error.to_string().starts_with("number out of range") {
        Rejection::invalid(field, "expected a finite 32-bit float")
    } else {
        let message = format!("the body is not JSON: {}", redact::json(error));
        Rejection::new(Code::Malformed, field, message)
    }
}

/// The job with its bad inputs marked, or what else is wrong with it.
fn skip_bad_inputs(body: &[u8]) -> Result<RawJob<'_>, Rejection> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let read = JobSeed { skip_bad: true }.deserialize(tracked);
    let job = read.map_err(|error| invalid(redact::path(&track.path()), &error))?;
    let ended = reader.end();
    ended.map_err(|error| not_json(String::new(), &error))?;
    Ok(job)
}

/// Whether a body asks for its bad inputs to be skipped, whatever else it says.
fn says_skip(body: &[u8]) -> bool {
    let tree: Option<Value> = serde_json::from_slice(body).ok();
    tree.is_some_and(|tree| tree.get("on_error").and_then(Value::as_str) == Some("skip"))
}

/// See [`crate::job::find_id`].
pub(in crate::job) fn find_own_id(body: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct OnlyId<'a> {
        #[serde(borrow)]
        job_id: Cow<'a, str>,
    }
    let read: Option<OnlyId<'_>> = serde_json::from_slice(body).ok();
    read.map(|read| read.job_id).filter(|id| is_job_id(id))
}

/// The id of a body that is no job, for its rejection's row.
pub(super) fn find_id(body: &[u8], message_id: Option<&str>) -> Option<String> {
    let tree: Option<Value> = serde_json::from_slice(body).ok();
    let own = tree
        .as_ref()
        .and_then(|tree| tree.get("job_id"))
        .and_then(Value::as_str);
    own.or(message_id)
        .filter(|id| is_job_id(id))
        .map(str::to_owned)
}
