//! Owns what a failure means for a job: that it is rejected, tried again, or left to another worker.
//!
//! Promises that a job is tried no more often than the settings and its source allow. The failure's own verdict is
//! [`Failure::verdict`].

use super::{context::Context, outcome::Outcome, source::JobSource};
use kiln_contract::failure::{Code, Failure, Rejection, Verdict};

/// What a failure means for a job, given the tries that it has had.
pub(super) fn outcome(
    context: &Context,
    failure: Failure,
    source: &JobSource,
    job_id: &str,
) -> Outcome {
    let job_id = Some(job_id.to_owned());
    let tries = source.tries + 1;
    let is_last = !source.may_retry || tries >= context.settings.max_tries;
    match failure.verdict() {
        Verdict::Reject(rejection) => Outcome::Rejected { job_id, rejection },
        Verdict::Retry(reason) if is_last => {
            let message = format!("given up after {tries} tries; the last one: {reason}");
            Outcome::Rejected {
                job_id,
                rejection: Rejection::new(Code::Exhausted, "", message),
            }
        }
        Verdict::Retry(reason) => Outcome::Retry { job_id, reason },
        Verdict::Fatal(reason) => {
            tracing::error!(reason, "the worker can't go on with a job");
            Outcome::Abandoned
        }
    }
}

/// The rejection of a job whose id belongs to another one.
pub(super) fn conflict() -> Rejection {
    Rejection::new(
        Code::Conflict,
        "job_id",
        "this id was used before with another body; use a new one",
    )
}
