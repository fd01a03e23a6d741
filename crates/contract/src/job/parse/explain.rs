//! Owns what is said about a body that the fast pass refused.
//!
//! Promises a rejection that names the field at fault or, where only single inputs are bad and the job says `skip`, a job that
//! carries their errors.

use super::{
    RawJob,
    blame::{blame, is_out_of_range, reason},
    pass::JobSeed,
    text_of::text_of,
};
use crate::{
    failure::{Code, Rejection},
    job::{OnError, is_job_id},
    redact,
};
use serde::de::DeserializeSeed;
use serde_json::error::Category;
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
    let is_json = inner.classify() == Category::Data || is_out_of_range(&inner);
    if field.starts_with("inputs[") {
        match skip_bad_inputs(body) {
            Ok(job) if job.on_error == OnError::Skip => return Ok(job),
            // What is wrong beside the inputs is to blame: the inputs would be skipped.
            Err(rejection) if is_json && says_skip(body) => return Err(rejection),
            Ok(_) | Err(_) => {}
        }
    }
    if is_json {
        Err(invalid(field, &inner))
    } else {
        Err(not_json(field, &inner))
    }
}

fn invalid(field: String, error: &serde_json::Error) -> Rejection {
    Rejection::invalid(blame(field, error), reason(error))
}

/// The rejection of what the JSON reader itself refuses.
fn not_json(field: String, error: &serde_json::Error) -> Rejection {
    let message = format!("the body is not JSON: {}", redact::json(error));
    Rejection::new(Code::Malformed, field, message)
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
    text_of(body, "on_error").as_deref() == Some(OnError::Skip.as_str())
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
    let own = text_of(body, "job_id");
    let id = own.as_deref().or(message_id);
    id.filter(|id| is_job_id(id)).map(str::to_owned)
}
